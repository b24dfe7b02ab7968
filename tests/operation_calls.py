# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Calls of torch operations on latents that keep a polynomial: one row a calling form.

`v` (3 elements), `w` (3 elements), `m` (3 x 3), `a` (2 x 3), `t` (2 x 3 x 4) and `s` (a scalar) are
Gaussian latents, `r` (3 elements) and `q` (a scalar) positive ones, `u` (3 elements) lies in the
unit interval. A row is run on lifted tensors and on values.
"""

import warnings
from contextlib import nullcontext

import torch
from torch import Tensor

from tests import simulated

_generator = torch.Generator().manual_seed(7)


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator, dtype=torch.float64)


C3, C23, C33, C234, ROW = _randn(3), _randn(2, 3), _randn(3, 3), _randn(2, 3, 4), _randn(1, 3)
LOWER = torch.linalg.cholesky(C33 @ C33.T + torch.eye(3, dtype=torch.float64))
IDX, WIDE = torch.tensor([2, 0, 1, 1]), torch.tensor([[0, -1], [1, 2]])
MASK3, MASK23 = torch.tensor([True, False, True]), torch.rand(2, 3, generator=_generator) > 0.4
TABLE = torch.tensor([[0, 2, 1], [1, 1, 0]])
SIGNAL, KERNEL = _randn(2, 3, 8), _randn(4, 3, 2)
IMAGE, KERNEL2, WEIGHT = _randn(1, 2, 4, 4), _randn(2, 3, 2, 2), _randn(4, 3, 3)
LAYER = torch.nn.Conv1d(3, 2, 2, dtype=torch.float64)
SPARSE = torch.tensor([[0.0, 2, 0], [1, 0, 3], [0, 0, 0], [0, 0, -1]], dtype=torch.float64)
#: The simulated device has no sparse tensors: their rows are left out there.
HAS_SPARSE = not simulated.is_default()
with nullcontext() if HAS_SPARSE else torch.device("cpu"), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch calls them a beta
    COO = (SPARSE if HAS_SPARSE else SPARSE.cpu()).to_sparse()
    TWICE = torch.sparse_coo_tensor(
        [[0, 0, 1], [1, 1, 2]], [1.0, 2.0, 5.0], (2, 3), dtype=torch.float64, check_invariants=True
    )
    CSR, CSC = COO.to_sparse_csr(), COO.to_sparse_csc()
COLUMNS = torch.arange(int(MASK23.sum())) % 4
LENGTHS = torch.tensor([1, 2])
REPEATS = torch.tensor([2, 0, 3])

#: By kind: Python expressions, with semicolons between them.
_TEXT = {
    "arithmetic": """
        v + w; v - w; 1.5 - v; v * w; v / 2; -v; +v; C3 + v; C3 - v; C3 * v; v.add(w, alpha=2);
        torch.add(v, C3, alpha=3); torch.add(input=v, other=w); v.sub(other=C3);
        torch.sub(v, other=w, alpha=2); torch.subtract(C3, v); torch.div(v, other=C3);
        torch.true_divide(v, 3); torch.rsub(v, C3); torch.mul(input=v, other=w); torch.neg(v);
        v.positive(); v.square(); v ** 2; v ** 3; (v + 1) ** 2; (v + w) ** 3; (v + 1) ** 4;
        v.pow(4); torch.pow(v, exponent=2); torch.float_power(v, 2); (v + w).square();
        torch.addcmul(C3, v, w, value=2); torch.addcmul(v, tensor1=C3, tensor2=w);
        torch.addcdiv(C3, v, r, value=0.5); torch.addcdiv(v, C3, C3 + 9); torch.lerp(v, w, 0.3);
        torch.lerp(C3, end=v, weight=C3); v.lerp(C3, 0.1); torch.ldexp(v, torch.tensor([1, 2, 3]));
        torch.ldexp(C3, v); r.sqrt(); r.rsqrt(); r.reciprocal(); 1 / r; r ** -1.5; v / r; C3 / r;
        r.log(); (2 * r).log(); torch.log2(r); torch.log10(q * r); r.sqrt().log(); v.exp();
        (2 * v).exp(); (s + 1.0).exp(); torch.expm1(v); torch.special.expm1(v); 2 ** v;
        torch.pow(2.0, v); v.exp2(); torch.special.exp2(s); v.exp().sqrt(); torch.xlogy(C3, r);
        torch.log1p(-u); torch.special.log1p(-u); torch.divide(v, C3);
        torch.special.xlog1py(C3, -u); torch.multiply(v, C3); torch.negative(v);
        torch.special.xlogy(v, r); torch.where(MASK3, v, w); torch.where(MASK3, v, 0.0);
        torch.where(MASK3, C3, v); v.where(MASK3, w);
        torch.where(condition=MASK3, input=v, other=w); v.masked_fill(MASK3, 2.5);
        torch.masked_fill(v, mask=MASK3, value=1.5); C3.masked_fill(MASK3, s); v.clone();
        v.to(torch.float64); v.double(); v.type_as(C3); v.contiguous(); torch.zeros_like(v) + w;
        torch.ones_like(v) * w; torch.full_like(v, 3.0) + w; torch.broadcast_tensors(v, a)[0] * a;
        F.mse_loss(v, C3); F.mse_loss(v, w, reduction='sum'); F.mse_loss(v, C3, reduction='none')
    """,
    "products": """
        C23 @ v; v @ C33; a @ v; a @ m; C23 @ m; v @ w; t @ C33.new_ones(4, 2);
        torch.matmul(input=a, other=m); torch.mm(a, mat2=m); torch.mv(a, vec=v);
        torch.dot(v, tensor=w); torch.vdot(v, w); torch.inner(a, m); torch.inner(v, C3);
        torch.linalg.matmul(a, m); torch.linalg.vecdot(v, C3); torch.linalg.vecdot(a, C23);
        torch.linalg.vecdot(a, C23, dim=0); torch.linalg.multi_dot([C23, m, v]);
        torch.linalg.multi_dot((a, C33)); torch.bmm(t, C234.mT); t.bmm(mat2=C234.mT);
        torch.baddbmm(C234 @ C234.mT, t, C234.mT, beta=2, alpha=3);
        torch.addbmm(C33, t, batch2=C234.mT, alpha=0.5); torch.addmm(C23, a, m, beta=2);
        torch.addmm(input=C23, mat1=C23, mat2=m); torch.addmv(v, C33, w, alpha=2);
        torch.addmv(C3, mat=C33, vec=w); torch.addr(m, v, w); C33.addr(v, vec2=C3);
        torch.outer(v, C3); torch.ger(v, w); torch.outer(input=C3, vec2=v); torch.kron(v, w);
        torch.kron(a, C23); torch.kron(C3, a); torch.kron(s, v);
        torch.tensordot(t, C23, dims=([0, 1], [0, 1])); torch.tensordot(a, m, dims=1);
        torch.tensordot(a=a, b=C23, dims=2); torch.linalg.cross(v, C3); torch.linalg.cross(v, w);
        torch.linalg.cross(a, C23); torch.einsum('i,i', v, w); torch.einsum('ij,j->i', C23, v);
        torch.einsum('ii', m); torch.einsum('ii->i', m); torch.einsum('ii,i->i', m, v);
        torch.einsum('ij->ji', a); torch.einsum('...ij,...kj->...ik', t, C234);
        torch.einsum('bij,ij->b', t, C234[0]); torch.einsum('i,j,k->kij', v, C3, w);
        torch.einsum('iij->j', C33[:, :, None] * v); torch.einsum(a, [0, 1], v, [1], [0]);
        torch.einsum('ij,ij->', [a, C23]); F.linear(v, C23); F.linear(C23, m); F.linear(C23, m, v);
        F.linear(a, C33, C3); F.linear(input=C23, weight=m, bias=w); F.linear(C23, v); m.T @ v;
        m.mT @ a.mT; F.bilinear(v, C3, C234[:, :, :3]); F.bilinear(C23, a, WEIGHT); C3 @ m @ v;
        torch.trace(m); m.trace(); a.trace(); torch.cumsum(v * w, 0)
    """,
    "sparse": """
        COO @ v; torch.sparse.mm(COO, m); COO @ m; torch.mv(COO, v); TWICE @ v; CSR @ v; CSC @ m;
        COO.matmul(v); v @ COO.t(); m @ COO.t(); COO.t() @ (SPARSE @ v); torch.mm(COO, m)
    """,
    "indices": """
        v[0]; v[-1]; v[1:]; v[::2]; v[-2:]; v[:-1]; a[1, 2]; a[:, 1]; a[..., 0]; a[None];
        a[:, None, 1:]; v[[0, 2]]; v[IDX]; v[WIDE]; v[MASK3]; a[MASK23]; a[:, MASK3];
        a[[True, False]]; t[1, :, IDX[:2]]; t[:, IDX, IDX]; t[IDX % 2]; t[IDX[:2] % 2, :, IDX[:2]];
        t[0, IDX, ..., 1]; t[IDX % 2, 1, IDX]; t[..., WIDE]; t[:, WIDE, None, 1];
        t[WIDE % 2, :, WIDE]; t[1:, ::2, [0, 3]]; t[:, [0, 1], 1:3]; t[MASK23]; t[MASK23, COLUMNS];
        v[torch.tensor(1)]; v[...]; a[torch.tensor(1), IDX]; v[IDX.numpy()]; a[range(2), [0, 1]];
        a[[0, 1], [2, 0]]; t[:, :, -1][1]; v[IDX.int()]; t[IDX % 2, None, IDX];
        a[((0, 1), (1, 0)), 1]; v.index_select(0, IDX);
        torch.index_select(input=a, dim=-1, index=IDX); a.gather(1, TABLE);
        torch.gather(a, -1, TABLE[:, :2]); a.gather(0, TABLE[:1] % 2); torch.take(a, WIDE);
        torch.take_along_dim(a, TABLE, 1); a.take_along_dim(WIDE % 3);
        torch.take_along_dim(a, TABLE[:1], dim=1); a.select(1, -1); t.narrow(-1, 1, 2);
        F.embedding(WIDE % 3, m); F.embedding(input=IDX, weight=m);
        F.embedding_bag(IDX, m, torch.tensor([0, 1]), mode='sum');
        F.embedding_bag(IDX.reshape(2, 2), m); F.one_hot(IDX, 3).double() @ v;
        Vindex(t)[..., WIDE, :][..., 0]; Vindex(a)[IDX % 2, IDX]; Vindex(t)[:, IDX, 1];
        Vindex(t)[IDX % 2, IDX]; Vindex(t)[torch.tensor(1), torch.tensor(2)];
        t[torch.tensor(0), torch.tensor(1), :]; m[torch.arange(3), torch.arange(3)];
        v.scatter_add(0, IDX, C23.reshape(-1)[:4]); C3.scatter_add(0, IDX[:3], v);
        torch.scatter_add(a, dim=1, index=TABLE, src=C23); C23.scatter_add(0, TABLE % 2, a);
        torch.scatter_add(C23, 1, TABLE[:1, :2], a); v.index_add(0, IDX[:3], w, alpha=2);
        C33.index_add(0, torch.tensor([1, 1]), a); torch.index_add(m, 1, IDX[:2], a.T);
        torch.zeros(5).index_add(0, torch.tensor([4, 4, 1]), v); v.scatter(0, IDX[:2], 7.0);
        C3.scatter(0, IDX[:2], v); C33.index_copy(0, IDX[:2], a); a.index_fill(1, IDX, 2.5);
        m.index_put((IDX[:2],), C3); v.index_put((IDX,), C234.reshape(-1)[:4], accumulate=True);
        C33.index_put((IDX[:2], IDX[:2]), v[:2]); C3.masked_scatter(MASK3, v);
        torch.segment_reduce(v, 'sum', lengths=LENGTHS);
        torch.segment_reduce(m, 'mean', offsets=torch.tensor([0, 2, 3]), axis=0)
    """,
    "shapes": """
        t.reshape(6, 4); t.reshape(-1); t.view(3, -1, 2); t.reshape((4, 6)); t.flatten();
        torch.flatten(t, 1); torch.flatten(t, start_dim=0, end_dim=-2); t.ravel();
        torch.reshape(t, shape=(2, 12)); t.unflatten(-1, (2, 2)); t.unflatten(1, (-1, 1));
        torch.unflatten(input=t, dim=2, sizes=(2, -1)); t.view_as(C234); a.reshape_as(C23); a.T;
        a.t(); t.mT; t.transpose(0, -1); torch.swapaxes(t, 0, 1); t.adjoint(); t.permute(2, 0, 1);
        torch.permute(input=t, dims=(1, 2, 0)); t.movedim(0, -1);
        torch.moveaxis(t, (0, 1), (-1, 0)); t.movedim(source=1, destination=0); a.H;
        v.unsqueeze(-1); t[:, :1].squeeze(1); v[None, :, None].squeeze(); v.expand(2, 3);
        v[:, None].expand(-1, 2); torch.broadcast_to(v, (2, 3)); v.expand_as(C23);
        v.expand(size=(4, 3)); torch.broadcast_to(input=v, size=(2, 3)); s.expand(3);
        torch.squeeze(v[None], dim=0); v[None, :, None].squeeze((0, 2)); t.swapdims(1, 2);
        torch.atleast_2d(v); torch.atleast_3d(v); torch.atleast_1d(s);
        torch.meshgrid(v, C3, indexing='ij'); torch.meshgrid(v, w, indexing='xy');
        torch.cartesian_prod(v, w); torch.combinations(v)
    """,
    "moves": """
        torch.cat([v, w]); torch.cat([v, C3, w[:1]]); torch.cat((a, C23), dim=-1);
        torch.cat(tensors=[a, m], axis=0); torch.concat([a, a]); torch.concatenate([C3, v]);
        torch.stack([v, w]); torch.stack([v, C3], -1); torch.stack((s, q, s * q));
        torch.hstack([v, w]); torch.hstack((a, C23)); torch.vstack([v, a]); torch.dstack([a, C23]);
        torch.column_stack([v, C3, m]); torch.block_diag(a, C3, s); v.unbind(); t.unbind(-1);
        v.split(2); v.split([1, 2]); t.split(3, dim=-1); v.chunk(2); t.chunk(chunks=2, dim=2);
        torch.tensor_split(t, (1, 3), dim=-1); v.tensor_split(2); t.hsplit(3); t.vsplit(2);
        torch.dsplit(t, 2); torch.split(tensor=v, split_size_or_sections=2);
        torch.unbind(input=a, dim=1); v.roll(1); t.roll((1, -1), (0, 2)); torch.roll(a, 2);
        a.roll(shifts=1, dims=-1); t.flip(0, -1); torch.flip(a, dims=(1,)); a.fliplr();
        torch.flipud(a); torch.rot90(a); t.rot90(-1, (1, 2)); v.repeat(2); a.repeat(2, 1, 2);
        v.tile(3); torch.tile(a, dims=(2, 2)); v.repeat_interleave(2);
        a.repeat_interleave(2, dim=0); v.repeat_interleave(REPEATS);
        torch.repeat_interleave(a, REPEATS, dim=-1); v.unfold(0, 2, 1);
        t.unfold(dimension=-1, size=2, step=2); F.unfold(t[None], (2, 2)); m.diagonal();
        m.diagonal(1); t.diagonal(-1, dim1=-1, dim2=0); a.diagonal(); torch.diag(v); torch.diag(m);
        torch.diag(v, -1); m.diag(diagonal=1); torch.diag_embed(a); torch.diag_embed(v, offset=1);
        v.diagflat(1); torch.linalg.diagonal(t, offset=1); m.triu(); t.tril(-1);
        torch.triu(a, diagonal=1); F.pad(v, (1, 2)); F.pad(a, (0, 1, 2, 0), value=1.5);
        F.pad(t, (1, 1), mode='reflect'); F.pad(t, (2, 1), mode='circular');
        F.pad(a, (1, 0), 'replicate'); F.pad(v, (-1, 1)); torch.select_scatter(m, v, 0, 1);
        C33.select_scatter(v, 1, -1); torch.slice_scatter(m, a, 0, 1); C33.diagonal_scatter(v);
        m.diagonal_scatter(C3); F.pixel_shuffle(t.reshape(1, 4, 2, 3), 2); torch.fft.fftshift(v);
        torch.fft.ifftshift(a, 1); F.pixel_unshuffle(t[:, :2], 2);
        torch.channel_shuffle(t.reshape(1, 4, 3, 2), 2); torch.split_with_sizes(v, (1, 2));
        torch.expand_copy(v, (2, 3)); t.fliplr()
    """,
    "reductions": """
        v.sum(); t.sum(-1); t.sum((0, 2), keepdim=True); torch.sum(t, axis=1, keepdims=True);
        torch.sum(input=t, dim=(0, 1)); s.sum(); t.mean(); t.mean((0, -1)); v.nansum();
        torch.mean(a, dim=-1, keepdim=True); torch.nanmean(a, 1); torch.nansum(t, dim=0); v.var();
        t.var(-1); a.var(unbiased=False); a.var(0, False); torch.var(t, (0, 1));
        torch.var(a, dim=1, correction=0, keepdim=True); torch.var_mean(t, -1); v.var(False);
        v.prod(); a.prod(0); r.prod(); a.prod(dim=-1, keepdim=True); (v + 1).prod()
    """,
    "maps": """
        v.cumsum(0); t.cumsum(-2); torch.cumsum(a, dim=1); v.diff(); t.diff(n=2, dim=1);
        torch.diff(v, prepend=C3[:1]); torch.diff(v, prepend=s[None], append=w);
        torch.trapezoid(a); torch.trapezoid(a, dx=0.5, dim=0); torch.trapezoid(v, C3);
        torch.cumulative_trapezoid(t); torch.cumulative_trapezoid(a, dim=0);
        F.conv1d(SIGNAL, t[..., :2]); F.conv1d(t.mT, KERNEL[:, :, :1].repeat(1, 4, 1)[:, :4]);
        F.conv1d(SIGNAL, KERNEL, torch.cat([v, s[None]])); F.conv1d(v[None, None], KERNEL[:, :1]);
        F.conv1d(SIGNAL, a[..., None], v[:2]); F.conv1d(t, KERNEL, C234[0, 0], padding=1);
        F.conv2d(IMAGE, m[:2, None].expand(2, 2, 3)[..., None]);
        F.conv2d(C3[:, None, None] * a, KERNEL2); F.conv_transpose1d(t, KERNEL[:3]);
        F.conv_transpose1d(a[..., None], KERNEL[:3], stride=2);
        F.conv_transpose2d(t[None], KERNEL2); LAYER(t); F.avg_pool1d(t, 2);
        F.avg_pool2d(t, 2, stride=1); F.adaptive_avg_pool1d(t, 2);
        F.interpolate(t, scale_factor=2, mode='linear'); F.interpolate(t, size=7);
        F.interpolate(t[None], size=(5, 5), mode='bilinear', align_corners=True);
        F.fold(t.reshape(1, 4, 6), (3, 4), (2, 2)); torch.linalg.tensorsolve(C33, v);
        F.grid_sample(t[None], C234[None, ..., :2].tanh(), align_corners=False);
        F.adaptive_avg_pool2d(t, 2); F.adaptive_avg_pool3d(t[None], 2); F.avg_pool3d(t[None], 2);
        F.conv3d(t[None], IMAGE[None, :, :1, :2]); F.conv_transpose3d(t[None], IMAGE[None, :, :1]);
        torch.linalg.solve(C33, v); torch.linalg.solve(C33, m); torch.linalg.solve(LOWER, a.T);
        torch.linalg.solve_triangular(LOWER, m, upper=False);
        torch.linalg.solve_triangular(LOWER, a, upper=False, left=False);
        torch.cholesky_solve(a.T, LOWER); torch.cholesky_solve(m, LOWER.mT, upper=True);
        torch.linalg.lu_solve(*torch.linalg.lu_factor(C33), m);
        torch.linalg.solve(C33.expand(2, 3, 3), t)
    """,
}

CALLS = {
    kind: [" ".join(e.split()) for e in text.split(";")]
    for kind, text in _TEXT.items()
    if HAS_SPARSE or kind != "sparse"
}

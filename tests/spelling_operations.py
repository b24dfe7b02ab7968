# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""More ways to write the spellings' predictors: layers, sparse designs, moves, linear maps."""

import math
import warnings

import torch
import torch.nn.functional as F
from pyro.ops.indexing import Vindex
from torch import Tensor

from tests import simulated
from tests.spelling_data import GROUP, ONE_HOT, PERMUTATION, D, G, N, Predict, X

HAS_SPARSE = not simulated.is_default()
if HAS_SPARSE:
    COO = X.to_sparse()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the format a beta
        CSR = X.to_sparse_csr()
ROOT = torch.linalg.cholesky(X.T @ X)
SOLVED = X @ ROOT  # (X L) (L^-1 w) = X w
CUMULATIVE = X - F.pad(X[:, 1:], (0, 1))  # summation by parts, as in spelling_catalogue
DIFFERENCES = X.flip(1).cumsum(1).flip(1)  # sum_d x_d w_d = sum_d (x_d + ... + x_D) (w_d - w_{d-1})
SIZES, RANKS = torch.bincount(GROUP, minlength=G), GROUP.argsort(stable=True).argsort()
INVERSE = torch.argsort(PERMUTATION)


def _layer(w: Tensor) -> Tensor:
    layer = torch.nn.Linear(D, 1, dtype=torch.float64)
    weights = {"weight": w[None], "bias": w.sum(0, keepdim=True)}
    return torch.func.functional_call(layer, weights, X)[:, 0] - w.sum()


def _convolution(w: Tensor) -> Tensor:
    return F.conv1d(X[:, None], w[None, None])[:, 0, 0]


def _convolution_with_bias(w: Tensor) -> Tensor:
    return F.conv1d(X[:, :, None], w[None, :, None], bias=w[:1])[:, 0, 0] - w[0]


def _scattered(w: Tensor) -> Tensor:
    return X @ torch.zeros(D).index_add(0, PERMUTATION, w[PERMUTATION])


def _put(w: Tensor) -> Tensor:
    return X @ torch.zeros(D).index_put((PERMUTATION,), w[PERMUTATION])


def _padded(w: Tensor) -> Tensor:
    return F.pad(X, (1, 2)) @ F.pad(w, (1, 2), value=3.0)


def _bmm(w: Tensor) -> Tensor:
    return torch.bmm(X[:, None], w[:, None].expand(N, D, 1)).reshape(-1)


def _baddbmm(w: Tensor) -> Tensor:
    columns = w[None, :, None].expand(N, D, 1)
    return torch.baddbmm(torch.zeros(N, 1, 1), X[:, None], columns)[:, 0, 0]


def _block(w: Tensor) -> Tensor:
    return X @ torch.block_diag(w[:1, None], w[1:, None]).sum(1)


def _kron(w: Tensor) -> Tensor:
    return (torch.kron(torch.ones(N), w).reshape(N, D) * X).sum(1)


def _window(w: Tensor) -> Tensor:
    return (X * torch.cat([w, w]).unfold(0, D, D)[0]).sum(1)


def _variance_free(w: Tensor) -> Tensor:
    return N * (X.T.mean(1) @ w) * torch.ones(N) / N + (X - X.mean(0)) @ w


OPERATION_PREDICTORS: dict[str, Predict] = {
    "sparse COO @ w": lambda w: COO @ w,
    "torch.sparse.mm": lambda w: torch.sparse.mm(COO, w[:, None])[:, 0],
    "sparse CSR @ w": lambda w: CSR @ w,
    "w @ sparse": lambda w: w @ COO.t(),
    "nn.Linear with bias": _layer,
    "F.bilinear": lambda w: F.bilinear(X, w.expand(N, D), torch.eye(D)[None])[:, 0],
    "F.conv1d": _convolution,
    "F.conv1d with a latent bias": _convolution_with_bias,
    "linalg.vecdot": lambda w: torch.linalg.vecdot(X, w),
    "linalg.matmul": lambda w: torch.linalg.matmul(X, w),
    "linalg.multi_dot": lambda w: torch.linalg.multi_dot([X, torch.eye(D), w]),
    "bmm": _bmm,
    "baddbmm": lambda w: torch.baddbmm(
        torch.zeros(N, 1, 1), X[:, None], w[None, :, None].expand(N, D, 1)
    )[:, 0, 0],
    "addr": lambda w: (torch.addr(torch.zeros(N, D), torch.ones(N), w) * X).sum(-1),
    "addmm": lambda w: torch.addmm(w[:1], X, w[:, None])[:, 0] - w[0],
    "kron": _kron,
    "diag": lambda w: (X @ torch.diag(w)).sum(-1),
    "diag_embed": lambda w: (X @ torch.diag_embed(w)).sum(-1),
    "diagonal": lambda w: X @ torch.outer(torch.ones(D), w).diagonal(),
    "einsum of a diagonal": lambda w: torch.einsum("nd,dd->n", X, torch.diagflat(w)),
    "trace": lambda w: torch.stack([torch.trace(torch.outer(x, w)) for x in X]),
    "triu and tril": lambda w: X @ (w.expand(D, D).triu() + w.expand(D, D).tril(-1))[0],
    "hstack": lambda w: X @ torch.hstack([w[:1], w[1:]]),
    "vstack": lambda w: (X.T * torch.vstack([w[:1, None], w[1:, None]])).sum(0),
    "column_stack": lambda w: (X * torch.column_stack([w[d].expand(N) for d in range(D)])).sum(1),
    "dstack": lambda w: (X * torch.dstack([w[0], w[1], w[2]])[0]).sum(1),
    "block_diag": _block,
    "tensor_split": lambda w: sum(X[:, d] * p[0] for d, p in enumerate(w.tensor_split(D))),  # type: ignore[misc]
    "repeat": lambda w: (X * w.repeat(N, 1)).sum(1),
    "tile": lambda w: (X.reshape(-1) * w.tile(N)).reshape(N, D).sum(1),
    "repeat_interleave": lambda w: (X.T.reshape(-1) * w.repeat_interleave(N)).reshape(D, N).sum(0),
    "rot90 twice": lambda w: X.flip(1) @ w[None].rot90(2)[0],
    "fliplr": lambda w: X.fliplr() @ w[None].fliplr()[0],
    "roll over two dims": lambda w: X.roll(1, 1) @ w[None].roll((5, 1), (0, 1))[0],
    "F.pad": _padded,
    "unfold": _window,
    "take_along_dim": lambda w: X[:, PERMUTATION] @ w.take_along_dim(PERMUTATION, 0),
    "index_add": _scattered,
    "index_put": _put,
    "scatter_add": lambda w: X @ torch.zeros(D).scatter_add(0, PERMUTATION, w[PERMUTATION]),
    "masked_fill": lambda w: (
        X @ w.masked_fill(torch.tensor([True, False, False]), 0.0) + X[:, 0] * w[0]
    ),
    "diff with prepend": lambda w: DIFFERENCES @ w.diff(prepend=torch.zeros(1)),
    "keyword arguments": lambda w: torch.matmul(input=X, other=torch.mul(input=w, other=1.0)),
    "x.sub(other=...)": lambda w: w.sum() - w.sum().sub(other=X @ w),
    "cumsum with a negative dim": lambda w: CUMULATIVE @ w.cumsum(dim=-1),
    "linalg.solve": lambda w: SOLVED @ torch.linalg.solve(ROOT, w),
    "linalg.solve_triangular": lambda w: (
        SOLVED @ torch.linalg.solve_triangular(ROOT, w[:, None], upper=False)
    )[:, 0],
    "cholesky_solve": lambda w: (X @ ROOT @ ROOT.T @ torch.cholesky_solve(w[:, None], ROOT))[:, 0],
    "trapezoid": lambda w: 2 * torch.trapezoid(F.pad(X * w, (1, 1))) / 2,
    "avg_pool1d": lambda w: D * F.avg_pool1d((X * w)[:, None], D)[:, 0, 0],
    "negative steps of range": lambda w: X[:, [2, 1, 0]] @ w[torch.arange(D).flip(0)],
    "permuted twice": lambda w: X @ w[PERMUTATION][INVERSE],
    "nansum": lambda w: (X * w).nansum(-1),
    "mean over columns": lambda w: math.sqrt(D) * (X * w).mean(1) * math.sqrt(D),
    "prod of two": lambda w: torch.stack([X @ w, torch.full((N,), 2.0)]).prod(0) / 2,
    "centred": _variance_free,
}

OPERATION_SCALES: dict[str, Predict] = {
    "torch.pow(exponent=...)": lambda tau: torch.pow(tau, exponent=-0.5),
    "float_power": lambda tau: torch.float_power(tau, -0.5),
    "addcdiv": lambda tau: torch.addcdiv(torch.zeros(()), torch.ones(()), tau.sqrt()),
    "repeat": lambda tau: tau.rsqrt().repeat(N),
    "prod of powers": lambda tau: torch.stack([tau**-0.25, tau**-0.25]).prod(),
}

OPERATION_GATHERS: dict[str, Predict] = {
    "take_along_dim": lambda u: u.take_along_dim(GROUP, dim=0),
    "sparse one-hot": lambda u: ONE_HOT.to_sparse() @ u,
    "F.one_hot(g).double() @ u": lambda u: F.one_hot(GROUP, G).double() @ u,
    "repeat_interleave of sorted groups": lambda u: u.repeat_interleave(
        torch.bincount(GROUP, minlength=G)
    )[GROUP.argsort(stable=True).argsort()],
    "embedding_bag": lambda u: F.embedding_bag(GROUP[:, None], u[:, None])[:, 0],
    "Vindex of a matrix": lambda u: Vindex(u.expand(3, G))[1, GROUP],
    "index of a column": lambda u: u[:, None].expand(G, 2)[GROUP, 1],
    "gather of rows": lambda u: u.expand(N, G).gather(1, GROUP[:, None])[:, 0],
    "stacked groups": lambda u: torch.stack(list(u.unbind()))[GROUP],
    "indices of the wrong sign": lambda u: u[GROUP - G],
    "int32 indices": lambda u: u[GROUP.int()],
    "masks per group": lambda u: sum(u[g] * (g == GROUP) for g in range(G)),  # type: ignore[misc]
}

if not HAS_SPARSE:
    for _rows in (OPERATION_PREDICTORS, OPERATION_GATHERS):
        for _name in [n for n in _rows if "sparse" in n]:
            del _rows[_name]

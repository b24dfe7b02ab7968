# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Every operation that keeps a polynomial gives torch's own values, in every calling form."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pyro.ops.indexing import Vindex
from torch.utils import _pytree as pytree

from pyro_blr.lifting import constants
from pyro_blr.lifting.dispatch import OPERATIONS
from pyro_blr.lifting.keys import key_of
from pyro_blr.lifting.operations import linear, scattering
from pyro_blr.lifting.tensor import LiftedTensor
from tests import operation_calls, simulated
from tests.lifted_values import lifted, value_at

SHAPES = {"v": (3,), "w": (3,), "m": (3, 3), "a": (2, 3), "t": (2, 3, 4), "s": ()}
POSITIVE = {"r": (3,), "q": (), "u": (3,)}


def names_and_values() -> tuple[dict[str, LiftedTensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    point = {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}
    point |= {n: 0.5 + torch.rand(s, generator=generator) for n, s in POSITIVE.items()}
    point["u"] /= 2
    names = {n: lifted(n, *s) for n, s in SHAPES.items()}
    names |= {n: lifted(n, *s, gaussian=False) for n, s in POSITIVE.items()}
    return names, point


def run(expression: str, names: dict[str, Any]) -> list[Any]:
    return pytree.tree_leaves(
        eval(expression, vars(operation_calls) | {"F": F, "Vindex": Vindex} | names)
    )


EXPRESSIONS = [e for rows in operation_calls.CALLS.values() for e in rows]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_polynomial_has_torchs_value(expression: str) -> None:
    names, point = names_and_values()
    wanted = run(expression, point)
    check(run(expression, names), wanted, point)
    with constants.using(constants.ConstantCache()):  # made, then found again
        check(run(expression, names), wanted, point)
        check(run(expression, names), wanted, point)


def check(results: list[Any], expected: list[Any], point: dict[str, torch.Tensor]) -> None:
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape and result.dtype == wanted.dtype
        if isinstance(result, LiftedTensor):
            assert result.poly is not None, result.reason
            result = value_at(result.poly, point)
        torch.testing.assert_close(result, wanted, rtol=1e-10, atol=1e-10)


#: Names that torch has deprecated, and changes of dtype or device that lose digits or need one.
UNCALLED = {
    *("upsample", "row_stack", "cross", "chain_matmul", "trapz", "smm", "alias", "alias_copy"),
    *("bfloat16", "half", "float", "type", "cpu", "cuda", "as_tensor", "detach", "t_all"),
    *("long", "int", "short", "one_hot"),  # of discrete latents alone
}


def test_every_operation_is_called() -> None:
    words = set(re.findall(r"\w+", " ".join(EXPRESSIONS)))
    homes = re.compile("^(linalg|special|fft)_")
    public = {homes.sub("", n) for n in OPERATIONS if not n.startswith("_")}
    assert not public - words - UNCALLED


WRONG = """
    v + C23.T; v @ a; C23 @ t[0, :2]; v[3]; v[-4]; a[:, 3]; a[0, 0, 0]; v[IDX + 1]; a[:, IDX - 4];
    v[:1][IDX]; a[MASK3]; a[:, MASK23]; v.reshape(2, 2); v.view(-1, 2); v.sum(1); v.sum((0, 1));
    v.expand(2); v.expand(4, 2); v.reshape(-3); torch.cat([v, a]); torch.stack([v, a[0, :2]]);
    v.gather(0, IDX + 1); v.index_select(0, IDX + 1); v.index_select(1, IDX); v.narrow(0, 2, 2);
    torch.einsum('ij,j->i', C23, v[:2]); torch.einsum('ii', a); v.roll(1, 2); v.diff(dim=1);
    F.pad(v, (-2, -2)); v.unflatten(0, (2, 2)); v.unbind(1); v.split([1, 1]); v.cumsum(1);
    COO @ v[:2]; C23.T @ v; torch.dot(v, a); v.scatter_add(0, IDX + 1, C234.reshape(-1)[:4]);
    v.index_add(0, IDX + 1, C234.reshape(-1)[:4]); F.conv1d(t, KERNEL[:, :2]);
    torch.linalg.solve(C33, v[:2]); v.permute(0, 0); a.permute(0); v.transpose(0, 1);
    v.unsqueeze(3); torch.take(v, IDX + 1); F.embedding(IDX + 1, m); v.repeat_interleave(IDX);
    v.flip(1); v.chunk(0); v.unfold(0, 4, 1); v.repeat(-1); torch.diag(t); v[IDX.double()];
    v.tile(-2); v.index_add(0, IDX[:2], w); v.movedim(0, 3); torch.trace(v); v.squeeze(2);
    torch.kron(v); v.masked_fill(MASK23.T, 1.0); torch.linalg.solve(C33 * 0, v); v.select(0, 5);
    C3.index_put((IDX + 1,), v[:1]); v.add(w, beta=2)
"""


AN_ASSERT = pytest.mark.host("an index of a GPU that is out of range ends the process")


def wrong_calls() -> Iterator[Any]:
    for call in (" ".join(e.split()) for e in WRONG.split(";")):
        is_out_of_range = re.search(r"IDX \+ 1|IDX - 4|v\[:1\]\[IDX\]", call)
        yield pytest.param(call, marks=AN_ASSERT if is_out_of_range else ())


@pytest.mark.parametrize("expression", list(wrong_calls()))
def test_a_wrong_call_is_the_error_that_torch_raises(expression: str) -> None:
    names, point = names_and_values()
    with pytest.raises(Exception) as wanted:
        run(expression, point)
    kinds = (IndexError, RuntimeError, ValueError)
    with pytest.raises(kinds if isinstance(wanted.value, kinds) else type(wanted.value)):
        run(expression, names)


#: Calls that leave the algebra, and what the reason names in backticks.
LEAVING = {
    "v.to(torch.long)": "to",
    "v.long()": "long",
    "v.cos()": "cos",
    "v.scatter(0, IDX[:2], 2.0, reduce='multiply')": "scatter",
    "F.conv1d(t, t[:1])": "conv1d",
    "torch.fft.rfft(v)": "fft_rfft",
    "v.prod(0) * t.prod()": "prod",
    "v / w": "div",
    "v ** w": "pow",
    "v ** 5 + (v + w) ** 5": "pow",
    "(v + w).log()": "log",
    "torch.linalg.solve(m, C3)": "linalg_solve",
    "F.interpolate(t, size=7, mode='nearest').relu()": "relu",
    "torch.where(v > 0, v, w)": "gt",
    "v.detach()": "detach",
    "COO * v": "mul",
    "torch.var(v[:1])": "var",
    "torch.segment_reduce(v, 'max', lengths=LENGTHS)": "segment_reduce",
    "torch.nansum(v * C3.masked_fill(MASK3, torch.nan))": "nansum",
    "v.view(torch.int64)": "view",
    "torch.div(v, 2, rounding_mode='floor')": "div",
}


@pytest.mark.parametrize("expression", LEAVING)
def test_what_leaves_the_algebra_says_which_operation(expression: str) -> None:
    names, _ = names_and_values()
    (result,) = run(expression, names)
    assert result.poly is None
    assert f"`{LEAVING[expression]}`" in result.reason


@pytest.mark.parametrize(
    ("expression", "module", "reason"),
    [
        ("F.conv1d(t, KERNEL[:, :3])", linear, "`conv1d` would need a matrix of 1.2e+03 bytes"),
        ("v.cumsum(0)", linear, "`cumsum` would need a matrix of 7.2e+01 bytes; at most 6.0e+01"),
        (
            "COO @ v",
            scattering,
            "`matmul` with 2 entries in one of 4 rows would take 1.3e+02 bytes",
        ),
    ],
)
def test_what_would_take_too_much_memory_says_how_much(
    expression: str, module: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT", 60)
    (result,) = run(expression, names_and_values()[0])
    assert result.poly is None and reason in result.reason


def test_dims_that_are_mapped_slice_by_slice_stay_out_of_the_matrix() -> None:
    z = lifted("z", 50, 4)
    (term,) = z.cumsum(1).poly.terms
    assert [tuple(c.tensor.shape) for c in term.constants] == [(4, 4)]
    (term,) = torch.linalg.solve(torch.eye(50) * 2, z).poly.terms
    assert [tuple(c.tensor.shape) for c in term.constants] == [(50, 50)]


@simulated.lacks("sparse tensors")
def test_a_sparse_matrix_is_not_made_dense() -> None:
    rows = torch.arange(1000)
    matrix = torch.sparse_coo_tensor(
        torch.stack([rows, rows % 7]), torch.ones(1000), (1000, 5000), check_invariants=True
    )
    (term,) = (matrix @ lifted("z", 5000)).poly.terms
    assert sum(c.tensor.numel() for c in term.constants) == 1000


@pytest.mark.parametrize(
    "expression",
    [
        "F.conv1d(t, c.expand(2, 3, 2))",
        "torch.cat([v, c[0, 0]])",
        "F.conv1d(t, KERNEL, c[0, 0, :1].expand(4))",
        "torch.linalg.solve(C33 * c[0, 0, 0].exp(), v)",
        "torch.index_put(v, (IDX[:1],), c[0, 0, :1])",
    ],
)
def test_gradients_in_constants_are_kept(expression: str) -> None:
    """A `pyro.param` in the place of data: its gradient is that of torch's own result."""
    names, point = names_and_values()
    gradients = []
    with constants.using(constants.ConstantCache()):
        for values in (names, point):
            c = torch.linspace(0.1, 0.6, 2).reshape(1, 1, 2).requires_grad_()
            (result,) = run(expression, values | {"c": c})
            value = value_at(result.poly, point) if values is names else result
            value.square().sum().backward()
            gradients.append(c.grad)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "expression",
    [
        "v.cumsum(0)",
        "F.conv1d(SIGNAL, a[..., None])",
        "torch.cat([v, C3])",
        "COO @ v",
        "v[BIG]",
        "torch.zeros(5).index_add(0, BIG, v[BIG])",
        "v[BIG.tolist()]",
        "v[BIG.int()]",
    ],
)
def test_tables_are_made_once(expression: str) -> None:
    """The same call in the next trace adds nothing to the cache: its tables are found again."""
    names, _ = names_and_values()
    scope = names | {"BIG": torch.arange(100) % 3}
    cache = constants.ConstantCache()
    big = scope["BIG"].int()
    with constants.using(cache):
        sizes = []
        for _ in range(3):
            cache.next_trace()
            (result,) = run(expression.replace("BIG.int()", "INT"), scope | {"INT": big})
            sizes.append((len(cache), key_of(result.poly)[0]))
    assert sizes[0] == sizes[1] == sizes[2]

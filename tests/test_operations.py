# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Every operation that keeps a polynomial gives torch's own values, in every calling form."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pyro.ops.indexing import Vindex
from torch.utils import _pytree as pytree

from pyro_blr.lifting import constants
from pyro_blr.lifting.dispatch import OPERATIONS
from pyro_blr.lifting.tensor import LiftedTensor
from tests import operation_calls
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
}


def test_every_operation_is_called() -> None:
    words = set(re.findall(r"\w+", " ".join(EXPRESSIONS)))
    homes = re.compile("^(linalg|special|fft)_")
    public = {homes.sub("", n) for n in OPERATIONS if not n.startswith("_")}
    assert not public - words - UNCALLED

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Shapes and dtypes of the commonest calls, by rules: the meta device knows them as well.

But the first kernel that torch has in Python for the meta device loads torch's compiler, which
takes longer than most fits.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..shapes import broadcast_shapes

#: Functions of tensors and numbers whose results have the arguments' common shape.
COMMON_SHAPE = frozenset(
    """
    abs add digamma div divide erf exp expm1 lgamma log log1p logaddexp log_sigmoid mul multiply neg
    negative pow reciprocal rsqrt sigmoid sin cos sqrt square sub subtract tanh true_divide
    __abs__ __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __rdiv__
    __pow__ __rpow__ __neg__
    """.split()  # noqa: SIM905 - a table of words reads better than a list of lines
)
#: Functions of two tensors that multiply them as matrices.
PRODUCTS = frozenset("matmul mv mm dot __matmul__ __rmatmul__".split())  # noqa: SIM905

Kind = tuple[torch.Size, torch.dtype]


def kind_by_rule(function: Any, args: Sequence[Any]) -> Kind | None:
    """The shape and the dtype of a result; None where no rule says them, or torch raises.

    :param args: numbers, and shape and dtype in the place of tensors.
    """
    name = getattr(function, "__name__", "")
    kinds = [a for a in args if isinstance(a, tuple)]
    try:
        if name in COMMON_SHAPE:
            shape = broadcast_shapes(*(shape for shape, _ in kinds))
        elif name in PRODUCTS and len(args) == len(kinds) == 2:
            swapped = kinds[::-1] if name == "__rmatmul__" else kinds
            shape = _of_product(*(shape for shape, _ in swapped))
        else:
            return None
        dtype = _dtype(function, args, name in PRODUCTS)
        return None if dtype is None else (shape, dtype)
    except (RuntimeError, TypeError):  # the meta device will say it in torch's words
        return None


def _dtype(function: Any, args: Sequence[Any], is_product: bool) -> torch.dtype | None:
    """Torch's own answer for tensors of no elements, which takes no time."""

    def small(kind: Kind) -> Tensor:
        shape, dtype = kind
        if is_product:
            return torch.ones(tuple(1 for _ in shape), dtype=dtype, device="cpu")
        return torch.ones(tuple(0 for _ in shape[:1]), dtype=dtype, device="cpu")

    result = function(*(small(a) if isinstance(a, tuple) else a for a in args))
    return result.dtype if isinstance(result, Tensor) else None


def _of_product(left: torch.Size, right: torch.Size) -> torch.Size:
    """The shape of a product of matrices, or of a vector.

    :raises RuntimeError: if there is none.
    """
    rows, columns = left[-2:-1], right[-1:] if len(right) > 1 else torch.Size()
    inner = right[-2:-1] if len(right) > 1 else right
    if not left or not right or left[-1:] != inner:
        raise RuntimeError("no product")
    batch: torch.Size = broadcast_shapes(left[:-2], right[:-2])
    return batch + rows + columns

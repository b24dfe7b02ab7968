# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""``einsum`` of logarithms: products are sums, and sums are ``logsumexp``.

Pyro's own one exponentiates each operand by itself, so that a sum is 0 where the large values of
one operand meet the small ones of another (a rare class and an outlier that only it explains), and
it is no function of ``torch.vmap``. Here operands are added before the exponential wherever the
table of all joint values is about as large as they are.
"""

from math import prod

import torch
from pyro.ops.einsum.torch_log import transpose
from pyro.ops.einsum.util import Tensordot
from pyro.ops.rings import LogRing
from torch import Tensor

#: Tables of so many numbers, or of so many times the largest operand, are made.
SMALL, TIMES = 2**18, 4


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """The logarithm of the ``einsum`` of exponentials."""
    given, output = equation.split("->")
    inputs = given.split(",")
    if inputs == [output]:
        return operands[0].clone()
    sizes = {
        s: n
        for dims, t in zip(inputs, operands, strict=True)
        for s, n in zip(dims, t.shape, strict=True)
    }
    summed = "".join(s for s in sizes if s not in output)
    if prod(sizes.values()) <= max(SMALL, TIMES * max(t.numel() for t in operands)):
        return _of_the_table(inputs, operands, output, summed)
    shifts = [
        largest(t, [i for i, s in enumerate(dims) if s in summed])
        for dims, t in _pairs(inputs, operands)
    ]
    shifted = [(t - shift).exp() for t, shift in zip(operands, shifts, strict=True)]
    total = _log(torch.einsum(equation, shifted))
    for dims, shift in _pairs(inputs, shifts):
        own = "".join(s for s in dims if s in output)
        kept = [n for s, n in zip(dims, shift.shape, strict=True) if s in output]
        total = total + _aligned(shift.reshape(kept), own, output)
    return total


tensordot = Tensordot(einsum)


class StableLogRing(LogRing):
    """Pyro's ring of logarithms, with the ``einsum`` of this module."""

    _backend = __name__


def _of_the_table(
    inputs: list[str], operands: tuple[Tensor, ...], output: str, summed: str
) -> Tensor:
    """From the sum of all operands at each joint value."""
    every = summed + output
    first, *others = (_aligned(t, dims, every) for dims, t in _pairs(inputs, operands))
    total = first
    for one in others:
        total = total + one
    if not summed:
        return total
    return log_sum(total, list(range(len(summed))))


def log_sum(logs: Tensor, along: list[int]) -> Tensor:
    """``logsumexp`` along dims, with a gradient of 0, not NaN, where all is -inf."""
    shift = largest(logs, along)
    return _log((logs - shift).exp().sum(along)) + shift.squeeze(tuple(along))


def _pairs(
    inputs: list[str], tensors: "list[Tensor] | tuple[Tensor, ...]"
) -> "zip[tuple[str, Tensor]]":
    return zip(inputs, tensors, strict=True)


def _aligned(tensor: Tensor, dims: str, order: str) -> Tensor:
    """A tensor with its dims in an order, and dims of size 1 where it has none."""
    moved = tensor.permute([dims.index(s) for s in order if s in dims])
    sizes = iter(moved.shape)
    return moved.reshape([next(sizes) if s in dims else 1 for s in order])


def largest(tensor: Tensor, along: list[int]) -> Tensor:
    """The largest value along dims, which stay; finite where all are -inf; no gradient."""
    found = tensor.detach()
    found = found.amax(along, keepdim=True) if along else found
    return torch.where(found.isfinite(), found, 0.0)


def _log(total: Tensor) -> Tensor:
    """The logarithm; of 0 it is -inf, with a gradient of 0."""
    return torch.where(total > 0, torch.where(total > 0, total, 1.0).log(), -torch.inf)


__all__ = ["StableLogRing", "einsum", "tensordot", "transpose"]

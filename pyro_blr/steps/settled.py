# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Whether a small Newton decrement is that of a mode.

Where a log density rises to a bound for ever, as that of separated classes, the decrement falls to
0 as at a mode; so it does along a ring of modes, and before an inflection. What tells them apart is
a few of Newton's steps further on. At a mode with a Hessian of full rank the step has vanished
quadratically, and so has what the Hessian changes by. At a flatter one, and where a weak prior ends
a long way, the Hessian is another, but the step from there is short, or leads back. Where there is
no end the step from there is as long as the first; along a ring the Hessian falls with the
gradient, in a direction in which no step goes.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..conjugate_gradients import dot
from ..lifting import host
from .hessian import dense_hessian, flat, hessian_product, unflat
from .newton import NOT_FINITE, SINGULAR, UNSOLVED, NewtonStep, newton_from

#: Newton steps from the point to where the Hessian is looked at again. It takes exp(-x) to e^-4.5
#: of its curvature and 1/x to 0.03 of it, but x^4, from whose mode a step leaves two thirds of the
#: way, to a quarter; at a ring's distance d it comes to -3.5 d, on the other side, which also tells
#: a curvature that is a square of the distance.
FURTHER = 4.5

#: A curvature that changes by more than this factor there is another.
ALIKE = 10.0

#: The share of the first step that is left there, at which there is an end. From the mode of x^p
#: it is 1 - 4.5 / (p - 1), 0.5 where p = 10; it is 1 of exp(-x), 0.7 of a Gaussian's tail that is
#: 1e-3 nats below its bound, and more than 1 of any power's.
SHRUNK = 0.6

#: A next step whose decrement is below this share of the first one's is Newton's near a mode.
QUADRATIC = 1e-3

#: A step that gains less than this share of the tolerance, and leads to no mode, is the last one.
WORTH = 1e-3

#: A curvature that still changes by more than this factor there, where the decrement is WORTH of
#: the tolerance, has no limit but 0 or infinity.
VARIES = 2.0

LEVELS_OFF = (
    "the log density levels off, with no mode near: a few of Newton's steps further on its Hessian "
    "is another, and the step from there leads as far"
)
ALONG = (
    "along some direction the log joint is flat: there the Hessian vanishes with the gradient, as "
    "where modes lie along a line"
)
BEYOND = f"{NOT_FINITE} a few of Newton's steps further on"

#: The gradient's graph at the point moved by a shift, and the leaves there.
Further = Callable[[Sequence[Tensor]], AbstractContextManager[tuple[list[Tensor], list[Tensor]]]]

#: The elements, of all leaves in one vector, that come to a bound of their support by a shift.
AtBound = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Surroundings:
    """What is found a few of Newton's steps further on.

    :param unsettled: why the point is not taken for a mode; empty where it is.
    :param varies: whether the Hessian is another, also where the point is a mode.
    """

    unsettled: str = ""
    varies: bool = False


def surroundings(
    newton: NewtonStep, further: Further, at_bound: AtBound | None = None
) -> Surroundings:
    """Whether a point of a small decrement is taken for a mode.

    :param newton: the step from the point, with a gap.
    :param further: what is found at other points.
    :param at_bound: where elements have bounds at which a mode is one too; none has if left out.
    """
    if not newton.gap:
        return Surroundings()
    if newton.hessian is None:
        return _by_products(newton, further, at_bound)
    shift = [FURTHER * d for d in newton.direction]
    with further(shift) as (graph, leaves):
        gradient = flat([g.detach() for g in graph])
        after = dense_hessian(graph, leaves)
    before, first = newton.hessian, -newton.hessian @ flat(newton.direction)
    eps = max(torch.finfo(d.dtype).eps for d in newton.direction)
    found = _compared(before, first, after, gradient, eps)
    if found.unsettled and at_bound is not None:
        free = ~at_bound(shift)
        before, after = before[free][:, free], after[free][:, free]
        found = _compared(before, first[free], after, gradient[free], eps)
    return found


def _compared(
    before: Tensor, first: Tensor, after: Tensor, gradient: Tensor, eps: float
) -> Surroundings:
    """What the second of two points shows of the first.

    In the coordinates that make the first Hessian 1 and the second diagonal, each direction has a
    curvature, a step and a next step of its own, whatever the units.

    :param before: the Hessian at the first point, ``after`` at the second. # shape: (D, D)
    :param first: the gradient at the first point, ``gradient`` at the second. # shape: (D,)
    """
    factor, failed = torch.linalg.cholesky_ex(before)
    if not host.truth(torch.isfinite(after).all() & torch.isfinite(gradient).all()):
        return Surroundings(BEYOND)
    if host.truth(failed != 0):
        return Surroundings(SINGULAR)
    half = torch.linalg.solve_triangular(factor, after, upper=False)
    curvature, axes = torch.linalg.eigh(torch.linalg.solve_triangular(factor, half.mT, upper=False))
    both = torch.stack([first, gradient], -1)
    slope, then = (axes.mT @ torch.linalg.solve_triangular(factor, both, upper=False)).unbind(-1)
    is_moved = slope.square() > eps**0.5 * slope.square().sum()
    ends = is_moved & (curvature > 0) & (then * slope.sign() < SHRUNK * curvature * slope.abs())
    open_ = ~(_within(ALIKE, curvature) | ends)
    varies = not host.truth(_within(VARIES, curvature).all())
    if not host.truth(open_.any()):
        return Surroundings(varies=varies)
    return Surroundings(LEVELS_OFF if host.truth((open_ & is_moved).any()) else ALONG, varies)


def _within(factor: float, ratio: Any) -> Any:
    return (ratio > 1 / factor) & (ratio < factor)


def _by_products(newton: NewtonStep, further: Further, at_bound: AtBound | None) -> Surroundings:
    """The same along the step after this one, as most of this one may be of other elements.

    What is near a mode has hardly a next step; what is not has one of about this length.
    """
    assert newton.gap is not None
    start = newton.direction
    least, shift = newton.least, [FURTHER * d for d in start]
    if least is not None and _along(further, shift, least)[1] < 0:
        return Surroundings(ALONG)
    with further(start) as (graph, leaves):
        following = newton_from(graph, leaves, -math.inf)
    if following.gap is None:  # what rounding leaves of a gradient may not be solved for
        return Surroundings("" if following.reason == UNSOLVED else following.reason)
    if following.gap <= QUADRATIC * newton.gap:
        return Surroundings()
    along = following.direction
    end = [d + FURTHER * e for d, e in zip(start, along, strict=True)]
    first = (-2 * following.gap, 2 * following.gap)
    found = _on_line(first, _along(further, end, along))
    if found.unsettled and at_bound is not None:
        free = (~at_bound(end)).to(flat(along))
        along = unflat(flat(along) * free, along)
        found = _on_line(_along(further, start, along), _along(further, end, along))
    return found


def _along(
    further: Further, shift: Sequence[Tensor], along: Sequence[Tensor]
) -> tuple[float, float]:
    """The loss's first and second derivative along a direction, at the point moved by a shift."""
    with further(shift) as (graph, leaves):
        slope = dot([g.detach() for g in graph], along)
        return host.number(slope), host.number(dot(hessian_product(graph, leaves, along), along))


def _on_line(first: tuple[float, float], then: tuple[float, float]) -> Surroundings:
    """:func:`_compared` for one direction, whose derivatives are known."""
    (slope, curvature), (next_slope, next_curvature) = first, then
    if curvature <= 0:
        return Surroundings()  # nothing moves
    ratio = next_curvature / curvature
    varies = not _within(VARIES, ratio)
    if _within(ALIKE, ratio) or (ratio > 0 and -next_slope < SHRUNK * ratio * -slope):
        return Surroundings(varies=varies)
    return Surroundings(LEVELS_OFF if math.isfinite(ratio) else BEYOND, varies)

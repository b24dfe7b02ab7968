# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Deterministic expectations of functions of one or two Gaussian scalars, with their error.

The rule is the trapezoidal rule in the standardised variables t, f = m + L t, over the nodes in a
ball, weighted by the standard normal density and normalised:

    E[g(f)] ~ sum_k w_k g(m + L t_k),      t_k on the grid of steps h, |t_k| <= R,
    w_k ~ exp(-|t_k|^2 / 2).

For g analytic in a strip of half-width d around the real axis its error is of order
``exp(-2 pi d / (s h))`` (Trefethen & Weideman 2014, Theorem 5.1; plus ``exp(-2 pi^2 / h^2)`` from
the weight), so halving h squares the error. Hence the difference of the rules with h and h/2 is the
error of the coarse one. The rule that is used has the step h / sqrt(2): a difference of 1e-8 nats
leaves it an error of ``1e-8 ** sqrt(2)`` = 5e-12, so that derivatives in the moments, which lose a
few digits, are good to 1e-8 as well. Gauss-Hermite rules, whose error for a log-sigmoid decays only
like ``exp(-c sqrt(n))``, need their nodes anew for each n and allow no such statement.

A narrow likelihood needs a small h: the rule is refined at the likelihood's own scale, and of two
scalars only the one that needs it. Outside the ball lies the probability ``exp(-R^2 / 2)`` for two
scalars, less for one; times the largest abs(g) met on the sphere it bounds what is left out of any
g that does not outgrow the weight there.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from . import host
from .scalars import Scalars, Spreads

#: Radii R of the rules, in standard deviations. At 9 the normal weight is e^-40.5 = 3e-18;
#: a growing g (exp(f) moves its mass to t = s) is followed outwards as far as 27.
HALF_WIDTHS = (9.0, 15.0, 27.0)

#: The first step and the last. At step 1 a smooth g is exact to 3e-9 (the weight's own term
#: e^-19.7). One scalar's last rule has 2 * 9 * 2 ** 10 nodes.
FIRST_STEP, LAST_STEP = 1.0, 2.0**-10

#: Elements of one evaluation: nodes are evaluated in pieces of at most this many values (2 MB),
#: which stay in the cache from one operation of the density to the next.
PIECE = 2**18

#: The largest grid of two scalars, and its nodes times the elements: 2 ** 25 values of a cheap
#: density take about a second, fifty times what ten draws take. Beyond, the factor is sampled.
MAX_NODES = 2**20
MAX_VALUES = 2**25

#: The default bound on a datum's error, in nats.
QUAD_TOL = 1e-8

#: Directions in which the tail of two scalars is looked at.
DIRECTIONS = 16


@dataclass(frozen=True)
class Rule:
    """A trapezoidal rule on a grid, within a ball.

    :param steps: the grid's step in each of the one or two standardised variables.
    :param half_width: the ball's radius in standard deviations.
    """

    steps: tuple[float, ...]
    half_width: float

    def nodes(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Nodes and weights. # shape: (K, d), (K,)"""
        return _nodes(self.steps, self.half_width, dtype, device)

    @property
    def size(self) -> int:
        """About the number of nodes: the ball's volume over a cell's."""
        if len(self.steps) == 1:
            return 1 + 2 * int(self.half_width / self.steps[0])
        return math.ceil(math.pi * self.half_width**2 / math.prod(self.steps))

    def refined(self, dims: Iterable[int], by: float = 2.0) -> "Rule":
        """The rule with smaller steps in some dims."""
        chosen = set(dims)
        steps = tuple(h / by if i in chosen else h for i, h in enumerate(self.steps))
        return Rule(steps, self.half_width)

    def at_spreads(self, calibrated: Spreads, now: Spreads) -> "Rule":
        """The rule that resolves each scalar as finely at other spreads of them: s h stays.

        Steps shrink by quarter octaves, so that few rules are met.
        """
        resolved = [max(h * s for h, s in zip(self.steps, row, strict=True)) for row in calibrated]
        steps = []
        for j, h in enumerate(self.steps):
            wanted = max(
                (h * row[j] / fine for row, fine in zip(now, resolved, strict=True) if fine > 0),
                default=1.0,
            )
            octaves = math.ceil(4 * math.log2(wanted)) / 4 if wanted > 1 else 0.0
            steps.append(max(h * 2.0**-octaves, min(h, LAST_STEP / 2)))
        return Rule(tuple(steps), self.half_width)


@lru_cache(maxsize=64)
def _nodes(
    steps: tuple[float, ...], half_width: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    nodes = _ball(steps, half_width)
    weights = (-0.5 * nodes.square().sum(-1)).exp()
    weights = weights / weights.sum()
    return nodes.to(device, dtype), weights.to(device, dtype)


def _ball(steps: tuple[float, ...], radius: float) -> Tensor:
    """The points of a grid within a ball, row by row. # shape: (K, len(steps))"""
    first, *rest = steps
    count = int(radius / first)
    if not rest:
        line = torch.arange(-count, count + 1, dtype=torch.float64, device="cpu") * first
        return line.unsqueeze(-1)
    rows = []
    for k in range(-count, count + 1):
        inner = _ball(tuple(rest), math.sqrt(max(radius**2 - (k * first) ** 2, 0.0)))
        rows.append(torch.nn.functional.pad(inner, (1, 0), value=k * first))
    return torch.cat(rows)


@dataclass(frozen=True)
class Calibration:
    """A rule that was found good enough, or the reason why there is none.

    :param error: the largest difference of rules over the elements, in nats.
    :param refusal: empty if the rule is good enough.
    """

    rule: Rule
    error: float
    refusal: str = ""


#: g, from the scalars with a dim of nodes in front to its values with that dim in front.
Function = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Integrand:
    """A function of the scalars and the number of its elements."""

    function: Function
    elements: int

    def expectation(self, scalars: Scalars, rule: Rule) -> Tensor:
        """E[g(f)] elementwise, in pieces of nodes."""
        mean = scalars.means[0]
        nodes, weights = rule.nodes(mean.dtype, mean.device)
        total: Tensor | None = None
        count = max(1, PIECE // max(1, self.elements))
        for t, w in zip(nodes.split(count), weights.split(count), strict=True):
            values = self.function(*scalars.at(t))
            piece = torch.tensordot(w.to(values.dtype), values, dims=([0], [0]))
            total = piece if total is None else total + piece
        assert total is not None
        return total

    def tail(self, scalars: Scalars, half_width: float) -> float:
        """The probability outside the ball times the largest value met on its sphere."""
        mean = scalars.means[0]
        sphere = _directions(len(scalars.means)).to(mean.device, mean.dtype) * half_width
        values = self.function(*scalars.at(sphere))
        outside = math.exp(-0.5 * half_width**2)
        return host.number(values.abs().max()) * outside if values.numel() else 0.0


def _directions(dims: int) -> Tensor:
    if dims == 1:
        return torch.tensor([[-1.0], [1.0]], dtype=torch.float64, device="cpu")
    angles = torch.arange(DIRECTIONS, dtype=torch.float64, device="cpu") * (
        2 * math.pi / DIRECTIONS
    )
    return torch.stack((angles.cos(), angles.sin()), -1)


def calibrate(integrand: Integrand, scalars: Scalars, tolerance: float = QUAD_TOL) -> Calibration:
    """The coarsest rule whose error is below the tolerance at every element.

    :param tolerance: in nats per element.
    """
    with torch.no_grad():
        for half_width in HALF_WIDTHS:
            found = _refine(integrand, scalars, tolerance, half_width)
            if found.refusal or integrand.tail(scalars, half_width) <= tolerance:
                return found
    return Calibration(found.rule, math.inf, "it grows too fast in the tails for quadrature")


def _refine(
    integrand: Integrand, scalars: Scalars, tolerance: float, half_width: float
) -> Calibration:
    """Halve the step of each scalar until halving it once more changes nothing."""
    dims = range(len(scalars.means))
    rule, error = Rule((FIRST_STEP,) * len(dims), half_width), math.inf
    value: Tensor | None = None
    while True:
        refusal = _refusal(rule, error, integrand.elements)
        if refusal:
            return Calibration(rule, error, refusal)
        value = integrand.expectation(scalars, rule) if value is None else value
        finer = [integrand.expectation(scalars, rule.refined([i])) for i in dims]
        errors = [_difference(fine, value) for fine in finer]
        error = sum(errors)
        if error <= tolerance:
            return Calibration(rule.refined(dims, by=math.sqrt(2)), error)
        if not math.isfinite(error):
            return Calibration(rule, error, _disagrees(error))
        coarse = [i for i in dims if errors[i] > tolerance / len(dims)]
        rule = rule.refined(coarse)
        value = finer[coarse[0]] if len(coarse) == 1 else None


def _refusal(rule: Rule, error: float, elements: int) -> str:
    """Why a rule and the next finer ones are not tried, if so."""
    if min(rule.steps) <= LAST_STEP:
        return _disagrees(error)
    nodes = 2 * rule.size
    if len(rule.steps) > 1 and (nodes > MAX_NODES or nodes * elements > MAX_VALUES):
        return (
            f"quadrature over two Gaussian scalars takes {nodes} nodes or more for each of "
            f"{elements} elements (the limits are {MAX_NODES} nodes and {MAX_VALUES} values)"
        )
    return ""


def _disagrees(error: float) -> str:
    return f"quadrature disagrees by {error:.1e} nats at the finest rule"


def _difference(left: Tensor, right: Tensor) -> float:
    return host.number((left - right).abs().max()) if left.numel() else 0.0

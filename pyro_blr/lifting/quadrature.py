# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Deterministic expectations of functions of one or two Gaussian scalars, with their error.

The rule is the trapezoidal rule in the standardised variables t, f = m + L t, over the nodes in a
ball, weighted by the standard normal density and normalised:

    E[g(f)] ~ sum_k w_k g(m + L t_k),      t_k on the grid of steps h, |t_k| <= R,
    w_k ~ exp(-|t_k|^2 / 2).

For g analytic in a strip of half-width d around the real axis its error is of order
``exp(-2 pi d / (s h))`` (Trefethen & Weideman 2014, Theorem 5.1; plus ``exp(-2 pi^2 / h^2)`` from
the weight), so a step of h / sqrt(2) raises the error at least to the power sqrt(2): 1e-8 becomes
5e-12. Hence the difference of the rules with h and h / sqrt(2) is the error of the coarse one. The
fine one is used. Gauss-Hermite rules, whose error for a log-sigmoid decays only like
``exp(-c sqrt(n))``, allow no such statement. Where the strip narrows in the tail of the other
scalar (``exp(f) g`` in a log-sigmoid) the error falls more slowly, and derivatives in the moments
lose a few digits: so the fine rule's error, estimated from the last two differences, is asked to
be a hundredth of the tolerance where that can be had.

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

#: A step is ``2 ** (-level / OCTAVE)``, and is refined by sqrt(2). At level 0 a smooth g is exact
#: to 3e-9 (the weight's own term e^-19.7). One scalar's last rule has 2 * 9 * 2 ** 10 nodes.
OCTAVE = 4
REFINEMENT = OCTAVE // 2
LAST_LEVEL = 10 * OCTAVE

#: Elements of one evaluation: nodes are evaluated in pieces of at most this many values (2 MB),
#: which stay in the cache from one operation of the density to the next.
PIECE = 2**18

#: The largest grid of two scalars, and its nodes times the elements: 2 ** 25 values of a cheap
#: density take about a second, fifty times what ten draws take. Beyond, the factor is sampled.
MAX_NODES = 2**20
MAX_VALUES = 2**25

#: The default bound on a datum's error, in nats.
QUAD_TOL = 1e-8

#: The part of the tolerance that the used rule's error is estimated at. It leaves derivatives in
#: the moments good to the tolerance itself: they lose a factor of 40 in a log-sigmoid of exp(f) g.
CAUTION = 0.01

#: Two scalars' differences below SMALL nats that stay above SLOW times the last PATIENCE times in a
#: row mean a kink (which halves them) or a jump. An analytic g has ``h exp(-2 pi d / h)`` at worst:
#: once its ratio is as low as 0.37, the next ones are 0.28 and 0.19.
SMALL, SLOW, PATIENCE = 1e-3, 0.3, 3

#: Directions in which the tail of two scalars is looked at.
DIRECTIONS = 16


@dataclass(frozen=True)
class Rule:
    """A trapezoidal rule on a grid, within a ball.

    :param levels: how fine the grid is in each of the one or two standardised variables.
    :param half_width: the ball's radius in standard deviations.
    """

    levels: tuple[int, ...]
    half_width: float

    @property
    def steps(self) -> tuple[float, ...]:
        """The grid's steps."""
        return tuple(2.0 ** (-level / OCTAVE) for level in self.levels)

    @property
    def size(self) -> int:
        """About the number of nodes: the ball's volume over a cell's."""
        ball = 2 * self.half_width if len(self.levels) == 1 else math.pi * self.half_width**2
        return math.ceil(ball / math.prod(self.steps))

    def nodes(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Nodes and weights. # shape: (K, d), (K,)"""
        return _nodes(self, dtype, device)

    def refined(self, dims: Iterable[int]) -> "Rule":
        """The rule with steps smaller by sqrt(2) in some dims."""
        levels = list(self.levels)
        for i in dims:
            levels[i] += REFINEMENT
        return Rule(tuple(levels), self.half_width)

    def at_spreads(self, calibrated: Spreads, now: Spreads) -> "Rule":
        """The rule that resolves each scalar as finely at other spreads of them: s h stays."""
        resolved = [max(h * s for h, s in zip(self.steps, row, strict=True)) for row in calibrated]
        levels = []
        for j, (level, h) in enumerate(zip(self.levels, self.steps, strict=True)):
            ratios = (h * row[j] / fine for row, fine in zip(now, resolved, strict=True) if fine)
            wider = max(ratios, default=1.0)
            finer = math.ceil(OCTAVE * math.log2(wider)) if wider > 1 else 0
            levels.append(min(level + finer, LAST_LEVEL + OCTAVE))
        return Rule(tuple(levels), self.half_width)


@lru_cache(maxsize=64)
def _nodes(rule: Rule, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    nodes = _ball(rule.steps, rule.half_width)
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

    def tails(self, scalars: Scalars) -> list[float]:
        """For each ball the probability outside times the largest value met on its sphere."""
        mean = scalars.means[0]
        sphere = _directions(len(scalars.means)).to(mean.device, mean.dtype)
        values = self.function(*scalars.at(torch.cat([r * sphere for r in HALF_WIDTHS])))
        if not values.numel():
            return [0.0 for _ in HALF_WIDTHS]
        largest = values.abs().reshape(len(HALF_WIDTHS), -1).amax(1)
        outside = [math.exp(-0.5 * r**2) for r in HALF_WIDTHS]
        found = host.numbers(largest.unbind())
        return [v * p for v, p in zip(found, outside, strict=True)]


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
        tails = integrand.tails(scalars)
        for i, half_width in enumerate(HALF_WIDTHS):
            # Further out a value may overflow, which says nothing, or show where the mass has gone.
            further = any(tolerance < tail < math.inf for tail in tails[i + 1 :])
            if tails[i] <= tolerance and not further:
                return _refine(integrand, scalars, tolerance, half_width)
    rule = Rule((0,) * len(scalars.means), half_width)
    return Calibration(rule, math.inf, "it grows too fast in the tails for quadrature")


def _refine(
    integrand: Integrand, scalars: Scalars, tolerance: float, half_width: float
) -> Calibration:
    """Refine each scalar's step until refining it once more changes nothing."""
    dims = range(len(scalars.means))
    rule, error = Rule((0,) * len(dims), half_width), 1.0
    value: Tensor | None = None
    slow = 0
    while True:
        refusal = _refusal(rule, error, integrand.elements)
        if refusal:
            return Calibration(rule, error, refusal if error > tolerance else "")
        value = integrand.expectation(scalars, rule) if value is None else value
        finer = [integrand.expectation(scalars, rule.refined([i])) for i in dims]
        errors = _differences(finer, value)
        previous, error = error, sum(errors)
        if not math.isfinite(error):
            return Calibration(rule, error, _disagrees(error))
        # Errors fall faster and faster: the next difference is at most the last two's ratio away.
        if error <= tolerance and error * min(1.0, error / previous) <= CAUTION * tolerance:
            return Calibration(rule.refined(dims), error)
        slow = slow + 1 if SLOW * previous < error < SMALL else 0
        if len(dims) > 1 and slow == PATIENCE:
            return Calibration(rule, error, _falls_slowly(rule, error))
        wanted = tolerance if error > tolerance else CAUTION * tolerance
        coarse = [i for i in dims if errors[i] > wanted / len(dims)]
        rule = rule.refined(coarse)
        value = finer[coarse[0]] if len(coarse) == 1 else None


def _refusal(rule: Rule, error: float, elements: int) -> str:
    """Why a rule and the next finer ones are not tried, if so."""
    if max(rule.levels) >= LAST_LEVEL:
        return _disagrees(error)
    if not within_limits(rule, 2 * elements):  # the next two rules have more nodes by sqrt(2), or 2
        return (
            f"quadrature over two Gaussian scalars takes {2 * rule.size} nodes or more for each of "
            f"{elements} elements (the limits are {MAX_NODES} nodes and {MAX_VALUES} values)"
        )
    return ""


def within_limits(rule: Rule, elements: int) -> bool:
    """Whether a rule of two scalars is small enough to be evaluated; of one it always is."""
    small = rule.size <= MAX_NODES and rule.size * elements <= MAX_VALUES
    return len(rule.levels) == 1 or small


def _disagrees(error: float) -> str:
    return f"quadrature disagrees by {error:.1e} nats at the finest rule"


def _falls_slowly(rule: Rule, error: float) -> str:
    return (
        f"quadrature disagrees by {error:.1e} nats at {rule.size} nodes, and this falls too slowly "
        "(a kink or a jump)"
    )


def _differences(values: list[Tensor], other: Tensor) -> list[float]:
    if not other.numel():
        return [0.0 for _ in values]
    return host.numbers([(v - other).abs().max() for v in values])

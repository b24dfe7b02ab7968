# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Deterministic expectations of functions of one Gaussian scalar, with their error.

The rule is the trapezoidal rule in the standardised variable t, f = m + s t, weighted by the
standard normal density and normalised:

    E[g(f)] ~ sum_k w_k g(m + s t_k),      t_k = k h, |t_k| <= R,      w_k ~ exp(-t_k^2 / 2).

For g analytic in a strip of half-width d around the real axis its error is of order
``exp(-2 pi d / (s h))`` (Trefethen & Weideman 2014, Theorem 5.1; plus ``exp(-2 pi^2 / h^2)`` from
the weight), so halving h squares the error. Hence the difference of the rules with h and h/2 is the
error of the coarse one, and the square of it bounds the fine one, which is the one that is used: a
difference below 1e-8 nats means agreement to rounding. Gauss-Hermite rules, whose error for a
log-sigmoid decays only like ``exp(-c sqrt(n))``, need their nodes anew for each n and allow no such
statement. A narrow likelihood needs a small h: the rule is refined at the likelihood's own scale.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from . import host

#: Half-widths R of the rules, in standard deviations. At 9 the normal weight is e^-40.5 = 3e-18;
#: a growing g (exp(f) moves its mass to t = s) is followed outwards as far as 27.
HALF_WIDTHS = (9.0, 15.0, 27.0)

#: h = 1 / 2 ** level. Level 0 is exact to 3e-9 for a smooth g (the weight's own term e^-19.7), so
#: that the accepted rule is never coarser than level 1. The last level has 2 * 9 * 2 ** 10 nodes.
LEVELS = range(0, 11)

#: Elements of one evaluation: nodes are evaluated in pieces of at most this many values (32 MB).
PIECE = 2**22

#: The default bound on a datum's error, in nats.
QUAD_TOL = 1e-8


@dataclass(frozen=True)
class Rule:
    """A trapezoidal rule: step ``2 ** -level``, half-width in standard deviations."""

    level: int
    half_width: float

    def nodes(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Nodes and weights. # shape: (K,), (K,)"""
        return _nodes(self.level, self.half_width, dtype, device)

    def at_spread(self, ratio: float) -> "Rule":
        """The rule as accurate for predictors ``ratio`` times as wide: s h stays what it was."""
        finer = max(0, math.ceil(math.log2(ratio))) if ratio > 1 else 0
        return Rule(min(self.level + finer, LEVELS.stop), self.half_width)

    @property
    def halved(self) -> "Rule":
        """The rule with half the step."""
        return Rule(self.level + 1, self.half_width)


@lru_cache(maxsize=64)
def _nodes(
    level: int, half_width: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    count = int(half_width * 2**level)
    nodes = torch.arange(-count, count + 1, dtype=torch.float64, device="cpu") / 2**level
    weights = (-0.5 * nodes.square()).exp()
    weights = weights / weights.sum()
    return nodes.to(device, dtype), weights.to(device, dtype)


@dataclass(frozen=True)
class Calibration:
    """A rule that was found good enough, or not.

    :param error: the largest difference to the coarser rule over the elements, in nats.
    """

    rule: Rule
    error: float
    accepted: bool


Function = Callable[[Tensor], Tensor]


def standard_deviation(variance: Tensor) -> Tensor:
    """The square root with gradient 0 at a variance of exactly 0 (a row of zeros as predictor)."""
    positive = variance > 0
    return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)


def expectation(function: Function, mean: Tensor, variance: Tensor, rule: Rule) -> Tensor:
    """E[g(f)] elementwise, f ~ N(mean, variance).

    :param function: g, on a tensor of predictors with a dim of nodes in front; its result has
        that dim in front too.
    :param mean: # shape: (*f)
    """
    nodes, weights = rule.nodes(mean.dtype, mean.device)
    scale = standard_deviation(variance)
    total: Tensor | None = None
    for t, w in _pieces(nodes, weights, mean.numel()):
        column = t.reshape(-1, *(1,) * mean.dim())
        values = function(mean + scale * column)
        piece = torch.tensordot(w.to(values.dtype), values, dims=([0], [0]))
        total = piece if total is None else total + piece
    assert total is not None
    return total


def _pieces(nodes: Tensor, weights: Tensor, elements: int) -> Iterator[tuple[Tensor, Tensor]]:
    count = max(1, PIECE // max(1, elements))
    yield from zip(nodes.split(count), weights.split(count), strict=True)


def calibrate(
    function: Function, mean: Tensor, variance: Tensor, tolerance: float = QUAD_TOL
) -> Calibration:
    """The coarsest rule whose error is below the tolerance at every element.

    :param tolerance: in nats per element.
    """
    with torch.no_grad():
        calibration = Calibration(Rule(LEVELS.start, HALF_WIDTHS[0]), math.inf, False)
        for half_width in HALF_WIDTHS:
            calibration = _refine(function, mean, variance, tolerance, half_width)
            if not calibration.accepted:
                return calibration
            if _tail(function, mean, variance, calibration.rule) <= tolerance:
                return calibration
    return Calibration(calibration.rule, math.inf, False)


def _refine(
    function: Function, mean: Tensor, variance: Tensor, tolerance: float, half_width: float
) -> Calibration:
    """Halve the step until two rules agree."""
    error = math.inf
    rule = Rule(LEVELS.start, half_width)
    coarse = expectation(function, mean, variance, rule)
    while rule.level < LEVELS.stop - 1:
        rule = rule.halved
        fine = expectation(function, mean, variance, rule)
        error = host.number((fine - coarse).abs().max()) if fine.numel() else 0.0
        if error <= tolerance:
            return Calibration(rule, error, True)
        if not math.isfinite(error):
            break
        coarse = fine
    return Calibration(rule, error, False)


def _tail(function: Function, mean: Tensor, variance: Tensor, rule: Rule) -> float:
    """The weighted values at the two last nodes, which bound what lies beyond them."""
    ends = torch.tensor([-rule.half_width, rule.half_width], dtype=mean.dtype, device=mean.device)
    column = ends.reshape(-1, *(1,) * mean.dim())
    values = function(mean + standard_deviation(variance) * column)
    weight = math.exp(-0.5 * rule.half_width**2) * 2.0 ** (-rule.level)
    return host.number(values.abs().max()) * weight if values.numel() else 0.0

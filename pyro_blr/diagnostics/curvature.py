# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

r"""How wide q is at its bulk, by a quadratic fit of the log weights: it needs no tail.

Where weights are so uneven that a few draws hold all of them, weighted moments say nothing. The log
weights of all draws still do: of two Gaussians with the variances :math:`s_q^2` and :math:`s_p^2`

.. math:: \log p(z) - \log q(z) = \tfrac{1}{2} (1 - s_q^2 / s_p^2) \, (z - m)^2 / s_q^2 + \dots,

so the coefficient of the square, in a least-squares fit of the log weights, is half of
``1 - (sd of q / sd of the posterior)^2``. A site of a few elements is seen along its own principal
directions under q, which are uncorrelated; a fit on the directions of all sites and their squares
says of each how wide q is there, the others given.

How many times too narrow q is, ``(1 - value) ** -0.5``, needs digits that the value may not have:
near 1 all of them are lost. Directions are those of the draws, whose variances spread about q's
(by Marchenko and Pastur's law, ``2 (D / S)^(1/2)`` for D directions), and the values with them;
their mean does not. So a factor is that of the mean where all values are equal up to that spread,
or of the farthest one if it has the digits, and else there is none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..on_host import on_host

#: Directions up to which all of them are fitted together; of more each is fitted for itself, and
#: what the others do to the log weights is noise.
TOGETHER = 200
#: Elements up to which a site is seen along its principal directions; of more, along its elements.
TURNED = 100
#: The share by which a factor may be off that is given.
DIGITS = 0.25
#: Standard errors of a correlation of sites under q below which they are taken to have none.
APART = 6.0


@dataclass(frozen=True)
class Curvature:
    """``1 - (sd of q / sd of the posterior)^2`` along each direction of a site, the others given.

    :param Tensor value: above 0 where q is too narrow, below where it is too wide.
        # shape: (directions,)
    :param Tensor error: its standard error.
    :param float spread: the relative spread of the values by the draws' own directions; infinite
        where the directions are not q's, so that values have no digits.
    :param int num_draws: the draws that it is of.
    """

    value: Tensor
    error: Tensor
    spread: float
    num_draws: int

    def farthest(self, margin: float) -> float:
        """The value that is farthest from 0, 0 if none surely is not.

        Of values that are equal up to their spread it is the mean.

        :param margin: standard errors within which values are.
        """
        sure = self.value.where(self.value.abs() > margin * self.error, 0.0)
        if not bool((sure != 0).any()):
            return 0.0
        if self._is_even(margin):
            return float(self.value.mean())
        return float(sure[sure.abs().argmax()])

    def times(self, margin: float) -> float | None:
        """The posterior's sd over q's there, if it is known to a quarter.

        :param margin: standard errors within which values are.
        """
        value = self.farthest(margin)
        if not math.isfinite(self.spread):
            return None
        if self._is_even(margin):
            # Of the mean of squares of so many numbers of mean 0.
            error = 3 * abs(value) * math.sqrt(2 / (self.num_draws * len(self.value)))
            error += 3 * float(self.error.mean()) / math.sqrt(len(self.value))
        else:
            error = abs(value) * self.spread + margin * float(self.error.max())
        low, high = 1 - value - error, 1 - value + error
        if low <= 0 or (high / low) ** 0.5 > (1 + DIGITS) ** 2:
            return None
        return float((1 - value) ** -0.5)

    def _is_even(self, margin: float) -> bool:
        mean = self.value.mean()
        room = 1.5 * mean.abs() * self.spread + margin * self.error
        return math.isfinite(self.spread) and bool(((self.value - mean).abs() <= room).all())


@on_host
def curvatures(values: Mapping[str, Tensor], log_ratios: Tensor) -> dict[str, Curvature]:
    """The curvature of the log weights along the directions of each site.

    :param values: draws of q. # shape: (S, *site)
    :param log_ratios: ``log p - log q`` at them. # shape: (S,)
    """
    if not values:
        return {}
    columns = [_directions(v) for v in values.values()]
    sizes = [c.shape[-1] for c in columns]
    turned = [
        c.shape[-1] == 1 or _is_turned(v) for c, v in zip(columns, values.values(), strict=True)
    ]
    z = torch.cat(columns, -1)
    # A draw outside the posterior's support has no log weight to fit.
    kept = torch.isfinite(log_ratios)
    z, target = z[kept], (log_ratios[kept] - log_ratios[kept].mean())
    few = z.shape[-1] <= min(TOGETHER, len(z) // 10)
    value, error = _together(z, target) if few else _each(z, target)
    spreads = _spreads(z, sizes, turned if few else [False] * len(turned))
    parts = zip(values, value.split(sizes), error.split(sizes), spreads, strict=True)
    return {name: Curvature(v, e, s, len(z)) for name, v, e, s in parts}


def _spreads(z: Tensor, sizes: list[int], turned: list[bool]) -> list[float]:
    """The relative spread of the values of each site.

    Sites that are correlated under q have products in the log weights, which are not fitted.
    """
    site = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    across = (z.mT @ z / len(z)).abs().where(site[:, None] != site, 0.0)
    alone = [bool((a <= APART / math.sqrt(len(z))).all()) for a in across.split(sizes)]
    return [
        2 * math.sqrt(d / len(z)) + d / len(z) if a and t else math.inf
        for d, a, t in zip(sizes, alone, turned, strict=True)
    ]


def _is_turned(value: Tensor) -> bool:
    """Whether a site is seen along its principal directions."""
    return 1 < value[0].numel() <= min(TURNED, len(value) // 10)


def _directions(value: Tensor) -> Tensor:
    """Uncorrelated directions of a site, each with mean 0 and sd 1. # shape: (S, directions)"""
    flat = value.detach().double().cpu().reshape(len(value), -1)
    flat = flat[:, (flat != flat[0]).any(0)]
    scaled = (flat - flat.mean(0)) / flat.std(0)
    if scaled.shape[-1] < 2 or not _is_turned(value):
        return scaled
    sizes, axes = torch.linalg.eigh(scaled.mT @ scaled / len(scaled))
    kept = sizes > 1e-8 * sizes[-1]  # proportions are linear in each other
    turned: Tensor = scaled @ axes[:, kept] / sizes[kept].sqrt()
    return turned


def _together(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    squares = z**2 - (z**2).mean(0)
    design = torch.cat([z, squares], -1)
    gram = design.mT @ design
    # A direction of one site may be one of another: the inverse is the pseudo-inverse.
    inverse = torch.linalg.pinv(gram, hermitian=True, rtol=1e-10)
    coefficients = inverse @ (design.mT @ target)
    noise = (target - design @ coefficients).square().mean()
    errors = (noise * inverse.diagonal()).sqrt()
    half = z.shape[-1]
    return 2 * coefficients[half:], 2 * errors[half:]


def _each(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    squares = z**2 - (z**2).mean(0)
    sizes = squares.square().sum(0).clamp(min=torch.finfo(z.dtype).tiny)
    coefficients = (squares * target[:, None]).sum(0) / sizes
    noise = (target[:, None] - squares * coefficients).square().mean(0)
    return 2 * coefficients, 2 * (noise / sizes).sqrt()

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Whether numbers in (0, 1) are uniform, and whether their law is symmetric about 1/2."""

import math

import torch
from torch import Tensor

from ..on_host import on_host

#: Above it the series loses its digits, and the limit law has its asymptotic tail to a hundredth.
FAR = 25.0
#: Terms of the series of the limit law, and points of its integrals: more do not change a digit.
TERMS, POINTS = 20, 2000


@on_host
def uniform_p_value(numbers: Tensor) -> Tensor:
    """Anderson and Darling's (1954) test of uniformity: its p-value for each column.

    It weighs the tails, so that it sees a guide that is too narrow or too wide (numbers at both
    ends, or at neither) as well as one that is off to a side. The limit law is used, which serves
    from some ten numbers on.

    :param numbers: # shape: (n, *columns)
    :return: # shape: (*columns)
    """
    count = len(numbers)
    low = numbers.double().sort(0).values.reshape(count, -1)
    odd = 2 * torch.arange(1, count + 1, dtype=torch.float64) - 1
    terms = low.log() + torch.log1p(-low.flip(0))
    statistics = -count - (odd[:, None] * terms).mean(0)
    values = [_anderson_darling_tail(float(s)) for s in statistics]
    return torch.tensor(values, dtype=torch.float64).reshape(numbers.shape[1:])


@on_host
def symmetric_p_value(numbers: Tensor) -> Tensor:
    """Wilcoxon's signed-rank test of symmetry about 1/2: its two-sided p-value for each column.

    :param numbers: # shape: (n, *columns)
    :return: # shape: (*columns)
    """
    count = len(numbers)
    away = numbers.double() - 0.5
    ranks = away.abs().argsort(0).argsort(0).double() + 1
    statistic = (ranks * away.sign()).sum(0)
    variance = count * (count + 1) * (2 * count + 1) / 6
    p_values: Tensor = torch.special.erfc(statistic.abs() / math.sqrt(2 * variance))
    return p_values


def corrected(p_values: Tensor) -> float:
    """The p-value of many tests, by Bonferroni: the least times their number, at most 1."""
    return min(1.0, p_values.numel() * float(p_values.min()))


def _anderson_darling_tail(statistic: float) -> float:
    """The chance that Anderson and Darling's statistic is larger, for very many numbers.

    It is that of ``sum_j x_j^2 / (j (j + 1))`` of standard normal x. Far out the first term
    decides, whose tail is multiplied by ``prod_(j > 1) (1 - 2 / (j (j + 1)))^(-1/2)``, root 3.
    """
    if statistic >= FAR:
        return math.sqrt(3) * math.erfc(math.sqrt(statistic))
    if statistic <= 0.01:  # the law has no mass there that a double could hold
        return 1.0
    return min(max(1 - _anderson_darling(statistic), 0.0), 1.0)


def _anderson_darling(z: float) -> float:
    """The distribution function of the limit law (Anderson & Darling 1954)."""
    j = torch.arange(TERMS, dtype=torch.float64)
    order = (4 * j + 1) ** 2 * math.pi**2 / (8 * z)
    # (-1/2 choose j), times what stands before the integral
    signs = 1 - 2 * (j % 2)
    binomial = signs * torch.exp(
        torch.lgamma(j + 0.5) - math.lgamma(0.5) - torch.lgamma(j + 1) - order
    )
    # integral over w of exp(z / (8 (w^2 + 1)) - order w^2), in units of its Gaussian's width
    x = torch.linspace(0.0, 10.0, POINTS, dtype=torch.float64)
    width = order.rsqrt()
    w = x[:, None] * width
    inner = torch.trapezoid(torch.exp(z / (8 * (w**2 + 1)) - x[:, None] ** 2), x, dim=0) * width
    return float((binomial * (4 * j + 1) * inner).sum() * math.sqrt(2 * math.pi) / z)

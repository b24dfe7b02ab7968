# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

r"""Bounds on the errors of q's means and sds, from the second moment of the weights.

With weights :math:`w = p / q` of mean 1 under q the chi-square divergence is
:math:`\chi^2 = E_q[w^2] - 1 = \exp(D_2) - 1`, where :math:`D_2` is Rényi's divergence of order 2:
twice the CUBO less twice the log evidence, for which Huggins et al. (2020) put the ELBO where it is
not known; here the weights have it. For any function f of the latents, by Cauchy and Schwarz,

.. math:: |E_p f - E_q f| = |E_q (w - 1) f| \leq \chi \, \mathrm{sd}_q(f),

and for Wasserstein's distances between p and q, since
:math:`W_r^r \leq 2^{r - 1} E_q \|z - m\|^r |w - 1|` (Villani 2009, theorem 6.15),

.. math::

    W_1 \leq \chi \, (E_q \|z - m\|^2)^{1/2}, \qquad
    W_2 \leq \sqrt 2 \, \chi^{1/2} (E_q \|z - m\|^4)^{1/4}.

Means differ by at most W_1, means and sds by at most W_2: an sd is the least :math:`L_2` distance
to a constant, so sds of two variables differ by no more than the variables do. The bound of an
element is the least of what these say of it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..on_host import on_host
from .moments import check_draws
from .pareto import PSIS

#: At this index and above the second moment of the weights is infinite.
NO_SECOND_MOMENT = 0.5
#: Standard errors that are added to the estimated second moment.
MARGIN = 2.0


@dataclass(frozen=True)
class ErrorBounds:
    """Bounds for a site, as far as the draws tell: they see no mode that q does not reach.

    :param float divergence: Rényi's divergence of order 2 of the target from q, in nats, with two
        standard errors on top; infinite where k-hat is at least 0.5, and all bounds with it. From
        k-hat 0.25 on the errors are themselves too small, and it may be a little short.
    :param float wasserstein_1: Wasserstein's distance of order 1 of the whole site, in its units.
    :param float wasserstein_2: the same of order 2.
    :param Tensor mean: of the error of each mean. # shape: (*site)
    :param Tensor sd: of the error of each sd.
    """

    divergence: float
    wasserstein_1: float
    wasserstein_2: float
    mean: Tensor
    sd: Tensor


def divergence_bound(smoothed: PSIS) -> float:
    """Rényi's divergence of order 2 in nats, and two standard errors.

    It is infinite from k-hat 0.5 on, however even the weights are.

    :param smoothed: the weights of draws of q.
    """
    if smoothed.is_constant:
        return 0.0
    if smoothed.khat >= NO_SECOND_MOMENT:
        return math.inf
    relative = len(smoothed.weights) * smoothed.weights
    square = relative.square()
    second = square.mean()
    influence = square - second - 2 * second * (relative - 1)
    error = influence.std() / math.sqrt(len(relative))
    return math.log(float(second + MARGIN * error))


@on_host
def error_bounds(values: Tensor, smoothed: PSIS) -> ErrorBounds:
    """Bounds on the errors of a site's means and sds.

    Example::

        bounds = error_bounds(values["w"], psis(log_p - log_q))
        bounds.mean, bounds.sd

    :param values: draws of q. # shape: (S, *site)
    :param smoothed: their weights.
    :raises ShapeError: if they are not as many as the draws.
    """
    check_draws(values, smoothed.log_weights)
    divergence = divergence_bound(smoothed)
    chi = math.sqrt(math.expm1(divergence)) if divergence < 700 else math.inf
    away = values.detach().double().cpu().reshape(len(values), -1)
    away = away - away.mean(0)
    squares = away**2
    length = squares.sum(-1)
    sd = squares.mean(0).sqrt()
    wide = _wasserstein_2(squares, chi)
    mean_bound, sd_bound = torch.minimum(chi * sd, wide), torch.minimum(_sds(squares, chi), wide)
    if math.isinf(chi):  # infinity times a spread of 0 is not a number
        mean_bound = sd_bound = torch.full_like(sd, math.inf)
    shape = values.shape[1:]
    return ErrorBounds(
        divergence,
        math.inf if math.isinf(chi) else chi * math.sqrt(float(length.mean())),
        math.inf if math.isinf(chi) else float(_wasserstein_2(length[:, None], chi)),
        mean_bound.reshape(shape),
        sd_bound.reshape(shape),
    )


def _wasserstein_2(squares: Tensor, chi: float) -> Tensor:
    """The bound on W_2 of each column.

    :param squares: squared distances to the mean. # shape: (S, E)
    """
    return math.sqrt(2 * chi) * squares.square().mean(0) ** 0.25


def _sds(squares: Tensor, chi: float) -> Tensor:
    """How far the sd may be off by the bounds on E z^2 and on the mean. # shape: (E,)"""
    variance = squares.mean(0)
    sd, reach = variance.sqrt(), chi * squares.std(0)
    most = (variance + reach).sqrt()
    least = (variance * (1 - chi**2) - reach).clamp(min=0).sqrt()
    return torch.maximum(most - sd, sd - least)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Means and standard deviations of q against those of its target, by importance weights."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import errors
from ..on_host import on_host


@dataclass(frozen=True)
class Moments:
    """Mean and sd of q and of its target, element by element of a site.

    Both are of the same draws, so the errors of their differences vanish with the differences: of
    an exact guide they are 0. All are in the units of the site, and 0-dimensional for a scalar one.

    :param Tensor mean: of q. # shape: (*site)
    :param Tensor sd: of q.
    :param Tensor target_mean: by the weights.
    :param Tensor target_sd: by the weights.
    :param Tensor shift: ``(target_mean - mean) / sd``; NaN where q has no spread.
    :param Tensor shift_error: its Monte Carlo standard error.
    :param Tensor widening: ``log(target_sd / sd)``: above 0 where q is too narrow.
    :param Tensor widening_error: its Monte Carlo standard error.
    """

    mean: Tensor
    sd: Tensor
    target_mean: Tensor
    target_sd: Tensor
    shift: Tensor
    shift_error: Tensor
    widening: Tensor
    widening_error: Tensor

    @property
    def margin(self) -> float:
        """Standard errors within which all elements' errors are, 99 times in 100 and more."""
        return math.sqrt(2 * math.log(200 * max(self.mean.numel(), 1)))


def check_draws(values: Tensor, weights: Tensor) -> None:
    """Refuse draws that are not as many as their weights.

    :raises ShapeError: naming both shapes.
    """
    shapes = [tuple(getattr(t, "shape", ())) for t in (values, weights)]
    if len(shapes[1]) != 1 or shapes[0][:1] != shapes[1]:
        raise errors.ShapeError(
            f"draws of shape {shapes[0]} and weights of shape {shapes[1]} do not belong together. "
            "Mend: give draws along their first dim, (S, *site), and one weight for each, (S,)."
        )


@on_host
def moments(values: Tensor, weights: Tensor) -> Moments:
    """Compare the moments of q with the weighted ones.

    :param values: draws of q. # shape: (S, *site)
    :param weights: normalised importance weights. # shape: (S,)
    :raises ShapeError: if they are not as many as the draws.
    """
    check_draws(values, weights)
    shape = values.shape[1:]
    flat = values.detach().double().cpu().reshape(len(values), -1)
    even = torch.full_like(weights, 1 / len(weights))
    mean, away = _centred(flat, even)
    target_mean, target_away = _centred(flat, weights)
    variance, target_variance = even @ away**2, weights @ target_away**2
    own, other = even[:, None], weights[:, None]
    sd = variance.sqrt().where((flat != flat[0]).any(0), math.nan)
    shift_error = (other * target_away - own * away).square().sum(0).sqrt() / sd
    # The influence of each draw on the logarithm of the ratio of variances.
    influence = other * (target_away**2 / target_variance - 1) - own * (away**2 / variance - 1)
    found = (
        *(mean, sd, target_mean, target_variance.sqrt()),
        *((target_mean - mean) / sd, shift_error),
        *((target_variance.sqrt() / sd).log(), 0.5 * influence.square().sum(0).sqrt()),
    )
    return Moments(*(f.reshape(shape) for f in found))


def _centred(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean, and the values less it."""
    mean = weights @ values
    return mean, values - mean

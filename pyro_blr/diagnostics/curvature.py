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
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

#: Directions up to which all of them are fitted together; of more each is fitted for itself, and
#: what the others do to the log weights is noise.
TOGETHER = 200
#: Elements up to which a site is seen along its principal directions; of more, along its elements.
TURNED = 100


@dataclass(frozen=True)
class Curvature:
    """``1 - (sd of q / sd of the posterior)^2`` along each direction of a site, the others given.

    :param Tensor value: above 0 where q is too narrow, below where it is too wide.
        # shape: (directions,)
    :param Tensor error: its standard error.
    """

    value: Tensor
    error: Tensor


def curvatures(values: Mapping[str, Tensor], log_ratios: Tensor) -> dict[str, Curvature]:
    """The curvature of the log weights along the directions of each site.

    :param values: draws of q. # shape: (S, *site)
    :param log_ratios: ``log p - log q`` at them. # shape: (S,)
    """
    columns = [_directions(v) for v in values.values()]
    sizes = [c.shape[-1] for c in columns]
    z = torch.cat(columns, -1)
    # A draw outside the posterior's support has no log weight to fit.
    kept = torch.isfinite(log_ratios)
    z, target = z[kept], (log_ratios[kept] - log_ratios[kept].mean())
    few = z.shape[-1] <= min(TOGETHER, len(z) // 10)
    value, error = _together(z, target) if few else _each(z, target)
    parts = zip(values, value.split(sizes), error.split(sizes), strict=True)
    return {name: Curvature(v, e) for name, v, e in parts}


def _directions(value: Tensor) -> Tensor:
    """Uncorrelated directions of a site, each with mean 0 and sd 1. # shape: (S, directions)"""
    flat = value.detach().double().cpu().reshape(len(value), -1)
    flat = flat[:, (flat != flat[0]).any(0)]
    scaled = (flat - flat.mean(0)) / flat.std(0)
    if not 1 < scaled.shape[-1] <= min(TURNED, len(scaled) // 10):
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

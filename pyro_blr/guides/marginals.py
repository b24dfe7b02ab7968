# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A site's posterior as a Pyro distribution, and its quantiles."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..energy.latents import Latent, cut
from ..families import Natural
from ..lifting.blocks import Block
from ..lifting.moments import GaussianMoments

#: Grid points for a numerical quantile; on a grid of +-12 spread units in the unconstrained space
#: the cumulated trapezoid of a smooth density is accurate to rounding.
GRID = 4001


def marginal(block: Block, natural: Natural, latent: Latent) -> Any:
    """q of one site. Where the site's elements are correlated, a multivariate normal.

    :param natural: the natural parameters of the block that holds the site.
    """
    if not latent.site.gaussian:
        cast = tuple(n.to(latent.dtype) for n in natural)
        return _with_event_dim(latent.family.distribution(cast), latent.value_event_dim)
    with torch.no_grad():
        base = _gaussian(block, natural, latent)
    if latent.transform is None:
        return _with_event_dim(base, latent.value_event_dim)
    if (
        isinstance(latent.transform, torch.distributions.transforms.ExpTransform)
        and not base.event_dim
    ):
        return _with_event_dim(dist.LogNormal(base.loc, base.scale), latent.value_event_dim)
    return _with_event_dim(
        dist.TransformedDistribution(base, [latent.transform]), latent.value_event_dim
    )


def _with_event_dim(distribution: Any, event_dim: int) -> Any:
    missing = event_dim - distribution.event_dim
    return distribution.to_event(missing) if missing > 0 else distribution


def _gaussian(block: Block, natural: Natural, latent: Latent) -> Any:
    moments = GaussianMoments(block, tuple(n.detach() for n in natural))
    mean, covariance = (t.detach() for t in moments.leaves)
    site = latent.site
    if block.event_size is None:
        return dist.Normal(mean.to(latent.dtype), covariance.sqrt().to(latent.dtype))
    loc = cut(block, site, mean, len(block.batch_shape)).to(latent.dtype)
    place = block.event_slice(site)
    event_dims = block.event_dims(site)
    own = covariance[..., place, place]
    batch_dims = block.placements[site.name].batch_dims
    vector = len(event_dims) == 1 and event_dims[0] == len(site.shape) - 1
    if vector and batch_dims == tuple(range(len(site.shape) - 1)):
        return dist.MultivariateNormal(loc, covariance_matrix=own.to(latent.dtype))
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    scale = cut(block, site, variance, len(block.batch_shape)).sqrt().to(latent.dtype)
    return _with_event_dim(dist.Normal(loc, scale), site.event_dim)


def quantile(block: Block, natural: Natural, latent: Latent, probability: float) -> Tensor:
    """The elementwise quantile of a site's marginal. # shape: that of the site's value"""
    with torch.no_grad():
        if latent.site.gaussian:
            moments = GaussianMoments(block, tuple(n.detach() for n in natural))
            mean = cut_to_site(block, latent, moments.leaves[0].detach())
            scale = cut_to_site(block, latent, moments.variance.detach()).sqrt()
            level = torch.tensor(probability, dtype=torch.float64, device=mean.device)
            variable = mean + scale * torch.special.ndtri(level)
            return latent.value_of(variable)
        return _numerical_quantile(natural, latent, probability).to(latent.dtype)


def cut_to_site(block: Block, latent: Latent, value: Tensor) -> Tensor:
    """A site's part of a block's elementwise tensor."""
    return cut(block, latent.site, value, len(block.batch_shape))


def _numerical_quantile(natural: Natural, latent: Latent, probability: float) -> Tensor:
    """Quantiles of Gamma and Beta elements (a Dirichlet's elements are Beta)."""
    family = latent.family.distribution(tuple(n.double() for n in natural))
    if isinstance(family, torch.distributions.Dirichlet):
        a = family.concentration
        family = dist.Beta(a, a.sum(-1, keepdim=True) - a)
    if isinstance(family, torch.distributions.Gamma):
        spread = torch.special.polygamma(1, family.concentration).sqrt()
        center = torch.digamma(family.concentration) - family.rate.log()
        transform: Any = torch.distributions.transforms.ExpTransform()
    else:
        a, b = family.concentration1, family.concentration0
        spread = (torch.special.polygamma(1, a) + torch.special.polygamma(1, b)).sqrt()
        center = torch.digamma(a) - torch.digamma(b)
        transform = torch.distributions.transforms.SigmoidTransform()
    grid = torch.linspace(-12, 12, GRID, dtype=torch.float64, device=center.device)
    points = center + spread * grid.reshape(-1, *(1,) * center.dim())
    values = transform(points)
    density = (family.log_prob(values) + transform.log_abs_det_jacobian(points, values)).exp()
    cumulated = torch.cumulative_trapezoid(density, points, dim=0)
    cumulated = cumulated / cumulated[-1]
    place = (cumulated < probability).sum(0, keepdim=True).clamp(1, GRID - 2)
    low, high = cumulated.gather(0, place - 1), cumulated.gather(0, place)
    left, right = points.gather(0, place), points.gather(0, place + 1)
    share = (probability - low) / (high - low)
    return transform((left + share * (right - left)).squeeze(0))  # type: ignore[no-any-return]

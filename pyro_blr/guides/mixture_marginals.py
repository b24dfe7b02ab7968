# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The marginals of one site under a mixture of Gaussians."""

from math import prod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.transforms import ReshapeTransform

from ..energy.latents import Latent, cut
from ..families import Natural
from ..families.normal_mixture import NormalMixture
from ..lifting.blocks import Block


def mixture_marginal(block: Block, natural: Natural, latent: Latent) -> Any:
    """q of one site: a mixture whose events are the whole site, as a component is of all of it.

    :param natural: the coordinates of the mixture.
    """
    log_weights, means, covariances = _moments(natural)
    which = dist.Categorical(logits=log_weights.to(latent.dtype))
    place = block.event_slice(latent.site)
    loc = means[:, place].to(latent.dtype)
    matrix = covariances[:, place, place].to(latent.dtype)
    shape = latent.site.shape
    if not shape:
        normal = dist.Normal(loc.squeeze(-1), matrix.squeeze(-1).squeeze(-1).sqrt())
        law: Any = dist.MixtureSameFamily(which, normal)
    else:
        law = dist.MixtureSameFamily(which, dist.MultivariateNormal(loc, matrix))
    transforms: list[Any] = []
    if len(shape) > 1:
        transforms.append(ReshapeTransform(torch.Size([prod(shape)]), torch.Size(shape)))
    if latent.transform is not None:
        transforms.append(latent.transform)
    return dist.TransformedDistribution(law, transforms) if transforms else law


def mixture_quantile(block: Block, natural: Natural, latent: Latent, level: float) -> Tensor:
    """The elementwise quantile of a site's variable. # shape: that of the variable"""
    log_weights, means, covariances = _moments(natural)
    assert isinstance(block.family, NormalMixture)
    scale = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    found = block.family.quantile(log_weights.exp(), means, scale, level)
    return cut(block, latent.site, found, 0)


def _moments(natural: Natural) -> tuple[Tensor, Tensor, Tensor]:
    """Log weights, means and covariances of the components."""
    log_weights, means, precisions = (t.detach() for t in natural)
    factor = torch.linalg.cholesky(precisions)
    return log_weights.log_softmax(-1), means, torch.cholesky_inverse(factor)

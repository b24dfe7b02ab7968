# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Natural parameters of a site by itself and of the block that holds it, each from the other."""

from collections.abc import Mapping

import pyro.distributions as dist
import torch
from torch import Tensor

from ..energy.latents import Latent, Latents
from ..energy.networks import independent_block
from ..families import Natural
from ..families.registry import unwrap
from ..lifting.blocks import Block
from .marginals import own_law
from .memory import check_latent
from .merged import is_elementwise, merged_natural
from .posterior import detached
from .start import first_block, given_natural


def own_natural(block: Block, natural: Natural, latent: Latent) -> Natural:
    """The natural parameters of a site's own block; of its marginal, if it shares one.

    :param block: the one that holds the site.
    :param natural: its natural parameters.
    """
    if _is_own(block, latent):
        return natural
    law = own_law(block, detached(natural), latent)
    if isinstance(unwrap(law), dist.Normal) and first_block(latent).event_size is None:
        return _elementwise(unwrap(law).loc, unwrap(law).scale)
    return given_natural(latent, law)


def block_natural(
    block: Block, own: Mapping[str, Natural], latents: Latents, guide: str
) -> Natural:
    """The natural parameters of a block, from those of its sites.

    :param own: the natural parameters of each site's own block.
    :param guide: the guide's name, for the error.
    :raises MemoryLimitError: for a full covariance that memory does not hold.
    """
    latent = latents[block.sites[0].name]
    if not _is_own(block, latent):
        return merged_natural(block, own, latents)
    natural = own[latent.name]
    if not block.gaussian or is_elementwise(natural) == (block.event_size is None):
        return natural
    if block.event_size is None:
        return _marginal(latent, natural)
    check_latent(guide, block, latent.device)
    return merged_natural(block, own, latents)


def _is_own(block: Block, latent: Latent) -> bool:
    """Whether a block is the site's own, with its covariance or with independent elements."""
    form = block.batch_shape, block.event_size, block.family
    each = [latent.block()]
    if latent.site.gaussian:
        each.append(independent_block(latent))
    return len(block.sites) == 1 and any(
        form == (own.batch_shape, own.event_size, own.family) for own in each
    )


def _elementwise(loc: Tensor, scale: Tensor) -> Natural:
    """The natural parameters of independent elements."""
    precision = scale.double().square().reciprocal()
    return precision * loc.double(), -0.5 * precision


def _marginal(latent: Latent, natural: Natural) -> Natural:
    """Independent elements with the means and variances of a vector with a matrix."""
    covariance = torch.linalg.inv(-2 * natural[1])
    mean = (covariance @ natural[0].unsqueeze(-1)).squeeze(-1)
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    return _elementwise(mean.reshape(latent.site.shape), scale.reshape(latent.site.shape))

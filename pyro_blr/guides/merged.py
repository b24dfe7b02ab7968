# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Natural parameters of blocks that sites share, from those of the sites alone."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..energy.latents import Latent, Latents
from ..families import Natural, NormalWishart
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block
from ..lifting.chain_blocks import ChainBlock
from ..lifting.terms import LatentSite
from ..shapes import broadcast_shapes


def merged_natural(block: Block, own: Mapping[str, Natural], latents: Latents) -> Natural:
    """Natural parameters of a merged block from those of its sites.

    Sites of a Gaussian start independent of each other (block diagonal). Rows that share a
    covariance take the mean of theirs, and a Gaussian with its precision keeps the mean, and as its
    conditional precision what it had on average: in both cases the nearest member of the family.

    :param own: the natural parameters of each site's own block.
    """
    if block.is_joint:
        return _joint_natural(block, own, latents)
    if isinstance(block, ArrowBlock):
        return _arrow_natural(block, own, latents)
    if isinstance(block, ChainBlock):
        return _chain_natural(block, own, latents)
    linear, square = _gaussian_natural(block, block.sites, own, latents)
    return _shared(linear, square, block.row_dims) if block.row_dims else (linear, square)


def _arrow_natural(block: ArrowBlock, own: Mapping[str, Natural], latents: Latents) -> Natural:
    """Global and local sites, independent of each other."""
    groups = block.unit(True)
    local, each = _gaussian_natural(groups, groups.sites, own, latents)
    rest = block.unit(False)
    first, full = local.new_zeros(0), local.new_zeros(0, 0)
    if rest.sites:
        first, full = _gaussian_natural(rest, rest.sites, own, latents)
    cross = local.new_zeros(block.groups, block.global_size, block.local_size)
    return first, local, full, cross, each


def _chain_natural(block: ChainBlock, own: Mapping[str, Natural], latents: Latents) -> Natural:
    """Sites, and the times of each, independent of each other."""
    device = own[block.sites[0].name][0].device
    shape, width = (*block.batch_shape, block.length), block.width
    linear = torch.zeros(*shape, width, dtype=torch.float64, device=device)
    square = torch.zeros(*shape, width, width, dtype=torch.float64, device=device)
    for site in block.sites:
        unit = block.unit(site)
        vector, matrix = _dense(
            latents[site.name], own[site.name], unit.placements[site.name].batch_dims
        )
        place = unit.event_slice(site)
        block.part(site, linear)[..., place] = vector
        block.part(site, square, 2)[..., place, place] = matrix
    cross = square.new_zeros(*block.batch_shape, block.length - 1, width, width)
    return linear, square, cross


def _shared(linear: Tensor, square: Tensor, row_dims: int) -> Natural:
    """The natural parameters of rows with one covariance: that of the rows, averaged."""
    linear = linear.flatten(linear.dim() - 1 - row_dims, -2)
    one = distinct(square)
    if all(size == 1 for size in one.shape[one.dim() - 2 - row_dims : -2]):
        square = one
    square = square.flatten(square.dim() - 2 - row_dims, -3)
    covariance = torch.linalg.inv(-2 * square)
    if covariance.shape[-3] == 1:
        mean = linear @ covariance.squeeze(-3)
    else:
        mean = (covariance @ linear.unsqueeze(-1)).squeeze(-1)
    precision = torch.linalg.inv(covariance.mean(-3))
    return mean @ precision, -0.5 * precision.expand(*mean.shape[:-2], *precision.shape[-2:])


def distinct(matrices: Tensor) -> Tensor:
    """The matrices with size 1 where they are one and the same, expanded along a batch dim."""
    for dim in range(matrices.dim() - 2):
        if matrices.stride(dim) == 0:
            matrices = matrices.narrow(dim, 0, min(1, matrices.shape[dim]))
    return matrices


def _joint_natural(block: Block, own: Mapping[str, Natural], latents: Latents) -> Natural:
    """Natural parameters of a Gaussian and its precision from those of both alone."""
    family: Any = block.family
    scale = latents[block.scale.name].family
    dims = len(latents[block.scale.name].batch_dims)
    natural = tuple(n.reshape(block.batch_shape + n.shape[dims:]) for n in own[block.scale.name])
    linear, square = _gaussian_natural(block, block.sites[:-1], own, latents)
    precision = -2 * square
    mean = torch.linalg.solve(precision, linear.unsqueeze(-1)).squeeze(-1)
    expected = scale.mean_params(natural)[1]
    law = scale.distribution(natural)
    if isinstance(family, NormalWishart):
        kappa = (precision @ torch.linalg.inv(expected)).diagonal(dim1=-2, dim2=-1).mean(-1)
        given = family.distribution_type(mean, kappa, law.df, law.precision_matrix)
    else:
        conditional = precision / expected.unsqueeze(-1).unsqueeze(-1)
        given = family.distribution_type(mean, conditional, law.concentration, law.rate)
    return family.natural_of(given)  # type: ignore[no-any-return]


def _gaussian_natural(
    block: Block, sites: Sequence[LatentSite], own: Mapping[str, Natural], latents: Latents
) -> tuple[Tensor, Tensor]:
    """The Gaussian sites of a block, independent of each other."""
    assert block.event_size is not None
    size = block.location_size if block.is_joint else block.event_size
    first = own[block.sites[0].name][0]
    linear = torch.zeros(*block.batch_shape, size, dtype=torch.float64, device=first.device)
    places, matrices = [], []
    for site in sites:
        latent = latents[site.name]
        places.append(block.event_slice(site))
        vector, matrix = _dense(latent, own[site.name], block.placements[site.name].batch_dims)
        linear[..., places[-1]] = vector
        matrices.append(distinct(matrix))
    shape = broadcast_shapes(*(m.shape[:-2] for m in matrices))
    square = torch.zeros(*shape, size, size, dtype=torch.float64, device=first.device)
    for place, matrix in zip(places, matrices, strict=True):
        square[..., place, place] = matrix
    return linear, square.expand(*block.batch_shape, size, size)


def _dense(latent: Latent, natural: Natural, kept: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A site's own natural parameters with all dims but the kept ones joined to one event dim.

    Along kept dims elements are independent: where the site's own law correlates them (an event
    dim), they keep their means and conditional variances.
    """
    site, batch = latent.site, latent.batch_dims
    if is_elementwise(natural):
        batch = tuple(range(len(site.shape)))
    event = tuple(d for d in range(len(site.shape)) if d not in batch)
    joined = tuple(d for d in range(len(site.shape)) if d not in kept)
    linear, square = natural
    event_shape = tuple(site.shape[d] for d in event)
    linear = linear.reshape(site.shape)
    own = square.reshape([*(site.shape[d] for d in batch), *event_shape, *event_shape])
    # One letter a dim for rows, and another for columns where rows and columns may differ.
    column = {d: d + len(site.shape) if d in joined else d for d in range(len(site.shape))}
    operands: list[Any] = [own, [*batch, *event, *(column[d] for d in event)]]
    for d in joined:
        if d in batch:
            eye = torch.eye(site.shape[d], dtype=own.dtype, device=own.device)
            operands += [eye, [d, column[d]]]
    full = torch.einsum(*operands, [*kept, *joined, *(column[d] for d in joined)])
    size = prod(site.shape[d] for d in joined)
    outer = [site.shape[d] for d in kept]
    full = full.reshape([*outer, size, size])
    if set(kept) & set(event):
        mean = torch.linalg.solve(-2 * square, natural[0].unsqueeze(-1)).reshape(site.shape)
        vector = mean.permute((*kept, *joined)).reshape([*outer, size, 1])
        return (-2 * full @ vector).squeeze(-1), full
    return linear.permute((*kept, *joined)).reshape([*outer, size]), full


def is_elementwise(natural: Natural) -> bool:
    """Whether a Gaussian has a variance for each element, and no matrix."""
    return natural[-1].shape == natural[0].shape

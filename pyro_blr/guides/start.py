# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where q starts, and how it moves between layouts of blocks."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to

from .. import errors
from .._compat import init_to_median
from ..energy.domains import check_arguments
from ..energy.latents import Latent, Latents
from ..energy.merging import MAX_BLOCK_SIZE
from ..families import (
    Beta,
    ExponentialFamily,
    Gamma,
    InverseGamma,
    Natural,
    Normal,
    NormalWishart,
    Wishart,
    find_family,
)
from ..families.registry import unwrap
from ..lifting import host
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block, Placement
from ..lifting.chain_blocks import ChainBlock
from ..lifting.terms import LatentSite

#: The shape parameter of a Gamma, inverse Gamma, Beta, Dirichlet or (beside its size) Wishart that
#: starts from a location alone, without a prior of its family: mean equal to the location, relative
#: standard deviation about 1 / sqrt(4) = 1/2.
START_SHAPE = 4.0


def located(init_loc_fn: Callable[..., Any]) -> Callable[..., Any]:
    """An ``init_loc_fn`` that also serves priors whose draws say nothing.

    One without draws (ImproperUniform) starts at a feasible point, the image of 0 on the
    unconstrained space. The draws of a vague Gamma are near 0 (the median of Gamma(1e-3, 1e-3) is
    1e-301), and what it scales would start at infinity: by default precisions and variances start
    where a precision is at its mean. The prior's arguments are checked before.
    """

    def init(site: Any) -> Any:
        check_arguments(site["name"], site["fn"])
        family = find_family(site["fn"])
        if init_loc_fn is init_to_median and isinstance(family, Gamma | InverseGamma | Wishart):
            return _at_mean_precision(family, site["fn"])
        try:
            return init_loc_fn(site)
        except NotImplementedError:
            fn = site["fn"]
            transform = biject_to(fn.support)
            return transform(torch.zeros(transform.inverse_shape(fn.shape())))

    return init


def _at_mean_precision(family: ExponentialFamily, prior: Any) -> Tensor:
    """E[z] of a precision, 1 / E[1/z] of a variance."""
    expected = family.mean_params(family.natural_of(prior))[1]
    value = expected.reciprocal() if isinstance(family, InverseGamma) else expected
    return value.expand(prior.shape())


def initial_natural(latent: Latent, site: Any, value: Tensor, init_scale: float) -> Natural:
    """Natural parameters of a latent's own block at the start, in float64.

    Gaussians start at the initial location with a standard deviation of ``init_scale`` (not at a
    wide prior, from which natural-gradient steps can diverge); other families start from their
    prior.

    :param value: the initial value of the site, in full size.
    """
    if latent.site.gaussian:
        variable = value if latent.transform is None else latent.transform.inv(value)
        mean = variable.double().reshape(latent.site.shape)
        return gaussian_natural(first_block(latent), mean, init_scale)
    prior = site["fn"]
    try:
        natural = latent.family.natural_of(prior)
        shape = latent.block().batch_shape
        return tuple(
            n.detach().double().expand(shape + n.shape[n.dim() - d :]).clone()
            for n, d in zip(natural, latent.family.natural_event_dims, strict=True)
        )
    except (errors.ArgumentError, RuntimeError):
        return from_location(latent, value.double())


def first_block(latent: Latent) -> Block:
    """The block of a latent before the model's factors are known: its own, but where the event is a
    long vector its elements are independent. A matrix is made of it only if no chain serves.
    """
    own = latent.block()
    if own.event_size is None or own.event_size <= MAX_BLOCK_SIZE or not own.gaussian:
        return own
    site = latent.site
    places = {site.name: Placement(tuple(range(len(site.shape))))}
    return Block(own.name, Normal(), own.sites, site.shape, None, places)


def is_elementwise(natural: Natural) -> bool:
    """Whether a Gaussian has a variance for each element, and no matrix."""
    return natural[1].shape == natural[0].shape


def elementwise_natural(loc: Tensor, scale: Tensor) -> Natural:
    """The natural parameters of independent elements."""
    precision = scale.double().square().reciprocal()
    return precision * loc.double(), -0.5 * precision


def marginal_natural(latent: Latent, natural: Natural) -> Natural:
    """Independent elements with the means and variances of a vector with a matrix."""
    covariance = torch.linalg.inv(-2 * natural[1])
    mean = (covariance @ natural[0].unsqueeze(-1)).squeeze(-1)
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    return elementwise_natural(mean.reshape(latent.site.shape), scale.reshape(latent.site.shape))


def gaussian_natural(block: Block, mean: Tensor, scale: float) -> Natural:
    """A Gaussian of one standard deviation in every direction.

    :param block: a latent's own.
    """
    precision = scale**-2
    if block.event_size is None:
        return precision * mean, torch.full_like(mean, -0.5 * precision)
    size = block.event_size
    square = -0.5 * precision * torch.eye(size, dtype=mean.dtype, device=mean.device)
    linear = precision * mean.reshape(*block.batch_shape, size)
    return linear, square.expand(*block.batch_shape, size, size)


def from_location(latent: Latent, value: Tensor) -> Natural:
    """Natural parameters of a family that is no Gaussian's, with a mean near a value."""
    family = latent.family
    if isinstance(family, Wishart):
        size = value.shape[-1]
        df = torch.full(value.shape[:-2], START_SHAPE + size, dtype=value.dtype)
        return 0.5 * (df - size - 1), -0.5 * (START_SHAPE + size) * torch.linalg.inv(value)
    shape = torch.full_like(value, START_SHAPE)
    if isinstance(family, Gamma):
        return shape - 1, -shape / value
    if isinstance(family, InverseGamma):
        return -shape - 1, -(shape - 1) * value
    if isinstance(family, Beta):
        return shape * value - 1, shape * (1 - value) - 1
    return (shape * value * value.shape[-1] - 1,)


def given_natural(latent: Latent, given: Any) -> Natural:
    """Natural parameters that the user gave, as tensors or as a distribution of the family.

    :raises ArgumentError: if they do not fit the latent.
    """
    family = latent.family
    if not isinstance(given, tuple | list):
        try:
            given = family.natural_of(_inner(latent, given))
        except errors.ArgumentError as error:
            raise errors.ArgumentError(
                f"the start given for site {latent.name!r} does not fit: {error} Mend: give a "
                f"{family.name} or a tuple of its natural parameters."
            ) from error
    if len(given) != len(family.natural_event_dims):
        raise errors.ArgumentError(
            f"{len(given)} natural parameters were given for site {latent.name!r}, whose "
            f"{family.name} has {len(family.natural_event_dims)}. Mend: give a tuple of that "
            "many tensors."
        )
    block = latent.block()
    event = (block.event_size,) if block.event_size is not None else ()
    result = []
    for tensor, dims in zip(given, family.natural_event_dims, strict=True):
        tensor = torch.as_tensor(tensor).detach().double()
        tail = event * dims if latent.site.gaussian else tuple(tensor.shape[tensor.dim() - dims :])
        shape = block.batch_shape + tail
        try:
            result.append(tensor.to(latent.device).expand(shape).clone())
        except RuntimeError as error:
            raise errors.ArgumentError(
                f"natural parameters of shape {tuple(tensor.shape)} were given for site "
                f"{latent.name!r}, whose {family.name} needs {tuple(shape)}. Mend: give one tensor "
                "for each of the family's natural parameters, with the site's batch shape in front."
            ) from error
    natural = tuple(result)
    if not host.truth(family.in_domain(natural).all()):
        raise errors.ArgumentError(
            f"the natural parameters given for site {latent.name!r} lie outside the domain of its "
            f"{family.name}. Mend: for a Gaussian give (precision @ mean, -precision / 2) with a "
            "positive definite precision; for a Gamma (shape - 1, -rate)."
        )
    return natural


def _inner(latent: Latent, given: Any) -> Any:
    """The distribution of the variable, from one of the site (a LogNormal's Normal)."""
    if (
        latent.transform is not None
        and hasattr(given, "base_dist")
        and hasattr(given, "transforms")
    ):
        given = given.base_dist
    normal = unwrap(given)
    if latent.site.gaussian and latent.site.event_dim > 1 and isinstance(normal, dist.Normal):
        # A matrix of latents is one vector to its family.
        joined = -latent.site.event_dim
        loc, scale = normal.loc.flatten(joined), normal.scale.flatten(joined)
        return dist.Normal(loc, scale).to_event(1)
    return given


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
    shape = torch.broadcast_shapes(*(m.shape[:-2] for m in matrices))
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

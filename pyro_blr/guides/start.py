# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where q starts."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to

from .. import errors
from .._compat import init_to_median
from ..energy.domains import check_arguments
from ..energy.enumeration import is_discrete
from ..energy.latents import Latent
from ..energy.merging import MAX_BLOCK_SIZE
from ..energy.networks import independent_block
from ..families import (
    Beta,
    ExponentialFamily,
    FixedScaleNormal,
    Gamma,
    InverseGamma,
    Natural,
    Wishart,
    find_family,
)
from ..families.registry import unwrap
from ..lifting import host
from ..lifting.blocks import Block
from .choice import full_value
from .memory import check_latent
from .supports import plain_support

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
        if is_discrete(site["fn"]):  # summed out: any value does, and no guide starts at it
            return site["fn"].sample()
        family = find_family(site["fn"])
        if init_loc_fn is init_to_median and isinstance(family, Gamma | InverseGamma | Wishart):
            return _at_mean_precision(family, site["fn"])
        try:
            return init_loc_fn(site)
        except NotImplementedError:
            fn = site["fn"]
            transform = biject_to(plain_support(fn.support))
            return transform(torch.zeros(transform.inverse_shape(fn.shape())))

    return init


def _at_mean_precision(family: ExponentialFamily, prior: Any) -> Tensor:
    """E[z] of a precision, 1 / E[1/z] of a variance."""
    expected = family.mean_params(family.natural_of(prior))[1]
    value = expected.reciprocal() if isinstance(family, InverseGamma) else expected
    return value.expand(prior.shape())


def first_naturals(
    chosen: Mapping[str, Latent],
    sites: Mapping[str, Any],
    given: Mapping[str, Any],
    init_scale: float,
    guide: str,
) -> dict[str, Natural]:
    """The natural parameters of each latent's own block at the start, in float64.

    :param sites: the sites of a prototype trace.
    :param given: where the user said that some start.
    :param guide: the guide's name, for errors.
    :raises ArgumentError: for a start of sites that the model does not have.
    :raises MemoryLimitError: for a full covariance that memory does not hold.
    """
    unknown = sorted(set(given) - set(chosen))
    if unknown:
        raise errors.ArgumentError(
            f"a start was given for {unknown}, which the model does not have as latents; it "
            f"has {sorted(chosen)}. Mend: use the names of the sample sites."
        )
    start = {}
    for name, latent in chosen.items():
        if first_block(latent).gaussian and first_block(latent).event_size is not None:
            check_latent(guide, first_block(latent), latent.device)
        value, _ = full_value(sites[name])
        own = given.get(name)
        start[name] = (
            initial_natural(latent, sites[name], value, init_scale)
            if own is None
            else given_natural(latent, own)
        )
    return start


def initial_natural(latent: Latent, site: Any, value: Tensor, init_scale: float) -> Natural:
    """Natural parameters of a latent's own block at the start, in float64.

    Gaussians start at the initial location with a standard deviation of ``init_scale`` (not at a
    wide prior, from which natural-gradient steps can diverge); other families start from their
    prior.

    :param value: the initial value of the site, in full size.
    """
    natural = _initial(latent, site, value, init_scale)
    return tuple(n.to(latent.device) for n in natural)  # a prior in plain numbers is on the host


def _initial(latent: Latent, site: Any, value: Tensor, init_scale: float) -> Natural:
    if latent.site.gaussian:
        variable = value if latent.transform is None else latent.transform.inv(value)
        mean = variable.double().reshape(latent.site.shape)
        return gaussian_natural(first_block(latent), mean, init_scale)
    prior = site["fn"]
    if latent.site.is_discrete:
        return _prior_odds(latent, prior)
    try:
        natural = latent.family.natural_of(prior)
        shape = latent.block().batch_shape
        return tuple(
            n.detach().double().expand(shape + n.shape[n.dim() - d :]).clone()
            for n, d in zip(natural, latent.family.natural_event_dims, strict=True)
        )
    except (errors.ArgumentError, RuntimeError):
        return from_location(latent, value.double())


def _prior_odds(latent: Latent, prior: Any) -> Natural:
    """The log-odds of a discrete latent's values under its prior; 0 where they are infinite."""
    values = prior.enumerate_support(expand=True)
    density = prior.log_prob(values).detach().double().movedim(0, -1)
    odds = density[..., :-1] - density[..., -1:]
    odds = torch.where(odds.isfinite(), odds, 0.0)
    shape = (*latent.block().batch_shape, odds.shape[-1])
    try:
        return (odds.expand(shape).clone(),)
    except RuntimeError:  # the rows of a subsample have priors of their own
        return (torch.zeros(shape, dtype=odds.dtype, device=odds.device),)


def first_block(latent: Latent) -> Block:
    """The block of a latent before the model's factors are known: its own, but where the event is a
    long vector its elements are independent. A matrix is made of it only if no chain serves.
    """
    own = latent.block()
    if own.event_size is None or own.event_size <= MAX_BLOCK_SIZE or not own.gaussian:
        return own
    return independent_block(latent)


def gaussian_natural(block: Block, mean: Tensor, scale: float) -> Natural:
    """A Gaussian of one standard deviation in every direction.

    :param block: a latent's own.
    """
    if isinstance(block.family, FixedScaleNormal):
        return (mean / block.family.variance,)
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
        df = value.new_full(value.shape[:-2], START_SHAPE + size)
        return 0.5 * (df - size - 1), -0.5 * (START_SHAPE + size) * torch.linalg.inv(value)
    if family.lifted_statistics:
        return family.near(value)
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

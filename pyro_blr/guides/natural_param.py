# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Natural parameters in guides that are written by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from torch import Tensor

from .. import errors
from ..energy.latents import Latent
from ..families import (
    Beta,
    DiagonalNormal,
    Dirichlet,
    ExponentialFamily,
    Gamma,
    InverseGamma,
    MultivariateNormal,
    Natural,
    Normal,
    Wishart,
    get_family,
)
from ..lifting.terms import LatentSite
from .leaf import leaf_of
from .start import from_location, gaussian_natural, given_natural

#: The standard deviation at which a Gaussian starts, as in the automatic guides.
START_SCALE = 0.1


@dataclass(frozen=True, eq=False)
class NaturalParam:
    """Natural parameters that one run of a guide asked for.

    :param values: what the guide got: in a subsampled plate, the rows of the subsample.
    :param leaves: the tensors in the param store, in full size.
    """

    name: str
    family: ExponentialFamily
    values: Natural
    leaves: Natural

    @property
    def scale(self) -> float:
        """What a subsampled plate scales the terms of its rows by."""
        return self.leaves[0].numel() / max(1, self.values[0].numel())


_LISTENERS: list[list[NaturalParam]] = []


@contextmanager
def listening() -> Iterator[list[NaturalParam]]:
    """Record the natural parameters that a guide asks for inside the context."""
    found: list[NaturalParam] = []
    _LISTENERS.append(found)
    try:
        yield found
    finally:
        # By identity: two that have heard the same are equal.
        _LISTENERS[:] = [other for other in _LISTENERS if other is not found]


def natural_param(
    name: str, family: Any, shape: tuple[int, ...] = (), start: Any = None
) -> Natural:
    """Natural parameters of an exponential family, for a guide that is written by hand.

    They are made into a distribution by ``family.distribution(natural)``, and move along the
    natural gradient. They may also be computed with, so that q of one latent depends on another.

    Example::

        def guide(x):
            tau = pyro.sample("tau", Gamma().distribution(natural_param("tau", Gamma)))

    :param str name: their name in the param store; the k-th tensor is ``{name}.natural_{k}``.
    :param family: one of ``pyro_blr.families``, or what
        :func:`~pyro_blr.families.get_family` takes.
    :param tuple shape: the shape of a value: the batch shape, then the event shape.
    :param start: where they start: a distribution of the family, or a tuple of tensors. Else a
        Gaussian starts at 0 with a standard deviation of 0.1; a positive value near 1, proportions
        near equal ones and a matrix near the identity with a relative spread of about a half.
    :return: one tensor a natural parameter, in the default dtype.
        # shape: (*batch, *event)
    :raises ArgumentError: if the start does not fit, or none is known for the family.
    """
    family = get_family(family)
    tensors: list[Any] = []
    held = pyro.get_param_store()
    first = f"{name}.natural_0" not in held
    naturals = _start(name, family, tuple(shape), start) if first else ()
    for k, event_dim in enumerate(family.natural_event_dims):
        given = (naturals[k],) if first else ()
        tensors.append(
            pyro.param(
                f"{name}.natural_{k}", *given, constraint=constraints.real, event_dim=event_dim
            )
        )
    leaves = tuple(leaf_of(t) for t in tensors)
    for found in _LISTENERS:
        found.append(NaturalParam(name, family, tuple(tensors), leaves))
    return tuple(tensors)


def _start(name: str, family: ExponentialFamily, shape: tuple[int, ...], start: Any) -> Natural:
    gaussian = isinstance(family, Normal | DiagonalNormal | MultivariateNormal)
    dtype = torch.get_default_dtype()
    device = torch.empty(()).device
    site = LatentSite(name, shape, family.event_dim, gaussian)
    latent = Latent(site, family, None, {}, family.event_dim, dtype, device)
    if start is not None:
        natural = given_natural(latent, start)
    elif gaussian:
        mean = torch.zeros(shape, dtype=torch.float64)
        if isinstance(family, DiagonalNormal):
            precision = torch.full_like(mean, START_SCALE**-2)
            natural = mean, -0.5 * precision
        else:
            natural = gaussian_natural(latent.block(), mean, START_SCALE)
    else:
        natural = from_location(latent, _middle(name, family, shape))
    return tuple(n.to(device, dtype).clone() for n in natural)


def _middle(name: str, family: ExponentialFamily, shape: tuple[int, ...]) -> Tensor:
    """The value where a family without a start begins."""
    if isinstance(family, Gamma | InverseGamma):
        return torch.ones(shape, dtype=torch.float64)
    if isinstance(family, Beta):
        return torch.full(shape, 0.5, dtype=torch.float64)
    if isinstance(family, Dirichlet) and shape:
        return torch.full(shape, 1.0 / shape[-1], dtype=torch.float64)
    if isinstance(family, Wishart) and len(shape) > 1:
        return torch.eye(shape[-1], dtype=torch.float64).expand(shape)
    raise errors.ArgumentError(
        f"no start is known for the natural parameters {name!r} of a {family.name} of shape "
        f"{shape}. Mend: natural_param({name!r}, {family.name}, shape, start=distribution)."
    )

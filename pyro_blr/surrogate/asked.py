# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The values at which losses are asked for, and where q has a density there."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import ComposeTransform, IndependentTransform, SigmoidTransform

from .. import errors
from ..energy.latents import Latent
from .values import Given


@dataclass(frozen=True)
class Asked:
    """Values of some latents, of which those are kept at which q has a density.

    :param given: those that are kept, by site.
    :param inside: which ones they are. # shape: the batch that was given
    """

    given: Mapping[str, Given]
    inside: Tensor

    def placed(self, losses: Tensor) -> Tensor:
        """Losses of the values that are kept, and +inf, as of a density of 0, for the others."""
        everywhere = torch.full(self.inside.shape, math.inf, dtype=losses.dtype)
        everywhere = everywhere.to(losses.device)
        return everywhere.masked_scatter(self.inside.to(losses.device), losses)


def asked(values: Any, latents: Mapping[str, Latent]) -> Asked:
    """Read what was given for some latents.

    :param values: by site. # shape of each: (*batch, *site)
    :param latents: those of which values may be given.
    :raises ArgumentError: for anything but a dict of numbers.
    :raises NonFiniteError: for NaN.
    :raises ShapeError: for values of other shapes.
    :raises UnknownNameError: for sites that q does not hold.
    """
    if not isinstance(values, Mapping) or not values:
        raise errors.ArgumentError(
            'values must be a dict of latents by site, not empty. Mend: {"w": w}.'
        )
    read = {name: _read(latent_of(name, latents), value) for name, value in values.items()}
    batches = {tuple(inside.shape) for _, inside in read.values()}
    if len(batches) > 1:
        raise errors.ShapeError(
            f"values of several latents have different batch shapes, {sorted(batches)}. Mend: "
            "give as many of each."
        )
    inside = torch.stack([own for _, own in read.values()]).all(0)
    kept = inside.reshape(-1)
    return Asked({name: Given(own[kept]) for name, (own, _) in read.items()}, inside)


def latent_of(name: str, latents: Mapping[str, Latent]) -> Latent:
    """A latent of which values may be given.

    :raises UnknownNameError: if there is none of this name.
    """
    if name not in latents:
        raise errors.UnknownNameError(
            f"q holds no continuous latent {name!r}; it has {list(latents)}. Mend: use one of "
            "these."
        )
    return latents[name]


def _read(latent: Latent, value: Any) -> tuple[Tensor, Tensor]:
    """The variables at given values, their batch dims as one, and at which q has a density."""
    try:
        given = torch.as_tensor(value, dtype=torch.float64, device=latent.device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise errors.ArgumentError(
            f"values of site {latent.name!r} are no numbers ({error}). Mend: give a tensor."
        ) from error
    shape = latent.site.shape
    if latent.transform is not None:
        shape = latent.transform.forward_shape(shape)
    batch = tuple(given.shape[: max(given.dim() - len(shape), 0)])
    if tuple(given.shape) != (*batch, *shape):
        raise errors.ShapeError(
            f"values of site {latent.name!r} have the shape {tuple(given.shape)}, but the site has "
            f"{tuple(shape)}. Mend: give (*batch, *site)."
        )
    if bool(given.isnan().any()):
        raise errors.NonFiniteError(
            f"values of site {latent.name!r} are NaN, of which there is no loss. Mend: leave them "
            "out."
        )
    if not math.prod(batch):  # constraints of torch do not take nothing
        return given.new_zeros(0, *latent.site.shape), torch.zeros(batch, dtype=torch.bool)
    variable, inside = _undone(latent.transform, given.reshape(math.prod(batch), *shape))
    inside = inside & _has_density(latent, variable, inside)
    return variable, inside.reshape(batch)


def _undone(transform: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    """The variable that q describes, and where a value is one that the transform has.

    One part after the other: the codomain of a whole transform may be wider, as of a sigmoid that
    is scaled, and inverses of what is outside need not be NaN.
    """
    inside = torch.ones(len(value), dtype=torch.bool, device=value.device)
    for part in _parts(transform):
        inside = inside & _of_whole(part.codomain.check(value))
        if isinstance(part, SigmoidTransform):  # whose inverses of 0 and 1 are cut to be finite
            inside = inside & _of_whole((value > 0) & (value < 1))
        value = part.inv(value)
    return value, inside


def _parts(transform: Any) -> Iterator[Any]:
    """What a transform is composed of, the last one first."""
    if isinstance(transform, ComposeTransform):
        for part in reversed(transform.parts):
            yield from _parts(part)
    elif isinstance(transform, IndependentTransform):
        yield from _parts(transform.base_transform)
    elif transform is not None:
        yield transform


def _has_density(latent: Latent, variable: Tensor, inside: Tensor) -> Tensor:
    """Where all statistics of q are finite numbers: in its support, and not on the boundary."""
    family = latent.family
    found = inside & _of_whole(variable.isfinite())
    found = found & _of_whole(family.support.check(variable))
    if latent.site.gaussian:
        return found
    kept = variable[found]
    finite = [_of_whole(t.isfinite()) for t in family.sufficient_statistics(kept)]
    return found.masked_scatter(found, torch.stack(finite).all(0))


def _of_whole(elements: Tensor) -> Tensor:
    """Where something is so of all elements of a value. # shape: from (values, ...) to (values,)"""
    return elements.reshape(len(elements), math.prod(elements.shape[1:])).all(-1)

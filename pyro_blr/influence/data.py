# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a datum is: an element of the plates that observed sites are in."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.traced import Traced, TracedSite
from ..shapes import broadcast_shapes


@dataclass(frozen=True)
class Data:
    """The data of one call of a model.

    :param sites: the observed sites that a datum is made of.
    :param plates: the plates that tell data apart, by the dim of each.
    :param shape: the sizes of these plates.
    """

    sites: tuple[TracedSite, ...]
    plates: dict[int, str]
    shape: tuple[int, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """The negative dims of a log density along which the data lie."""
        return tuple(self.plates)

    @property
    def count(self) -> int:
        """The number of data."""
        return prod(self.shape)

    @cached_property
    def is_observed(self) -> Tensor:
        """Which data are not masked altogether. # shape: that of the plates"""
        seen = torch.zeros(self.shape, dtype=torch.bool, device="cpu")
        for site in self.sites:
            mask = (
                site.mask if isinstance(site.mask, Tensor) else torch.tensor(site.mask is not False)
            )
            depth = max(max(-d for d in self.dims), mask.dim())
            full = [1] * depth
            for dim, size in zip(self.dims, self.shape, strict=True):
                full[dim] = size
            every = mask.cpu().expand(broadcast_shapes(mask.shape, full))
            front = torch.movedim(every, self.dims, tuple(range(len(self.dims))))
            seen = seen | front.reshape(*self.shape, -1).any(-1)
        return seen

    def position(self, datum: int) -> tuple[int, ...]:
        """The place of a datum along the plates."""
        place = torch.unravel_index(torch.tensor(datum, device="cpu"), self.shape)
        return tuple(int(i) for i in place)

    def flat(self, index: Any) -> Tensor:
        """The flat positions of some data.

        :param index: a position, a list or tensor of positions, a mask, or a slice; of data in
            several plates positions are flat or one tuple. # shape of a mask: that of the plates
        :raises ArgumentError: for positions that there are not.
        """
        every = torch.arange(self.count, device="cpu").reshape(self.shape)
        if isinstance(index, tuple) and len(index) != len(self.shape):
            raise self._no_datum(index)
        try:
            if isinstance(index, tuple | slice):
                return every[index].reshape(-1)
            given = torch.as_tensor(index)
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            raise self._no_datum(index) from error
        if given.dtype == torch.bool and given.shape == every.shape:
            return every[given.cpu()]
        whole = not (given.dtype == torch.bool or given.is_floating_point() or given.is_complex())
        own = given.reshape(-1).cpu().long() if whole else given
        if not whole or bool(((own < -self.count) | (own >= self.count)).any()):
            raise self._no_datum(index)
        return torch.where(own < 0, own + self.count, own)

    def _no_datum(self, index: Any) -> errors.ArgumentError:
        names = ", ".join(map(repr, self.plates.values()))
        sizes = self.shape[0] if len(self.shape) == 1 else self.shape
        return errors.ArgumentError(
            f"{index!r} names no data of plate {names}, of size {sizes}. Mend: a position from 0 "
            "to the size less one, a list of them, or a mask of that shape."
        )


def data_of(traced: Traced, site: str | None, plate: str | None) -> Data:
    """The data of a run.

    :param site: the observed site that is looked at; all in the same plates if None.
    :param plate: the plate whose elements are the data; all plates of the sites if None.
    :raises ArgumentError: if there is no such site or plate, or it is not known which is meant.
    :raises SubsampleError: for a minibatch.
    """
    if traced.is_subsampled:
        raise errors.SubsampleError(
            "a plate holds a part of its rows, so that the influence of the others is not known. "
            "Mend: pass all data, without subsample_size or subsample."
        )
    observed = [s for s in traced.sites if s.is_data]
    if not observed:
        raise errors.ArgumentError(
            "the model has no observed site, so there are no data whose influence could be told. "
            "Mend: pass the data, obs=..., in the same call."
        )
    chosen = observed if site is None else _named(observed, traced, site)
    if plate is not None:
        return _along(chosen, plate)
    inside = [s for s in chosen if s.dims.plates]
    if not inside:
        names = ", ".join(repr(s.name) for s in chosen)
        raise errors.ArgumentError(
            f"the observed sites ({names}) are in no plate that was entered by `with`, which would "
            "tell their data apart. "
            'Mend: with pyro.plate("data", len(y)): pyro.sample("y", ..., obs=y).'
        )
    plates = {frozenset(s.dims.plates.values()) for s in inside}
    if len(plates) > 1:
        listed = "; ".join(f"{s.name!r} in {sorted(s.dims.plates.values())}" for s in inside)
        raise errors.ArgumentError(
            f"observed sites are in different plates: {listed}. Mend: say which data are meant, "
            f"site={inside[0].name!r} or plate=..."
        )
    return _made(inside, dict(sorted(inside[0].dims.plates.items())))


def _named(observed: Sequence[TracedSite], traced: Traced, name: str) -> list[TracedSite]:
    found = [s for s in observed if s.name == name]
    if not found:
        latent = any(s.name == name for s in traced.sites)
        what = "is a latent" if latent else "is no site of the model"
        raise errors.ArgumentError(
            f"{name!r} {what}; the observed sites are {[s.name for s in observed]}. Mend: "
            f"site={observed[0].name!r}."
        )
    return found


def _along(chosen: Sequence[TracedSite], plate: str) -> Data:
    inside = [s for s in chosen if plate in s.dims.plates.values()]
    if not inside:
        known = sorted({p for s in chosen for p in s.dims.plates.values()})
        raise errors.ArgumentError(
            f"no observed site is in a plate {plate!r}; they are in {known}. Mend: plate= one of "
            "these."
        )
    dims = {d for s in inside for d, name in s.dims.plates.items() if name == plate}
    if len(dims) > 1:
        raise errors.ArgumentError(
            f"plate {plate!r} is at several dims, {sorted(dims)}. Mend: give it one dim, "
            f"pyro.plate({plate!r}, size, dim=-1), or name one site."
        )
    return _made(inside, {dims.pop(): plate})


def _made(sites: Sequence[TracedSite], plates: dict[int, str]) -> Data:
    for site in sites:
        if site.choices or site.chain is not None:
            raise errors.DiscreteLatentError(
                f"the data of {site.name!r} are joined with latents that are summed out, whose "
                "terms are not taken apart by datum. Mend: pyro_blr.to_arviz(blr, *args) and "
                "arviz_stats.loo, or pyro_blr.latent.conjugated for mixtures with fixed parameters."
            )
    shape = tuple(max(s.size(d) for s in sites) for d in plates)
    return Data(tuple(sites), plates, shape)

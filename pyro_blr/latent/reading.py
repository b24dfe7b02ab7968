# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The harmonium and the data of a model, read off its runs."""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.domains import checked_value
from ..families import ExponentialFamily, MultivariateNormal, Natural, find_family
from .design import Design
from .harmonium import Datum, Direct, Harmonium, Layout, Term
from .peeling import narrowed, peel
from .probe import Census, Placed, Record
from .spaces import Part, Space


@dataclass(frozen=True)
class Likelihood:
    """An observed site as a member of an exponential family, at some values of the latents.

    :param natural: of x given z. # shape: (*lead, elements, entries)
    :param log_partition: psi_x of it. # shape: (*lead, elements)
    """

    family: ExponentialFamily
    natural: Tensor
    log_partition: Tensor


def family_of(site: Record) -> ExponentialFamily | None:
    """The family of an observed site's elements; None if there is none."""
    base = peel(site.fn).base
    return find_family(base) if hasattr(base, "batch_shape") else None


def likelihood_of(site: Record, depth: int) -> Likelihood | None:
    """The natural parameters of an observed site; None if it is in no registered family."""
    peeled, family = peel(site.fn), family_of(site)
    if family is None:
        return None
    base = narrowed(peeled.base, depth, peeled.elements)
    blocks = tuple(b.double() for b in family.natural_of(base))
    psi = family.log_partition(blocks)
    natural = _entries(family, blocks, peeled.elements)
    return Likelihood(family, natural, _flat(psi, peeled.elements))


def _flat(value: Tensor, dims: int) -> Tensor:
    """The last dims in one; a new one if there are none."""
    lead = value.shape[: value.dim() - dims]
    return value.reshape(*lead, prod(value.shape[value.dim() - dims :]))


def _entries(family: ExponentialFamily, blocks: Natural, elements: int) -> Tensor:
    """Natural parameters or statistics. # shape: (*lead, elements, entries)"""
    found = []
    for block, dims in zip(blocks, family.natural_event_dims, strict=True):
        event = block.shape[block.dim() - dims :]
        rest = block.reshape(*block.shape[: block.dim() - dims], prod(event))
        cut = rest.dim() - 1 - elements
        found.append(rest.reshape(*rest.shape[:cut], prod(rest.shape[cut:-1]), rest.shape[-1]))
    lead = torch.broadcast_shapes(*(f.shape[:-1] for f in found))
    return torch.cat([f.expand(*lead, f.shape[-1]) for f in found], -1)


class Reading:
    """One run of the model at the values of a design.

    :param census: of the model with these arguments.
    """

    def __init__(self, census: Census, space: Space, layout: Layout, design: Design) -> None:
        self.census, self.space, self.layout, self.design = census, space, layout, design
        placed = Placed(design.points, census.discrete, layout.depth)
        census.call.run(placed)
        self.sites, self.support = placed.sites, placed.states
        self.states = tuple(len(s) for s in reversed(list(placed.states.values())))

    def arrange(self, value: Tensor, trailing: int) -> Tensor:
        """Discrete dims in one in front. # shape: (states, points, *plates, ...)"""
        return self.layout.arrange(value, trailing, self.states)

    def likelihoods(self) -> dict[str, Likelihood | None]:
        """The observed sites at all states and points."""
        found: dict[str, Likelihood | None] = {}
        for name in self.census.observed:
            own = likelihood_of(self.sites[name], self.layout.depth)
            if own is not None:
                natural = self.arrange(own.natural, 2)
                own = Likelihood(own.family, natural, self.arrange(own.log_partition, 1))
            found[name] = own
        return found

    def log_prob(self, site: Record) -> Tensor:
        """A site's log density. # shape: (states, points, *plates)"""
        if hasattr(site.fn, "log_factor"):
            return self.arrange(site.fn.log_factor.double(), 0)
        peeled = peel(site.fn)
        base = narrowed(peeled.base, self.layout.depth, peeled.elements)
        value = base.log_prob(site.value).double()
        return self.arrange(_flat(value, peeled.elements).sum(-1), 0)

    def harmonium(self) -> Harmonium:
        """The coefficients of every site."""
        terms, direct = [], []
        for name, own in self.likelihoods().items():
            if own is None:
                direct.append(self._direct(name))
                continue
            nx, weights = self.design.fit(own.natural)
            c, r = self.design.fit(own.log_partition)
            terms.append(Term(name, nx, weights, r, c))
        level, prior = self._prior()
        shape = (self.states, self.support, level, prior, tuple(terms), tuple(direct))
        return Harmonium(self.space, self.layout, *shape)

    def _direct(self, name: str) -> Direct:
        site = self.sites[name]
        weight, value = _weight_and_value(self.census, self.sites[name])
        filled = Record(name, site.fn, value, None, 1.0, site.plates, True)
        values = self.log_prob(filled) * weight
        constant, slope = self.design.fit(values)
        return Direct(name, slope, constant)

    # ----- The prior ------------------------------------------------------------------------

    def _prior(self) -> tuple[Tensor, Tensor]:
        """log p(k) - psi_z, and the natural parameters of z given k.

        Priors of their own family say them; other log densities are fitted as those of data are.
        """
        exact = {part: self._natural_of_prior(part) for part in self.space.parts}
        fitted = [name for p, n in exact.items() if n is None for name in p.names]
        total = torch.zeros((1,) * (2 + self.layout.depth), dtype=torch.float64)
        for name in (*self.census.discrete, *fitted):
            total = total + self.log_prob(self.sites[name])
        level, prior = self.design.fit(total)
        rows = [n.shape[:-1] for n in exact.values() if n is not None]
        shape = torch.broadcast_shapes((prod(self.states),) + (1,) * self.layout.depth, *rows)
        shape = torch.broadcast_shapes(shape, level.shape)
        level, pieces = level.expand(shape), []
        for part, natural in exact.items():
            if natural is None:
                pieces.append(level.new_zeros((*shape, part.size)))
                continue
            pieces.append(natural.expand((*shape, part.size)))
            level = level - part.log_partition(natural)
        return level, torch.cat([level.new_zeros((*shape, 0)), *pieces], -1) + prior

    def _natural_of_prior(self, part: Part) -> Tensor | None:
        """The natural parameters of a part whose prior is of its family; None if it is not."""
        if len(part.names) > 1:
            return None
        packed = natural_of_site(part, self.sites[part.names[0]], self)
        return None if packed is None or packed.shape[1] > 1 else packed[:, 0]


def natural_of_site(part: Part, site: Record, reading: Reading) -> Tensor | None:
    """The natural parameters of a site packed as a part is; None if it is of another family.

    # shape: (states, points, *plates, statistics)
    """
    peeled = peel(site.fn)
    base = narrowed(peeled.base, reading.layout.depth, peeled.elements)
    blocks = _prior_blocks(part, base, peeled.elements)
    if blocks is None:
        return None
    return reading.arrange(part.pack(tuple(b.double() for b in blocks)), 1)


def _prior_blocks(part: Part, base: Any, elements: int) -> Natural | None:
    if part.is_joined and isinstance(part.family, MultivariateNormal):
        if isinstance(base, torch.distributions.Normal):
            precision = base.scale.square().reciprocal()
            first, second = _flat(base.loc * precision, elements), _flat(-0.5 * precision, elements)
            return first, torch.diag_embed(second)
        if elements or not isinstance(base, torch.distributions.MultivariateNormal):
            return None
        return part.family.natural_of(base)
    return part.family.natural_of(base) if find_family(base) == part.family else None


# ----- Data -----------------------------------------------------------------------------------


def read_data(census: Census, layout: Layout) -> dict[str, Datum]:
    """The statistics of the observed values."""
    found = {}
    for name in census.observed:
        site = census.sites[name]
        own = likelihood_of(site, layout.depth)
        if own is not None and site.is_observed:
            found[name] = _datum(census, site, own, layout)
    return found


def _datum(census: Census, site: Record, own: Likelihood, layout: Layout) -> Datum:
    family, elements = own.family, peel(site.fn).elements
    missing, filled = _filled(site, family)
    value = checked_value(site.name, site.fn, filled, None)
    statistics = family.sufficient_statistics(value.double(), (own.natural[..., 0, :],))
    entries = _entries(family, statistics, elements)
    log_base = _flat(family.log_base_measure(value.double()), elements)
    weight = torch.where(_flat(missing, elements), 0.0, _scale(census, site, elements))
    batch = tuple(site.fn.batch_shape)
    full = (*(1,) * (layout.depth - len(batch)), *batch)
    weight = weight.expand(*full, entries.shape[-2])
    entries = entries.expand(*full, *entries.shape[-2:]) * weight.unsqueeze(-1)
    return Datum(entries, weight, log_base.expand(*full, log_base.shape[-1]) * weight)


def _filled(site: Record, family: ExponentialFamily) -> tuple[Tensor, Tensor]:
    """Which values are missing, and the data with values of the support in their places.

    :returns: # shapes: (*batch, *elements), that of the value
    """
    value = site.value
    if not value.is_floating_point():
        return torch.zeros(value.shape[: value.dim() - family.event_dim], dtype=torch.bool), value
    gone = torch.isnan(value)
    if family.event_dim:
        partly = gone.flatten(-family.event_dim)
        missing = partly.all(-1)
        if bool((partly.any(-1) & ~missing).any()):
            raise errors.NonFiniteError(
                f"a datum of site {site.name!r} is NaN in a part of its {family.name} value. Mend: "
                "make the value NaN as a whole, mask it, or use independent elements, "
                ".to_event(1), of which some may be missing."
            )
    else:
        missing = gone
    if bool(gone.any()):
        with torch.no_grad():
            value = torch.where(gone, site.fn.sample().to(value.dtype), value)
    return missing, value


def _scale(census: Census, site: Record, elements: int) -> Tensor:
    """What multiplies a site's log density beyond what multiplies its latents' own."""
    own = census.sites[census.latents[0]].scale
    scale = torch.as_tensor(site.scale / own, dtype=torch.float64)
    for mask in (site.mask, peel(site.fn).mask):
        if mask is not None:
            scale = scale * torch.as_tensor(mask, dtype=torch.float64)
    return scale.unsqueeze(-1) if scale.dim() else scale


def _weight_and_value(census: Census, site: Record) -> tuple[Tensor, Any]:
    scale = _scale(census, site, 0)
    weight = scale.squeeze(-1) if scale.dim() else scale
    return weight, site.value

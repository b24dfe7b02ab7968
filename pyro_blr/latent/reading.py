# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The harmonium of a model, read off a run of it at many values of its latents."""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..families import MultivariateNormal, Natural, find_family
from ..shapes import broadcast_shapes
from .design import Design
from .harmonium import Datum, Direct, Harmonium, Layout, Term
from .likelihoods import Likelihood, entries, family_of, flat, likelihood_of
from .observations import checked, filled, scale_of
from .peeling import narrowed, peel
from .placing import place
from .probe import Census, Record, is_discrete
from .spaces import Part, Space


@dataclass(frozen=True)
class Prior:
    """The law of the latents: members of their own families, and other log densities.

    :param fitted: log densities to be fitted. # shape: (states, points, *plates)
    :param level: minus the log-partitions of the members. # shape: (states, *plates)
    :param natural: their natural parameters, else 0. # shape: (states, *plates, statistics)
    """

    fitted: Tensor
    level: Tensor
    natural: Tensor


class Reading:
    """One run of the model at the values of a design.

    :param census: of the model with these arguments.
    """

    def __init__(self, census: Census, space: Space, layout: Layout, design: Design) -> None:
        self.census, self.space, self.layout, self.design = census, space, layout, design
        placed = place(census, layout, design)
        self.sites, self.support = placed.sites, placed.states
        self.states = tuple(len(s) for s in reversed(list(placed.states.values())))

    def arrange(self, value: Tensor, trailing: int) -> Tensor:
        """Discrete dims in one in front. # shape: (states, points, *plates, ...)"""
        return self.layout.arrange(value, trailing, self.states)

    def likelihoods(self) -> dict[str, Likelihood | None]:
        """The observed sites at all states and points.

        None for one in no family, or with probabilities that are 0, whose logarithms are infinite.
        """
        found: dict[str, Likelihood | None] = {}
        for name in self.census.observed:
            own = likelihood_of(self.sites[name], self.layout.depth, self.census.sites[name])
            if own is not None and is_discrete(self.sites[name].fn):
                own = own if bool(own.natural.isfinite().all()) else None
            if own is not None:
                natural = self.arrange(own.natural, 2)
                own = Likelihood(own.family, natural, self.arrange(own.log_partition, 1))
            found[name] = own
        return found

    def log_prob(self, site: Record, value: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        """A site's log density at a value. # shape: (states, points, *plates)

        :param weight: of its elements.
        """
        peeled = peel(site.fn)
        base = peeled.base
        if family_of(site) is not None:
            base = narrowed(base, self.layout.depth, peeled.elements)
        found = base.log_prob(value).double() * weight
        return self.arrange(flat(found, peeled.elements).sum(-1), 0)

    def density(self, name: str) -> Tensor:
        """The log density of data that are in no family. # shape: (states, points, *plates)"""
        site, data = self.sites[name], self.census.sites[name]
        scale = scale_of(self.census, data)
        if hasattr(site.fn, "log_factor"):
            mask = 1.0 if site.mask is None else torch.as_tensor(site.mask).double()
            return self.arrange(site.fn.log_factor.double() * scale * mask, 0)
        event = len(peel(data.fn).base.event_shape)
        gone = data.gaps(event)
        missing = gone.flatten(gone.dim() - event).any(-1) if event else gone
        elements = peel(data.fn).elements
        weight = torch.where(missing, 0.0, scale.reshape(scale.shape + (1,) * elements))
        # The support may be another one at each state (Uniform): the density itself knows.
        try:
            return self.log_prob(site, filled(data, gone), weight)
        except ValueError as error:
            raise errors.SupportError(
                f"an observed value of site {name!r} lies outside the support at some value of "
                "the latents. Mend: check the data, or let the density be 0 there, "
                f"validate_args=False. ({str(error).splitlines()[0]})"
            ) from error

    def harmonium(self) -> Harmonium:
        """The coefficients of every site."""
        terms, direct = [], []
        for name, own in self.likelihoods().items():
            if own is None:
                constant, slope = self.design.fit(self.density(name))
                direct.append(Direct(name, slope, constant))
                continue
            nx, weights = self.design.fit(own.natural)
            c, r = self.design.fit(own.log_partition)
            terms.append(Term(name, nx, weights, r, c))
        prior = self.prior()
        level, slope = self.design.fit(prior.fitted)
        level, slope = prior.level + level, prior.natural + slope
        shape = (self.states, self.support, level, slope, tuple(terms), tuple(direct))
        return Harmonium(self.space, self.layout, *shape)

    # ----- The prior ------------------------------------------------------------------------

    def prior(self) -> "Prior":
        """What the priors of the latents are, and the log densities that are to be fitted."""
        known = [self._natural_of_prior(part) for part in self.space.parts]
        fitted = [
            name
            for part, n in zip(self.space.parts, known, strict=True)
            if n is None
            for name in part.names
        ]
        shape = (1,) * (2 + self.layout.depth)
        total = torch.zeros(shape, dtype=torch.float64, device=self.census.device)
        for name in (*self.census.discrete, *fitted):
            total = total + self.log_prob(self.sites[name], self.sites[name].value)
        rows = [n.shape[:-1] for n in known if n is not None]
        first = (prod(self.states),) + (1,) * self.layout.depth
        shape = broadcast_shapes(first, (1, *total.shape[2:]), *rows)
        level, pieces = total.new_zeros(shape), [total.new_zeros((*shape, 0))]
        for part, natural in zip(self.space.parts, known, strict=True):
            if natural is None:
                pieces.append(total.new_zeros((*shape, part.size)))
            else:
                pieces.append(natural.expand((*shape, part.size)))
                level = level - part.log_partition(natural)
        return Prior(total, level, torch.cat(pieces, -1))

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
            first, second = flat(base.loc * precision, elements), flat(-0.5 * precision, elements)
            return first, torch.diag_embed(second)
        if elements or not isinstance(base, torch.distributions.MultivariateNormal):
            return None
        return part.family.natural_of(base)
    return part.family.natural_of(base) if find_family(base) == part.family else None


def read_data(census: Census, layout: Layout) -> dict[str, Datum]:
    """The statistics of the observed values that are in a family."""
    found = {}
    for name in census.observed:
        site = census.sites[name]
        own = likelihood_of(site, layout.depth, site)
        if own is not None and site.is_observed:
            found[name] = _datum(census, site, own, layout)
    return found


def _datum(census: Census, site: Record, own: Likelihood, layout: Layout) -> Datum:
    family, elements = own.family, peel(site.fn).elements
    gone = site.gaps(family.event_dim)
    value = checked(site, filled(site, gone))
    missing = gone
    if isinstance(family, MultivariateNormal):
        value = torch.where(gone, 0.0, value)
        missing = gone.all(-1)
    elif family.event_dim:
        missing = _as_a_whole(site, gone.flatten(-family.event_dim))
    statistics = family.sufficient_statistics(value, (own.natural[..., 0, :],))
    scale = scale_of(census, site)
    weight = torch.where(missing, 0.0, scale.reshape(scale.shape + (1,) * elements))
    weight = flat(weight, elements)
    log_base = flat(family.log_base_measure(value), elements) * weight
    batch = tuple(site.fn.batch_shape)
    full = (*(1,) * (layout.depth - len(batch)), *batch)
    weight = weight.expand(*full, weight.shape[-1])
    packed = entries(family, statistics, elements)
    packed = packed.expand(*full, *packed.shape[-2:]) * weight.unsqueeze(-1)
    return Datum(packed, weight, log_base.expand(*full, log_base.shape[-1]))


def _as_a_whole(site: Record, gone: Tensor) -> Tensor:
    missing = gone.all(-1)
    if bool((gone.any(-1) & ~missing).any()):
        raise errors.NonFiniteError(
            f"a datum of site {site.name!r} is NaN in some entries of a vector whose others say "
            "nothing without them. Mend: make the vector NaN as a whole, or mask it."
        )
    return missing

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A model at given parameters as a harmonium: what multiplies which statistic of data and latents.

With the joint values k of the discrete latents (one, if there are none), s(z) the statistics of the
continuous ones and x a datum,

    log p(k, z) = log_weight_k + <prior_k, s(z)> - psi_z(prior_k)
    log p(x | k, z) = s(x) . (nx_k + W_k s(z)) - psi_x(nx_k + W_k s(z)) + log h(x)
    psi_x(nx_k + W_k s(z)) = r_k . s(z) + c_k                      where it is conjugated.

Each equation is one of functions of z, and each coefficient the least squares of such a function
on 1 and s(z) over a design of values of z.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from .posterior import Posterior
from .spaces import Space


@dataclass(frozen=True)
class Layout:
    """Where dims are: discrete states, the design, and plates, of which some hold the latents.

    :param depth: the number of plate dims.
    :param plates: the sizes of all of them, from the left; 1 where there is none.
    :param own: those, from the right and negative, along which each datum has its own latents.
    """

    depth: int
    plates: tuple[int, ...]
    own: frozenset[int]

    @property
    def batch(self) -> tuple[int, ...]:
        """One row for each datum that has its own latents. # shape: (*depth)"""
        pairs = zip(range(-self.depth, 0), self.plates, strict=True)
        return tuple(size if dim in self.own else 1 for dim, size in pairs)

    def reduce(self, value: Tensor, trailing: int) -> Tensor:
        """Sum over the plates along which the data share their latents.

        :param trailing: the number of dims behind the plates.
        """
        dims = [d - trailing for d in range(-self.depth, 0) if d not in self.own]
        return value.sum(dims, keepdim=True) if dims else value

    def sizes_of(self, fn: Any) -> dict[int, int]:
        """The sizes of a distribution's batch dims, by their place from the right."""
        batch = tuple(fn.batch_shape)
        return {i - len(batch): size for i, size in enumerate(batch)}

    def total(self, value: Tensor, sizes: Mapping[int, int]) -> Tensor:
        """Sum over elements (the last dim) and shared plates, of which only one row may be given.

        :param sizes: of the site's plates. # shape of the result: (*lead, *batch)
        """
        value = value.sum(-1)
        for dim in range(-self.depth, 0):
            if dim in self.own:
                continue
            repeats = sizes.get(dim, 1) if value.shape[dim] == 1 else 1
            value = value.sum(dim, keepdim=True) * repeats
        return value

    def trim(self, value: Tensor, trailing: int) -> Tensor:
        """Without the plates along which the data share their latents; one dim is in front."""
        plates = value.shape[1 : 1 + self.depth]
        keep = [plates[dim] for dim in range(-self.depth, 0) if dim in self.own]
        return value.reshape(value.shape[0], *keep, *value.shape[value.dim() - trailing :])

    def untrimmed(self, value: Tensor, lead: int) -> Tensor:
        """With a dim of size 1 for each plate that :meth:`trim` left out; ``lead`` are in front."""
        for dim in range(-self.depth, 0):
            if dim not in self.own:
                value = value.unsqueeze(lead + self.depth + dim)
        return value

    def arrange(self, value: Tensor, trailing: int, states: tuple[int, ...]) -> Tensor:
        """Join the discrete dims, which are in front of points and plates.

        :param states: the sizes of the discrete dims, from the left.
        """
        lead = len(states) + 1 + self.depth
        value = value.reshape(*(1,) * (lead + trailing - value.dim()), *value.shape)
        rest = value.shape[len(states) :]
        return value.expand(*states, *rest).reshape(prod(states), *rest)


@dataclass(frozen=True)
class Term:
    """An observed site of a member of an exponential family.

    :param nx: for each natural parameter. # shape: (states, *plates, elements, entries)
    :param weights: W. # shape: (states, *plates, elements, entries, statistics)
    :param r: # shape: (states, *plates, elements, statistics)
    :param c: # shape: (states, *plates, elements)
    """

    name: str
    nx: Tensor
    weights: Tensor
    r: Tensor
    c: Tensor


@dataclass(frozen=True)
class Datum:
    """What the data of a site say, whatever the parameters.

    :param statistics: s(x), 0 where it is missing. # shape: (*plates, elements, entries)
    :param weight: 1, 0 where it is missing, or a scale. # shape: (*plates, elements)
    :param log_base: log h(x), 0 where it is missing. # shape: (*plates, elements)
    """

    statistics: Tensor
    weight: Tensor
    log_base: Tensor


@dataclass(frozen=True)
class Direct:
    """A term whose data are no statistic: its log density as a function of z, datum by datum.

    :param slope: # shape: (states, *plates, statistics)
    :param constant: # shape: (states, *plates)
    """

    name: str
    slope: Tensor
    constant: Tensor


@dataclass(frozen=True)
class Harmonium:
    """A model at given parameters.

    :param states: the number of values of each discrete latent, the last one first.
    :param support: these values, by site.
    :param level: log p(k) - psi_z(prior_k). # shape: (states, *batch)
    :param prior: of z given k. # shape: (states, *batch, statistics)
    """

    space: Space
    layout: Layout
    states: tuple[int, ...]
    support: Mapping[str, Tensor]
    level: Tensor
    prior: Tensor
    terms: tuple[Term, ...]
    direct: tuple[Direct, ...]

    @property
    def log_weight(self) -> Tensor:
        """log p(k). # shape: (states, *batch)"""
        return self.level + self.space.log_partition(self.prior)

    def with_prior(self, log_weight: Tensor, prior: Tensor) -> "Harmonium":
        """The same likelihood with another prior."""
        return replace(self, level=log_weight - self.space.log_partition(prior), prior=prior)

    def coefficients(self) -> tuple[Tensor, ...]:
        """Every tensor that the log joint is linear in."""
        terms = [t for term in self.terms for t in (term.nx, term.weights, term.r, term.c)]
        direct = [t for part in self.direct for t in (part.slope, part.constant)]
        return (self.level, self.prior, *terms, *direct)

    def with_coefficients(self, coefficients: tuple[Tensor, ...]) -> "Harmonium":
        """The harmonium with other values in the places of :meth:`coefficients`."""
        level, prior, *rest = coefficients
        terms = [Term(t.name, *rest[4 * i : 4 * i + 4]) for i, t in enumerate(self.terms)]
        rest = rest[4 * len(terms) :]
        direct = [Direct(p.name, *rest[2 * i : 2 * i + 2]) for i, p in enumerate(self.direct)]
        return replace(self, level=level, prior=prior, terms=tuple(terms), direct=tuple(direct))

    def messages(self, data: Mapping[str, Datum]) -> tuple[Tensor, Tensor]:
        """``sum (W's(x) - r)`` and ``sum (s(x).nx - c + log h(x))`` of each datum's own data.

        :returns: # shapes: (states, *batch, statistics), (states, *batch)
        """
        slope = torch.zeros_like(self.prior)
        constant = torch.zeros_like(self.level)
        for term in self.terms:
            datum = data[term.name]
            own = torch.einsum("...eq,...eqd->...d", datum.statistics, term.weights)
            own = own - torch.einsum("...e,...ed->...d", datum.weight, term.r)
            slope = slope + self.layout.reduce(own, 1)
            level = torch.einsum("...eq,...eq->...", datum.statistics, term.nx)
            level = level - torch.einsum("...e,...e->...", datum.weight, term.c)
            level = level + datum.log_base.sum(-1)
            constant = constant + self.layout.reduce(level, 0)
        for part in self.direct:
            slope = slope + self.layout.reduce(part.slope, 1)
            constant = constant + self.layout.reduce(part.constant, 0)
        return slope, constant

    def posterior(self, data: Mapping[str, Datum]) -> tuple[Tensor, Tensor, Tensor]:
        """The log joint of data and discrete states, and the posterior given each state.

        :returns: ``log p(x, k)``, the natural parameters of z given k and x, and where these are
            those of a distribution. # shapes: (states, *batch), (states, *batch, statistics)
        """
        slope, constant = self.messages(data)
        natural = self.prior + slope
        joint = self.level + constant + self.space.log_partition(natural)
        return joint, natural, self.space.in_domain(natural)

    def law(self, log_weight: Tensor, natural: Tensor, count: int = 0) -> Posterior:
        """A law of the latents, without the plates that do not hold them.

        :param count: how many rows of independent ones to put in front; none if 0.
        """
        weight, natural = self.layout.trim(log_weight, 0), self.layout.trim(natural, 1)
        if count:
            weight = weight.unsqueeze(1).expand(-1, count, *weight.shape[1:])
            natural = natural.unsqueeze(1).expand(-1, count, *natural.shape[1:])
        return Posterior(self.space, self.states, self.support, weight, natural)

    def log_evidence(self, data: Mapping[str, Datum]) -> Tensor:
        """log p(x) of all data together, whose gradient is the expected statistics."""
        return self.posterior(data)[0].logsumexp(0).sum()

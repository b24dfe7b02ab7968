# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Filtering and smoothing of a chain of latents: one program for HMMs and for Kalman filters.

A transition is a model whose datum is the next latent, with the natural parameters ``nx + W s(z)``.
To predict is to join it with the law of z, which leaves ``natural - r`` of z, to transpose it, and
to sum z out, which is the conjugation equation of the transposed model:

    psi(natural - r + W' s(next)) = t . s(next) + const,          predicted = nx + t

To update is to add the datum's message; to smooth, to add the message of all later data, which is
the change of the conjugation parameters when the next latent's message is added to ``nx``.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..families import Categorical
from .conjugated import Conjugated
from .design import Design
from .harmonium import Harmonium
from .reading import Reading, natural_of_site
from .spaces import Part, Space

#: A gap of this many units of rounding is none, after the steps of a sequence.
ROUNDING = 4096


@dataclass(frozen=True)
class Link:
    """A transition between two values of one space.

    :param eta: the natural parameters of the next latent at the design's values of this one.
        # shape: (points, statistics)
    :param initial: those of the first latent. # shape: (statistics,)
    :param eps: the rounding of the model's numbers.
    """

    space: Space
    design: Design
    nx: Tensor
    weights: Tensor
    eta: Tensor
    initial: Tensor
    eps: float

    def fit(self, values: Tensor) -> Tensor:
        """The slope of a function of a latent, given at the design's values of it.

        :param values: # shape: (*batch, points)
        :raises NotConjugatedError: if it is not linear in the statistics.
        """
        values = values.movedim(-1, 0).unsqueeze(0)
        constant, slope = self.design.fit(values)
        gap = (values - self.design.predict(constant, slope)).detach().abs().max()
        scale = max(1.0, float(values.detach().abs().max()))
        if not float(gap) <= ROUNDING * self.eps * scale:
            raise errors.NotConjugatedError(
                f"the law of the next latent is off by {float(gap):.1e} nats from the family of "
                "this one: the chain leaves its family at the first step. Mend: use Gaussian "
                "latents with a linear mean and constant noise, or discrete ones."
            )
        return slope[0]

    @cached_property
    def r(self) -> Tensor:
        """The conjugation parameters of the transition. # shape: (statistics,)"""
        return self.fit(self.space.log_partition(self.eta))

    def predict(self, natural: Tensor) -> Tensor:
        """The law of the next latent from that of this one. # shape: (*batch, statistics)"""
        joint = (natural - self.r).unsqueeze(-2)
        turned = self.design.basis[:, 1:] @ self.weights
        return self.nx + self.fit(self.space.log_partition(joint + turned))

    def message_back(self, message: Tensor) -> Tensor:
        """What a message to the next latent says of this one. # shape: (*batch, statistics)"""
        return self.fit(self.space.log_partition(self.eta + message.unsqueeze(-2))) - self.r


@dataclass(frozen=True)
class Chain:
    """The laws of the latents of a sequence; time is the first dim of each.

    :param link: of two latents that follow each other.
    :param messages: of the data of each step. # shape: (steps, *batch, statistics)
    :param predicted_natural: given the data before. # shape: (steps, *batch, statistics)
    :param filtered_natural: given the data so far. # shape: (steps, *batch, statistics)
    :param log_evidence: of all data of a sequence, in nats. # shape: (*batch,)
    """

    link: Link
    messages: Tensor
    predicted_natural: Tensor
    filtered_natural: Tensor
    log_evidence: Tensor

    @property
    def filtered(self) -> Any:
        """The law of each latent given the data so far."""
        return self._law(self.filtered_natural)

    @property
    def predicted(self) -> Any:
        """The law of each latent given the data before."""
        return self._law(self.predicted_natural)

    @property
    def smoothed(self) -> Any:
        """The law of each latent given all data."""
        return self._law(self.smoothed_natural)

    @cached_property
    def smoothed_natural(self) -> Tensor:
        """Its natural parameters. # shape: (steps, *batch, statistics)"""
        back = torch.zeros_like(self.messages[-1])
        found = [self.filtered_natural[-1]]
        for step in range(len(self.messages) - 1, 0, -1):
            back = self.link.message_back(self.messages[step] + back)
            found.append(self.filtered_natural[step - 1] + back)
        return torch.stack(found[::-1])

    def _law(self, natural: Tensor) -> Any:
        (part,) = self.link.space.parts
        return part.marginal(natural, part.names[0])


def chain(transition: Conjugated, emission: Conjugated, *args: Any, **kwargs: Any) -> Chain:
    """The exact laws of a chain of latents given a sequence of data.

    :param transition: of a model with one latent, whose prior is the law of the first of the
        chain, and one site that stands for data: the next latent.
    :param emission: of a model of the data of one step given a latent of the same kind; its prior
        is not read.
    :param args: of the emission: data with time as the first dim, each step a datum of its own;
        NaN where nothing was seen.
    :raises NotConjugatedError: if the chain leaves its family.
    """
    link = link_of(transition)
    setting = emission.setting(*args, **kwargs)
    found = setting.harmonium()
    _require_same(link, found)
    slope, constant = found.messages(setting.data())
    slope, constant = found.layout.trim(slope, 1), found.layout.trim(constant, 0)
    if found.states:
        slope = (constant[:-1] - constant[-1]).movedim(0, -1).unsqueeze(0)
        constant = constant[-1:]
    messages, levels = slope[0], constant[0]
    if messages.dim() < 2 or not len(messages):
        raise errors.ShapeError(
            "the data have no dim of time, or no step in it. Mend: pass them with time as the "
            "first dim, each step a datum with its own latent."
        )
    natural = link.initial.expand(messages.shape[1:])
    predicted, filtered, gains = [], [], []
    for step, message in enumerate(messages):
        natural = link.predict(natural) if step else natural
        predicted.append(natural)
        before, natural = link.space.log_partition(natural), natural + message
        gains.append(link.space.log_partition(natural) - before)
        filtered.append(natural)
    evidence = (torch.stack(gains) + levels).sum(0)
    return Chain(link, messages, torch.stack(predicted), torch.stack(filtered), evidence)


def link_of(transition: Conjugated) -> Link:
    """A transition in the packing of its latent."""
    setting = transition.setting()
    reading = Reading(setting.census, setting.space, setting.layout, setting.design)
    if len(setting.census.observed) != 1 or len(setting.census.latents) != 1:
        raise errors.GuideError(
            "a transition has one latent and one site that stands for the next one; this one has "
            f"the latents {', '.join(setting.census.latents)} and the data "
            f"{', '.join(setting.census.observed)}. Mend: join the latents in one site, and name "
            'the next one: conjugated(transition, observed="next").'
        )
    site = reading.sites[setting.census.observed[0]]
    found = transition._harmonium(setting)
    if setting.layout.own:
        raise errors.GuideError(
            "the latent of the transition is in a plate. Mend: write the transition of one latent."
        )
    if not found.states:
        (part,) = setting.space.parts
        eta = natural_of_site(part, site, reading)
        space, design, initial = setting.space, setting.design, found.prior.reshape(-1)
    else:
        size = found.states[0]
        part = Part(setting.census.latents, Categorical(), ((),), False, ((size - 1,),))
        eta = natural_of_site(part, site, reading)
        space, design = Space((part,)), _one_hot(size, setting.census.device)
        weight = found.log_weight.reshape(-1)
        initial = weight[:-1] - weight[-1]
    if eta is None or eta.numel() != design.size * space.size:
        raise errors.NotConjugatedError(
            f"the next latent {site.name!r} is not in the family of this one, {part.family.name} "
            "of the same size. Mend: give both the same kind of distribution."
        )
    eta = eta.reshape(design.size, space.size)
    nx, weights = design.fit(eta.unsqueeze(0))
    return Link(space, design, nx[0], weights[0], eta, initial, transition.residuals.eps)


def _one_hot(size: int, device: torch.device) -> Design:
    basis = torch.eye(size, dtype=torch.float64, device=device)[:, : size - 1]
    basis = torch.cat([torch.ones_like(basis[:, :1]), basis], -1)
    return Design({}, basis, torch.linalg.inv(basis))


def _require_same(link: Link, emission: Harmonium) -> None:
    """Refuse an emission of another kind of latent."""
    size = emission.states[0] - 1 if emission.states else emission.space.size
    if size != link.space.size or len(emission.states) > 1:
        raise errors.GuideError(
            "the transition and the emission have latents of different kinds or sizes. Mend: give "
            "the same prior to both."
        )

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
from .conjugation import Conjugated
from .harmonium import Harmonium
from .links import Link, link_of


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
            back = self.link.message_back(self.messages[step] + back, step == 1)
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
    for model in (transition, emission):
        if not model.is_exact:
            raise errors.NotConjugatedError(
                f"a model of the chain is not conjugated: {model.verdict}. Mend: use Gaussian "
                "latents with linear means and constant noise, or discrete ones."
            )
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
        natural = link.predict(natural, step == 1) if step else natural
        predicted.append(natural)
        before, natural = link.space.log_partition(natural), natural + message
        gains.append(link.space.log_partition(natural) - before)
        filtered.append(natural)
    evidence = (torch.stack(gains) + levels).sum(0)
    return Chain(link, messages, torch.stack(predicted), torch.stack(filtered), evidence)


def _require_same(link: Link, emission: Harmonium) -> None:
    """Refuse an emission of another kind of latent."""
    size = emission.states[0] - 1 if emission.states else emission.space.size
    if size != link.space.size or len(emission.states) > 1:
        raise errors.GuideError(
            "the transition and the emission have latents of different kinds or sizes. Mend: give "
            "the same prior to both."
        )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The posterior of a conjugated model: a table over the discrete latents, a family given each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from .spaces import Part, Space


@dataclass(frozen=True)
class Posterior(Mapping[str, Any]):
    """The law of each datum's latents: ``posterior["z"]`` is the Pyro distribution of one of them.

    Where there are discrete latents a continuous one is a mixture over their joint values. A
    discrete one whose values are vectors is a Categorical over the rows of ``support``.

    :param states: the number of values of the discrete latents, the last one first.
    :param support: these values, by site.
    :param log_weight: log p(k | x). # shape: (prod(states), *batch)
    :param natural: of z given k and x. # shape: (prod(states), *batch, statistics)
    """

    space: Space
    states: tuple[int, ...]
    support: Mapping[str, Tensor]
    log_weight: Tensor
    natural: Tensor

    def __getitem__(self, name: str) -> Any:
        if name in self.support:
            return self._discrete(name)
        for part, own in self.space.split(self.natural) if self.space.parts else ():
            if name in part.names:
                return self._continuous(part, own, name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        yield from self.support
        yield from self.space.names

    def __len__(self) -> int:
        return len(self.support) + len(self.space.names)

    @property
    def table(self) -> Tensor:
        """The joint probabilities of the discrete latents, a dim each. # shape: (*batch, ...)"""
        joint = self.log_weight.exp().movedim(0, -1)
        joint = joint.reshape(*joint.shape[:-1], *self.states)
        first = joint.dim() - len(self.states)
        return joint.permute(*range(first), *reversed(range(first, joint.dim())))

    @property
    def blocks(self) -> tuple[Any, ...]:
        """The natural parameters of each part of z given k and x, a tuple for each part.

        Without discrete latents they have the batch dims of the data alone.
        """
        return tuple(part.unpack(own) for part, own in self._parts())

    def sample(self) -> dict[str, Tensor]:
        """A joint draw of all latents of each datum."""
        state = dist.Categorical(logits=self.log_weight.movedim(0, -1)).sample()
        place = state.unsqueeze(0).unsqueeze(-1).expand(1, *self.natural.shape[1:])
        found = self.space.sample(self.natural.gather(0, place)[0])
        for name, size in zip(self.support, reversed(self.states), strict=True):
            found[name] = self.support[name][state % size]
            state = state // size
        return found

    def log_prob(self, values: Mapping[str, Tensor]) -> Tensor:
        """The log density of values of all latents, in nats. # shape: (*batch,)"""
        state = torch.zeros((), dtype=torch.long, device=self.log_weight.device)
        for name, size in zip(reversed(list(self.support)), self.states, strict=True):
            state = state * size + _place(values[name], self.support[name])
        weight = self.log_weight.movedim(0, -1)
        state = state.expand(weight.shape[:-1]).unsqueeze(-1)
        found = weight.gather(-1, state).squeeze(-1)
        natural = self.natural.movedim(0, -2)
        where = state.unsqueeze(-1).expand(*state.shape, natural.shape[-1])
        natural = natural.gather(-2, where).squeeze(-2)
        for part, own in self.space.split(natural) if self.space.parts else ():
            found = found + part.distribution(own).log_prob(part.join(values))
        return found

    def _parts(self) -> list[tuple[Part, Tensor]]:
        natural = self.natural if self.states else self.natural[0]
        return self.space.split(natural) if self.space.parts else []

    def _discrete(self, name: str) -> Any:
        names = list(self.support)
        table, place = self.table, names.index(name)
        first = table.dim() - len(names)
        others = [first + i for i in range(len(names)) if i != place]
        probs = table.sum(others) if others else table
        values = self.support[name]
        if values.is_floating_point() and values.dim() == 1 and values.tolist() == [0.0, 1.0]:
            return dist.Bernoulli(probs[..., 1])
        return dist.Categorical(probs)

    def _continuous(self, part: Part, own: Tensor, name: str) -> Any:
        if not self.states:
            return part.marginal(own[0], name)
        mixing = dist.Categorical(logits=self.log_weight.movedim(0, -1))
        return dist.MixtureSameFamily(mixing, part.marginal(own.movedim(0, -2), name))


def _place(value: Tensor, support: Tensor) -> Tensor:
    """Which of the values of a discrete latent these are."""
    event = support.dim() - 1
    equal = value.unsqueeze(-1 - event) == support
    same = equal.flatten(equal.dim() - event).all(-1) if event else equal
    return same.long().argmax(-1)

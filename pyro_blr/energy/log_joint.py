# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The log joint density of a traced model at any values of its latents: all programs, replayed."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..lifting.blocks import Block
from ..lifting.tensor import LiftedTensor, program, replay
from .components import Component, check_plates, components, elimination, recorded, summands
from .draws import Draws
from .factors import Summed
from .latents import Latents, block_values
from .traced import Traced


class LogJoint:
    """log p(x, z) of one call of a model, as a function of the latent vector of a Gaussian block.

    It includes the changes of variables of constrained sites and the scales of the model's sites;
    discrete latents are summed out at each value.

    :param traced: a run on lifted latents.
    :param block: one block that holds every latent.
    """

    def __init__(self, traced: Traced, latents: Latents, block: Block) -> None:
        self.latents = latents
        self.block = block
        plain, joined = components(traced.sites)
        #: The discrete latents that are summed out.
        self.summed_out = tuple(n for c in joined for n in c.latents)
        every = [(s.name, s.log_prob, Summed(s.log_prob, s.mask, s.scale)) for s in plain]
        every += [_joined(c) for c in joined]
        self._parts = {n: part for n, node, part in every if isinstance(node, LiftedTensor)}
        self._constants = {
            n: part(node)[0] for n, node, part in every if not isinstance(node, LiftedTensor)
        }
        self._draws = Draws(latents, 1, 0)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its terms: sites, and those that discrete latents join by the latents'."""
        return (*self._parts, *self._constants)

    def latents_of(self, name: str) -> tuple[str, ...]:
        """The latents of q that a term depends on."""
        part = self._parts.get(name)
        return () if part is None else tuple(sorted(s.name for s in part.node.sites))

    def __call__(self, variable: Tensor) -> Tensor:
        """In float64, differentiable. # shape: (*draws, D) -> (*draws,)"""
        flat = variable.reshape(-1, variable.shape[-1])
        terms = self.terms(flat)
        total = torch.stack([t.double() for t in terms.values()]).sum(0)
        return total.reshape(variable.shape[:-1])

    def terms(self, variable: Tensor) -> dict[str, Tensor]:
        """Each term. # shape: (draws, D) -> (draws,) each"""
        values = block_values(self.block, self.latents, variable)
        named = {site.name: value for site, value in values.items()}
        count = len(variable)
        constants = {n: c.to(variable.device).expand(count) for n, c in self._constants.items()}
        if not self._parts:
            return constants
        with warnings.catch_warnings():
            # An operation without a batching rule is run draw by draw: no concern of the user.
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            found = self._draws.mapped(self._one, named, numbers=self.numbers)
        return {**dict(zip(self._parts, found, strict=True)), **constants}

    def _one(self, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The terms at one value of each latent."""
        leaves: dict[Any, Tensor] = {
            s: values[s.name] for part in self._parts.values() for s in part.node.sites
        }
        results = replay([part.node for part in self._parts.values()], leaves)
        pairs = zip(self._parts.values(), results, strict=True)
        return tuple(part(result)[0] for part, result in pairs)

    @property
    def numbers(self) -> int:
        """The numbers that the programs hold for one draw."""
        nodes = program([part.node for part in self._parts.values()])
        return max(1, sum(node.numel() for node in nodes))


def _joined(component: Component) -> tuple[str, Any, Summed]:
    """The sites that discrete latents join: the log of the sum over these."""
    check_plates(component)
    sum_out = elimination(component)
    is_lifted = any(isinstance(s.log_prob, LiftedTensor) for s in component.sites)
    node = recorded(component, sum_out) if is_lifted else sum_out(*summands(component))
    return component.name, node, Summed(node, None, 1.0)  # type: ignore[arg-type]

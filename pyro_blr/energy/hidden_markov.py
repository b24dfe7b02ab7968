# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""``dist.DiscreteHMM`` with lifted arguments: its log factors, and the forward algorithm."""

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..lifting import constants
from ..lifting.densities.categorical import normalised_log_probs
from ..lifting.distribution import LiftedDistribution
from ..lifting.tensor import LiftedTensor, polynomial_of
from ..lifting.terms import NotPolynomial
from ..lifting.wrappers import log_density, without_mask
from ..shapes import broadcast_shapes
from .domains import filled
from .forward_backward import log_evidence


@dataclass(frozen=True, eq=False)
class HiddenChain:
    """The log factors of a hidden Markov chain of S states, lifted where their arguments are.

    The chain makes a transition before each observation, as in Pyro.

    :param initial: of the first state. # shape: (*batch, S)
    :param transition: from each state to each. # shape: (*batch, T or 1, S, S)
    :param observation: of each observation given the state. # shape: (*batch, T, S)
    """

    initial: Any
    transition: Any
    observation: Any

    @property
    def log_factors(self) -> tuple[Any, ...]:
        """What expectations are taken of."""
        return self.initial, self.transition, self.observation

    @property
    def states(self) -> int:
        """The number S of states."""
        return int(self.initial.shape[-1])


def hidden_chain(fn: Any, value: Any) -> HiddenChain | None:
    """The chain of a site, if its distribution is a DiscreteHMM with lifted arguments.

    None also where class probabilities are not those of one latent on the simplex, and would have
    to be normalised first.
    """
    if not isinstance(fn, LiftedDistribution) or fn.distribution is not dist.DiscreteHMM:
        return None
    if fn.reinterpreted or fn.masks or isinstance(value, LiftedTensor):
        return None
    given = fn.arguments
    try:
        initial = _normalised(given["initial_logits"])
        transition = _normalised(given["transition_logits"])
    except NotPolynomial:
        return None
    if transition.dim() < 3:
        transition = transition.unsqueeze(-3)
    law = given["observation_dist"]
    apart = value.unsqueeze(-1 - len(law.event_shape))
    return HiddenChain(initial, transition, log_density(law, apart))


def without_gaps(fn: Any, value: Any) -> Any:
    """The data of a DiscreteHMM, with harmless numbers at steps that its observations' law masks.

    What is NaN there says nothing, whatever the state is.
    """
    if not isinstance(fn, LiftedDistribution) or fn.distribution is not dist.DiscreteHMM:
        return value
    law, mask = without_mask(fn.arguments["observation_dist"])
    if mask is None or mask.dim() == 0 or not isinstance(value, Tensor):
        return value
    return filled(value, constants.memo(_of_any_state, (mask,)), law.support)


def _of_any_state(mask: Tensor) -> Tensor:
    return mask.any(-1)


def _normalised(logits: Any) -> Any:
    """Logits that are log probabilities; of a latent they are so only on the simplex.

    :raises NotPolynomial: if a latent's would have to be normalised.
    """
    if not isinstance(logits, LiftedTensor):
        return logits.double() - logits.double().logsumexp(-1, keepdim=True)
    normalised_log_probs(None, polynomial_of(logits))
    return logits


class ForwardSum:
    """The log of the sum over all paths of a hidden chain: the forward algorithm.

    :param count: from the sum of each sequence to that of all.
    """

    def __init__(self, count: "Sequences") -> None:
        self.count = count

    def __call__(self, initial: Tensor, transition: Tensor, observation: Tensor) -> Tensor:
        """In nats. # shape: ()"""
        return self.count(log_evidence(initial, transition, observation))


@dataclass(frozen=True, eq=False)
class Sequences:
    """The sum over the sequences of a site.

    :param shape: the batch shape, along which data and arguments may be alike.
    :param mask: which of them count; None for all.
    :param scale: what it is multiplied by.
    """

    shape: torch.Size
    mask: Tensor | bool | None
    scale: Any

    def __call__(self, total: Tensor) -> Tensor:
        """In nats. # shape: ()

        :param total: of each sequence. # shape: broadcasts to `shape`
        """
        mask = self.mask
        total = total.expand(broadcast_shapes(total.shape, self.shape))
        if mask is False:  # still a function of the log factors
            mask = torch.zeros((), dtype=torch.bool, device=total.device)
        if isinstance(mask, Tensor):
            mask, total = torch.broadcast_tensors(mask, total)
            total = torch.where(mask, total, 0.0)
        result: Tensor = (total * self.scale).sum()
        return result

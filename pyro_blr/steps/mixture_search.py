# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Steps of a mixture: of a size that is given, or the longest that do not let the ELBO fall.

With ``p(k | z)`` held as it is at the entry the ELBO has a bound that touches it there and falls
apart into one of each component and one of the weights,

    sum_k pi_k ( B_k - log pi_k ),     B_k = E_k[ log p + log p(k | z) ] + H(q_k),

so each component finds a size of its own, all of them at once, and the weights are then at their
optimum ``pi_k ~ exp(B_k)``. The ELBO rises at least as much as the bound does. On the points B_k is
a smooth function of component k whose gradient is the step's (of log q, whose own change has the
mean 0, the derivative along the points alone is taken, which vanishes where q is p: Roeder, Wu &
Duvenaud 2017), so that a short step never lets it fall; the ELBO itself has their noise, and is
looked at so that nothing blows up.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..lifting import host
from .cone import MAX_HALVINGS, Safety
from .mixture import Gradient, Mixture, State, ValueAndGradient

#: Components whose own bound rises by more than so many nats in a step are still on their way: how
#: much weight they deserve is not known before they are there.
UNDER_WAY = 1.0

#: What a whole step, whose components each rose by themselves, may lose on the points, in nats; and
#: how often it is halved before it is given up.
MAY_FALL, MOST_HALVINGS = 0.5, 20


def sized_step(state: State, gradient: Gradient, rho: float) -> Mixture:
    """The plain step of one size for components and weights."""
    mixture = state.mixture
    size = torch.full_like(mixture.log_weights, rho)
    moved = gradient.moved(mixture, size)
    log_weights = (mixture.log_weights + rho * gradient.excess).log_softmax(-1)
    return Mixture((log_weights, *moved), mixture.noise)


@dataclass(frozen=True, eq=False)
class Found:
    """Where a searched step ends.

    :param sizes: the size of each component's step, 0 where none served. # shape: (K,)
    """

    state: State
    sizes: Tensor


def searched_step(
    state: State, gradient: Gradient, sizes: Tensor, log_joint: ValueAndGradient, safety: Safety
) -> Found | None:
    """The longest step that lets no component's bound fall; None if there is none.

    :param sizes: that each component tries first. # shape: (K,)
    """
    for _ in range(MOST_HALVINGS):
        found = _each(state, gradient, sizes, log_joint, safety)
        if found.state.elbo >= state.elbo - MAY_FALL:
            return found
        safety.halvings += 1
        sizes = 0.5 * found.sizes
    safety.refused += 1
    return None


def _each(
    state: State, gradient: Gradient, sizes: Tensor, log_joint: ValueAndGradient, safety: Safety
) -> Found:
    """A step in which no component's own bound falls."""
    mixture = state.mixture
    before = state.log_p.mean(1) + mixture.own_log_share(mixture.points).mean(1)
    before = before + mixture.entropies
    best = [*mixture.coordinates[1:], state.log_p, state.gradient, before]
    reached, sizes = torch.zeros_like(sizes), sizes.clone()
    for _ in range(MAX_HALVINGS):
        trial = Mixture((mixture.log_weights, *gradient.moved(mixture, sizes)), mixture.noise)
        log_p, slope = log_joint(trial.points)
        bound = log_p.mean(1) + mixture.own_log_share(trial.points).mean(1) + trial.entropies
        good = (bound >= before - state.slack) & (reached == 0)  # NaN is no rise
        new = [*trial.coordinates[1:], log_p, slope, bound]
        best = [_where(good, n, b) for n, b in zip(new, best, strict=True)]
        reached = torch.where(good, sizes, reached)
        if host.truth((reached > 0).all()):
            break
        safety.halvings += 1
        sizes = torch.where(reached > 0, sizes, 0.5 * sizes)
    means, precisions, log_p, slope, bound = best
    log_weights = mixture.log_weights
    if host.truth((bound - before).amax() < UNDER_WAY):
        log_weights = bound.log_softmax(-1)
    moved = Mixture((log_weights, means, precisions), mixture.noise)
    return Found(State(moved, log_p, slope), reached)


def _where(good: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new rows of the components that are good."""
    return torch.where(good.reshape(-1, *(1,) * (new.dim() - 1)), new, old)

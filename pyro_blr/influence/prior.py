# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What the priors did: the message of a latent site's own density is one more message.

With the log prior times alpha, q moves by ``d = R m`` for a unit of log alpha, m the prior's
message and R the linear response. The length of d in the Fisher metric is that move in standard
deviations (power-scaling, Kallioinen et al. 2024).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..energy.energy import Energy
from ..energy.latents import Latent
from ..families import Natural
from ..guides.marginals import own_law
from ..lifting.blocks import Block
from .removal import NEARBY, Removal, are_inside

#: Moves in standard deviations for a unit of log weight below which a prior is called weak, and
#: from which on it is in conflict with the data.
WEAK, STRONG = 0.1, 1.0


@dataclass(frozen=True, eq=False)
class PriorEffect:
    """What one latent site's prior did.

    :param site: the latent.
    :param message: the prior's message, by block; none where the prior is flat, as Beta(1, 1) is.
    :param sensitivity: length in the Fisher metric that q moves by for a unit of the log of its
        weight: in standard deviations, those of widths included.
    :param pull: the most that the mean of an element of the site moves by, in its own posterior
        standard deviations. The data pull as much the other way: where it is large, they conflict.
    :param share: of the lengths of all factors' moves, its own, between 0 and 1.
    :param removed: KL(q without it, q) in nats; infinite if the data alone are improper.
    """

    site: str
    message: dict[str, Natural]
    sensitivity: float
    pull: float
    share: float
    removed: float

    @property
    def verdict(self) -> str:
        """What that means, in words."""
        if self.pull >= STRONG:
            return "in conflict with the data, which pull as much the other way"
        if not self.message:
            return "flat: it sends no message, and the data decide"
        if max(self.sensitivity, self.pull) < WEAK:
            return "weak: the data decide"
        return "felt, in accord with the data"

    def __repr__(self) -> str:
        return (
            f"<prior of {self.site}: sensitivity {self.sensitivity:.3g} sd, pull {self.pull:.3g} "
            f"sd, share {self.share:.0%}, without it {self.removed:.3g} nats; {self.verdict}>"
        )


def effects(energy: Energy, removal: Removal) -> dict[str, PriorEffect]:
    """The effect of each latent's prior, by site."""
    data = {s.name for s in energy.traced.sites if s.is_data}
    messages = {f.name: _message(energy, f, removal) for f in energy.factors if f.blocks}
    moves = {name: _moved(removal, m) for name, m in messages.items()}
    lengths = {name: math.sqrt(2 * float(removal.length(d))) for name, d in moves.items()}
    total = sum(lengths.values()) or 1.0
    found = {
        name: PriorEffect(
            name,
            {b.name: m for b, m in messages[name].items()},
            lengths[name],
            _pull(energy.latents[name], removal, moves[name]),
            lengths[name] / total,
            _without(removal, moves[name]),
        )
        for name in messages
        if name not in data and name in energy.latents
    }
    held = found.keys() | energy.traced.noise.keys()
    flat = {n: PriorEffect(n, {}, 0.0, 0.0, 0.0, 0.0) for n in energy.latents if n not in held}
    return found | flat


def _message(energy: Energy, factor: object, removal: Removal) -> dict[Block, Natural]:
    """dE_q[log factor]/dmean_params at the optimum."""
    moments = energy.moments(removal.naturals)
    value, _ = factor.evaluate(moments, None, None)  # type: ignore[attr-defined]
    found = {}
    for block in removal.naturals:
        leaves = moments[block].leaves
        given: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if value.requires_grad:
            given = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        filled = (
            torch.zeros_like(t) if g is None else g for g, t in zip(given, leaves, strict=True)
        )
        found[block] = tuple(t.detach() for t in moments[block].message(tuple(filled)))
    return found


def _moved(removal: Removal, message: Mapping[Block, Natural]) -> Tensor:
    """How q answers to a message. # shape: (1, numbers)"""
    batch = {b: tuple(t.unsqueeze(0) for t in n) for b, n in message.items()}
    return -removal.answers(batch)


def _pull(latent: Latent, removal: Removal, move: Tensor) -> float:
    """The most that a mean of the site moves by, in its standard deviations."""
    block, latent = removal.layout[latent.name], replace(latent, dtype=torch.float64)
    length = max(1.0, math.sqrt(2 * float(removal.length(move))))
    laws = []
    for step in (-NEARBY / length, 0.0, NEARBY / length):
        natural = tuple(t[0] for t in removal.plus(step * move)[block])
        laws.append(own_law(block, natural, latent))
    behind, here, ahead = laws
    moved = (ahead.mean - behind.mean) * (length / (2 * NEARBY))
    spread = here.variance
    inside = torch.isfinite(moved) & (spread > 0) & torch.isfinite(spread)
    sizes = torch.where(inside, moved.abs() / torch.where(inside, spread, 1.0).sqrt(), 0.0)
    return float(sizes.max()) if sizes.numel() else 0.0


def _without(removal: Removal, move: Tensor) -> float:
    """KL of q without a message from q, at first order."""
    left = removal.plus(-move)
    if not bool(are_inside(left).all()):
        return math.inf
    total = 0.0
    for block, natural in left.items():
        own = tuple(t[0] for t in natural)
        total += float(block.family.kl(own, removal.naturals[block]).sum())
    return total

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""One step of the Bayesian Learning Rule on a deterministic ELBO, block by block."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import errors
from ..families import Natural
from ..lifting import host
from .cone import (
    MAX_HALVINGS,
    TRUST,
    Safety,
    Steps,
    has_retraction,
    inside,
    metric_products,
    minus,
    noisy_step,
    plain,
    retract,
    safe_step,
    squared_norm,
    steps_towards,
)
from .objective import Block, Elbo, Evaluation, Naturals, Objective, SweptObjective

#: An ELBO that falls by less than this times its magnitude has not fallen: each term carries a few
#: rounding errors of 2.2e-16 relative, and about thirty operations lie between two terms.
ROUNDING = 64 * 2.220446049250313e-16


#: Standard errors by which an estimated ELBO may fall and still count as not having fallen.
NOISE = 2.0

#: The most nats of a fall that are put down to noise. Full steps on draws that are no longer than
#: this are allowed such a fall: where mean gradients and Hessians vanish the mean of f is not at
#: its largest, so which of two close q has the larger one says less than how the steps shrink.
CLOSE = 0.5

#: How fast steps on draws become longer again, after a secant has shortened them.
GROWTH = 1.25

#: The shortest step that a secant asks for: below it, it is the search that must shorten.
LEAST_SECANT = 0.05


@dataclass
class SweepMemory:
    """What a step leaves for the next one.

    :param step_sizes: the sizes that were accepted last, by block name; a search starts from twice
        that.
    :param directions: message - natural of the last step, by block name.
    :param residual: half the squared lengths of these, in nats; of steps on draws alone.
    """

    step_sizes: dict[str, float] = field(default_factory=dict)
    directions: dict[str, Natural] = field(default_factory=dict)
    residual: float = math.inf

    def secant(self, block: Block, natural: Natural, direction: Natural) -> float:
        """The step size at which the last direction would have become 0; 1 if it is longer.

        With ``d_new = (1 - rho h) d_old`` along the direction, the best size is ``1 / h`` (Barzilai
        & Borwein 1988): an iteration that overshoots while noise hides the fall of the ELBO is
        damped. The new direction is kept for the next step.
        """
        old = self.directions.get(block.name)
        self.directions[block.name] = direction
        if old is None or [t.shape for t in old] != [t.shape for t in direction]:
            return 1.0
        squared, cross = metric_products(block.family, natural, old, direction)
        share = cross / squared if squared > 0 else 0.0
        if share >= 0 or not math.isfinite(share):
            return 1.0
        return max(LEAST_SECANT, self.step_sizes.get(block.name, 1.0) / (1.0 - share))

    def state(self) -> dict[str, Any]:
        """What a step leaves, to be saved."""
        directions = {name: [t.clone() for t in d] for name, d in self.directions.items()}
        return {
            "step_sizes": dict(self.step_sizes),
            "directions": directions,
            "residual": self.residual,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self.step_sizes = dict(state["step_sizes"])
        self.directions = {name: tuple(d) for name, d in state["directions"].items()}
        self.residual = float(state["residual"])


def sweep(
    objective: SweptObjective,
    naturals: Naturals,
    first: Mapping[Block, Natural],
    entry: Evaluation,
    step_size: float | None,
    safety: Safety,
    memory: SweepMemory,
) -> dict[Block, Natural]:
    """Update every block in turn, each from the others' newest values.

    Discrete latents have their posterior at the entry (variational Bayes EM): the ELBO given that
    is a bound from below that is equal to the ELBO there.

    :param first: messages at the entry; the first block uses its own.
    :param entry: the ELBO there.
    :param step_size: rho, or None for the largest one that does not let the ELBO fall.
    :raises ImproperPosteriorError: if conjugate messages do not sum to a proper distribution.
    """
    with objective.given_discrete(naturals):
        return _in_turn(objective, naturals, first, entry, step_size, safety, memory)


def _in_turn(
    objective: SweptObjective,
    naturals: Naturals,
    first: Mapping[Block, Natural],
    entry: Evaluation,
    step_size: float | None,
    safety: Safety,
    memory: SweepMemory,
) -> dict[Block, Natural]:
    """A sweep, whatever of the objective is held fixed in it."""
    current = dict(naturals)
    estimated = not objective.is_exact
    residual = 0.0
    alone = entry if len(objective.blocks) == 1 else None
    for i, block in enumerate(objective.blocks):
        message, before = (first[block], alone) if i == 0 else message_to(objective, current, block)
        own = math.inf
        if estimated:
            direction = minus(message, current[block])
            own = 0.5 * host.number(squared_norm(block.family, current[block], direction))
            residual += own
        if objective.is_conjugate_in(block):
            current[block] = _conjugate_step(
                block, current[block], message, step_size or 1.0, safety
            )
        elif step_size is None or _needs_damping(objective, block):
            growth = GROWTH if estimated else 2.0
            start = min(1.0, growth * memory.step_sizes.get(block.name, 1.0))
            if estimated:
                secant = memory.secant(block, current[block], minus(message, current[block]))
                start = min(start, secant)
            limit = start if step_size is None else min(start, step_size)
            current[block] = searched_step(
                objective, current, block, message, before, limit, safety, memory, own <= CLOSE
            )
        elif _is_at_mean(objective):
            current[block] = _newton_step(block, current[block], message, step_size)
        else:
            proposal = safe_step(block.family, current[block], message, step_size, safety)
            current[block] = current[block] if proposal is None else proposal
    memory.residual = residual if estimated else math.inf
    return current


def message_to(
    objective: SweptObjective, current: Naturals, block: Block
) -> tuple[Natural, Evaluation | None]:
    """The message to a block, and the terms of the ELBO that touch it if a search needs them."""
    if objective.is_conjugate_in(block):
        return objective.messages(current, block)[block], None
    return objective.message_and_value(current, block)


def _is_at_mean(objective: Objective) -> bool:
    """Whether the ELBO is the log density at the mean (the delta method)."""
    return bool(getattr(objective, "is_at_mean", False))


def _needs_damping(objective: Objective, block: Block) -> bool:
    """Whether elements inside a block are coupled, so that rho = 1 for all at once diverges."""
    coupled = getattr(objective, "is_coupled_in", None)
    return bool(coupled and coupled(block))


def _conjugate_step(
    block: Block, natural: Natural, message: Natural, rho: float, safety: Safety
) -> Natural:
    """The exact coordinate update: no trust region is needed, from anywhere."""
    proposal = plain(natural, message, rho)
    if inside(block.family, proposal):
        return proposal
    raise improper(block)


def _newton_step(block: Block, natural: Natural, message: Natural, rho: float) -> Natural:
    """A step at the mean whose size was asked for: Newton's at rho = 1.

    :raises SaddleError: where its precision would not be positive definite.
    """
    proposal = plain(natural, message, rho)
    if inside(block.family, proposal):
        return proposal
    raise errors.SaddleError(
        f"a step of size {rho:g} would leave {block.name!r} with a precision that is not positive "
        "definite: minus the Hessian of the log joint at its mean is not, so Newton's step would "
        'lead to a saddle or a minimum. Mend: step_size="auto", which keeps q proper and leaves '
        "saddles; or start nearer to the mode (init_loc_fn)."
    )


def improper(block: Block) -> errors.ImproperPosteriorError:
    """The error for messages outside the cone."""
    hidden = " Where obs_mask made it, mask the data instead: poutine.mask(mask=obs_mask)."
    return errors.ImproperPosteriorError(
        f"the messages to {block.name!r} do not sum to a proper {block.family.name}: the "
        "posterior of this latent is improper given the others. Mend: give it a proper prior, or "
        "more data; check the sign and the scale of every pyro.factor."
        + (hidden if "_unobserved" in block.name else "")
    )


def searched_step(
    objective: Objective,
    current: dict[Block, Natural],
    block: Block,
    message: Natural,
    before: Evaluation | None,
    rho: float,
    safety: Safety,
    memory: SweepMemory,
    close: bool = False,
) -> Natural:
    """The largest halved step that stays inside the cone and does not let the ELBO fall.

    :param before: the ELBO at the current state, or the terms that touch the block, if known.
    :param close: whether the step is so short that draws may not tell a fall from noise.
    """
    natural = current[block]
    before = objective.value(current, block) if before is None else before
    step = steps_towards(block.family, natural, message)
    for _ in range(MAX_HALVINGS):
        for proposal, retracted in _proposals(block, natural, message, rho, step):
            after = objective.value({**current, block: proposal}, before.touching)
            if has_not_fallen(before, after, CLOSE if close else 0.0):
                safety.retractions += retracted
                memory.step_sizes[block.name] = rho
                return proposal
        rho *= 0.5
        safety.halvings += 1
    safety.refused += 1
    memory.step_sizes[block.name] = 1.0
    return natural


def has_not_fallen(before: Elbo, after: Elbo, allowed: float = 0.0) -> bool:
    """Whether the ELBO is as high as before, up to rounding and, on draws, their noise.

    An infinite one has fallen.

    :param allowed: nats that it may fall nevertheless.
    """
    slack = ROUNDING * max(before.magnitude, after.magnitude)
    slack += max(allowed, min(CLOSE, NOISE * after.noise_against(before)))
    return math.isfinite(slack) and after.elbo >= before.elbo - slack


def _proposals(
    block: Block, natural: Natural, message: Natural, rho: float, step: Steps
) -> list[tuple[Natural, int]]:
    """The plain step if it is inside the cone, else the retraction if that is."""
    proposal = step(rho)
    if inside(block.family, proposal):
        return [(proposal, 0)]
    if has_retraction(block.family):
        proposal = retract(block.family, natural, message, rho)
        if inside(block.family, proposal):
            return [(proposal, 1)]
    return []


def noisy_parallel(
    objective: Objective,
    naturals: Naturals,
    messages: Mapping[Block, Natural],
    entry: Evaluation,
    step_size: float,
    safety: Safety,
    trust: float,
) -> dict[Block, Natural]:
    """Update every block at once; by a longer step than noise allows if the ELBO agrees.

    :param entry: the ELBO of these data and draws, where the step begins.
    :param trust: as the share of the signal in the messages allows, at least :data:`TRUST`.
    :raises ImproperPosteriorError: if conjugate messages do not sum to a proper distribution.
    """
    if trust > TRUST:
        new = parallel(objective, naturals, messages, step_size, safety, trust)
        if has_not_fallen(entry, objective.value({**naturals, **new})):
            return new
    return parallel(objective, naturals, messages, step_size, safety, TRUST)


def parallel(
    objective: Objective,
    naturals: Naturals,
    messages: Mapping[Block, Natural],
    step_size: float,
    safety: Safety,
    trust: float | None,
) -> dict[Block, Natural]:
    """Update every block that has a message at once, from messages at the same point.

    A block with a noisy message that is not conjugate stays in its trust region; conjugate messages
    are inside the cone, from anywhere.

    :param trust: the longest step in nats on messages of draws or of some of the data; None where
        they have no noise.
    :raises ImproperPosteriorError: if conjugate messages do not sum to a proper distribution.
    """
    result = dict(naturals)
    for block, message in messages.items():
        is_conjugate = objective.is_conjugate_in(block)
        arguments = block.family, naturals[block], message, step_size, safety
        if trust is None and _is_at_mean(objective):
            result[block] = _newton_step(block, *arguments[1:4])
            continue
        is_bounded = trust is not None and not is_conjugate
        proposal = noisy_step(*arguments, trust or TRUST) if is_bounded else safe_step(*arguments)
        if proposal is None and is_conjugate:
            raise improper(block)
        result[block] = naturals[block] if proposal is None else proposal
    return result

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Local latents come to their own optimum before the global ones move (arXiv 1206.7051).

In a subsampled plate a step sees a few rows, each perhaps for the first time in an epoch. The
messages of the rows to the global latents say something only where the rows' own q is the optimum
for the present global q; taken at the rows' start they would be noise of the same size as the
message, and biased. On all data the proportions that each row has to itself do so too, nearly: see
``Energy.row_proportions``. Steps of a size that was asked for go to all digits: ``fixed_point``.
"""

from ..families import Natural
from .cone import Safety, inside
from .objective import Block, Evaluation, Naturals, SweptObjective
from .sweep import SweepMemory, improper, message_to, searched_step

#: Rounds over local blocks that depend on each other, or that search. Each cuts the distance to the
#: optimum at least by the local blocks' coupling: at 0.5 twenty rounds are a factor of 1e-6.
ROUNDS = 20

#: Nats that a round gains for each number of the rows, at which they are at their optimum: the
#: error of their messages is of the order of its root, 1e-3, and minibatches are noisier. A nat is
#: the same however the model is spelled; a share of the ELBO is not, which changes with the data's
#: units.
GAIN = 5e-7

#: The same for the proportions of rows on all data. Each further sweep brings them nearer: what
#: counts is that they have decided between alike and apart, which gains most.
NEARLY = 3e-4

#: The same where what is left is about rounding: a number has some nats, of 1e-16 each.
FULLY = 1e-14


def settle(
    objective: SweptObjective,
    naturals: Naturals,
    local: tuple[Block, ...],
    safety: Safety,
    memory: SweepMemory,
    gain: float = GAIN,
) -> dict[Block, Natural]:
    """Natural parameters with the rows of local blocks at their optimum given all others.

    A conjugate block takes its message as it is; any other searches, as in a sweep, so the ELBO of
    the objective does not fall.

    :param local: blocks whose part of the ELBO is deterministic.
    :param gain: of a round for each number of theirs, in nats, at which they are near enough; in
        the ELBO of a minibatch, as in this count, the rows that are seen stand for all.
    :raises ImproperPosteriorError: if conjugate messages do not sum to a proper distribution.
    """
    current = dict(naturals)
    enough = gain * sum(naturals[b][0].numel() for b in local)
    at_once = len(local) == 1 and objective.is_linear_in(local[0])
    before: Evaluation | None = None
    for _ in range(1 if at_once else ROUNDS):
        for block in local:
            current[block] = _step(objective, current, block, safety, memory)
        if at_once:
            break
        after = objective.value(current)
        if before is not None and after.elbo - before.elbo <= enough:
            break
        before = after
    return current


def _step(
    objective: SweptObjective,
    current: dict[Block, Natural],
    block: Block,
    safety: Safety,
    memory: SweepMemory,
) -> Natural:
    message, before = message_to(objective, current, block)
    if not objective.is_conjugate_in(block):
        rho = min(1.0, 2 * memory.step_sizes.get(block.name, 1.0))
        return searched_step(objective, current, block, message, before, rho, safety, memory)
    if not inside(block.family, message):
        raise improper(block)
    return message

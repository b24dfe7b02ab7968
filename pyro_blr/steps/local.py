# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Local latents come to their own optimum before the global ones move (arXiv 1206.7051).

In a subsampled plate a step sees a few rows, each perhaps for the first time in an epoch. The
messages of the rows to the global latents say something only where the rows' own q is the optimum
for the present global q; taken at the rows' start they would be noise of the same size as the
message, and biased.
"""

from ..families import Natural
from .cone import Safety, inside
from .objective import Block, Evaluation, Naturals, Objective
from .sweep import SweepMemory, improper, searched_step

#: Rounds over local blocks that depend on each other, or that search. Each cuts the distance to the
#: optimum at least by the local blocks' coupling: at 0.5 twenty rounds are a factor of 1e-6.
ROUNDS = 20

#: The gain of a round, as a share of the ELBO's magnitude, at which the rows are at their optimum:
#: the error of their messages is of the order of its root, 1e-4, and minibatches are noisier.
GAIN = 1e-8


def settle(
    objective: Objective,
    naturals: Naturals,
    local: tuple[Block, ...],
    safety: Safety,
    memory: SweepMemory,
    gain: float = GAIN,
) -> dict[Block, Natural]:
    """Natural parameters with the rows of local blocks at their optimum given all others.

    A conjugate block takes its message as it is; any other searches, as in a sweep, so the ELBO of
    the minibatch does not fall.

    :param local: blocks whose part of the ELBO is deterministic.
    :param gain: of a round, as a share of the ELBO's magnitude, at which they are at their optimum.
    :raises ImproperPosteriorError: if conjugate messages do not sum to a proper distribution.
    """
    current = dict(naturals)
    at_once = len(local) == 1 and objective.is_linear_in(local[0])
    before: Evaluation | None = None
    for _ in range(1 if at_once else ROUNDS):
        for block in local:
            current[block] = _step(objective, current, block, safety, memory)
        if at_once:
            break
        after = objective.value(current)
        if before is not None and after.elbo - before.elbo <= gain * after.magnitude:
            break
        before = after
    return current


def _step(
    objective: Objective,
    current: dict[Block, Natural],
    block: Block,
    safety: Safety,
    memory: SweepMemory,
) -> Natural:
    message = objective.messages(current, block)[block]
    if not objective.is_conjugate_in(block):
        rho = min(1.0, 2 * memory.step_sizes.get(block.name, 1.0))
        return searched_step(objective, current, block, message, None, rho, safety, memory)
    if not inside(block.family, message):
        raise improper(block)
    return message

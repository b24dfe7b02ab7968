# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How far a noisy fit is from its optimum, by products of independent estimates."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from .families import Natural
from .joint_objective import JointObjective
from .lifting.blocks import Block
from .objective import Call, EnergyObjective, Naturals
from .steps.certificate import Curvature, independent_decrements
from .steps.cone import metric_products, minus

#: Independent pairs for the sampled residual: enough for a standard error.
PAIRS = 4

#: Traces whose graph is held for a mean Hessian; beyond, its noise hardly matters.
MOST_TRACES = 16

#: The residual of noisy steps is estimated from one message for so many steps, and again after this
#: many times as many: the checks then cost half as much as the steps, and as the error of a product
#: of means falls like 1 / messages, as fast as the residual of an average itself, the rule ends.
SHARE, CHECKED_AGAIN = 40, 1.25


def sampled_residual(blr: Any, naturals: Any, call: Call, count: int) -> tuple[float, float]:
    """The gap in nats at a state from independent estimates; its standard error.

    Each estimate is a mean of messages; between two of them stands the mean Hessian of some more
    traces. Where latents belong to the rows of a subsample the Hessian is not known for all of them
    at once, and the metric stands in its place: ``d1' F d2 / 2``.

    :param count: of messages, each of a trace of its own, in each estimate.
    """
    estimates = [_mean_messages(blr, naturals, call, count) for _ in range(PAIRS)]
    traces = [blr._objective(*call)]
    energy = traces[0].energy
    has_rows = any(energy.rows(b) is not None for b in energy.blocks)
    if has_rows or energy.points or any(b.family.is_curved for b in energy.blocks):
        return _mean_product(naturals, estimates)
    while len(traces) < min(MOST_TRACES, max(PAIRS, count)):
        traces.append(blr._objective(*call))
    mean = _Mean(traces)
    curvature = Curvature(mean, naturals)
    gradients = [curvature.gradient_of(_Mean(traces, messages)) for messages in estimates]
    products = independent_decrements(curvature, gradients)
    return (math.inf, 0.0) if products is None else _mean_and_spread(products)


def _mean_messages(blr: Any, naturals: Any, call: Call, count: int) -> dict[Block, Natural]:
    total = dict(blr._objective(*call).messages(naturals))
    for k in range(1, count):
        more = blr._objective(*call).messages(naturals)
        for block, mean in total.items():
            pairs = zip(mean, more[block], strict=True)
            total[block] = tuple(a + (m - a) / (k + 1) for a, m in pairs)
    return total


class _Mean:
    """The mean of some estimates of the ELBO, as an objective.

    :param messages: known ones; those of the first estimate if left out.
    """

    is_exact = False

    def __init__(
        self, parts: Sequence[EnergyObjective], messages: dict[Block, Natural] | None = None
    ) -> None:
        self.parts = parts
        self.known = messages

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of q."""
        return self.parts[0].blocks

    def count_gradients(self, times: int) -> None:
        """Count so many gradients of each estimate."""
        for part in self.parts:
            part.count_gradients(times)

    def value(self, naturals: Naturals, touching: Block | None = None) -> Any:
        """The first estimate."""
        return self.parts[0].value(naturals, touching)

    def messages(self, naturals: Naturals, only: Block | None = None) -> dict[Block, Natural]:
        """The messages that are known."""
        return self.known or self.parts[0].messages(naturals, only)

    def is_linear_in(self, block: Block) -> bool:
        """Whether each estimate is linear in a block."""
        return self.parts[0].is_linear_in(block)

    def is_conjugate_in(self, block: Block) -> bool:
        """Whether each estimate's message is the exact update of a block."""
        return self.parts[0].is_conjugate_in(block)

    def negative_elbo(self, naturals: Naturals) -> Tensor:
        """The mean of -ELBO."""
        return torch.stack([part.negative_elbo(naturals) for part in self.parts]).mean()


def curvature_of(blr: Any, objective: EnergyObjective) -> Curvature:
    """That of -ELBO in q and the points, where they are."""
    joint = JointObjective(objective, blr.state(objective))
    return Curvature(joint, joint.naturals)


def independent_gap(
    blr: Any, objective: EnergyObjective, curvature: Curvature | None
) -> tuple[float, float]:
    """The Newton decrement of the true ELBO, from independent draws, and its standard error.

    The expectation of a product of independent estimates of the gradient has no noise in it. The
    Hessian between them is that on the common draws: the metric alone would measure the next step,
    which is short of the optimum by far where blocks are coupled. Infinite where the Hessian is not
    positive definite.

    :param curvature: on the common draws; None for curved families, whose coordinates say some
        things twice, so that their Hessian on draws has a sign by chance: the metric's is taken.
    """
    if curvature is None:
        naturals = {b: tuple(t.detach() for t in n) for b, n in blr.view.naturals().items()}
        several = [
            objective.with_draws(blr.sampling.fresh(objective.energy.latents)) for _ in range(PAIRS)
        ]
        return _mean_product(naturals, [o.messages(naturals) for o in several])
    joint, gradients = curvature.objective, []
    assert isinstance(joint, JointObjective)
    if blr.fresh_messages is not None:  # that said how large the error of the draws is
        known: Any = _Mean([objective], blr.fresh_messages)
        gradients.append(curvature.gradient_of(joint.on(known)))
    while len(gradients) < PAIRS:
        fresh = objective.with_draws(blr.sampling.fresh(objective.energy.latents))
        gradients.append(curvature.gradient_of(joint.on(fresh)))
    products = independent_decrements(curvature, gradients)
    return (math.inf, 0.0) if products is None else _mean_and_spread(products)


def _mean_product(naturals: Any, estimates: list[Any]) -> tuple[float, float]:
    """The mean of ``d1' F d2 / 2`` over pairs of independent estimates, and its standard error."""
    pairs = list(combinations(estimates, 2))
    return _mean_and_spread([_residual_product(naturals, *pair) for pair in pairs])


def _mean_and_spread(products: list[float]) -> tuple[float, float]:
    """The mean of products of PAIRS estimates, and its standard error."""
    mean = sum(products) / len(products)
    spread = math.sqrt(sum((p - mean) ** 2 for p in products) / (len(products) - 1))
    return mean, spread / math.sqrt(PAIRS)


def _residual_product(naturals: Any, first: Any, second: Any) -> float:
    """``d1' F d2 / 2``, summed over blocks."""
    total = 0.0
    for block, natural in naturals.items():
        d1, d2 = minus(natural, first[block]), minus(natural, second[block])
        total += 0.5 * metric_products(block.family, natural, d1, d2)[1]
    return total

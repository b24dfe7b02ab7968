# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Factors of discrete latents that q holds, by quadrature at each of their values.

The expectation is ``sum_k q(z_1 = k_1) ... q(z_m = k_m) E[log p(k_1, ..., k_m)]``.
"""

from dataclasses import dataclass

from .. import errors
from ..lifting.blocks import Block
from ..lifting.mends import mend_of
from ..lifting.plan import Plan
from ..lifting.tensor import LiftedTensor
from .draws import Draws
from .eliminated import QuadraturePart
from .factors import Factor, MomentsMap, Summed, Value


@dataclass(eq=False)
class WeightedFactor(Factor):
    """Expected log densities at each joint value of discrete elements, under their probabilities.

    :param weights: the probabilities. # shape: (K_1, ..., K_m, *site)
    :param part: the expected log densities. # shape: that of the weights, or one that broadcasts
    :param summed: mask, sum and scale.
    """

    weights: Plan
    part: QuadraturePart
    summed: Summed

    tier = "quadrature"

    @property
    def error(self) -> float:  # type: ignore[override]
        """The quadrature's error in nats an element."""
        return self.part.error

    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        value = self.weights.values(moments) * self.part.raw(moments)
        depth = value.dim() - self.summed.node.dim()
        return self.summed(value.sum(tuple(range(depth))) if depth else value)

    def is_linear_in(self, block: Block) -> bool:
        return block not in self.part.blocks and self.weights.is_linear_in(block)

    def couples(self, block: Block) -> bool:
        return self.weights.couples(block)


def no_expectation(site: str, node: LiftedTensor, reason: str) -> errors.DiscreteLatentError:
    """The error for a log density of discrete latents that q holds, without an expectation."""
    names = ", ".join(repr(s.name) for s in node.sites if s.is_discrete)
    mend = mend_of(reason)
    return errors.DiscreteLatentError(
        f"the log density of site {site!r} has no deterministic expectation under a factorised q "
        f"of {names}: {reason.rstrip('.')}. Draws say nothing of the gradient in the probabilities "
        "of a discrete latent. Mend: let each element depend on few elements of discrete latents, "
        "by operations that broadcast (`B[z[src], z[dst]]`), and given these be exact or by "
        'quadrature; or leave out discrete="factorised", so that they are summed out.'
        + (f" A spelling that is: {mend}." if mend else "")
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A value of the ELBO: what messages need at once, the rest when it is asked for."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from ..lifting import host
from ..lifting.blocks import Block
from ..lifting.moments import Moments


@dataclass(frozen=True, eq=False)
class Value:
    """A value of the ELBO, or of the terms of it that touch a block.

    What a message does not need, the entropy and the magnitude, is computed when it is asked for.

    :param expected_log_joint: differentiable in the moments' leaves; messages are taken from it.
    :param sizes: the sum of the absolute terms of each factor, or how to compute it.
    :param each: the sum of the sampled factors at each draw; None if there is none.
    :param touching: the block whose terms these are; None if it is the whole ELBO.
    """

    expected_log_joint: Tensor
    sizes: Sequence[Tensor | Callable[[], Tensor]]
    moments: Mapping[Block, Moments]
    entropy_of: Callable[[], Tensor]
    each: Tensor | None = None
    touching: Block | None = None

    def without_graph(self) -> "Value":
        """The same number, of which no message can be taken: what it was computed from may go."""
        return replace(self, expected_log_joint=self.expected_log_joint.detach())

    @cached_property
    def entropy(self) -> Tensor:
        """The entropy of q, or of the block that the terms touch, in nats."""
        return self.entropy_of()

    @cached_property
    def _numbers(self) -> tuple[float, float]:
        """The ELBO and its magnitude, by one wait for the device."""
        terms = [size if isinstance(size, Tensor) else size() for size in self.sizes]
        elbo, magnitude = host.numbers([self._elbo, sum(terms, start=self.entropy.detach().abs())])
        return elbo, magnitude

    @property
    def _elbo(self) -> Tensor:
        return (self.expected_log_joint + self.entropy).detach()

    @property
    def magnitude(self) -> float:
        """The sum of the absolute terms; ``64 eps`` times it bounds the rounding error."""
        return self._numbers[1]

    @cached_property
    def elbo(self) -> float:
        """In nats, a float (this waits for the device)."""
        known = "_numbers" in self.__dict__
        return self._numbers[0] if known else host.number(self._elbo)

    def noise_against(self, other: "Value") -> float:
        """The standard error of the difference from another value on the same draws, in nats.

        Antithetic twins count as one draw, as their errors go against each other.
        """
        if self.each is None or other.each is None or len(self.each) < 4:
            return 0.0
        difference = self.each - other.each
        pairs = len(difference) // 2
        pooled = 0.5 * (difference[:pairs] + difference[pairs : 2 * pairs])
        return host.number(pooled.std()) / math.sqrt(pairs)

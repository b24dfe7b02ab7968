# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What evaluations of an ELBO took."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..estimators.hessians import EXACT
from ..lifting.blocks import Block


@dataclass
class Work:
    """What evaluations took.

    :param gradients: gradients of the log joint, at every draw of a sampled factor; a column of
        Hessians counts as one, a Hessian-vector product as two.
    """

    gradients: int = 0

    def add_messages(self, draws: int, gaussians: Iterable[Block]) -> None:
        """Count the gradients that messages take: one at each draw, and Hessians.

        :param gaussians: the blocks of which there are Hessians.
        """
        self.gradients += draws * (1 + sum(map(_columns, gaussians)))


def _columns(block: Block) -> int:
    """The columns of Hessians that its message takes."""
    return block.numel if block.numel <= EXACT else block.event_size or 1

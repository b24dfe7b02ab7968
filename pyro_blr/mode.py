# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where factors are at the mean of q: how far the mean is from the mode, and the way there."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .families import FixedScaleNormal, Natural
from .lifting import constants
from .lifting.blocks import Block
from .lifting.points import statistics_of
from .objective import EnergyObjective, Naturals
from .steps.cone import Safety
from .steps.gaussian_means import precision_times
from .steps.hessian import gradient_graph
from .steps.line_search import descend
from .steps.newton import UNSOLVED, NewtonStep, newton_step
from .steps.settled import WORTH, Surroundings, surroundings
from .steps.sweep import ROUNDING

#: Why there is no mode of minibatches.
AT_MEAN_OF_A_PART = (
    "not certified: steps at the mean saw a part of the data. Mend: fit on all rows, from here"
)


#: The mend where the log density has a direction that leads to no mode.
MEND = (
    "give what the data do not determine a prior, or take out a latent that is redundant; or start "
    "elsewhere (init_loc_fn); or leave out estimator, as the optimum of the ELBO needs no mode"
)

#: Where each further step would be refused as the last one was.
NO_STEP = (
    "not certified: a factor's derivatives at q are NaN or infinite, where its value is finite, "
    "and no block can move. Mend: write the model without a root or a logarithm of 0 there; and if "
    f"its density has no upper bound (the loss fell and fell), {MEND}"
)

#: Beside the certificate of a mode without a width.
WITHOUT_WIDTH = (
    "its Hessian has no limit other than 0 or infinity there, so that q's width says nothing"
)


@dataclass
class Mode:
    """The log density about the mean.

    :param leaves: the means of all blocks.
    :param newton: Newton's step over them, whose gap certifies the mode.
    """

    objective: EnergyObjective
    naturals: Naturals
    leaves: Mapping[Block, Tensor]
    newton: NewtonStep

    @classmethod
    def about(cls, objective: EnergyObjective, naturals: Naturals, tol: float, seed: int) -> "Mode":
        """The quadratic model of the log density at the means.

        :param tol: the gap from which on a saddle is looked for.
        """
        leaves = {}
        for block, natural in naturals.items():
            dtype = min(
                (objective.energy.latents[s.name].dtype for s in block.sites),
                key=lambda d: torch.finfo(d).bits,
            )
            mean = statistics_of(block, natural).leaves[0].detach().to(dtype)
            leaves[block] = mean.requires_grad_()
        loss = _loss_at(objective, leaves)
        return cls(objective, naturals, leaves, newton_step(loss, list(leaves.values()), tol, seed))

    @cached_property
    def surroundings(self) -> Surroundings:
        """Whether this is taken for a mode, and whether the Hessian has a limit there."""
        return surroundings(self.newton, self._further)

    @contextmanager
    def _further(self, shift: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        leaves = self._away(shift)
        yield self._graph(leaves), leaves

    def _away(self, shift: Sequence[Tensor]) -> list[Tensor]:
        pairs = zip(self.leaves.values(), shift, strict=True)
        return [(leaf + d).detach().to(leaf.dtype).requires_grad_() for leaf, d in pairs]

    def _graph(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        named = dict(zip(self.leaves, leaves, strict=True))
        return gradient_graph(_loss_at(self.objective, named), leaves)

    @property
    def gap(self) -> float:
        """The Newton decrement in nats; infinite where the Hessian is not positive definite."""
        return math.inf if self.newton.gap is None else self.newton.gap

    @property
    def is_stuck(self) -> bool:
        """Whether the Hessian is not positive definite, by which a further step would not help."""
        return self.newton.gap is None and self.newton.reason != UNSOLVED

    def is_flat(self, tol: float) -> bool:
        """Whether the Hessian goes on falling, or rising, at the mode: q's width has no limit."""
        return self.gap <= WORTH * tol and self.surroundings.varies

    @property
    def in_words(self) -> str:
        """How near the mode is."""
        return f"the log density at the mean is within {self.gap:.1e} nats of a mode"

    @property
    def uncertified(self) -> str:
        """Why there is no certificate, where no step leads further up."""
        if self.newton.gap is not None:
            return (
                f"{self.in_words}, and no step raises it by more than rounding. Mend: a larger "
                "tol, or float64"
            )
        return f"not certified: {self.newton.reason}. Mend: {MEND}"

    @property
    def on_the_way(self) -> str:
        """How far it is, where steps lead further up."""
        if self.newton.gap is not None:
            return f"{self.in_words}, by its quadratic model. Mend: call fit again, which goes on"
        return (
            f"not certified: {self.newton.reason}, and the log density still rises. Mend: call fit "
            f"again, which goes on, while the loss has a bound; where it falls for ever there is "
            f"no mode: {MEND}"
        )

    def climbed(self) -> tuple[dict[Block, Natural], float] | None:
        """Where the log density is higher along Newton's step or along negative curvature, and by
        how much.
        """
        before = self.objective.value(self.naturals)
        slack = ROUNDING * before.magnitude
        lowest, best = -before.elbo - slack, None
        for direction in self._directions():

            def loss(size: float, along: Sequence[Tensor] = direction) -> float:
                return -self.objective.value(self._moved(along, size)).elbo

            found = descend(loss, -before.elbo, 0.0, Safety())
            if found is not None and found[1] < lowest:
                lowest, best = found[1], self._moved(direction, found[0])
        return None if best is None else (best, -before.elbo - lowest)

    def _directions(self) -> Iterator[Sequence[Tensor]]:
        yield self.newton.direction
        if self.newton.negative is not None:
            yield self.newton.negative
            yield [-d for d in self.newton.negative]

    def _moved(self, direction: Sequence[Tensor], size: float) -> dict[Block, Natural]:
        pairs = zip(self.naturals.items(), direction, strict=True)
        return {b: with_shift(b, n, size * d.to(n[0].dtype)) for (b, n), d in pairs}


def _loss_at(objective: EnergyObjective, leaves: Mapping[Block, Tensor]) -> Tensor:
    """Minus the log density at the means."""
    with constants.using(objective.cache):
        return -objective.energy.log_density_at(leaves)


def with_shift(block: Block, natural: Natural, shift: Tensor) -> Natural:
    """A Gaussian with another mean and the same width.

    :param shift: of the mean. # shape: that of the first natural parameter
    """
    if isinstance(block.family, FixedScaleNormal):
        return (natural[0] + shift / block.family.variance,)
    return natural[0] + precision_times(block.family, natural, shift), natural[1]

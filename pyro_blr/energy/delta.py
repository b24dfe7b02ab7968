# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Factors at the mean of q: the delta method, ``E_q[f(z)] ~ f(E_q[z])``.

Bonnet's and Price's derivatives are then the gradient and the Hessian at the mean, so that a step
of a Gaussian is Newton's, and its end the mode with the Hessian there for a precision: Laplace's
approximation (arXiv 2107.04562, Table 1). Nothing is said of the width of q but by that Hessian, so
the objective is the log joint density at the mean alone, without an entropy.
"""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GuideError
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block
from ..lifting.chain_blocks import ChainBlock
from ..lifting.moments import GaussianMoments, Moments
from .at_prior import NoiseBlock
from .draws import Drawn, Draws
from .factors import Factor, MomentsMap, Value
from .latents import Latents
from .sampled import SampledFactor, estimate, values_at

#: What ``explain`` says of each factor.
REASON = 'at the mean of q, as estimator="delta" asks: gradient and Hessian there'


class MeanDraws(Draws):
    """One draw without noise: the mean."""

    def __init__(self, latents: Latents) -> None:
        super().__init__(latents, 1, 0)

    def of_blocks(self, moments: Mapping[Block, Moments], wanted: Container[Block]) -> Drawn:
        """The means. # shape of each: (1, *block), with rows that share a covariance as one dim

        Nothing is asked of the covariance: where the log density has no upper bound, precisions
        grow until its root cannot be had in floating point.
        """
        drawn: Drawn = {}
        for block, own in moments.items():
            if block in wanted and isinstance(own, GaussianMoments):  # else a point
                drawn[block] = own.leaves[0].unsqueeze(0)
        return drawn


@dataclass(eq=False)
class DeltaFactor(Factor):
    """A log density at the mean of q.

    :param program: it as a function of one draw.
    """

    program: SampledFactor
    latents: Latents

    tier = "delta"
    #: There is no bound of it.
    error = math.nan

    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        return evaluated([self], moments, self.latents, touching)


def at_mean(factor: Factor, latents: Latents) -> Factor:
    """A sampled factor at the mean; any other is without latents, and stays.

    :raises GuideError: for a block of q that is no Gaussian with its own covariance.
    """
    if not isinstance(factor, SampledFactor):
        return factor
    for block in factor.blocks:
        _check(block)
    reason = REASON
    if factor.jumps:
        listed = ", ".join(f"`{j}`" for j in factor.jumps)
        reason += f"; {listed} may jump, which the gradient does not see"
        factor.jumps = ()
    return DeltaFactor(factor.name, factor.blocks, reason, factor, latents)


def _check(block: Block) -> None:
    if isinstance(block, NoiseBlock):
        raise GuideError(
            f'estimator="delta" takes all latents to one mode, and {block.name!r} stays at '
            "its prior given the others. Mend: leave it out of at_prior; or leave out estimator."
        )
    structured = isinstance(block, ArrowBlock | ChainBlock) or block.family.is_curved
    if block.gaussian and not structured:
        return
    raise GuideError(
        f'estimator="delta" takes the Hessian at the mean of a Gaussian for its precision, and the '
        f"guide holds {block.name!r} as a {block.family.name}. Mend: "
        "AutoNaturalMultivariateNormal(model, structure='dense'), or AutoNaturalNormal(model) for "
        "the Hessian's diagonal."
    )


def evaluated(
    factors: Sequence[DeltaFactor],
    moments: MomentsMap,
    latents: Latents,
    touching: Block | None,
) -> Value:
    """The sum of factors at the mean, differentiable in the moments' leaves."""
    found = estimate([f.program for f in factors], moments, MeanDraws(latents), touching)
    # A magnitude is in roundings of float64, and the programs run in the latents' dtype.
    eps = max(torch.finfo(latent.dtype).eps for latent in latents.values())
    return found.value, found.magnitude * (eps / torch.finfo(torch.float64).eps)


def log_density_at(
    factors: Iterable[Factor], latents: Latents, means: Mapping[Block, Tensor]
) -> Tensor:
    """The sum of all factors as a function of the blocks' means, twice differentiable.

    :param means: # shape of each: the block
    """
    total = torch.zeros((), dtype=torch.float64, device=next(iter(means.values())).device)
    programs = []
    for factor in factors:
        if isinstance(factor, DeltaFactor):
            programs.append(factor.program)
        else:
            total = total + factor.evaluate({}, None, None)[0].double()
    drawn = {b: mean.unsqueeze(0) for b, mean in means.items()}
    return total + values_at(programs, MeanDraws(latents), drawn).sum()

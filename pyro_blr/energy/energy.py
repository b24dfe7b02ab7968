# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""L(mean_params) = E_q[log p(x, z)] of an ordinary Pyro model, and the ELBO."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ..families import Natural
from ..lifting import host, operations, quadrature
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block
from ..lifting.expectation import Layout
from ..lifting.moments import Moments
from ..lifting.plan import zero_of
from ..lifting.points import PointBlock, statistics_of
from .at_draws import AtDraws
from .at_prior import block_of, natural_of
from .build import build_factors
from .delta import DeltaFactor, at_mean, evaluated, log_density_at
from .draws import Draws
from .eliminated import EliminatedFactor
from .factors import ConstantFactor, ExactFactor, Factor, KeptRule
from .latents import Latents
from .non_finite import culprit, non_finite
from .parts import WHOLE
from .points import packed
from .quadratures import quadratures, with_rules, without_rules
from .sampled import SampledFactor, estimate
from .subsamples import times_held
from .traced import Traced
from .value import Value
from .work import Work

Naturals = Mapping[Block, Natural]

assert operations  # importing it enters the torch operations into the table


class Energy:
    """The expected log joint of one traced call of the model.

    :param traced: the run of the model.
    :param latents: those of q, and the noise of those at their prior.
    :param layout: the block of each site.
    :param points: the blocks of the parameters that were lifted.
    :param estimator: of sampled factors' messages.
    :param discrete: how discrete latents are summed out.
    """

    def __init__(
        self,
        traced: Traced,
        latents: Latents,
        layout: Layout,
        points: Sequence[PointBlock] = (),
        estimator: str = "auto",
        discrete: str = "mean_field",
    ) -> None:
        self.estimator = estimator
        self.traced = traced
        #: Of latents at their prior: their noise, whose law nothing moves.
        self.noise: dict[Block, Natural] = {
            block_of(n): natural_of(n) for n in traced.noise.values()
        }
        self.latents = latents
        self.work = Work()
        held = {s.name: b for b in (*points, *self.noise) for s in b.sites}
        self.layout = {**layout, **held}
        self.blocks: tuple[Block, ...] = tuple(dict.fromkeys(layout.values()))
        #: The value of each point where the model was traced.
        self.points: dict[Block, Natural] = {b: (packed(b, traced),) for b in points}
        self.factors = build_factors(traced.sites, self.layout, estimator, discrete)
        if self.is_at_mean:
            self.factors = [at_mean(f, latents) for f in self.factors]
        #: The terms that are counted here, where the data are in parts.
        self.share = WHOLE
        #: The least that the sizes of sampled programs count as: those of the largest part.
        self.largest = 0, 0

    # The sum of the factors, and the entropy

    @property
    def counted(self) -> list[Factor]:
        """The factors that are counted here."""
        names = self.share.factors
        return self.factors if names is None else [f for f in self.factors if f.name in names]

    def moments(self, naturals: Naturals) -> dict[Block, Moments]:
        """The moments of every block and point, to be differentiated in their leaves.

        :param naturals: points that are not among them are where the model was traced.
        """
        known = {**self.points, **self.noise, **naturals}
        return {b: statistics_of(b, known[b]) for b in (*self.blocks, *self.points, *self.noise)}

    def evaluate(
        self,
        moments: Mapping[Block, Moments],
        draws: Draws | None = None,
        touching: Block | None = None,
    ) -> Value:
        """The ELBO at given moments.

        :param touching: leave out what does not depend on this block.
        """
        total = zero_of(moments)
        sizes: list[Tensor | Callable[[], Tensor]] = []
        counted = [f for f in self.counted if touching is None or touching in f.blocks]
        sampled = [f for f in counted if isinstance(f, SampledFactor)]
        at_means = [f for f in counted if isinstance(f, DeltaFactor)]
        for factor in counted:
            if isinstance(factor, SampledFactor | DeltaFactor):
                continue
            value, size = factor.evaluate(moments, draws, touching)
            total = total + value.double()
            sizes.append(size)
        each: Tensor | None = None
        if sampled:  # together, so that what they share of the program runs once
            assert draws is not None
            estimated = estimate(sampled, moments, draws, touching)
            total = total + estimated.value
            sizes.append(estimated.magnitude)
            each = estimated.each
        if at_means:
            value, size = evaluated(at_means, moments, self.latents, touching)
            total = total + value
            sizes.append(size)
        entropy = partial(self._entropy, moments, touching)
        return Value(total, sizes, moments, entropy, each, touching)

    def log_density_at(self, means: Mapping[Block, Tensor]) -> Tensor:
        """Where all factors are at the mean: their sum as a function of the blocks' means."""
        return log_density_at(self.factors, self.latents, means)

    def _entropy(self, moments: Mapping[Block, Moments], touching: Block | None = None) -> Tensor:
        """The entropy of q that is counted; of a subsampled plate's latent, its rows scaled up."""
        total = zero_of(moments)
        if self.is_at_mean:  # of which the log density knows nothing
            return total
        counted = self.share.entropies
        for block in self.blocks if touching is None else (touching,):
            if counted is not None and block.sites[0].name not in counted:
                continue
            own = moments[block]
            rows = self.rows(block)
            if rows is None:
                total = total + own.entropy()
            else:
                each = block.family.entropy(own.natural)
                total = total + (each * rows).sum() * self.local_scale(block)
        return total

    def check_finite(self, value: Value, draws: Draws | None) -> None:
        """Raise if the ELBO is not finite, naming the factor that made it so.

        :raises NonFiniteError: for data or constants that are NaN or infinite.
        """
        if value.elbo - value.elbo == 0:
            return
        for factor in self.counted:
            number, _ = factor.evaluate(value.moments, draws, None)
            if not host.truth(torch.isfinite(number)):
                raise non_finite(culprit(factor, value.moments), self.is_at_mean)
        raise non_finite(", ".join(b.name for b in self.blocks), self.is_at_mean)

    # The rows of subsampled plates

    @property
    def is_subsampled(self) -> bool:
        """Whether some factor is scaled up from a part of its plate."""
        return self.traced.is_subsampled

    def rows(self, block: Block) -> Tensor | None:
        """How often the subsample holds each batch element of a block; None if it is the whole.

        None also where the subsampled plate is no batch dim of the block: its messages are then
        those of a global block, right on the average over subsamples.
        """
        name = block.sites[0].name
        chosen, dims = self.traced.rows.get(name), block.placements[name].batch_dims
        local = set(chosen or ()) <= set(dims)
        if chosen is None or not local or isinstance(block, ArrowBlock):
            return None
        return times_held(chosen, dims, block.batch_shape, self.latents[name].device)

    @property
    def local_blocks(self) -> tuple[Block, ...]:
        """The blocks of which the subsample holds rows, if no sampled factor depends on them."""
        sampled = {b for f in self._sampled for b in f.blocks}
        return tuple(b for b in self.blocks if b not in sampled and self.rows(b) is not None)

    @property
    def row_proportions(self) -> tuple[Block, ...]:
        """The blocks of proportions that discrete latents have in each row by itself."""
        summed = [f for f in self.factors if isinstance(f, EliminatedFactor)]
        found = {b for f in summed for b in f.proportions}
        sampled = {b for f in self._sampled for b in f.blocks}
        others = {b for f in summed for b in f.blocks - f.proportions}
        return tuple(b for b in self.blocks if b in found - others - sampled)

    def local_scale(self, block: Block) -> float:
        """What the factors of a block in a subsampled plate are scaled by."""
        return self.traced.local_scale.get(block.sites[0].name, 1.0)

    # Rules of quadrature

    @property
    def needs_rules(self) -> bool:
        """Whether a factor is by quadrature."""
        return any(quadratures(f) for f in self.factors)

    def calibrate(
        self,
        naturals: Naturals,
        tolerance: float = quadrature.QUAD_TOL,
        kept: dict[str, KeptRule] | None = None,
    ) -> None:
        """Choose each quadrature factor's rule; those without a good one become sampled.

        :param kept: rules that were chosen a short way from here, by site.
        """
        moments = self.moments(naturals)
        for place, factor in enumerate(self.factors):
            self.factors[place] = with_rules(factor, moments, tolerance, kept, self.estimator)

    def give_up(self, names: Collection[str], why: str) -> None:
        """Replace factors by quadrature by ones at draws, by name, for a reason."""
        for place, factor in enumerate(self.factors):
            if factor.name in names:
                self.factors[place] = without_rules(factor, why, self.estimator)

    # Factors at draws of q

    @property
    def at_draws(self) -> AtDraws:
        """The factors at draws of q together."""
        return AtDraws(self._sampled, self.largest)

    @property
    def _sampled(self) -> list[SampledFactor]:
        return [f for f in self.factors if isinstance(f, SampledFactor)]

    @property
    def has_sampled(self) -> bool:
        """Whether some factor is at draws of q."""
        return bool(self._sampled)

    @property
    def is_in_parts(self) -> bool:
        """Whether no number of draws makes a graph that memory does not hold."""
        return not self.has_parameters and self.at_draws.are_in_parts

    def count(self, draws: Draws | None, blocks: Sequence[Block]) -> None:
        """Count the gradients that the messages to some blocks take."""
        kinds = SampledFactor | DeltaFactor
        sampled = {b for f in self.factors if isinstance(f, kinds) for b in f.blocks}
        gaussians = [b for b in blocks if b in sampled and b.gaussian]
        self.work.add_messages(1 if draws is None else draws.count, gaussians)

    # What all factors have in common

    @property
    def is_at_mean(self) -> bool:
        """Whether every factor is at the mean of q: the delta method."""
        return self.estimator == "delta"

    @property
    def is_deterministic(self) -> bool:
        """Whether no factor is sampled and no plate is subsampled."""
        return not self.has_sampled and not self.is_subsampled

    @property
    def has_parameters(self) -> bool:
        """Whether the model has a ``pyro.param`` that may move."""
        return any(p.is_free for p in self.traced.parameters.values())

    @property
    def has_constant_messages(self) -> bool:
        """Whether no message depends on q: every product has one mean parameter."""
        exact = [f for f in self.factors if isinstance(f, ExactFactor)]
        constant = [f for f in self.factors if isinstance(f, ConstantFactor)]
        if self.points or len(exact) + len(constant) < len(self.factors):
            return False
        return all(
            len(p.stats) < 2 and all(f.plan.is_linear_in(b) for b in p.blocks)
            for f in exact
            for p in f.plan.products
        )

    @property
    def are_points_conjugate(self) -> bool:
        """Whether every factor is exact, and conjugate in the statistics of each point."""
        return all(
            factor.tier == "exact" and factor.is_conjugate_in(point)
            for point in self.points
            for factor in self.factors
            if point in factor.blocks
        )

    def is_linear_in(self, block: Block) -> bool:
        """Whether every factor is linear in a block's mean parameters, given the others."""
        return all(f.is_linear_in(block) for f in self.factors if block in f.blocks)

    def is_conjugate_in(self, block: Block) -> bool:
        """Whether the sum of their messages is a block's exact coordinate update."""
        return all(f.is_conjugate_in(block) for f in self.factors if block in f.blocks)

    @property
    def numel(self) -> int:
        """The elements of the largest log density."""
        return max(math.prod(getattr(s.log_prob, "shape", ())) for s in self.traced.sites)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""L(mean_params) = E_q[log p(x, z)] of an ordinary Pyro model, and the ELBO."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import errors
from ..estimators.hessians import EXACT
from ..families import Natural
from ..lifting import host, operations, quadrature
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block
from ..lifting.expectation import Layout
from ..lifting.moments import Moments
from ..lifting.plan import zero_of
from ..lifting.points import PointBlock, statistics_of
from .build import build_factors, resample
from .curvature import GAUSS_NEWTON
from .draws import Draws
from .eliminated import EliminatedFactor, QuadraturePart
from .factors import ConstantFactor, ExactFactor, Factor, KeptRule, QuadratureFactor
from .latents import Latents
from .parts import WHOLE
from .points import packed
from .sampled import HELD_NUMBERS, SampledFactor, estimate
from .trace import Traced
from .value import Value
from .weighted import WeightedFactor, no_expectation

Naturals = Mapping[Block, Natural]

assert operations  # importing it enters the torch operations into the table


@dataclass
class Work:
    """What evaluations took.

    :param gradients: gradients of the log joint, at every draw of a sampled factor; a column of
        Hessians counts as one, a Hessian-vector product as two.
    """

    gradients: int = 0


class Energy:
    """The expected log joint of one traced call of the model.

    :param traced: the run of the model.
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
        self.latents = latents
        self.work = Work()
        self.layout = {**layout, **{s.name: b for b in points for s in b.sites}}
        self.blocks: tuple[Block, ...] = tuple(dict.fromkeys(layout.values()))
        #: The value of each point where the model was traced.
        self.points: dict[Block, Natural] = {b: (packed(b, traced),) for b in points}
        self.factors = build_factors(traced.sites, self.layout, estimator, discrete)
        #: The terms that are counted here, where the data are in parts.
        self.share = WHOLE
        #: The least that the sizes of sampled programs count as: those of the largest part.
        self.largest = 0, 0

    @property
    def counted(self) -> list[Factor]:
        """The factors that are counted here."""
        names = self.share.factors
        return self.factors if names is None else [f for f in self.factors if f.name in names]

    @property
    def is_deterministic(self) -> bool:
        """Whether no factor is sampled and no plate is subsampled."""
        return not self.has_sampled and not self.is_subsampled

    @property
    def has_sampled(self) -> bool:
        """Whether some factor is at draws of q."""
        return any(isinstance(f, SampledFactor) for f in self.factors)

    @property
    def has_jumps(self) -> bool:
        """Whether some factor's derivative along a draw is not its whole derivative."""
        return any(isinstance(f, SampledFactor) and f.jumps for f in self.factors)

    @property
    def leaves_curvature_out(self) -> bool:
        """Whether some factor's Hessian is Gauss and Newton's, whose fixed point is another one."""
        ways = (w for f in self.factors if isinstance(f, SampledFactor) for w in f.ways.values())
        return any(way.name == GAUSS_NEWTON for way in ways)

    @property
    def has_network(self) -> bool:
        """Whether some factor is that of a network, at draws."""
        return any(isinstance(f, SampledFactor) and f.is_network for f in self.factors)

    @property
    def sampled_numbers(self) -> int:
        """The numbers that the programs of the sampled factors hold for one draw."""
        own = sum(f.numbers for f in self.factors if isinstance(f, SampledFactor))
        return max(own, self.largest[0])

    @property
    def sampled_operations(self) -> int:
        """How many operations these programs have."""
        own = sum(f.operations for f in self.factors if isinstance(f, SampledFactor))
        return max(own, self.largest[1])

    @property
    def is_in_parts(self) -> bool:
        """Whether no number of draws makes a graph that memory does not hold."""
        sampled = [f for f in self.factors if isinstance(f, SampledFactor)]
        return not self.has_parameters and all(f.is_in_parts for f in sampled)

    def holds(self, draws: Draws | None) -> bool:
        """Whether memory holds the graph of all draws, as second derivatives in q need it."""
        return draws is None or draws.count * self.sampled_numbers <= HELD_NUMBERS

    def count(self, draws: Draws | None, blocks: Sequence[Block]) -> None:
        """Count the gradients that the messages to some blocks take."""
        sampled = {b for f in self.factors if isinstance(f, SampledFactor) for b in f.blocks}
        columns = sum(_numel(b) for b in blocks if b in sampled and b.gaussian)
        self.work.gradients += 1 if draws is None else draws.count * (1 + columns)

    @property
    def numel(self) -> int:
        """The elements of the largest log density."""
        return max(math.prod(getattr(s.log_prob, "shape", ())) for s in self.traced.sites)

    @property
    def is_subsampled(self) -> bool:
        """Whether some factor is scaled up from a part of its plate."""
        return self.traced.is_subsampled

    @property
    def are_points_conjugate(self) -> bool:
        """Whether every factor is exact, and conjugate in the statistics of each point."""
        return all(
            factor.tier == "exact" and factor.is_conjugate_in(point)
            for point in self.points
            for factor in self.factors
            if point in factor.blocks
        )

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
    def has_parameters(self) -> bool:
        """Whether the model has a ``pyro.param`` that may move."""
        return any(p.is_free for p in self.traced.parameters.values())

    @property
    def needs_rules(self) -> bool:
        """Whether a factor is by quadrature."""
        return any(_quadratures(f) for f in self.factors)

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
            for rule in _quadratures(factor):
                if not rule.calibrate(moments, tolerance, kept):
                    self._refuse(place, rule, moments)
                    break

    def _refuse(
        self, place: int, refused: QuadratureFactor, moments: Mapping[Block, Moments]
    ) -> None:
        """Replace a factor of which some quadrature has no good rule by one at draws."""
        if refused.error != refused.error or refused.error == float("inf"):
            scalars = refused.scalars(moments)
            if not host.truth(_are_finite((*scalars.means, *scalars.variances))):
                raise non_finite(refused.name)
        self._resample(place, refused)

    def _resample(self, place: int, refused: QuadratureFactor) -> None:
        """Put a factor of which some quadrature was refused at draws."""
        factor = self.factors[place]
        if isinstance(factor, WeightedFactor):
            raise no_expectation(factor.name, factor.summed.node, refused.refusal)
        if isinstance(factor, EliminatedFactor):
            self.factors[place] = factor.at_draws(f"{refused.refusal}; {refused.reason}")
        else:
            self.factors[place] = resample(refused, self.estimator)

    def give_up(self, names: Collection[str], why: str) -> None:
        """Replace factors by quadrature by ones at draws, by name, for a reason."""
        for place, factor in enumerate(self.factors):
            rules = _quadratures(factor)
            if rules and factor.name in names:
                rules[0].refusal = why
                self._resample(place, rules[0])

    def moments(self, naturals: Naturals) -> dict[Block, Moments]:
        """The moments of every block and point, to be differentiated in their leaves.

        :param naturals: points that are not among them are where the model was traced.
        """
        known = {**self.points, **naturals}
        return {b: statistics_of(b, known[b]) for b in (*self.blocks, *self.points)}

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
        sampled = []
        for factor in self.counted:
            if touching is not None and touching not in factor.blocks:
                continue
            if isinstance(factor, SampledFactor):
                sampled.append(factor)
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
        return Value(total, sizes, moments, lambda: self._entropy(moments, touching), each)

    def _entropy(self, moments: Mapping[Block, Moments], touching: Block | None = None) -> Tensor:
        """The entropy of q that is counted; of a subsampled plate's latent, its rows scaled up."""
        total = zero_of(moments)
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

    def rows(self, block: Block) -> Tensor | None:
        """How often the subsample holds each batch element of a block; None if it is the whole.

        None also where the subsampled plate is no batch dim of the block: its messages are then
        those of a global block, right on the average over subsamples.
        """
        name = block.sites[0].name
        chosen = self.traced.rows.get(name)
        local = set(chosen or ()) <= set(block.placements[name].batch_dims)
        if chosen is None or not local or isinstance(block, ArrowBlock):
            return None
        mask = torch.ones(block.batch_shape, dtype=torch.float64, device=self.latents[name].device)
        dims = block.placements[name].batch_dims
        for dim, index in chosen.items():
            size = block.batch_shape[dims.index(dim)]
            own = torch.zeros(size, dtype=mask.dtype, device=mask.device)
            index = index.to(mask.device)
            own = own.index_add(0, index, torch.ones_like(index, dtype=mask.dtype))
            behind = len(block.batch_shape) - 1 - dims.index(dim)
            mask = mask * own.reshape(-1, *(1,) * behind)
        return mask

    @property
    def local_blocks(self) -> tuple[Block, ...]:
        """The blocks of which the subsample holds rows, if no sampled factor depends on them."""
        sampled = {b for f in self.factors if isinstance(f, SampledFactor) for b in f.blocks}
        return tuple(b for b in self.blocks if b not in sampled and self.rows(b) is not None)

    def local_scale(self, block: Block) -> float:
        """What the factors of a block in a subsampled plate are scaled by."""
        return self.traced.local_scale.get(block.sites[0].name, 1.0)

    def is_linear_in(self, block: Block) -> bool:
        """Whether every factor is linear in a block's mean parameters, given the others."""
        return all(f.is_linear_in(block) for f in self.factors if block in f.blocks)

    def is_conjugate_in(self, block: Block) -> bool:
        """Whether the sum of their messages is a block's exact coordinate update."""
        return all(f.is_conjugate_in(block) for f in self.factors if block in f.blocks)

    def check_finite(self, value: Value, draws: Draws | None) -> None:
        """Raise if the ELBO is not finite, naming the factor that made it so.

        :raises NonFiniteError: for data or constants that are NaN or infinite.
        """
        if value.elbo - value.elbo == 0:
            return
        for factor in self.counted:
            number, _ = factor.evaluate(value.moments, draws, None)
            if not host.truth(torch.isfinite(number)):
                raise non_finite(_culprit(factor, value.moments))
        raise non_finite(", ".join(b.name for b in self.blocks))


def _culprit(factor: Factor, moments: Mapping[Block, Moments]) -> str:
    """The site that makes a factor NaN or infinite; of a sum over discrete latents one of many."""
    if isinstance(factor, EliminatedFactor):
        values = zip(factor.parts, factor.expected(moments), strict=True)
        wrong = [p.name for p, v in values if host.truth((v.isnan() | (v == math.inf)).any())]
        return wrong[0] if wrong else factor.name
    return factor.name


def _quadratures(factor: Factor) -> list[QuadratureFactor]:
    """The quadratures that a factor is made of."""
    if isinstance(factor, EliminatedFactor):
        return [p.factor for p in factor.parts if isinstance(p, QuadraturePart)]
    if isinstance(factor, WeightedFactor):
        return [factor.part.factor]
    return [factor] if isinstance(factor, QuadratureFactor) else []


def _numel(block: Block) -> int:
    """The columns of Hessians that its message takes."""
    size = math.prod(block.batch_shape) * (block.event_size or 1)
    return size if size <= EXACT else block.event_size or 1


def _are_finite(values: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([torch.isfinite(v).all() for v in values]).all()


def non_finite(site: str) -> errors.NonFiniteError:
    """The error for a factor that is NaN or infinite."""
    return errors.NonFiniteError(
        f"the expected log density of site {site!r} is NaN or infinite. Mend: look for NaN or "
        "infinity in its data, its covariates or its distribution's arguments and remove these "
        "rows, or mask them (poutine.mask, and other values in the place of NaN covariates); if "
        "they are finite, look for an argument that latents take out of its domain (a scale that "
        "may be negative), start from a narrower guide (init_scale) or rescale the covariates."
    )

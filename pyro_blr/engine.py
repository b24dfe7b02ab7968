# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The parts of a step: from a call of the model to new natural parameters of the guide."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch

from . import errors
from .arguments import check_lifted_options, draws_of
from .charted_objective import objective_of
from .chunks import first_call
from .energy.builder import EnergyBuilder
from .energy.energy import Energy, Work
from .energy.factors import KeptRule
from .energy.parameters import LiftedParameter
from .energy.previous import Previous
from .energy.trace import Traced
from .energy.value import Value
from .families import Natural
from .guide_parameters import GuideParameters
from .guides.natural_guide import NaturalGuide
from .guides.protocol import LatentGuide
from .guides.views import charts_of, parameters_of_points
from .in_parts import InParts
from .info import Info
from .lifting.blocks import Block
from .lifting.points import PointBlock
from .objective import EnergyObjective
from .part_checks import no_messages
from .random_state import same_random_state
from .rules import Rule, choose
from .sampling import Sampling
from .seeding import seeded, seeded_in_q
from .steps.averaging import Average
from .steps.cone import TRUST, Safety, residual
from .steps.local import settle
from .steps.mean_hessian import MeanHessian
from .steps.momentum import Momentum
from .steps.noise import NoiseControl
from .steps.schedule import StepSize, scheduled
from .steps.sweep import SweepMemory, noisy_parallel, parallel, sweep
from .summed_objective import SummedObjective


class Engine(InParts):
    """What takes steps: :class:`~pyro_blr.BLR` has its options and is its public face."""

    step_size: StepSize
    blocks: str
    params: str
    momentum: float
    num_draws: int | None
    quad_tol: float
    temperature: float
    estimator: str
    check_every: int | None
    discrete: str
    info: Info
    #: The guide as the engine sees it: known at the first call, and not where a rule serves it.
    view: LatentGuide | Any
    #: The rule of a guide whose latents cannot be lifted.
    rule: Rule | None
    #: The posterior that is the prior of a call with new data, while such a one is fitted.
    _previous: Previous | None = None
    #: The messages of draws of their own where steps last converged on theirs.
    fresh_messages: dict[Block, Natural] | None = None

    def begin(self, num_steps: int = 0) -> None:
        """Remember nothing of the steps before: what is stepped on from here is another ELBO.

        :param num_steps: the steps that were taken so far.
        """
        self.num_steps = num_steps
        self.sampling = Sampling(self.num_draws, draws_of(self.loss))
        self.sampling.new_seed = self._parted.seed
        self._memory = SweepMemory()
        self._momentum = Momentum(self.momentum)
        self._noise = NoiseControl()
        self._average = Average()
        self._hessian = MeanHessian()

    @property
    def work(self) -> Work:
        """What evaluations took so far."""
        return self._builder.work

    def advance(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        watched: bool = False,
        kept: dict[str, KeptRule] | None = None,
    ) -> tuple[float, EnergyObjective | None]:
        """One step, or none: its loss, and the objective of a step that was taken.

        :param watched: whether the residual will be asked for where the ELBO is deterministic.
        :param kept: see :meth:`_objective`.
        """
        try:
            objective = self._objective(args, kwargs, kept)
            loss = self.step_on(objective, watched and objective.energy.is_deterministic)
        except errors.NonFiniteError as error:
            self._skips.skip(error, lambda: self._is_finite(args, kwargs))
            self.info = Info()
            return math.nan, None
        self._skips.in_a_row = 0
        return loss, objective

    def _is_finite(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether the ELBO of a call is finite when it is evaluated anew."""
        try:
            objective = self._objective(args, kwargs)
            value = objective.value(self.view.naturals())
            objective.check_finite(value)
        except errors.NonFiniteError:
            return False
        return True

    def _rule(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Rule | None:
        """The rule of a guide whose latents cannot be lifted; None where they can."""
        if self.view is None and self.rule is None:
            call = first_call(args, kwargs)
            if self._copied is not None:
                self.load_state_dict(self._copied, with_random=False)
            with same_random_state() if self._is_resuming else nullcontext():
                chosen = choose(
                    *(self.guide, self._builder, self.loss, self.optim),
                    *(self.sampling.noisy_count, self._hessian, *call),
                )
            if isinstance(chosen, Rule):
                if self._is_parted(args, kwargs):
                    raise no_messages(self.guide)
                check_lifted_options(self.params, self.momentum)
                self._builder.report_drawn(chosen.reason)
                self.rule, self._is_resuming = chosen, False
            else:
                self.view = chosen
                self.parameters.of_guide = parameters_of_points(chosen)
        if self.rule is not None and self._is_parted(args, kwargs):
            raise no_messages(self.guide)
        if isinstance(self._guide_part, GuideParameters):
            self._guide_part.take_up(*first_call(args, kwargs))
        return self.rule

    def rule_step(self, rule: Rule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        """One step of such a guide, or none; :meth:`step` and :meth:`fit` share it."""
        try:
            loss = rule.step(
                args, kwargs, scheduled(self.step_size, self.num_steps), self.num_steps
            )
        except errors.NonFiniteError as error:
            self._skips.skip(error, lambda: _is_evaluated(rule, args, kwargs))
            self.info = Info()
            return math.nan
        self._skips.in_a_row = 0
        self.num_steps += 1
        self.info = Info(loss, rule.safety)
        return loss

    def _objective(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        kept: dict[str, KeptRule] | None = None,
    ) -> EnergyObjective:
        """Trace the model and choose the tier of each factor at the guide's state.

        :param kept: quadrature rules of the steps before, which serve as long as q moves little.
        """
        if self._is_parted(args, kwargs):
            objective: EnergyObjective = self._parted.objective(self, args, kwargs, kept)
        else:
            objective = self.traced_objective(args, kwargs)
            self.calibrate(objective, kept)
        energy = objective.energy
        if energy.has_sampled:
            objective.draws = self.sampling.fresh(self.view.latents, energy.is_subsampled)
        self._builder.report_sampled(energy)
        return objective

    def traced_objective(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> EnergyObjective:
        """The objective of a call before quadrature rules are chosen and q is drawn from."""
        self._resume(args, kwargs)
        self.view.set_up(args, kwargs, self._builder)
        energy = self._energy(args, kwargs)
        return objective_of(charts_of(self.view), energy, None, self._builder.cache, (args, kwargs))

    def calibrate(
        self, objective: EnergyObjective, kept: dict[str, KeptRule] | None = None
    ) -> None:
        """Choose the rules of an objective's quadrature factors at the guide's state."""
        if objective.energy.needs_rules:
            with torch.no_grad():
                naturals = objective.by_block(self.view.naturals())
                objective.energy.calibrate(naturals, self.quad_tol, kept)

    def _energy(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Energy:
        """Trace the model, its conjugate parameters lifted if they are to be maximised."""
        latents, lifted = self.view.latents, self.parameters.points.lifted

        def trace(lifted: Mapping[str, LiftedParameter]) -> Traced:
            return self._builder.trace(args, kwargs, latents, lifted)

        def build(traced: Traced, points: tuple[PointBlock, ...]) -> Energy:
            return self._built(self._builder, traced, points)

        try:
            traced = trace(lifted)
        except Exception:  # another branch of the model may need a parameter's value
            if not lifted:
                raise
            self.parameters.forget()
            traced = trace({})
        if not self._is_laid_out or not self.view.suits(traced):
            self._lay_out(traced)
        energy = self.parameters.energy(traced, self.view.layout, trace, build)
        if any(b.row_dims and not energy.is_conjugate_in(b) for b in energy.blocks):
            # What this call asks of the rows differs (a mask of some): so do their covariances.
            self._lay_out(traced)
            energy = self.parameters.energy(traced, self.view.layout, trace, build)
        return energy

    def _built(
        self, builder: EnergyBuilder, traced: Traced, points: tuple[PointBlock, ...]
    ) -> Energy:
        """The energy of a traced call, under the model's priors or the posterior in their place."""
        energy = builder.build(traced, self.view.latents, self.view.layout, points)
        if self._previous is not None:
            self._previous.put_into(energy)
        return energy

    def _lay_out(self, traced: Traced) -> None:
        self._notes = self.view.lay_out(traced, self.blocks)
        if isinstance(self.view, NaturalGuide):
            self.view.check_taken_up()
        self._is_laid_out = True

    def step_on(self, objective: EnergyObjective, watched: bool = False) -> float:
        """One step on a traced call; :meth:`step` and :meth:`fit` share it.

        :param watched: whether the residual at the entry will be asked for, so that all messages
            are taken from one backward pass; a sweep needs the first block's only.
        """
        energy = objective.energy
        naturals = objective.moved(detached(self.view.naturals()))
        size = scheduled(self.step_size, self.num_steps)
        noisy = energy.is_subsampled or energy.has_jumps
        searched = not noisy and (size is None or size == 1.0)
        if energy.has_sampled and searched:
            self.sampling.begin(self.view.latents, energy)
            objective.draws = self.sampling.common(self.view.latents)
        if self.num_steps == 0 and self._previous is None:
            naturals = self._seeded(objective, naturals)
        few = searched and not watched
        # Conjugate messages are coefficients: the ELBO at the entry is then a number and no more.
        plain = few and objective.is_conjugate_in(objective.blocks[0]) and not energy.has_parameters
        plain &= objective.is_whole  # elsewhere messages come with the value, by the same sum
        local = () if searched else energy.local_blocks
        value = (objective.value if plain or local else objective.evaluate)(naturals)
        objective.check_finite(value)
        if self.check_every and self.num_steps % self.check_every == 0:
            self._check(objective, value, naturals)
        safety, rho, at = Safety(), 1.0, value
        partial = {b for b in objective.blocks if energy.rows(b) is not None}
        if searched:
            first = objective.blocks[: 1 if few else None]
            if plain:
                messages = objective.messages(naturals, first[0])
            else:
                messages = objective.messages_of(value, first)
            new = sweep(objective, naturals, messages, value, size, safety, self._memory)
        else:
            start = naturals
            if local:
                start = settle(objective, naturals, local, safety, self._memory)
                at = objective.evaluate(start)
            messages = objective.messages_of(
                at, tuple(b for b in objective.blocks if b not in local)
            )
            rho = self._noise.size(start, messages, partial)
            rho = rho if size is None else size
            if energy.is_deterministic:
                new = parallel(objective, start, messages, rho, safety, None)
            else:
                trust = self._noise.trust if size is None else TRUST
                new = noisy_parallel(objective, start, messages, at, rho, safety, trust)
        never_falls = searched and size is None
        new = self._momentum.extrapolate(objective, naturals, new, partial, safety, never_falls)
        moved = self.parameters.maximise(objective, {**energy.points, **new}, rho)
        after = {**new, **moved}
        self.parameters.move_others(
            objective, at, after, rho, lambda: self._objective(*objective.call)
        )
        self.set_state(after, objective)
        if searched or energy.is_deterministic or self._noise.is_signal:
            self._average.reset()
        else:
            self._average.add({b: after[b] for b in objective.blocks if b not in partial})
        self.num_steps += 1
        self.info = Info.of_step(objective, value, naturals, messages, after, safety, searched)
        return -value.elbo

    def _seeded(
        self, objective: EnergyObjective, naturals: Mapping[Block, Natural]
    ) -> dict[Block, Natural]:
        """Where steps start: elsewhere only if discrete latents cannot tell latents apart."""
        if isinstance(objective, SummedObjective):
            return self._parted.seeded(objective, naturals, self._seeded)
        energy = objective.energy
        naturals = seeded_in_q(objective, naturals)
        if not energy.traced.has_choices:
            return naturals
        if self.discrete == "marginal":
            layout = self.view.layout
            share, energy = (
                energy.share,
                self._builder.build(
                    energy.traced, self.view.latents, layout, discrete="mean_field"
                ),
            )
            energy.share = share
            objective = objective_of(
                charts_of(self.view), energy, objective.draws, self._builder.cache, objective.call
            )
        return seeded(objective, naturals)

    @property
    def step_residual(self) -> float:
        """The residual of the last step on common draws, block by block as it was taken."""
        return self._memory.residual

    def has_settled(self, objective: EnergyObjective, tol: float) -> bool:
        """Whether steps on the common draws of sampled factors have converged on them."""
        if objective.draws is None or not self.sampling.are_common(objective.draws):
            return False

        def measured() -> float:
            fresh = objective.with_draws(self.sampling.fresh(self.view.latents))
            naturals = objective.moved(detached(self.view.naturals()))
            self.fresh_messages = fresh.messages(naturals)
            return residual(naturals, self.fresh_messages)

        return self.sampling.has_settled(self._memory.residual, measured, tol)

    def renew_draws(self, objective: EnergyObjective, tol: float) -> None:
        """Take more draws where steps have converged on theirs, and the error of these is left."""
        if self.has_settled(objective, tol) and self.sampling.error > tol / 2:
            self.sampling.grow(tol, objective.energy)

    def state(self, objective: EnergyObjective) -> dict[Block, Natural]:
        """The natural parameters of q and the values of the points, as they are now."""
        points = self.parameters.current(objective.energy.traced)
        return {**detached(self.view.naturals()), **points}

    def set_state(self, new: Mapping[Block, Natural], objective: EnergyObjective) -> None:
        """Write natural parameters to the guide, and points to the param store.

        Rounding makes the products of a step unsymmetric, and steps would add it up.
        """
        moved = {**objective.moved(new), **objective.local_naturals(new)}
        self.view.write({b: b.family.symmetrize(n) for b, n in moved.items()})
        self.view.holds_posterior = True
        self.parameters.write(new, objective.energy.traced)

    def _check(
        self, objective: EnergyObjective, value: Value, naturals: Mapping[Block, Natural]
    ) -> None:
        """Compare with a trace that uses no cache.

        :raises StaleDataError: if they differ by more than rounding.
        """
        if isinstance(objective, SummedObjective):  # each process looks at its own rows
            objective = objective.first
            value = objective.value(naturals)
        fresh = self._builder.fresh()
        call, latents, points = objective.call, self.view.latents, self.parameters.points
        traced = fresh.trace(*call, latents, points.lifted)
        energy = self._built(fresh, traced, points.blocks)
        energy.share = objective.energy.share
        other = objective_of(charts_of(self.view), energy, objective.draws, fresh.cache, call)
        energy.calibrate(other.by_block(naturals), self.quad_tol)
        now = other.value(naturals)
        if abs(now.elbo - value.elbo) > 1e-9 * max(now.magnitude, value.magnitude):
            raise errors.StaleDataError(
                f"-ELBO is {-value.elbo:.6f} with what was computed from constants before, but "
                f"{-now.elbo:.6f} in a fresh trace: data changed in memory that pyro_blr cannot "
                "watch (a NumPy array, .data). Mend: call blr.invalidate() after changing data in "
                "place."
            )


def _is_evaluated(rule: Rule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether what a step of a rule takes is finite when it is evaluated anew."""
    try:
        rule.probe(args, kwargs)
    except errors.NonFiniteError:
        return False
    return True


def detached(naturals: Mapping[Block, Natural]) -> dict[Block, Natural]:
    """Copies of natural parameters without their graph."""
    return {b: tuple(t.detach().clone() for t in n) for b, n in naturals.items()}

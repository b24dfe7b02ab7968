# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The parts of a step: from the objective of a call to new natural parameters of the guide."""

import math
from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from . import errors
from .arguments import draws_of
from .energy.energy import Energy
from .energy.factors import KeptRule
from .energy.value import Value
from .energy.work import Work
from .families import Natural
from .info import Info
from .lifting.blocks import Block
from .objective import EnergyObjective
from .random_state import same_random_state
from .sampling import Sampling
from .seeding import seeded, seeded_in_q
from .steps.averaging import Average
from .steps.cone import TRUST, Safety
from .steps.fixed_point import settle_to_rounding
from .steps.local import NEARLY, settle
from .steps.mean_hessian import MeanHessian
from .steps.mixture_memory import MixtureMemory
from .steps.momentum import Momentum
from .steps.noise import NoiseControl
from .steps.schedule import StepSize, scheduled
from .steps.sweep import SweepMemory, noisy_parallel, parallel, sweep
from .steps.taken import residual
from .summed_objective import SummedObjective
from .tracing import Tracing


@dataclass(frozen=True, eq=False)
class StepInQ:
    """Where a step leads q, before momentum and parameters.

    :param new: the natural parameters there.
    :param messages: those at which the step was taken, of some blocks at least.
    :param entry: the ELBO where it began.
    :param at: the ELBO there with local latents at their optimum, where there are any.
    :param size: rho; 1 of a sweep.
    """

    new: dict[Block, Natural]
    messages: dict[Block, Natural]
    entry: Value
    at: Value
    size: float


class Engine(Tracing):
    """What takes steps: :class:`~pyro_blr.BLR` has its options and is its public face."""

    step_size: StepSize
    momentum: float
    num_draws: int | None
    check_every: int | None
    discrete: str
    info: Info
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
        self._mixture = MixtureMemory()

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
            value = objective.evaluate(objective.moved(detached(self.view.naturals())))
            objective.check_finite(value)
            self.parameters.check(objective, value)
        except errors.NonFiniteError:
            return False
        return True

    def step_on(self, objective: EnergyObjective, watched: bool = False) -> float:
        """One step on a traced call; :meth:`step` and :meth:`fit` share it.

        :param watched: whether the residual at the entry will be asked for, so that all messages
            are taken from one backward pass; a sweep needs the first block's only.
        """
        energy = objective.energy
        naturals = objective.moved(detached(self.view.naturals()))
        size = scheduled(self.step_size, self.num_steps)
        searched = _is_searched(energy, size)
        if energy.has_sampled and searched:
            self._take_common_draws(objective, self.sampling)
        if self.num_steps == 0 and self._previous is None:
            naturals = self._seeded(objective, naturals)
        safety = Safety()
        partial = {b for b in objective.blocks if energy.rows(b) is not None}
        if searched:
            step = self._swept(objective, naturals, size, safety, watched)
        else:
            step = self._at_once(objective, naturals, size, safety, partial)
        never_falls = searched and size is None
        new = self._momentum.extrapolate(
            objective, naturals, step.new, partial, safety, never_falls
        )
        after = self._with_parameters(objective, new, step)
        self.set_state(after, objective)
        if searched or energy.is_deterministic or self._noise.is_signal:
            self._average.reset()
        else:
            self._average.add({b: after[b] for b in objective.blocks if b not in partial})
        self.num_steps += 1
        self.info = Info.of_step(
            objective, step.entry, naturals, step.messages, after, safety, searched
        )
        return -step.entry.elbo

    def next_objective(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> EnergyObjective:
        """The objective of the step that comes next, on the rows and the draws that it will have.

        It takes none of the random numbers that the step is going to take.
        """
        self._resume(args, kwargs)
        self.view.set_up(args, kwargs, self._builder)
        size = scheduled(self.step_size, self.num_steps)
        with same_random_state():
            objective = self._objective(args, kwargs)
            if objective.energy.has_sampled and _is_searched(objective.energy, size):
                self._take_common_draws(objective, copy(self.sampling))
        return objective

    def _take_common_draws(self, objective: EnergyObjective, sampling: Sampling) -> None:
        """Put an objective on the draws that steps have in common."""
        sampling.begin(self.view.latents, objective.energy)
        objective.draws = sampling.common(objective.energy.latents)

    def _seeded(
        self, objective: EnergyObjective, naturals: Mapping[Block, Natural]
    ) -> dict[Block, Natural]:
        """Where steps start: elsewhere only if discrete latents cannot tell latents apart."""
        if isinstance(objective, SummedObjective):
            return self._parted.seeded(objective, naturals, self._seeded)
        naturals = seeded_in_q(objective, naturals)
        if not objective.energy.traced.has_choices:
            return naturals
        if self.discrete == "marginal":
            objective = self._mean_field(objective)
        return seeded(objective, naturals)

    def _swept(
        self,
        objective: EnergyObjective,
        naturals: Mapping[Block, Natural],
        size: float | None,
        safety: Safety,
        watched: bool,
    ) -> StepInQ:
        """A step on an ELBO without noise, on draws in common: block by block, searched if need be.

        :param watched: see :meth:`step_on`.
        """
        first = objective.blocks[: None if watched else 1]
        # Conjugate messages are coefficients: the ELBO at the entry is then a number and no more.
        plain = not watched and objective.is_conjugate_in(objective.blocks[0])
        plain &= objective.is_whole  # elsewhere messages come with the value, by the same sum
        entry = self._entry(objective, naturals, plain)
        if plain:
            messages = objective.messages(naturals, first[0])
        else:
            messages = objective.messages_of(entry, first)
        new = sweep(objective, naturals, messages, entry, size, safety, self._memory)
        local = objective.energy.row_proportions if size is None and objective.is_whole else ()
        if local:
            # With proportions half-way, all rows look alike for long, and what tells them apart
            # is averaged out: topics then end in a worse optimum, a per cent of the bound below.
            # Of data in parts those of a part are at their optimum already, and others are shared.
            new = settle(objective, new, local, safety, self._memory, NEARLY)
        return StepInQ(new, messages, entry, entry, 1.0)

    def _at_once(
        self,
        objective: EnergyObjective,
        naturals: Mapping[Block, Natural],
        size: float | None,
        safety: Safety,
        partial: Collection[Block],
    ) -> StepInQ:
        """A step on noisy messages, or of a size that was asked for: all blocks at once.

        :param partial: blocks of which the subsample holds some rows.
        """
        energy = objective.energy
        local = energy.local_blocks
        entry = self._entry(objective, naturals, plain=bool(local))
        start, at = naturals, entry
        if local:
            to_optimum = settle if size is None else settle_to_rounding
            start = to_optimum(objective, naturals, local, safety, self._memory)
            at = objective.evaluate(start)
        messages = objective.messages_of(at, tuple(b for b in objective.blocks if b not in local))
        rho = self._noise.size(start, messages, partial)
        rho = rho if size is None else size
        is_taken_as_it_is = energy.is_at_mean and size is not None  # stochastic gradient descent
        if energy.is_deterministic or is_taken_as_it_is:
            new = parallel(objective, start, messages, rho, safety, None)
        else:
            trust = self._noise.trust if size is None else TRUST
            new = noisy_parallel(objective, start, messages, at, rho, safety, trust)
        return StepInQ(new, messages, entry, at, rho)

    def _entry(
        self, objective: EnergyObjective, naturals: Mapping[Block, Natural], plain: bool
    ) -> Value:
        """The ELBO where a step begins, looked at.

        :param plain: whether no message is to be taken from it.
        :raises NonFiniteError: naming the factor that made it so.
        :raises StaleDataError: if it is not that of a fresh trace, at every so many steps.
        """
        value = (objective.value if plain else objective.evaluate)(naturals)
        objective.check_finite(value)
        if self.check_every and self.num_steps % self.check_every == 0:
            self._check_constants(objective, value, naturals)
        return value

    def _with_parameters(
        self, objective: EnergyObjective, new: Mapping[Block, Natural], step: StepInQ
    ) -> dict[Block, Natural]:
        """Move the model's parameters after a step in q: q with the points.

        Where q is stepped to without noise, those that are no points get the gradient there: where
        that step is the optimum, it is the gradient of the bound with q maximised out. Elsewhere
        they get the gradient at the entry.

        :param new: q after the step.
        """
        points = objective.energy.points
        moved = self.parameters.maximise(objective, {**points, **new}, step.size)
        after = {**new, **moved}
        self.parameters.move_others(
            objective,
            step.at if _is_noisy(objective.energy) else None,
            after,
            step.size,
            lambda: self._objective(*objective.call),
        )
        return after

    @property
    def step_residual(self) -> float:
        """The residual of the last step on common draws, block by block as it was taken."""
        return self._memory.residual

    def has_settled(self, objective: EnergyObjective, tol: float) -> bool:
        """Whether steps on the common draws of sampled factors have converged on them."""
        if objective.draws is None or not self.sampling.are_common(objective.draws):
            return False

        def measured() -> float:
            fresh = objective.with_draws(self.sampling.fresh(objective.energy.latents))
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


def _is_noisy(energy: Energy) -> bool:
    """Whether an ELBO has noise on common draws, so that no step on it can be searched."""
    return energy.is_subsampled or energy.at_draws.have_jumps


def _is_searched(energy: Energy, size: float | None) -> bool:
    """Whether a step goes block by block, on draws in common, and is searched if need be."""
    return not _is_noisy(energy) and (size is None or size == 1.0)


def detached(naturals: Mapping[Block, Natural]) -> dict[Block, Natural]:
    """Copies of natural parameters without their graph."""
    return {b: tuple(t.detach().clone() for t in n) for b, n in naturals.items()}

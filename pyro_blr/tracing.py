# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""From a call of the model to the objective of a step."""

from collections.abc import Mapping
from typing import Any

import torch

from . import errors
from .charted_objective import objective_of
from .energy.builder import EnergyBuilder
from .energy.energy import Energy
from .energy.factors import KeptRule
from .energy.parameters import LiftedParameter
from .energy.previous import Previous
from .energy.traced import Traced
from .energy.value import Value
from .families import Natural
from .guides.natural_guide import NaturalGuide
from .guides.protocol import LatentGuide
from .guides.views import charts_of
from .in_parts import InParts
from .lifting.blocks import Block
from .lifting.points import PointBlock
from .objective import EnergyObjective
from .random_state import same_random_state, set_random_state
from .summed_objective import SummedObjective


class Tracing(InParts):
    """An engine that traces its model: at every call anew, as it and its data are then."""

    blocks: str
    quad_tol: float
    #: The guide as the engine sees it: known at the first call, and not where a rule serves it.
    view: LatentGuide | Any
    #: The posterior that is the prior of a call with new data, while such a one is fitted.
    _previous: Previous | None = None

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
            objective.draws = self.sampling.fresh(energy.latents, energy.is_subsampled)
        self._builder.report_sampled(energy)
        return objective

    def traced_objective(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> EnergyObjective:
        """The objective of a call before quadrature rules are chosen and q is drawn from."""
        self._resume(args, kwargs)
        self.view.set_up(args, kwargs, self._builder)
        energy = self._energy(args, kwargs)
        if energy.is_at_mean and charts_of(self.view):
            raise errors.GuideError(
                f'estimator="delta" moves a Gaussian by its natural parameters, which '
                f"{type(self.guide).__name__} does not have. Mend: use "
                "AutoNaturalMultivariateNormal(model)."
            )
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

    def _mean_field(self, objective: EnergyObjective) -> EnergyObjective:
        """The objective of the same run, its discrete latents under the mean-field bound."""
        own, view = objective.energy, self.view
        energy = self._builder.build(own.traced, view.latents, view.layout, discrete="mean_field")
        energy.share = own.share
        return objective_of(
            charts_of(view), energy, objective.draws, self._builder.cache, objective.call
        )

    def _check_constants(
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
        with same_random_state():  # the same rows of a plate that draws its own
            if self._builder.randomness is not None:
                set_random_state(self._builder.randomness)
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

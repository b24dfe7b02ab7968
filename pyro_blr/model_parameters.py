# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How the parameters of the model move: by an optimiser, by EM, or along the natural gradient."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from .energy.energy import Energy, Naturals
from .energy.explanation import ParameterExplanation
from .energy.parameters import LiftedParameter
from .energy.points import Points, choose_points, packed, write
from .energy.traced import Traced
from .energy.value import Value
from .families import Natural
from .lifting.blocks import Block
from .lifting.expectation import Layout
from .lifting.points import PointBlock
from .objective import EnergyObjective
from .saved_parameters import SavedParameters, parameters_state
from .steps.cone import MAX_HALVINGS
from .steps.gradients import check_gradients
from .steps.information import information_step
from .steps.maximisation import Averages, maximise
from .steps.sweep import has_not_fallen

Trace = Callable[[Mapping[str, LiftedParameter]], Traced]
Build = Callable[[Traced, tuple[PointBlock, ...]], Energy]


class ModelParameters:
    """The ``pyro.param`` of a model.

    :param how: ``"optim"``, ``"em"`` or ``"natural"``.
    :param optim: moves the parameters that are no points.
    """

    def __init__(self, how: str, optim: PyroOptim) -> None:
        self.how = how
        self.optim = optim
        self.points = Points()
        #: Parameters that take Newton's step under "optim" too: the points of a guide.
        self.of_guide: frozenset[str] = frozenset()
        #: The parameters of the last step that are no points, and whether Newton's step moved them.
        self.others: set[str] = set()
        self.by_newton = False
        self._known: dict[Hashable, Points] = {}
        self.averages = Averages()
        self._leaves: dict[str, Tensor] = {}
        self._saved = SavedParameters()

    # State

    def state(self) -> dict[str, Any]:
        """The unconstrained values of the parameters met so far, and their optimisers' states."""
        return parameters_state(self._leaves, self.optim, self._saved)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned; each parameter when the model next makes it."""
        self._saved = SavedParameters.of(state)

    # Which parameters are points

    def energy(self, traced: Traced, layout: Layout, trace: Trace, build: Build) -> Energy:
        """The energy of a call, its points lifted.

        Which parameters are points is found at the first call with the same ``pyro.param``
        statements, and anew where a factor has become another.

        :param traced: a run with the points of the last call lifted.
        """
        if self._saved.give(traced.parameters, self.optim):
            traced = trace(self.points.lifted)
        self._leaves.update((n, p.leaf) for n, p in traced.parameters.items())
        if self.how == "optim":
            return build(traced, ())
        key = _statements(traced)
        if key not in self._known or not self.points.are_met_by(traced):
            self._known[key] = choose_points(trace({}), layout, trace)
        if self.points is not self._known[key]:
            self.points = self._known[key]
            traced = trace(self.points.lifted)
        energy = build(traced, self.points.blocks)
        if not energy.are_points_conjugate:
            self.points = self._known[key] = choose_points(trace({}), layout, trace)
            energy = build(trace(self.points.lifted), self.points.blocks)
        return energy

    def forget(self) -> None:
        """Take no parameter for a point until the next choice."""
        self.points = Points()
        self._known.clear()

    def explain(self, traced: Traced) -> dict[str, ParameterExplanation]:
        """How each parameter of a call moves, and why."""
        blocks = self.points.by_name
        result = {}
        for name, parameter in traced.parameters.items():
            update, family, reason = "optim", "", 'params="optim"'
            together: tuple[str, ...] = (name,)
            if not parameter.is_free:
                update, reason = "fixed", "it does not require a gradient"
            elif name in blocks:
                block = blocks[name]
                update, family, reason = self.how, block.point.name, ""
                together = tuple(s.name for s in block.sites)
            elif name in self.of_guide:
                update, reason = "Newton", "a point of the guide"
            elif self.how != "optim":
                reason = self.points.reasons[name]
                if self.by_newton and name in self.others:
                    update, reason = self.how, f"Newton's step: {reason}"
            result[name] = ParameterExplanation(name, update, family, together, reason)
        return result

    @property
    def uncertified(self) -> str:
        """Why a fit of the last step's parameters has no certificate, and the mend; or nothing."""
        if not self.others:
            return ""
        mend = "explain says why they have no M-step in closed form; or give max_steps"
        if self.how == "optim":
            mend = (
                'params="em" maximises over parameters whose M-step is closed; with '
                'estimator="delta", which has none, a latent with a prior in the place of each'
            )
        return f"not certified: the optimum over {sorted(self.others)} is not known. Mend: {mend}"

    # Steps

    def maximise(
        self, objective: EnergyObjective, naturals: Naturals, rho: float
    ) -> dict[Block, Natural]:
        """The M-step of the points, given q after the E-step: ``(point,)`` each."""
        size = 1.0 if self.how == "em" else rho
        return maximise(objective, naturals, objective.points, size, self.averages)

    def current(self, traced: Traced) -> dict[Block, Natural]:
        """The points as they are in the param store now."""
        return {block: (packed(block, traced),) for block in self.points.blocks}

    def write(self, new: Naturals, traced: Traced) -> None:
        """Set the points in the param store."""
        for block in self.points.blocks:
            write(block, new[block][0], traced)

    def check(self, objective: EnergyObjective, value: Value) -> None:
        """Raise if an evaluation has no finite gradient in a parameter that is no point.

        :raises NonFiniteError: it names the parameter.
        """
        others = self._others(objective)
        leaves = [p.leaf for p in others.values()]
        gradient = objective.parameter_gradients(value, leaves)
        check_gradients(dict(zip(others, gradient, strict=True)))

    def _others(self, objective: EnergyObjective) -> dict[str, Any]:
        """The free parameters of a call that are no points."""
        parameters = objective.energy.traced.parameters.items()
        return {n: p for n, p in parameters if p.is_free and n not in self.points.by_name}

    def move_others(
        self,
        objective: EnergyObjective,
        value: Value | None,
        new: Naturals,
        rho: float,
        retraced: Callable[[], EnergyObjective],
    ) -> None:
        """Move the parameters that are no points: by Newton's step, or by the optimiser.

        :param value: the ELBO whose gradient the optimiser gets: at the entry of a noisy step, and
            with local latents at their optimum; None for the ELBO after the step.
        :param new: q and the points after this step, at which Newton's step is taken.
        :param retraced: the objective of the same call at the leaves as they are then.
        """
        others = self._others(objective)
        leaves = [p.leaf for p in others.values()]
        if value is None:
            if not leaves:
                return
            value = objective.evaluate(new)
            if value.elbo - value.elbo != 0:
                return  # no direction is known there, and the next step says why
        gradient = objective.parameter_gradients(value, leaves)
        check_gradients(dict(zip(others, gradient, strict=True)))
        used = {
            n: p.leaf for (n, p), g in zip(others.items(), gradient, strict=True) if g is not None
        }
        self.others = set(others) if self.how == "optim" else set(used)
        self.by_newton = False
        of_newton = set(used) if self.how == "natural" else self.of_guide & set(used)
        if of_newton and objective.energy.is_deterministic and objective.is_whole:
            chosen = [leaf for name, leaf in used.items() if name in of_newton]
            self.by_newton = _newton_step(objective, new, rho, chosen, retraced)
        if self.by_newton:
            left = [name not in of_newton for name in others]
            leaves = [leaf for leaf, keep in zip(leaves, left, strict=True) if keep]
            gradient = tuple(g for g, keep in zip(gradient, left, strict=True) if keep)
        if not leaves or (self.by_newton and self.how == "natural"):
            return
        for leaf, g in zip(leaves, gradient, strict=True):
            leaf.grad = torch.zeros_like(leaf) if g is None else -g.to(leaf.dtype)
        self.optim(set(leaves))
        for leaf in leaves:
            leaf.grad = None


def _newton_step(
    objective: EnergyObjective,
    new: Naturals,
    rho: float,
    leaves: list[Tensor],
    retraced: Callable[[], EnergyObjective],
) -> bool:
    """Move leaves by rho times Newton's step, halved until L does not fall; False if there is none.

    The model is run again at each trial, as its constants are functions of the leaves.
    """
    before = objective.evaluate(new)
    step = information_step(before.expected_log_joint, leaves)
    if step is None:
        return False
    start = [leaf.detach().clone() for leaf in leaves]
    for power in range(MAX_HALVINGS):
        _set(leaves, [s + rho * 0.5**power * d for s, d in zip(start, step, strict=True)])
        after = retraced().value(new)
        if has_not_fallen(before, after):
            return True
    _set(leaves, start)
    return False


def _set(leaves: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for leaf, value in zip(leaves, values, strict=True):
            leaf.copy_(value)


def _statements(traced: Traced) -> Hashable:
    """What the choice of points depends on, besides the factors."""
    parameters = traced.parameters.values()
    return frozenset((p.name, tuple(p.value.shape), p.is_free) for p in parameters)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The rule for a mixture of Gaussians: natural gradients of component and latents together."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from pyro.optim import PyroOptim

from .. import errors
from ..energy.builder import EnergyBuilder
from ..energy.explanation import Explanation, FactorExplanation, ParameterExplanation
from ..energy.log_joint import LogJoint
from ..energy.traced import Traced
from ..families import Natural
from ..guides.mixture_guide import AutoNaturalMixture
from ..lifting import host
from ..lifting.blocks import Block
from ..steps.acceleration import Anderson
from ..steps.mixture import Gradient, Mixture, State
from ..steps.mixture_acceleration import MixtureIteration
from ..steps.mixture_convergence import Convergence
from ..steps.mixture_memory import MixtureMemory
from ..steps.mixture_saddle import way_out
from ..steps.mixture_search import searched_step, sized_step
from .differentiated import Differentiated
from .mixture_points import MixturePoints
from .mixture_pool import spread_start
from .protocol import Rule

#: Components with less weight are removed. The ELBO is stationary in the weights, where
#: ``E_k[log p - log q]`` is the same for all components: to take out the weight w changes it by
#: ``w (E_k[log p - log q] - ELBO)``, and the other components' log q by ``log(1 - w)``. The first
#: is at most w times the nats by which the component is worse, of which the weight is the
#: exponential: ``w log(1/w)`` is 1.4e-5 nats.
DEAD = 1e-6

#: What the whole gap is to be below for the points' own error to be looked at, as a share of the
#: tolerance.
SETTLED = 0.5


class MixtureRule(Rule):
    """Steps of :class:`~pyro_blr.guides.AutoNaturalMixture`.

    The log joint is replayed at quasi-random points of each component, which successive steps have
    in common. A step under ``step_size="auto"`` or 1 is searched (see ``steps/mixture_search``); of
    any other size it is plain.
    """

    tier = "sampled"
    what = "is a mixture"
    is_sampled = True

    def __init__(
        self,
        guide: AutoNaturalMixture,
        builder: EnergyBuilder,
        optim: PyroOptim,
        memory: MixtureMemory,
        num_draws: int | None,
    ) -> None:
        super().__init__(builder.model, guide, Trace_ELBO(), optim, builder.temperature, "")
        self.q = guide
        self.builder = builder
        self.memory = memory
        self.points = MixturePoints(memory, num_draws)
        self.convergence = Convergence()
        self._last: MixtureIteration | None = None
        self._began: tuple[Differentiated, State, Gradient] | None = None
        self._others: tuple[str, ...] = ()
        self._why = ""
        self.begin_fit()

    # What a call is

    @property
    def block(self) -> Block:
        """The one block of q."""
        (block,) = self.q.blocks
        return block

    def _coordinates(self) -> Natural:
        return tuple(t.detach().clone() for t in self.q.naturals()[self.block])

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Nothing: the run on lifted latents checks what it meets."""

    def traced(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Traced:
        """A run of the model on lifted latents.

        :raises SubsampleError: where a plate holds a part of its rows.
        """
        self.q.set_up(args, kwargs, self.builder)
        traced = self.builder.trace(args, kwargs, self.q.latents)
        if traced.is_subsampled:
            raise errors.SubsampleError(
                "a plate holds a part of its rows, and the steps of a mixture are searched on all "
                "of them. Mend: call with all rows; or AutoNatural(model), which takes minibatches."
            )
        return traced

    def _log_joint(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Differentiated:
        traced = self.traced(args, kwargs)
        own = LogJoint(traced, self.q.latents, self.block)
        leaves = {n: p.leaf for n, p in traced.parameters.items() if p.is_free}
        return Differentiated(own, leaves, self.builder.work)

    def _mixture(self, log_joint: Differentiated, coordinates: Natural) -> Mixture:
        means = coordinates[1]
        self.points.begin(means, log_joint.own.numbers)
        return Mixture(coordinates, self.points.common(means))

    # The rule

    def step(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], size: float | None, count: int
    ) -> float:
        log_joint = self._log_joint(args, kwargs)
        coordinates = self._coordinates()
        if count == 0 and not self.q.is_given:
            about = self._mixture(log_joint, coordinates)
            coordinates = spread_start(self.q, args, kwargs, log_joint, about)
        state = self._state(log_joint, self._mixture(log_joint, coordinates))
        gradient = Gradient.of(state)
        self.gap, self._why, self.is_stuck, self._last = None, "", False, None
        self.residual = gradient.residual(state.mixture)
        moved = self._moved(state, gradient, log_joint, size)
        self._others = tuple(sorted(log_joint.leaves))
        log_joint.optimise(self.optim, state)
        self._write(moved)
        self._began = log_joint, state, gradient
        return -state.elbo

    def _state(self, log_joint: Differentiated, mixture: Mixture) -> State:
        """The state of a mixture, all of it finite.

        :raises NonFiniteError: naming the term that is not.
        """
        state = State.at(mixture, log_joint)
        finite = torch.isfinite(state.log_p).all() & torch.isfinite(state.gradient).all()
        if not host.truth(finite):
            raise log_joint.error(mixture.points)
        return state

    def _moved(
        self, state: State, gradient: Gradient, log_joint: Differentiated, size: float | None
    ) -> Natural:
        """The coordinates after a step."""
        mixture = state.mixture
        if size is not None and size != 1:
            return sized_step(state, gradient, size).coordinates
        tried = self.memory.tried_sizes(len(mixture.means), mixture.means)
        found = searched_step(state, gradient, tried, log_joint, self.safety)
        if found is None:
            self.memory.keep_sizes(torch.zeros_like(tried), tried)
            return mixture.coordinates
        self.memory.keep_sizes(found.sizes, tried)
        self._last = MixtureIteration(mixture, found.state, log_joint)
        return found.state.mixture.coordinates

    def _write(self, coordinates: Natural) -> None:
        """Write a mixture to the guide, without components that have died."""
        kept = coordinates[0] >= math.log(DEAD)
        if not host.truth(kept.all()):
            weights = coordinates[0].exp()[~kept].tolist()
            self.memory.without(kept)
            self._last = None
            coordinates = tuple(t[kept] for t in coordinates)
            coordinates = coordinates[0].log_softmax(-1), *coordinates[1:]
            errors.warn(_removed(weights, len(coordinates[0])), errors.RemovedComponentWarning)
        self.q.hold_components(self.block, self.block.family.symmetrize(coordinates))
        self.q.holds_posterior = True

    def begin_fit(self) -> None:
        self.convergence.reset()
        self._leaves = False
        #: Where steps were last short, on points that are the same at each look.
        self._elbo_at_stop = -math.inf

    def accelerate(self, acceleration: Anderson) -> None:
        """Go further than the last step where steps shrink slowly."""
        if self._last is None or self._others or self._leaves:  # it would go back to a saddle
            acceleration.reset()
            return
        moved = self._last.extrapolated(acceleration, self.safety)
        if moved is not None and host.truth(moved[0].amin() >= math.log(DEAD)):
            self._write(moved)

    # How far it is from the optimum

    def look(self) -> None:
        """After a step of a fit: where steps converged on their points, how wrong these are."""
        self._why = "steps still gain"
        if self._began is None or self._others:
            return
        log_joint, state, gradient = self._began
        self.convergence.enter(state.mixture, gradient)
        if not self.convergence.is_known:
            return
        left = self.convergence.gap(state.mixture, gradient)
        has_stalled = not self._leaves and self.convergence.has_stalled(left)
        if has_stalled or left <= min(SETTLED * self.tol, self.convergence.look):
            self._compare(log_joint, state, left, has_stalled)

    def _compare(
        self, log_joint: Differentiated, state: State, left: float, has_stalled: bool
    ) -> None:
        """Certify the gap on other points, or ask for more of them, or leave a saddle.

        :param left: the gap on the points of the steps.
        """
        others = self.points.fresh(state.mixture)
        steps = [Gradient.of(self._state(log_joint, other)).steps(other) for other in others]
        gap, error = self.convergence.independent_gap(state.mixture, steps)
        if gap <= self.tol:
            beside = self._beside_saddle(state, others, log_joint)
            self.gap = gap if beside is None else None
            self._leaves = beside is not None
            if beside is not None:
                self._write(beside.coordinates)
                self._why = "q was at a saddle, which it left"
                self.convergence.reset()
        elif error <= 0.5 * self.tol and not has_stalled:
            self.convergence.look = 0.5 * left
        elif self.points.grow(error / self.tol, state.mixture.means):
            self._last = None
            self.convergence.reset()
        else:
            self.is_stuck = True
            why = "as many as fit" if self.points.fixed is None else "as many as num_draws says"
            self._why = f"the points' own error is {error:.1e} nats, and there are {why}"

    def _beside_saddle(
        self, state: State, others: list[Mixture], log_joint: Differentiated
    ) -> Mixture | None:
        """Where to go from a saddle; None at an optimum.

        The last way out has to have led up by more than the tolerance before there is a next one:
        so a fit ends, also where the noise of points looks like saddles.
        """
        own = State.at(self.points.other(state.mixture), log_joint).elbo
        before, self._elbo_at_stop = self._elbo_at_stop, own
        return way_out(state, others, log_joint) if own > before + self.tol else None

    @property
    def uncertified(self) -> str:
        """Why the last step has no certificate, and the mend; empty if it has one."""
        if self._others:
            return (
                f"not certified: the optimum over {list(self._others)} is not known. Mend: call "
                "fit again while fit.losses fall, or hold these parameters fixed"
            )
        if self.gap is not None:
            return ""
        return (
            f"not certified: {self._why}{self.about}. Mend: call fit again, which goes on from "
            "here, or ask for a larger tol"
        )

    @property
    def about(self) -> str:
        """What became of the components, as the end of a reason."""
        removed, left = self.memory.removed, self.q.components
        verb = "is" if left == 1 else "are"
        return f"; {left} of {left + removed} components {verb} left" if removed else ""

    # Without a step

    def probe(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        log_joint = self._log_joint(args, kwargs)
        state = self._state(log_joint, self._mixture(log_joint, self._coordinates()))
        log_joint.slopes(state)

    def loss(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        """-ELBO in nats at points of its own, without a step."""
        log_joint = self._log_joint(args, kwargs)
        mixture = self._mixture(log_joint, self._coordinates())
        return -self._state(log_joint, self.points.other(mixture)).elbo

    def explain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Explanation:
        traced = self.traced(args, kwargs)
        own = LogJoint(traced, self.q.latents, self.block)
        factors = tuple(_explained(own, name) for name in own.names)
        self.points.begin(self._coordinates()[1], own.numbers)
        parameters = {
            n: ParameterExplanation(n, "optim", "", (n,), "the mixture's rule has no M-step")
            for n in traced.parameters
        }
        latents = tuple(s.name for s in self.block.sites)
        note = (
            f"q is a mixture of {self.q.components} Gaussians over the unconstrained space "
            f"({self.block.event_size} numbers): natural gradients of component and latents "
            f"together, at {self.memory.count} points of each{self.about}"
        )
        families = (self.block.family.name,)
        return Explanation(factors, (latents,), (note,), parameters, families, own.summed_out)


def _removed(weights: list[float], left: int) -> str:
    listed = ", ".join(f"{w:.1e}" for w in weights)
    count = "1 component" if len(weights) == 1 else f"{len(weights)} components"
    verb = "is" if left == 1 else "are"
    return (
        f"{count} of the mixture had a weight below {DEAD:g} ({listed}) and left q: {left} {verb} "
        "left. Mend: nothing, if the ELBO is what it is to be; else start again with more "
        "components, or from another seed."
    )


def _explained(own: LogJoint, name: str) -> FactorExplanation:
    latents = own.latents_of(name)
    if not latents:
        return FactorExplanation(name, "exact", True, (), "", 0.0)
    reason = "the log density at points of each component of q"
    return FactorExplanation(name, "sampled", False, latents, reason, math.nan)

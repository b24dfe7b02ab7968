# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""When a fit has converged: what is looked at, and when it is worth its cost."""

import math
from typing import Any

import torch

from .fit import Fit
from .gaps import CHECKED_AGAIN, SHARE, curvature_of, independent_gap, sampled_residual
from .joint_objective import JointObjective
from .mode import AT_MEAN_OF_A_PART, MEND, NO_STEP, WITHOUT_WIDTH, Mode
from .objective import Call, EnergyObjective
from .sampling import LEAST_GROWTH, SAMPLED_TOL, SETTLED
from .steps.acceleration import Anderson
from .steps.certificate import LOOSE, RELATIVE, Certificate, Curvature, certify
from .steps.climbing import climb
from .steps.settled import WORTH

#: A residual that keeps more than this share of the last one shrinks slowly: a further hundredfold
#: reduction would take more than seven sweeps, and a Newton step costs about as much.
SLOW = 0.5

#: Nats of residual below which the quadratic model of the ELBO is worth a Newton step; above it one
#: is tried after so many slow steps in a row: strongly coupled blocks shrink it without end.
NEWTON_BELOW, PATIENCE = 1.0, 5

#: Steps until the next Newton step after one that gained less than a sweep; twice as many after
#: each further one, so that of n steps about log2(n / WAIT) have one in vain. Where steps are
#: small, one is a certificate too, and does not wait longer.
WAIT = 5

#: Newton steps on the same draws after which the draws are no longer what is to be followed.
MOST_ON_DRAWS = 20

#: Steps on the same draws that neither halve the residual nor gain so many nats, after which there
#: are more draws: kinks of few draws are corners, about which steps may go round for ever.
STALLED, GAINED = 30, 0.1

#: Of a factor whose Hessian is Gauss and Newton's.
CURVATURE_LEFT_OUT = (
    "a factor's Hessian is Gauss-Newton's, which leaves out the network's own curvature: q is near "
    "the optimum, and how near is not known"
)


class Watch:
    """Decides when to pay for a certificate: once steps are small, or shrink slowly."""

    def __init__(self, tol: float | None) -> None:
        self.tol = 1e-6 if tol is None else tol
        self.sampled_tol = SAMPLED_TOL if tol is None else tol
        self.is_over = False
        self.acceleration = Anderson()
        self.draws: Any = None
        self.next_check = 0
        #: The last step at which Newton's gained less than a sweep; how long to wait from there.
        self.futile, self.wait = 0, 0
        self.previous = math.inf
        #: Why what a small decrement was found at last is no mode.
        self.no_mode = ""
        self.slow = False
        self.slow_steps = 0
        self.newton_on_draws = 0
        #: The least residual and loss on the same draws, and the steps since either fell.
        self.least, self.least_loss, self.since_least = math.inf, math.inf, 0
        #: The arguments of the last step on noisy messages.
        self.noisy_call: Call | None = None
        #: Quadrature rules that go on from step to step.
        self.rules: dict[str, Any] = {}

    def accelerate(self, blr: Any, objective: EnergyObjective) -> None:
        """Go further than the last step where steps shrink slowly."""
        if not blr.info.searched or blr.parameters.others:
            return
        info = blr.info
        if objective.draws is not self.draws:
            self.draws = objective.draws
            self.acceleration.reset()
            self.newton_on_draws = 0
            self.least, self.least_loss, self.since_least = math.inf, math.inf, 0
        moved = self.acceleration.extrapolate(objective, info._taken, info.safety)
        if moved is not None:
            blr.set_state(moved, objective)

    def deterministic(self, fit: Fit, blr: Any, objective: EnergyObjective) -> None:
        """Certify the state that the last step reached, or take the certificate's Newton step."""
        fit.residual = blr.info.residual
        if blr.parameters.others:
            return
        if blr.info.is_exact:
            fit.converged, fit.gap, fit.residual = True, 0.0, 0.0
            fit.reason = "no message depends on q: one pass over the parts is the exact posterior"
            return
        if math.isnan(fit.residual) and blr.info.safety.refused >= len(objective.blocks):
            self.is_over, fit.reason = True, NO_STEP
            return
        near = fit.residual <= self.tol
        if not self._is_due(fit, near):
            return
        if objective.is_at_mean:
            self._at_mean(fit, blr, objective, near)
            return
        if self.rules and near:
            # The rules in use were chosen nearby; the certificate is of those chosen here.
            self.rules.clear()
            objective = blr._objective(*objective.call, self.rules)
        if self._newton(fit, blr, objective, near) and near:
            fit.converged = True
            points = sorted(blr.parameters.points.by_name)
            over = f" over q and the parameters {points}" if points else ""
            fit.reason = f"gap {fit.gap:.1e} nats{over} is at most tol={self.tol:g}"

    def _at_mean(self, fit: Fit, blr: Any, objective: EnergyObjective, near: bool) -> None:
        """Certify the mode, or go on along its Newton step, or along negative curvature."""
        naturals = objective.moved(blr.state(objective))
        mode = Mode.about(objective, naturals, self.tol, fit.steps)
        fit.gap = mode.gap
        known = fit.gap <= self.tol
        why = mode.surroundings.unsettled if known else ""
        if known and not why and (near or mode.is_flat(self.tol)):
            fit.converged = True
            flat = "" if near else f"; {WITHOUT_WIDTH}"
            fit.reason = f"{mode.in_words}, at most tol={self.tol:g}{flat}"
            return
        climbed, gained = mode.climbed() or (None, 0.0)
        self.no_mode = why or (self.no_mode if mode.is_stuck else "")
        if why:
            self.is_over = gained <= WORTH * self.tol
        else:
            self.is_over = climbed is None and (near or mode.is_stuck)
        if self.no_mode:
            fit.gap, fit.reason = math.inf, f"not certified: {self.no_mode}. Mend: {MEND}"
        else:
            fit.reason = mode.uncertified if self.is_over else mode.on_the_way
        if climbed is None:
            self._put_off(fit)
        elif not self.is_over:
            self.wait = 0
            blr.set_state(climbed, objective)
            self.acceleration.reset()

    def _is_due(self, fit: Fit, near: bool) -> bool:
        """Whether steps are small, or shrink slowly near the optimum."""
        is_slow = SLOW * self.previous < fit.residual
        self.slow |= is_slow
        self.slow_steps = self.slow_steps + 1 if is_slow else 0
        self.previous = fit.residual
        close = self.slow and fit.residual < NEWTON_BELOW
        slow = close or self.slow_steps >= PATIENCE
        wait = min(self.wait, WAIT) if near else self.wait
        return fit.steps >= self.futile + wait and (slow or near)

    def _newton(self, fit: Fit, blr: Any, objective: EnergyObjective, near: bool) -> bool:
        """Whether the gap is at most tol; if not, take the certificate's Newton step.

        :param near: whether the gap is worth solving for to its digits.
        """
        # On draws saddles are looked for in the end, from the noise of independent gradients.
        tol = self.tol if objective.draws is None else -math.inf
        curvature = curvature_of(blr, objective)
        generator = torch.Generator().manual_seed(fit.steps)
        certificate = certify(curvature, tol, generator, RELATIVE if near else LOOSE)
        fit.gap = certificate.gap
        if near and fit.gap <= tol:
            return True
        gained = self._follow(blr, objective, curvature, certificate)
        # Where a sweep gains as much, several of them tell the acceleration where to go: but not on
        # the ridges of a curved family, where steps are no linear iteration.
        is_curved = any(b.family.is_curved for b in objective.blocks)
        if gained is not None and (is_curved or gained >= fit.residual):
            self.wait = 0
        else:
            self._put_off(fit)
        return False

    def _put_off(self, fit: Fit) -> None:
        """Wait with the next Newton step, longer each time."""
        self.futile, self.wait = fit.steps, max(WAIT, 2 * self.wait)

    def _follow(
        self,
        blr: Any,
        objective: EnergyObjective,
        curvature: Curvature,
        certificate: Certificate,
    ) -> float | None:
        """Take the certificate's Newton step, if it raises the ELBO; the nats gained, or None."""
        joint = curvature.objective
        assert isinstance(joint, JointObjective)
        found = climb(curvature, certificate)
        if found is None:
            return None
        moved, gained = found
        blr.set_state(joint.by_block(moved), objective)
        self.acceleration.reset()
        return gained

    def on_draws(self, fit: Fit, blr: Any, objective: EnergyObjective) -> None:
        """Where steps have converged on their draws: the gap on independent ones, or more draws."""
        tol, sampling = self.sampled_tol, blr.sampling
        fit.residual = blr.step_residual
        if blr.parameters.others:
            # Their optimum on the draws is not known, nor how far it is: steps go on.
            blr.renew_draws(objective, tol)
            return
        known = objective.energy.at_draws.fit_in_memory(objective.draws)
        if not blr.has_settled(objective, tol):
            if self._has_stalled(fit) and sampling.grow(tol, objective.energy, LEAST_GROWTH):
                return
            if self._is_due(fit, False) and known:
                self._newton(fit, blr, objective, False)
            return
        if objective.energy.at_draws.leave_curvature_out:
            self.is_over = True
            fit.reason = f"steps have converged, but {CURVATURE_LEFT_OUT}"
            return
        if not known:
            fit.gap = math.inf
            self._more_draws(fit, blr, objective)
            return
        is_curved = any(b.family.is_curved for b in objective.blocks)
        curvature = None if is_curved else curvature_of(blr, objective)
        fit.gap = sampling.error
        if sampling.error <= tol and self._is_within(fit, blr, objective, curvature):
            return
        if curvature is None or not self._goes_far(fit, blr, objective, curvature):
            self._more_draws(fit, blr, objective)

    def _goes_far(
        self, fit: Fit, blr: Any, objective: EnergyObjective, curvature: Curvature
    ) -> bool:
        """Whether short steps have far to go on their draws, as coupled blocks; with the step."""
        certificate = certify(curvature, -math.inf, relative=LOOSE)
        fit.gap = max(fit.gap, certificate.gap)
        if certificate.gap <= SETTLED * max(blr.sampling.error, self.sampled_tol):
            return False
        self.newton_on_draws += 1
        if self.newton_on_draws > MOST_ON_DRAWS:
            return False
        return self._follow(blr, objective, curvature, certificate) is not None

    def _has_stalled(self, fit: Fit) -> bool:
        """Whether steps on these draws get nowhere."""
        self.since_least += 1
        if fit.residual < 0.5 * self.least:
            self.least, self.since_least = fit.residual, 0
        if fit.losses[-1] < self.least_loss - GAINED:
            self.least_loss, self.since_least = fit.losses[-1], 0
        return self.since_least > STALLED

    def _is_within(
        self, fit: Fit, blr: Any, objective: EnergyObjective, curvature: Curvature | None
    ) -> bool:
        """Whether the gap on independent draws, and twice its error, are at most tol."""
        tol, count = self.sampled_tol, blr.sampling.count
        gap, spread = independent_gap(blr, objective, curvature)
        fit.gap = abs(gap) + 2 * spread
        fit.reason = f"gap {gap:.1e} +- {spread:.1e} nats on independent draws, {count} each"
        fit.converged = fit.gap <= tol
        if fit.converged:
            fit.reason += f", is at most tol={tol:g}"
        return fit.converged

    def _more_draws(self, fit: Fit, blr: Any, objective: EnergyObjective) -> None:
        """Renew the draws, or stop where there are the most that there may be."""
        sampling, tol = blr.sampling, self.sampled_tol
        if sampling.grow(tol, objective.energy):
            return
        self.is_over = True
        fit.gap = max(fit.gap, sampling.error)
        if sampling.error > tol:
            fit.reason = (
                f"the error of {sampling.count} draws, the most that there may be, is about "
                f"{sampling.error:.1e} nats, above tol={tol:g}"
            )
        elif not fit.reason:
            fit.reason = (
                f"steps have converged on {sampling.count} draws, the most that there may be, and "
                "the gap is not known: the curvature there is not positive, or too large to hold"
            )

    def noisy(self, fit: Fit, blr: Any, objective: EnergyObjective, call: Call) -> None:
        """The residual of the iterates' average, from independent estimates, and its error."""
        if objective.is_at_mean:
            fit.reason = AT_MEAN_OF_A_PART
            return
        self.noisy_call = call
        if blr.parameters.others or fit.steps % 20 or fit.steps < self.next_check:
            return
        if objective.energy.at_draws.have_jumps:
            fit.reason = (
                "not certified: a sampled factor has jumps, which its gradient does not see"
            )
            return
        if objective.energy.at_draws.leave_curvature_out:
            fit.reason = f"not certified: {CURVATURE_LEFT_OUT}"
            return
        self.next_check = math.ceil(CHECKED_AGAIN * fit.steps)
        mean, spread = sampled_residual(blr, blr.averaged(), call, fit.steps // SHARE)
        fit.residual, bound = mean, abs(mean) + 2 * spread
        fit.reason = f"sampled gap {mean:.1e} +- {spread:.1e} nats of the average of the steps"
        if not math.isfinite(mean):
            fit.reason = "not certified: the mean Hessian of some minibatches is not positive"
        if bound > self.sampled_tol:
            fit.reason += f", tol={self.sampled_tol:g}"
            return
        blr.average()
        fit.converged, fit.gap = True, bound
        fit.reason += f" is at most tol={self.sampled_tol:g}"

    def choose_average(self, fit: Fit, blr: Any, count: int) -> None:
        """At the end of noisy steps: write their average, unless its residual is the larger one.

        :param count: see :func:`sampled_residual`.
        """
        if self.noisy_call is None:
            return
        own = {b: tuple(t.detach() for t in n) for b, n in blr.view.naturals().items()}
        average, first = sampled_residual(blr, blr.averaged(), self.noisy_call, count)
        iterate, second = sampled_residual(blr, own, self.noisy_call, count)
        fit.residual = iterate
        if average <= iterate + 2 * math.hypot(first, second):
            blr.average()
            fit.residual = average

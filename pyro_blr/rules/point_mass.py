# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The rule for a point mass: Newton's step on the log joint."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from ..energy.explanation import Explanation, FactorExplanation, ParameterExplanation
from ..families.registry import unwrap
from ..random_state import random_state, same_random_state
from ..steps.gradients import check_gradients
from ..steps.hessian import flat, unflat
from ..steps.information import MAX_ELEMENTS
from ..steps.line_search import descend
from ..steps.mean_hessian import MeanHessian
from ..steps.newton import INDEFINITE, NOT_FINITE, SINGULAR, NewtonStep, newton_step
from ..steps.schedule import decreasing
from ..steps.settled import ALONG, LEVELS_OFF, WORTH, surroundings
from ..steps.spectrum import Spectrum
from .evaluation import Call, Line
from .protocol import Rule, captured
from .sites import latents_of
from .watch import Watch, watched

#: A step that lowers the loss by more than so many times the decrement shows that its quadratic
#: model is not one yet: near an inflection, where the loss goes on falling. It is 2 where the loss
#: is an exponential, 1.5 at a minimum of fourth order.
TRUSTED = 4.0

#: Steps in a row that lower the loss no more, without a certificate, after which it is at its end.
IDLE = 5

SHORT = "the quadratic model is not one yet: the loss falls by more than it says"
MORE = "call fit again, which goes on from here, or start elsewhere (init_loc_fn)"
OTHER = (
    "give what the data do not determine a prior, take out a latent that is redundant, or ask for "
    "the posterior (AutoNatural)"
)
MENDS = {
    INDEFINITE: MORE,
    SINGULAR: f"{OTHER}, as where the mode is at a bound of a latent's support",
    ALONG: OTHER,
    LEVELS_OFF: f"{OTHER}; or start elsewhere (init_loc_fn)",
    NOT_FINITE: "write the model without a root or logarithm of 0 at the point",
}


class PointMassRule(Rule):
    """Maximum a posteriori estimates: guides of Deltas, as AutoDelta and AutoLaplaceApproximation.

    The rule with a point mass for q and the Hessian in the place of the expected one is Newton's
    method (arXiv 2107.04562, Table 1), here in the unconstrained coordinates of the guide's
    parameters: the loss, and so its optimum, is that of SVI. A step is halved until the loss does
    not rise; along negative curvature it goes both ways. Where a call sees a part of the data, the
    loss is not the same twice, or a size is asked for, steps of that size follow a running mean of
    Hessians; with noise and too many elements for one, the optimiser moves the guide. Parameters of
    the model are the optimiser's always.
    """

    tier = "exact"
    what = "is a point mass"
    #: The running mean of Hessians, which is saved with the engine's state.
    hessian: MeanHessian
    _call: Call | None = None
    _is_subsampled = False
    _reason = ""
    _idle = 0
    #: The names of leaves with redundant coordinates; None before any was looked for.
    _redundant: tuple[str, ...] | None = None

    @property
    def uncertified(self) -> str:
        call = self._call
        assert call is not None
        if call.is_subsampled:
            why = "the step saw a part of the data. Mend: fit on all rows, from here, for a gap"
        elif not call.is_repeatable:
            why = (
                "the loss is not the same twice at the same parameters. Mend: compare the means of "
                "the last two windows of fit.losses, and call fit again while they fall"
            )
        elif call.others:
            why = (
                f"the optimum over {sorted(call.others)} is not known. Mend: call fit again while "
                "fit.losses fall, or hold these parameters fixed"
            )
        elif self.gap is None:
            why = f"{self._reason}. Mend: {MENDS.get(self._reason, MORE)}"
        else:
            return ""
        return f"not certified: {why}"

    def step(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], size: float | None, count: int
    ) -> float:
        call = self._call = self._evaluated(args, kwargs)
        self.gap, self._reason, self.is_stuck = None, "", False
        moved = dict(call.others)
        if call.is_noisy and sum(leaf.numel() for leaf in call.own.values()) > MAX_ELEMENTS:
            moved |= call.own
        elif call.own:
            newton = self._newton_step(call, count)
            call = replace(call, redundant=self._redundant or ())
            is_near = newton.gap is not None and newton.gap <= self.tol
            if call.is_noisy or not (is_near or size is None or size == 1):
                self._damped(newton, call, decreasing(count) if size is None else size)
            else:
                self._newton(newton, call)
        self._optimise(moved, call.gradients)
        return call.loss

    def probe(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._evaluated(args, kwargs)

    def _evaluated(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        self.check(args, kwargs)
        before, watch = random_state(), Watch()
        with poutine.trace(param_only=True) as capture:
            value = self._loss(args, kwargs, watch)
        leaves = captured(capture.trace)
        if watch.sites:
            self._is_subsampled = watch.is_subsampled
        gradients = _gradients(value, leaves)
        check_gradients(gradients)
        # With its graph: TraceEnum_ELBO has no loss without one.
        again = float(self._loss(args, kwargs, Watch()).detach())
        with torch.no_grad():
            names = set(captured(poutine.trace(self.guide).get_trace(*args, **kwargs)))
        own = {name: leaf for name, leaf in leaves.items() if name in names}
        held = {id(leaf) for leaf in own.values()}
        others = {name: leaf for name, leaf in leaves.items() if id(leaf) not in held}
        loss = float(value.detach())
        return Call(
            *(loss, value, own, others, gradients, self._is_subsampled, again == loss, before),
            lambda: self._loss(args, kwargs, Watch()),
            lambda: self._points(args, kwargs),
        )

    def _points(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The values of the guide's Deltas but those that declare a density of their own.

        The density there is one in other coordinates, of which a bound is none.
        """
        with torch.enable_grad(), same_random_state(), poutine.block():
            trace = poutine.trace(self.guide).get_trace(*args, **kwargs)
        deltas = (site for site in latents_of(trace).values())
        return [
            s["value"] for s in deltas if not torch.as_tensor(unwrap(s["fn"]).log_density).any()
        ]

    def _loss(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], watch: Watch) -> Tensor:
        """The loss with its graph.

        :raises NonFiniteError: naming the site.
        """
        # Pyro's loss that sums over discrete latents refuses to be without a graph.
        graph = torch.is_grad_enabled() or isinstance(self.elbo, TraceEnum_ELBO)
        with watched(watch), torch.set_grad_enabled(graph):
            found: Any = self.elbo.differentiable_loss(self.model, self.guide, *args, **kwargs)
        value = torch.as_tensor(found)
        value = value if torch.is_grad_enabled() else value.detach()
        loss = float(value.detach())
        if not math.isfinite(loss):
            raise watch.error(loss)
        return value

    def _newton_step(self, call: Call, count: int) -> NewtonStep:
        """Newton's step, also where the log joint is flat along coordinates that move no point."""
        call = replace(call, redundant=self._redundant or ())
        leaves = list(call.own.values())
        newton = newton_step(call.curved(call.value), leaves, self.tol, count)
        if newton.reason != SINGULAR or self._redundant is not None:
            return newton
        self._redundant = call.logits()
        return self._newton_step(call, count) if self._redundant else newton

    def _newton(self, newton: NewtonStep, call: Call) -> None:
        """Move to the lowest of the losses along Newton's step and along negative curvature."""
        self.gap, self._reason = newton.gap, newton.reason
        directions = [newton.direction]
        if newton.negative is not None:
            directions += [newton.negative, tuple(-d for d in newton.negative)]
        lowest, best = math.inf, None
        for direction in directions:
            line = Line(call, direction)
            found = descend(line.loss, call.loss, call.slack, self.safety)
            line.move(0.0)
            if found is not None and found[1] < lowest:
                lowest, best = found[1], (line, found[0])
        fall = call.loss - lowest
        if newton.gap is not None and fall > TRUSTED * newton.gap + call.slack:
            self.gap, self._reason = None, SHORT
        is_near = self.gap is not None and self.gap <= self.tol
        if is_near:
            why = surroundings(newton, call.further, call.at_bound).unsettled
            if why:
                self.gap, self._reason = None, why
        if best is None:
            self.safety.refused += 1
        else:
            line, size = best
            line.move(min(size, 1.0) if is_near and self.gap is not None else size)
        self._idle = 0 if fall > call.slack else self._idle + 1
        over = is_near and self.gap is None and fall <= WORTH * self.tol
        self.is_stuck = (self._idle >= IDLE or over) and not call.others

    def _damped(self, newton: NewtonStep, call: Call, rho: float) -> None:
        """A step of size rho along the running mean of Hessians, which lets no batch's loss rise.

        Each batch has an optimum of its own; what is followed is the mean of their gradients.
        """
        if not call.is_noisy:
            self.gap, self._reason = newton.gap, newton.reason
        direction = newton.direction
        if newton.hessian is not None:
            leaves = list(call.own.values())
            eps = max(torch.finfo(leaf.dtype).eps for leaf in leaves)
            spectrum = Spectrum(self.hessian.add(newton.hessian, rho), eps)
            gradient = flat([call.gradients[name] for name in call.own])
            direction = unflat(spectrum.descent(gradient), leaves)
        line = Line(call, [rho * d for d in direction])
        if not call.is_repeatable and line.loss(0.0) != call.loss:
            line.move(1.0)  # random numbers that are not torch's: no two losses compare
            return
        found = descend(line.loss, call.loss, call.slack, self.safety, longer=False)
        self.safety.refused += found is None
        line.move(0.0 if found is None else found[0])

    def _optimise(self, leaves: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        if not leaves:
            return
        for name, leaf in leaves.items():
            leaf.grad = gradients[name]
        self.optim(set(leaves.values()))
        for leaf in leaves.values():
            leaf.grad = None

    def explain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Explanation:
        sites = self.sites(args, kwargs)
        sites.check()
        latents = tuple(sites.of_guide)
        why = "q is a point mass: the log density at the point"
        factors = tuple(
            FactorExplanation(name, self.tier, False, latents, why, 0.0) for name in sites.of_model
        )
        own = captured(sites.guide)
        names = {**own, **captured(sites.model)}
        parameters = {name: _explained(name, name in own) for name in names}
        blocks = (latents,)
        note = "Newton's step on the log joint, all latents together"
        hidden = tuple(sites.summed_out)
        return Explanation(factors, blocks, (note,), parameters, ("Delta",), hidden)


def _gradients(value: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of the loss by name, 0 where it does not depend on a leaf."""
    if not leaves or not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if g is None else g.detach()
        for (name, leaf), g in zip(leaves.items(), found, strict=True)
    }


def _explained(name: str, is_own: bool) -> ParameterExplanation:
    update, reason = "optim", "it is a parameter of the model"
    if is_own:
        update = "Newton"
        reason = f"the point; on minibatches of more than {MAX_ELEMENTS} elements by the optimiser"
    return ParameterExplanation(name, update, "", (name,), reason)

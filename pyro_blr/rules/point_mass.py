# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The rule for a point mass: Newton's step on the log joint."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ..energy.explanation import Explanation, FactorExplanation, ParameterExplanation
from ..steps.cone import MAX_HALVINGS
from ..steps.newton import newton_step
from ..steps.sweep import ROUNDING
from .protocol import Rule, captured, check_number


class PointMassRule(Rule):
    """Maximum a posteriori estimates: guides of Deltas, as AutoDelta and AutoLaplaceApproximation.

    The rule with a point mass for q and the Hessian in the place of the expected one is Newton's
    method (arXiv 2107.04562, Table 1), here in the unconstrained coordinates of the guide's
    parameters: the loss, and so its optimum, is that of SVI. A step is halved until the loss does
    not rise. Where the loss is not the same twice (subsampling, randomness in the model) the
    optimiser moves the guide as well. Parameters of the model are the optimiser's always.
    """

    _is_repeatable = True
    _others: tuple[str, ...] = ()

    @property
    def uncertified(self) -> str:
        if not self._is_repeatable:
            return "not certified: the loss is not the same twice at the same parameters"
        if self._others:
            return f"not certified: the optimum over {list(self._others)} is not known"
        return "" if self.gap is not None else "not certified: the Hessian is not positive definite"

    def step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], rho: float) -> float:
        self.check(args, kwargs)
        with poutine.trace(param_only=True) as capture:
            value = self._loss(args, kwargs)
        loss = float(value.detach())
        check_number(loss)
        leaves = captured(capture.trace)
        with torch.no_grad():
            again = float(self._loss(args, kwargs))
            names = set(captured(poutine.trace(self.guide).get_trace(*args, **kwargs)))
        self._is_repeatable = again == loss
        own = [leaf for name, leaf in leaves.items() if name in names and self._is_repeatable]
        others = {name: leaf for name, leaf in leaves.items() if all(leaf is not o for o in own)}
        self._others = tuple(sorted(others))
        gradient = _gradient(value, list(others.values()))
        self.gap = None
        if own:
            newton = newton_step(value, own)
            self.gap = newton.gap
            self._search(own, newton.direction, loss, args, kwargs)
        self._optimise(list(others.values()), gradient)
        return loss

    def _loss(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        value: Any = self.elbo.differentiable_loss(self.model, self.guide, *args, **kwargs)
        return torch.as_tensor(value)

    def _search(
        self,
        leaves: list[Tensor],
        direction: tuple[Tensor, ...],
        loss: float,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        """Move by the largest halved step at which the loss does not rise."""
        start = [leaf.detach().clone() for leaf in leaves]
        for power in range(MAX_HALVINGS):
            with torch.no_grad(), pyro.validation_enabled(False):
                for leaf, s, d in zip(leaves, start, direction, strict=True):
                    leaf.copy_(s + 0.5**power * d)
                after = float(self._loss(args, kwargs))
            if after <= loss + ROUNDING * abs(loss):
                return
            self.safety.halvings += 1
        self.safety.refused += 1
        with torch.no_grad():
            for leaf, s in zip(leaves, start, strict=True):
                leaf.copy_(s)

    def _optimise(self, leaves: list[Tensor], gradient: Sequence[Tensor]) -> None:
        if not leaves:
            return
        for leaf, g in zip(leaves, gradient, strict=True):
            leaf.grad = g
        self.optim(set(leaves))
        for leaf in leaves:
            leaf.grad = None

    def explain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Explanation:
        sites = self.sites(args, kwargs)
        sites.check(self.elbo)
        latents = tuple(sites.of_guide)
        why = "q is a point mass: the log density at the point"
        factors = tuple(
            FactorExplanation(name, "exact", False, latents, why, 0.0) for name in sites.of_model
        )
        own = captured(sites.guide)
        names = {**own, **captured(sites.model)}
        parameters = {name: _explained(name, name in own) for name in names}
        blocks = (latents,)
        note = "Newton's step on the log joint, all latents together"
        return Explanation(factors, blocks, (note,), parameters)


def _gradient(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """The gradient of the loss, 0 where it does not depend on a leaf."""
    if not leaves or not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(x) if g is None else g.detach() for g, x in zip(found, leaves, strict=True)
    ]


def _explained(name: str, is_own: bool) -> ParameterExplanation:
    update, reason = "optim", "it is a parameter of the model"
    if is_own:
        update, reason = "Newton", "the point; by the optimiser where the loss is not repeatable"
    return ParameterExplanation(name, update, "", (name,), reason)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The rule where q is known by the guide's draws alone: structured, amortised, any control flow."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ..energy.explanation import Explanation, FactorExplanation, ParameterExplanation
from ..guides.natural_param import NaturalParam, listening
from ..steps.cone import noisy_step
from ..steps.gradients import check_gradients
from ..steps.schedule import decreasing
from .protocol import Rule, captured
from .watch import Watch, watched


class DrawnRule(Rule):
    """Pyro's own ELBO at draws of the guide; what has natural coordinates takes natural gradients.

    One backward pass serves all parameters. For natural parameters that the guide has from
    ``natural_param`` the gradient in the mean parameters is F^-1 times the one in the natural
    parameters, so that

        message = natural - F^-1 dloss/dnatural,     natural <- (1 - rho) natural + rho message,

    inside the cone; every other parameter is moved by the optimiser.
    """

    tier = "sampled"
    what = "is known by its draws alone"
    _naturals: Sequence[NaturalParam] = ()

    @property
    def uncertified(self) -> str:
        return (
            "not certified: q is known by its draws alone. Mend: compare the means of the last two "
            "windows of fit.losses, and call fit again while they fall; a guide in natural "
            "coordinates, AutoNatural(model), is certified"
        )

    def step(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], size: float | None, count: int
    ) -> float:
        with self._evaluated(args, kwargs) as (loss, leaves):
            own = self._natural_step(self._naturals, decreasing(count) if size is None else size)
            others = {leaf for leaf in leaves.values() if id(leaf) not in own}
            if others:
                self.optim(others)
        return loss

    def probe(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        with self._evaluated(args, kwargs):
            pass

    @contextmanager
    def _evaluated(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Iterator[tuple[float, dict[str, Tensor]]]:
        """The loss and the leaves, which have their gradients as long as this lasts."""
        self.check(args, kwargs)
        watch, leaves = Watch(), dict[str, Tensor]()
        capture = poutine.trace(param_only=True)
        try:
            with listening() as heard, capture, watched(watch):
                loss = float(self.elbo.loss_and_grads(self.model, self.guide, *args, **kwargs))
            leaves = captured(capture.trace)
            if not math.isfinite(loss):
                raise watch.error(loss)
            check_gradients({name: leaf.grad for name, leaf in leaves.items()})
            # A guide that was compiled (JitTrace_ELBO) asks for them at its first call only.
            self._naturals = heard or self._naturals
            yield loss, leaves
        finally:
            for leaf in captured(capture.trace).values():
                leaf.grad = None

    def _natural_step(self, naturals: Sequence[NaturalParam], rho: float) -> set[int]:
        """Move the natural parameters; return the identities of their leaves."""
        moved: set[int] = set()
        for held in naturals:
            if id(held.leaves[0]) in moved:
                continue
            moved |= {id(leaf) for leaf in held.leaves}
            natural = tuple(leaf.detach().clone() for leaf in held.leaves)
            gradient = held.family.symmetrize(tuple(_gradient(leaf) for leaf in held.leaves))
            with torch.no_grad():
                step = held.family.inverse_fisher(natural, gradient)
                message = tuple(n - s / held.scale for n, s in zip(natural, step, strict=True))
                # Of one draw a message may be off by orders of magnitude.
                new = noisy_step(held.family, natural, message, rho, self.safety)
                for leaf, value in zip(held.leaves, natural if new is None else new, strict=True):
                    leaf.copy_(value)
        return moved

    def explain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Explanation:
        with listening() as naturals:
            sites = self.sites(args, kwargs)
        sites.check()
        own = {id(leaf): p for p in naturals for leaf in p.leaves}
        latents = tuple(sites.of_guide)
        factors = tuple(
            FactorExplanation(name, self.tier, False, latents, self.reason, 0.0)
            for name in sites.of_model
        )
        parameters = {}
        for trace in (sites.guide, sites.model):
            for name, leaf in captured(trace).items():
                parameters[name] = _explained(name, own.get(id(leaf)))
        note = (
            f"every factor is sampled from the guide, {self.elbo.num_particles} draws a step: "
            f"{self.reason}"
        )
        blocks = tuple((n,) for n in latents)
        hidden = tuple(sites.summed_out)
        return Explanation(factors, blocks, (note,), parameters, sites.laws, hidden)


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.detach()


def _explained(name: str, held: NaturalParam | None) -> ParameterExplanation:
    if held is None:
        reason = "it has no natural coordinates"
        return ParameterExplanation(name, "optim", "", (name,), reason)
    together = tuple(f"{held.name}.natural_{k}" for k in range(len(held.leaves)))
    reason = f"natural parameters of a {held.family.name}"
    return ParameterExplanation(name, "natural gradient", "", together, reason)

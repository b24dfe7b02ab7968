# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What the optimisers have in common: one step of q from gradients at draws."""

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import StepOrderError
from ..lifting import host
from ..steps.diagonal import each, newton_directions
from .averaging import average
from .drawing import DrawingOptimizer
from .draws import State
from .parts import in_parts
from .ranks import Copies
from .rows import check_gradient, has_only_finite
from .sharding import local

Closure = Callable[[], Any]


class GaussianOptimizer(DrawingOptimizer):
    """A diagonal Gaussian over the weights, whose step is taken from gradients at draws.

    With m the means, h the Hessian of the mean loss and d the weight decay, q has the precision
    ``S = ess (h + d)``, and a step is that of :mod:`pyro_blr.steps.diagonal`.
    A subclass estimates h.
    """

    #: Asks a GradScaler to call ``step`` also where it found infinite gradients.
    _step_supports_amp_scaling = True

    # Subclasses

    @abstractmethod
    def _estimates(
        self, group: State, scale: float, gradients: list[Tensor], source: list[Tensor],
        precisions: list[Tensor],
    ) -> list[Tensor]:  # fmt: skip
        """The Hessian of the mean loss, of one part; may use ``source`` as its memory.

        :param scale: by which gradients were multiplied, and what was summed has to be.
        :param precisions: ``h + d``.
        """

    @abstractmethod
    def _changes(self, group: State, gaps: list[Tensor], precisions: list[Tensor]) -> list[Tensor]:
        """What is added to h.

        :param gaps: h minus the estimate.
        """

    @abstractmethod
    def _source(self, group: State, parameter: Tensor) -> Tensor:
        """The tensor from which a parameter's Hessian is estimated."""

    @abstractmethod
    def _summed(self) -> set[Tensor]:
        """The parameters whose Hessian is estimated from a sum over draws."""

    def _check_draws(self, is_scaled: bool, is_unscaled: bool) -> None:
        """Refuse a step that the draws do not allow."""

    # Steps

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Take one step from the draws since the last one.

        :param closure: computes the loss, calls ``backward`` and returns the loss; it is called at
            ``draws`` draws. ``zero_grad`` in it does not lose earlier draws.
        :return: the mean of what the closure returned.
        :raises StepOrderError: without a draw, within one, or without a gradient.
        :raises NonFiniteError: after many steps in a row whose gradients were NaN or infinite.
        """
        try:
            return self._step(closure)
        except BaseException as error:
            # A GradScaler takes these back only after a step, and multiplies what it finds.
            for name in ("found_inf", "grad_scale"):
                vars(self).pop(name, None)
            if isinstance(error, Exception):
                raise self._ranks.fail(error)  # noqa: B904
            raise

    def _step(self, closure: Closure | None) -> Any:
        loss = None if closure is None else self._run(closure)
        self._check_order()
        # Set by a GradScaler for the time of this call.
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        is_scaled = found_inf is not None
        self._check_draws(is_scaled, is_scaled and grad_scale is None)
        used = [p for p in self._everything() if p.grad is not None]
        for parameter in used:
            check_gradient(parameter)
        is_finite = has_only_finite(used) if found_inf is None else not host.truth(found_inf)
        scale = 1.0 if grad_scale is None else 1.0 / host.number(grad_scale)
        if isinstance(self._ranks, Copies):
            own = self._everything(), self._summed()
            is_finite = average(self._ranks, self._draws, self._noise, *own, scale, is_finite)
            scale = 1.0
        else:
            is_finite = self._ranks.all(is_finite)
        if is_finite:
            self._update(scale / self._draws.weight)
        self._draws.forget()
        self._noise.end_step()
        if is_finite:
            self._skipped.taken()
        else:
            self._skipped.skip(is_scaled, self._least_precision())
        return loss

    def _run(self, closure: Closure) -> Any:
        """Call a closure at each of several draws; its gradients add up."""
        if self._draws.count or self._is_active:
            raise StepOrderError(
                "step(closure) takes its own draws, and there is one of sampled_params already. "
                "Mend: step() after sampled_params, or step(closure) without it (zero_grad() "
                "drops a draw that is not wanted)."
            )
        losses: list[Any] = []
        everything = self._everything()
        self._is_closure = True
        try:
            for _ in range(self.draws_per_closure):
                with self.sampled_params(), torch.enable_grad():
                    earlier = [p.grad for p in everything] if losses else [None] * len(everything)
                    if losses:
                        for parameter in everything:
                            parameter.grad = None
                    losses.append(closure())
                    for parameter, gradient in zip(everything, earlier, strict=True):
                        parameter.grad = _sum(gradient, parameter.grad)
        finally:
            self._is_closure = False
        return None if any(v is None for v in losses) else sum(losses) / len(losses)

    def _check_order(self) -> None:
        draws = self._draws
        if self._is_active:
            raise StepOrderError(
                "step within sampled_params: the weights are at a draw. Mend: call step() after "
                "the `with` block."
            )
        if not draws.count:
            reason = f" ({draws.reason})" if draws.reason else ""
            raise StepOrderError(
                f"step without a draw{reason}. Mend: `with optimizer.sampled_params(): "
                "loss_of(net).backward()` before each step, or step(closure)."
            )
        if all(p.grad is None for p in self._everything()) and not self._ranks.has_copies:
            raise StepOrderError(
                "step without a gradient: no parameter has one. Mend: call loss.backward() within "
                "sampled_params, and zero_grad before it."
            )

    def _update(self, scale: float) -> None:
        for group, parameters in self._kinds(lambda p: p.grad is not None):
            known = [p for p in parameters if p in self._draws.drawn]
            states = [self.state[p] for p in known]
            for state in states:
                state["step"] += 1
            columns = in_parts(
                [s.get("mean", p) for p, s in zip(known, states, strict=True)],
                [s["momentum"] for s in states],
                [s["hessian"] for s in states],
                [_like_memory(local(self._gradient(p)), local(p)) for p in known],
                [self._source(group, p) for p in known],
            )
            for part in columns:
                self._advance(group, states[0]["step"], scale, *part)
            for parameter, state in zip(known, states, strict=True):
                if "mean" in state:
                    parameter.copy_(state["mean"])

    def _gradient(self, parameter: Tensor) -> Any:
        return self._draws.gradients.get(parameter, parameter.grad)

    def _advance(
        self, group: State, step: int, scale: float, means: list[Tensor], momenta: list[Tensor],
        hessians: list[Tensor], gradients: list[Tensor], source: list[Tensor],
    ) -> None:  # fmt: skip
        """The step of one part, in place."""
        decay, (b1, _) = group["weight_decay"], group["betas"]
        gradients = [g.to(m.dtype) for g, m in zip(gradients, means, strict=True)]
        if scale != 1.0:
            gradients = each._foreach_mul(gradients, scale)
        precisions = each._foreach_add(hessians, decay)
        estimates = self._estimates(group, scale, gradients, source, precisions)
        gaps = each._foreach_sub(hessians, estimates)
        each._foreach_add_(hessians, self._changes(group, gaps, precisions))
        each._foreach_lerp_(momenta, gradients, 1 - b1)
        precisions = each._foreach_add(hessians, decay + group.get("damping", 0.0))
        directions = each._foreach_div(momenta, 1 - b1**step if group["debias"] else 1.0)
        each._foreach_add_(directions, means, alpha=decay)
        directions = newton_directions(directions, precisions)
        if group["clip_radius"] < math.inf:
            each._foreach_clamp_min_(directions, -group["clip_radius"])
            each._foreach_clamp_max_(directions, group["clip_radius"])
        rescale = group["hessian_init"] + decay if group["rescale_lr"] else 1.0
        each._foreach_add_(means, directions, alpha=-group["lr"] * rescale)

    def _least_precision(self) -> float:
        found = [
            host.number((local(self.state[p]["hessian"]) + g["weight_decay"]).min())
            for g in self.param_groups
            for p in g["params"]
            if local(p).numel() and "hessian" in self.state[p]
        ]
        return min(itertools.chain(found, [math.inf]))


@torch.no_grad()
def _sum(earlier: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    if earlier is None or gradient is None:
        return gradient if earlier is None else earlier
    return gradient.add_(earlier)  # in place: a reducer may hold it


def _like_memory(gradient: Any, parameter: Tensor) -> Tensor:
    """The gradient without gaps in its memory where the parameter has none."""
    found: Tensor = gradient.contiguous() if parameter.is_contiguous() else gradient
    return found

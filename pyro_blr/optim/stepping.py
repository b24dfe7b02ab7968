# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A step of an optimiser whose weights are at draws: when it may be taken, and what it begins with.

What is one step of q is in the subclasses: :mod:`.optimizer` for a diagonal Gaussian,
:mod:`.binary` for weights of -1 and 1.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, NonFiniteError, StepOrderError
from ..lifting import host
from .averaging import average
from .drawing import DrawingOptimizer
from .draws import State
from .ranks import Copies
from .rows import check_gradient, has_only_finite
from .sharding import local

Closure = Callable[[], Any]


class SteppingOptimizer(DrawingOptimizer):
    """Takes a step from the gradients since the last one, or leaves it out."""

    #: Asks a GradScaler to call ``step`` also where it found infinite gradients.
    _step_supports_amp_scaling = True

    # Subclasses

    @abstractmethod
    def _advance(
        self, group: State, parameters: Sequence[Tensor], states: Sequence[State], scale: float
    ) -> None:
        """The step of parameters that are alike, in place.

        :param scale: multiplies gradients, and what was summed over draws.
        """

    @abstractmethod
    def _summed(self) -> set[Tensor]:
        """The parameters of which something was summed over draws."""

    @abstractmethod
    def _check_draws(self, is_scaled: bool, is_unscaled: bool) -> None:
        """Refuse a step that the draws do not allow."""

    def _squares(self) -> list[Tensor]:
        """Sums of squares that a step is taken from beside gradients."""
        return []

    def _least_precision(self) -> float:
        """The least precision of q's noise; infinite where it has none."""
        return math.inf

    # Steps

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Take one step from the draws since the last one.

        :param closure: computes the loss, calls ``backward`` and returns the loss; it is called at
            ``draws`` draws. ``zero_grad`` in it does not lose earlier draws.
        :return: the mean of what the closure returned.
        :raises StepOrderError: without a draw, within one, or without a gradient.
        :raises NonFiniteError: after many steps in a row whose gradients were NaN or infinite; or
            where a step of ``BinaryBLR`` leads out of the finite numbers.
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
        if found_inf is None:
            is_finite = has_only_finite(used, self._squares())
        else:
            is_finite = not host.truth(found_inf)
        scale = 1.0 if grad_scale is None else 1.0 / host.number(grad_scale)
        if isinstance(self._ranks, Copies):
            own = self._draws, self._noise, self.param_groups, self._summed()
            is_finite = average(self._ranks, *own, scale, is_finite)
            scale = 1.0
        else:
            is_finite = self._ranks.all(is_finite)
        try:
            if is_finite:
                self._update(scale / self._draws.weight)
        finally:
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
        return None if any(v is None for v in losses) else _mean(losses)

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
        counted: list[State] = []
        try:
            for group, parameters in self._kinds(lambda p: p.grad is not None):
                known = [p for p in parameters if p in self._draws.drawn]
                states = [self.state[p] for p in known]
                for state in states:
                    state["step"] += 1
                counted += states
                self._advance(group, known, states, scale)
        except NonFiniteError:
            for state in counted:
                state["step"] -= 1
            raise

    def _gradients(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The parts of the gradients that are here, laid out as the parameters are."""
        return [_like_memory(local(self._gradient(p)), local(p)) for p in parameters]

    def _gradient(self, parameter: Tensor) -> Any:
        return self._draws.gradients.get(parameter, parameter.grad)


def _mean(losses: Sequence[Any]) -> Any:
    """The mean of what a closure returned at each draw.

    :raises ArgumentError: if that is no number.
    """
    try:
        return sum(losses) / len(losses)
    except TypeError as error:
        raise ArgumentError(
            f"the closure of a step returns a {type(losses[0]).__name__}, and what it returns is "
            "averaged over draws. Mend: return the loss, a number or a tensor, or nothing."
        ) from error


@torch.no_grad()
def _sum(earlier: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    if earlier is None or gradient is None:
        return gradient if earlier is None else earlier
    return gradient.add_(earlier)  # in place: a reducer may hold it


def _like_memory(gradient: Any, parameter: Tensor) -> Tensor:
    """The gradient without gaps in its memory where the parameter has none."""
    found: Tensor = gradient.contiguous() if parameter.is_contiguous() else gradient
    return found

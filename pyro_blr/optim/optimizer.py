# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What the optimisers have in common: draws around a backward pass, then one step of q."""

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..errors import ArgumentError, StepOrderError
from ..lifting import host
from ..steps.diagonal import each, newton_directions
from .batch_norm import watched
from .draws import Draws, State
from .noise import Noise
from .options import check_options, listed
from .parts import in_parts
from .rows import check_gradient, has_only_finite, prepared, sorted_by
from .saved import load, saved
from .skipped import Skipped

Closure = Callable[[], Any]


class GaussianOptimizer(Optimizer):
    """A diagonal Gaussian over the weights, whose step is taken from gradients at draws.

    With m the means, h the Hessian of the mean loss and d the weight decay, q has the precision
    ``S = ess (h + d)``, and a step is that of :mod:`pyro_blr.steps.diagonal`.
    A subclass estimates h.
    """

    #: Asks a GradScaler to call ``step`` also where it found infinite gradients.
    _step_supports_amp_scaling = True
    #: Whether the estimate needs the draw minus the mean.
    _needs_displacement: ClassVar[bool] = True

    def __init__(self, params: Any, defaults: State, draws: int, seed: int | None) -> None:
        name = type(self).__name__
        if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
            raise ArgumentError(f"{name}: draws = {draws!r}. Mend: a positive integer.")
        self.draws_per_closure = draws
        self._noise = Noise(host.seed() if seed is None else seed)
        self._skipped = Skipped()
        self._draws = Draws()
        self._is_active = self._is_closure = self._has_stepped = False
        super().__init__(listed(params, name), defaults)

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
    def _source(self, parameter: Tensor) -> Tensor:
        """The tensor from which a parameter's Hessian is estimated."""

    def _before_draw(self, parameters: Sequence[Tensor]) -> None:
        """Called before a further draw, with the last one's difference in its buffer."""

    def _at_draw(self, parameters: Sequence[Tensor]) -> None:
        """Called at a further draw."""

    def _after_draw(self, parameters: Sequence[Tensor]) -> None:
        """Called after a further draw."""

    def _check_draws(self, is_scaled: bool, is_unscaled: bool) -> None:
        """Refuse a step that the draws do not allow."""

    # Draws

    @contextmanager
    def sampled_params(self, train: bool = True, weight: float = 1.0) -> Iterator[None]:
        """Put the weights at a draw of q for the time of a ``with`` block.

        The means come back to the last bit, also when an exception passes. Backward passes belong
        inside. Several blocks before a step are several draws, over which gradients are averaged.

        :param train: whether the draw counts for the next step. One that does not takes its noise
            from torch's own generator, so that a prediction does not change the training.
        :param weight: the share of the loss that is passed backward in this block. Gradients are
            divided by the sum of weights: leave it at 1 where each block has the whole mean loss;
            of k blocks with ``loss / k`` each give ``weight=1/k``.
        :raises StepOrderError: within another draw.
        """
        if not (isinstance(weight, int | float) and 0 < weight < math.inf):
            raise ArgumentError(f"weight = {weight!r}. Mend: a number > 0.")
        # A draw that does not count leaves those that do as they are.
        draws = self._draws if train else Draws()
        with torch.no_grad():
            kinds = self._begin(draws)
        self._is_active, ended = True, False
        try:
            with torch.no_grad():
                self._perturb(kinds, draws, self._noise if train else Noise(host.seed()))
            with ExitStack() as stack:
                if not self._has_stepped:
                    stack.enter_context(watched())
                yield
            ended = True
        finally:
            self._is_active = False
            with torch.no_grad():
                self._end(kinds, draws, ended and train, weight)
            if train and not ended:
                draws.forget("the last one ended in an exception")

    def _begin(self, draws: Draws) -> list[tuple[State, list[Tensor]]]:
        """Keep the means of what is to be drawn."""
        if self._is_active:
            mend = "end the first `with` block before the second"
            if self._is_closure:
                mend = "step(closure) draws itself: leave sampled_params out of the closure"
            raise StepOrderError(f"sampled_params within sampled_params. Mend: {mend}.")
        kinds = list(self._kinds(lambda p: p.requires_grad))
        if not kinds:
            raise StepOrderError(
                "no parameter requires a gradient, so there is nothing to draw. Mend: "
                "net.requires_grad_(), or leave sampled_params out."
            )
        if draws.count and all(p.grad is None for _, alike in kinds for p in alike):
            draws.forget()  # an earlier draw that no gradient was taken at
        for _, parameters in kinds:
            if draws.count:
                self._before_draw(parameters)
            draws.keep_means(parameters, self.state)
        return kinds

    def _perturb(self, kinds: list[tuple[State, list[Tensor]]], draws: Draws, noise: Noise) -> None:
        for group, parameters in kinds:
            hessians = [self.state[p]["hessian"] for p in parameters]
            draws.draw(parameters, hessians, noise, group)
            if draws.count:
                self._at_draw(parameters)

    def _end(
        self, kinds: list[tuple[State, list[Tensor]]], draws: Draws, counts: bool, weight: float
    ) -> None:
        for _, parameters in kinds:
            draws.restore(parameters, self.state, counts and self._needs_displacement)
            if counts and draws.count:
                self._after_draw(parameters)
            draws.drawn.update(parameters)
        if counts:
            draws.count += 1
            draws.weight += weight

    def _kinds(self, is_wanted: Callable[[Tensor], bool]) -> Iterator[tuple[State, list[Tensor]]]:
        """Parameters of one group, device, dtype and number of steps, with their state."""
        for group in self.param_groups:
            wanted = [p for p in group["params"] if is_wanted(p)]
            for parameter in wanted:
                prepared(parameter, self.state[parameter], group["hessian_init"])
            yield from ((group, alike) for alike in sorted_by(wanted, self.state))

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
        loss = None if closure is None else self._run(closure)
        self._check_order()
        # Set by a GradScaler for the time of this call.
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        is_scaled = found_inf is not None
        self._check_draws(is_scaled, is_scaled and grad_scale is None)
        used = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
        for parameter in used:
            check_gradient(parameter)
        is_finite = has_only_finite(used) if found_inf is None else not host.truth(found_inf)
        if is_finite:
            scale = 1.0 if grad_scale is None else 1.0 / host.number(grad_scale)
            self._update(scale / self._draws.weight)
        self._draws.forget()
        self._has_stepped = True
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
                "Mend: step() after sampled_params, or step(closure) without it."
            )
        losses, everything = [], [p for g in self.param_groups for p in g["params"]]
        self._is_closure = True
        try:
            for number in range(self.draws_per_closure):
                earlier = [p.grad for p in everything]
                if number:
                    for parameter in everything:
                        parameter.grad = None
                with self.sampled_params(), torch.enable_grad():
                    losses.append(closure())
                if number:
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
        if all(p.grad is None for g in self.param_groups for p in g["params"]):
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
                [_like_memory(p.grad, p) for p in known],
                [self._source(p) for p in known],
            )
            for part in columns:
                self._advance(group, states[0]["step"], scale, *part)
            for parameter, state in zip(known, states, strict=True):
                if "mean" in state:
                    parameter.copy_(state["mean"])

    def _advance(
        self, group: State, step: int, scale: float, means: list[Tensor], momenta: list[Tensor],
        hessians: list[Tensor], gradients: list[Tensor], source: list[Tensor],
    ) -> None:  # fmt: skip
        """The step of one part, in place."""
        decay, (b1, _) = group["weight_decay"], group["betas"]
        gradients = [g.to(m.dtype) for g, m in zip(gradients, means, strict=True)]
        gradients = each._foreach_mul(gradients, scale)
        precisions = each._foreach_add(hessians, decay)
        gaps = self._estimates(group, scale, gradients, source, precisions)
        each._foreach_neg_(gaps)
        each._foreach_add_(gaps, hessians)
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

    # The familiar interface

    @property
    def skipped(self) -> int:
        """How many steps were not taken because a gradient was NaN or infinite."""
        return self._skipped.total

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and the draws that they belong to."""
        super().zero_grad(set_to_none)
        if not self._is_closure:
            self._draws.forget("zero_grad came after the draw")

    def add_param_group(self, param_group: State) -> None:
        """Add parameters with options of their own."""
        if self._is_active:
            raise StepOrderError(
                "add_param_group within sampled_params. Mend: after the `with` block."
            )
        super().add_param_group(param_group)
        try:
            check_options(self.param_groups[-1], type(self).__name__)
        except ArgumentError:
            del self.param_groups[-1]
            raise

    def state_dict(self) -> State:
        """Everything to go on exactly: also step counts, the noise's generators, skipped steps."""
        if self._is_active:
            raise StepOrderError(
                "state_dict within sampled_params: the weights are at a draw. Mend: save after "
                "the `with` block."
            )
        return super().state_dict() | saved(self._noise, self._skipped)

    def load_state_dict(self, state_dict: State) -> None:
        """Go on where ``state_dict`` was taken; load the module's own state as well.

        :raises CheckpointError: if it is the state of other parameters or another optimiser.
        """
        noise, skipped, states = load(state_dict, self.param_groups, type(self).__name__)
        super().load_state_dict(state_dict)
        # torch rounds the state to the parameters' dtype, and shares tensors with what is loaded.
        self.state.update(states)
        self._noise, self._skipped, self._draws = noise, skipped, Draws()

    def __getstate__(self) -> State:
        held: State = super().__getstate__()
        own = {"draws_per_closure": self.draws_per_closure, "_has_stepped": self._has_stepped}
        return held | own | {"_saved": saved(self._noise, self._skipped)}

    def __setstate__(self, state: State) -> None:
        state = dict(state)
        own = state.pop("_saved", None)
        super().__setstate__(state)
        if own is not None:
            self._noise, self._skipped = Noise.of(own["noise"]), Skipped(**own["skipped"])
            self._draws, self._is_active, self._is_closure = Draws(), False, False

    def _least_precision(self) -> float:
        found = [
            host.number((self.state[p]["hessian"] + g["weight_decay"]).min())
            for g in self.param_groups
            for p in g["params"]
            if p.numel() and "hessian" in self.state[p]
        ]
        return min(itertools.chain(found, [math.inf]))


def _sum(earlier: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    if earlier is None or gradient is None:
        return gradient if earlier is None else earlier
    return gradient.add_(earlier)


def _like_memory(gradient: Any, parameter: Tensor) -> Tensor:
    """The gradient without gaps in its memory where the parameter has none."""
    found: Tensor = gradient.contiguous() if parameter.is_contiguous() else gradient
    return found

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a draw says of a weight multiplies the gradient at it, and is summed over draws.

For Price's Hessian that is the draw minus the mean; where the draw is itself a function of q's
parameter (a mask times the mean, a Gumbel-softmax draw) the derivative of that function.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, StepOrderError
from .drawing import Kind
from .draws import State
from .hooks import GradientHook
from .stepping import SteppingOptimizer


class FactorOptimizer(SteppingOptimizer):
    """Sums the products of factors and gradients, draw by draw."""

    def _products(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The sums over draws; of one draw alone the factor, which the gradient is to multiply."""
        if self._sums_products():
            return [self._draws.product(p) for p in parameters]
        return [self._draws.buffers[p] for p in parameters]

    def _multiplied(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> list[Tensor]:
        """Factors times gradients, summed over draws."""
        factors = self._products(parameters)
        if self._sums_products():
            return factors
        return [f * g for f, g in zip(factors, gradients, strict=True)]

    def _sums_products(self) -> bool:
        return self._draws.count > 1 or self._ranks.has_copies

    def _summed(self) -> set[Tensor]:
        own = [g["params"] for g in self.param_groups if self._needs_factor(g)]
        return {p for some in own for p in some} if self._sums_products() else set()

    # Several ranks: the product of each backward pass, before another rank's are added to .grad.

    def _listen(self, kinds: Sequence[Kind]) -> list[Any]:
        own = [k for k in kinds if self._needs_factor(k[0])]
        return [GradientHook(p, self._collect) for _, alike in own for p in alike]

    def _collect(self, parameter: Tensor, gradient: Tensor) -> None:
        if gradient.layout == torch.strided:  # else the step refuses it
            product = self._draws.product(parameter)
            ((_, factor),) = self._draws.displacements([parameter], self.state)
            product.addcmul_(factor, gradient.to(product.dtype))

    # Several draws: sum_s factor_s g_s, where .grad holds the sum of gradients so far.

    def _before_draw(self, group: State, parameters: Sequence[Tensor]) -> None:
        if self._draws.count == 1:
            self._add(group, ((p, self._draws.buffers[p]) for p in parameters), 1.0)

    def _at_draw(self, group: State, parameters: Sequence[Tensor]) -> None:
        self._add(group, self._draws.displacements(parameters, self.state), -1.0)

    def _after_draw(self, group: State, parameters: Sequence[Tensor]) -> None:
        self._add(group, ((p, self._draws.buffers[p]) for p in parameters), 1.0)

    def _add(self, group: State, factors: Iterable[tuple[Tensor, Tensor]], sign: float) -> None:
        """Add factors times the gradients so far."""
        if not self._needs_factor(group) or self._ranks.has_copies:
            return
        for parameter, factor in factors:
            if parameter.grad is not None:
                product = self._draws.product(parameter)
                product.addcmul_(factor, parameter.grad.to(product.dtype), value=sign)

    def _check_draws(self, is_scaled: bool, is_unscaled: bool) -> None:
        if self._ranks.has_copies and not is_unscaled:
            self._check_products()
            return
        if is_unscaled and self._sums_products():
            raise ArgumentError(
                "GradScaler.unscale_ divided the gradients of several draws or ranks, but not what "
                "is summed over these. Mend: leave unscale_ out (scaler.step divides both; "
                "clip_radius bounds a step), or take one draw a step without a process_group."
            )

    def _check_products(self) -> None:
        parameters = [p for p in self._summed() if p.grad is not None]
        if parameters and not any(p in self._draws.products for p in parameters):
            raise StepOrderError(
                "there are gradients that no backward pass within sampled_params has added: those "
                "of this rank alone are not known, and its Hessian is their product with its draw. "
                'Mend: loss.backward() within sampled_params, or hessian="squared_gradient".'
            )

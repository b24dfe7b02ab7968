# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Optimisers whose Hessian is the mean square of each datum's own gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, StepOrderError
from .optimizer import GaussianOptimizer
from .options import weight_of
from .per_example import sums_over_data
from .sharding import is_sharded


class EachDatumOptimizer(GaussianOptimizer):
    """Has a backward pass that adds the squares of each datum's gradient as well."""

    def backward(
        self,
        module: nn.Module,
        loss: Callable[..., Tensor],
        inputs: Any,
        targets: Any,
        weight: float = 1.0,
        chunk_size: int | None = None,
    ) -> Tensor:
        """Add the gradient of the mean loss to ``.grad``, and the squares of each datum's.

        :param module: the network, whose parameters these are.
        :param loss: ``loss(module(inputs), targets)``, called with one datum at a time: weights of
            classes cancel in a mean of one, and one target that is ignored has a mean of NaN, so
            take ``reduction="sum"`` with ``weight`` and ``ignore_index``.
        :param inputs: one tensor, a tuple of several arguments or a mapping of named ones; rows of
            tensors are data.
        :param targets: a tensor, or a tree of them, with the same rows.
        :param weight: multiplies the gradient: 1/k for each of k micro-batches of a step.
        :param chunk_size: how many gradients are held at a time; all of them by default. They are
            computed at once, or one after the other where ``torch.func.vmap`` has no rule for a
            layer, a recurrent one say.
        :return: the mean loss, without a graph.
        :raises StepOrderError: outside ``sampled_params``.
        :raises ArgumentError: if the module's rows cannot be taken one by one, or for a weight that
            is no positive number.
        """
        weight = weight_of(weight)
        if not self._is_active:
            raise StepOrderError(
                f"{type(self).__name__}.backward outside sampled_params: gradients are needed "
                "where it puts the weights. Mend: `with optimizer.sampled_params(): "
                "optimizer.backward(net, loss, x, y)`."
            )
        own = {p for p in self._everything() if p.requires_grad}
        if any(map(is_sharded, own)):
            raise ArgumentError(
                f"{type(self).__name__} takes each datum's gradient of whole weights, and a "
                "parameter is a DTensor, of which each rank has a part. Mend: IVON, or "
                "process_group= with a copy of the weights on each rank."
            )
        if isinstance(module, nn.parallel.DistributedDataParallel):
            module = module.module  # the optimiser averages
        sums = sums_over_data(module, loss, inputs, targets, own, chunk_size)
        scale = weight / sums.count
        squared = self._squared()
        with torch.no_grad():
            for parameter, total in sums.gradients.items():
                gradient = (scale * total).to(parameter.dtype)
                parameter.grad = (
                    gradient if parameter.grad is None else parameter.grad.add_(gradient)
                )
                if parameter in squared:
                    self._draws.product(parameter).add_(sums.squares[parameter])
                elif self._ranks.has_copies and parameter in self._summed():
                    self._collect(parameter, gradient)
        self._draws.data += sums.count
        mean: Tensor = sums.loss / sums.count
        return mean

    def _summed(self) -> set[Tensor]:
        return super()._summed() | self._squared()

    def _squares(self) -> list[Tensor]:
        products = self._draws.products
        return [products[p] for p in self._squared() if p in products]

    def _squared(self) -> set[Tensor]:
        """The parameters whose Hessian is of squares; others sum their factors' products."""
        own = [g["params"] for g in self.param_groups if self._hessian_of(g) == "per_example"]
        return {p for some in own for p in some}

    def _check_draws(self, is_scaled: bool, is_unscaled: bool) -> None:
        name = type(self).__name__
        if all(self._hessian_of(g) != "per_example" for g in self.param_groups):
            super()._check_draws(is_scaled, is_unscaled)
            return
        if is_scaled:
            raise ArgumentError(
                f"a GradScaler scales a loss before its backward pass; {name}.backward takes the "
                "gradients of the loss as it is. Mend: optimizer.step() in the place of "
                "scaler.step(optimizer), under bfloat16 autocast, which needs no scale."
            )
        has_none = self._ranks.has_copies and not self._draws.weight  # a rank without a row
        if not (self._draws.data or has_none):
            raise StepOrderError(
                f"{name} has seen no datum's own gradient since the last step: loss.backward() has "
                "only their mean. Mend: `optimizer.backward(net, loss, x, y)` within "
                "sampled_params."
            )

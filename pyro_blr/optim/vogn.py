# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""VOGN: variational online Gauss-Newton, from the gradient of every datum (arXiv 1806.04854)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, StepOrderError
from ..steps.diagonal import each
from .draws import State
from .optimizer import GaussianOptimizer
from .per_example import sums_over_data
from .sharding import is_sharded


class VOGN(GaussianOptimizer):
    r"""A diagonal Gaussian over the weights, its precisions from squares of each datum's gradient.

    Mathematically, with s the mean square, d the weight decay and ``rho = 1 - b2``, a step is

    .. math::
        \begin{aligned}
        z &= m + \epsilon / \sqrt{\text{ess} (s + d)}, \qquad
            \hat g = \tfrac{1}{M} \sum_i g_i(z) \\
        g &\leftarrow b_1 g + (1 - b_1) \hat g \\
        s &\leftarrow (1 - \rho) s + \rho \tfrac{1}{M} \sum_i g_i(z)^2 \\
        m &\leftarrow m - \text{lr} \, (g / (1 - b_1^t) + d m) / (s + d + \gamma)
        \end{aligned}

    The square of a mini-batch's gradient would not do for :math:`\tfrac{1}{N} \sum_i g_i^2`: its
    mean is ``w G + (1 - w) g^2`` with ``w = (N - M) / (M (N - 1))``.

    Example::

        >>> import torch
        >>> from pyro_blr.optim import VOGN
        >>> net = torch.nn.Linear(2, 1)
        >>> x = torch.randn(200, 2)
        >>> y = x @ torch.tensor([[1.0], [-1.0]])
        >>> optimizer = VOGN(net.parameters(), lr=0.1, ess=len(x))
        >>> for _ in range(100):
        ...     optimizer.zero_grad()
        ...     with optimizer.sampled_params():
        ...         loss = optimizer.backward(net, torch.nn.functional.mse_loss, x, y)
        ...     optimizer.step()

    :param params: parameters, or groups of them with options of their own.
    :param float lr: the step size: 1 is a Newton step.
    :param float ess: the number of data; a smaller one has wider draws.
    :param float hessian_init: the first s.
    :param betas: the decays of the gradient and of the squares.
    :param float weight_decay: d, the prior's precision over ``ess``.
    :param float damping: :math:`\gamma`, for the step alone.
    :param float clip_radius: the largest change of a mean over ``lr``.
    :param bool debias: whether g is divided by ``1 - b1^t``.
    :param int draws: draws of ``step(closure)``.
    :param int seed: of the noise; from torch's generator if it is None.
    :param process_group: ranks with a copy of the weights each, as of :class:`IVON`.

    **References** Khan et al., *Fast and Scalable Bayesian Deep Learning by Weight-Perturbation in
    Adam*, arXiv 1806.04854; momentum and damping: Osawa et al., arXiv 1906.02506.
    """

    _needs_displacement = False

    def __init__(
        self,
        params: Any,
        lr: float,
        ess: float,
        hessian_init: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 1e-4,
        damping: float = 0.0,
        clip_radius: float = math.inf,
        debias: bool = True,
        draws: int = 1,
        seed: int | None = None,
        process_group: Any = None,
    ) -> None:
        defaults = {
            **{"lr": lr, "ess": ess, "hessian_init": hessian_init, "betas": betas},
            **{"weight_decay": weight_decay, "damping": damping, "clip_radius": clip_radius},
            **{"rescale_lr": False, "debias": debias},
        }
        super().__init__(params, defaults, draws, seed, process_group)

    def backward(
        self,
        module: nn.Module,
        loss: Callable[..., Tensor],
        inputs: Tensor | tuple[Tensor, ...],
        targets: Any,
        weight: float = 1.0,
        chunk_size: int | None = None,
    ) -> Tensor:
        """Add the gradient of the mean loss to ``.grad``, and the squares of each datum's.

        :param module: the network, whose parameters these are.
        :param loss: ``loss(module(inputs), targets)``, the mean over a batch.
        :param inputs: one tensor, or a tuple of what the module takes; rows are data.
        :param weight: multiplies the gradient: 1/k for each of k micro-batches of a step.
        :param chunk_size: how many gradients are held at a time; all of them by default.
        :return: the mean loss, without a graph.
        :raises StepOrderError: outside ``sampled_params``.
        :raises ArgumentError: if the module's rows cannot be taken one by one.
        """
        if not self._is_active:
            raise StepOrderError(
                "VOGN.backward outside sampled_params: gradients are needed at a draw. Mend: "
                "`with optimizer.sampled_params(): optimizer.backward(net, loss, x, y)`."
            )
        own = {p for p in self._everything() if p.requires_grad}
        if any(map(is_sharded, own)):
            raise ArgumentError(
                "VOGN takes each datum's gradient of whole weights, and a parameter is a DTensor, "
                "of which each rank has a part. Mend: IVON, or process_group= with a copy of the "
                "weights on each rank."
            )
        if isinstance(module, nn.parallel.DistributedDataParallel):
            module = module.module  # the optimiser averages
        sums = sums_over_data(module, loss, inputs, targets, own, chunk_size)
        scale = weight / sums.count
        with torch.no_grad():
            for parameter, total in sums.gradients.items():
                gradient = (scale * total).to(parameter.dtype)
                parameter.grad = (
                    gradient if parameter.grad is None else parameter.grad.add_(gradient)
                )
                self._draws.product(parameter).add_(sums.squares[parameter])
        self._draws.data += sums.count
        mean: Tensor = sums.loss / sums.count
        return mean

    def _estimates(
        self, group: State, scale: float, gradients: list[Tensor], source: list[Tensor],
        precisions: list[Tensor],
    ) -> list[Tensor]:  # fmt: skip
        each._foreach_div_(source, self._draws.data)
        return source

    def _changes(self, group: State, gaps: list[Tensor], precisions: list[Tensor]) -> list[Tensor]:
        # Squares are inside the cone: the plain step never leaves it.
        each._foreach_mul_(gaps, group["betas"][1] - 1)
        return gaps

    def _source(self, group: State, parameter: Tensor) -> Tensor:
        return self._draws.product(parameter)

    def _summed(self) -> set[Tensor]:
        return set(self._everything())

    def _check_draws(self, is_scaled: bool, is_unscaled: bool) -> None:
        if is_scaled:
            raise ArgumentError(
                "a GradScaler scales a loss before its backward pass; VOGN.backward takes the "
                "gradients of the loss as it is. Mend: optimizer.step() in the place of "
                "scaler.step(optimizer), under bfloat16 autocast, which needs no scale."
            )
        if not self._draws.data:
            raise StepOrderError(
                "VOGN has seen no datum's own gradient since the last step: loss.backward() has "
                "only their mean. Mend: `optimizer.backward(net, loss, x, y)` within "
                "sampled_params."
            )

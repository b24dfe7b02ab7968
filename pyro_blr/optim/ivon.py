# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""IVON: variational online Newton with Hessians from gradients at draws (arXiv 2402.17641)."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, StepOrderError
from ..steps.diagonal import each, retraction
from .drawing import Kind
from .draws import State
from .hooks import GradientHook
from .optimizer import GaussianOptimizer


class IVON(GaussianOptimizer):
    r"""A diagonal Gaussian over the weights at about the price of Adam.

    Mathematically, with m the means, h the Hessian of the mean loss, d the weight decay and
    ``rho = 1 - b2``, a step is

    .. math::
        \begin{aligned}
        z &= m + \epsilon / \sqrt{\text{ess} (h + d)}, \qquad \hat g = \nabla \ell(z) \\
        \hat h &= \hat g \, (z - m) \, \text{ess} (h + d)
            \quad \text{("price")} \quad \text{or} \quad M \hat g^2
            \quad \text{("squared\_gradient")} \\
        g &\leftarrow b_1 g + (1 - b_1) \hat g \\
        h &\leftarrow h - \rho (h - \hat h) + \tfrac{1}{2} \rho^2 (h - \hat h)^2 / (h + d) \\
        m &\leftarrow m - \text{lr} (h_0 + d) \,
            \text{clip}\left( (g / (1 - b_1^t) + d m) / (h + d), \pm \xi \right)
        \end{aligned}

    The loss is the *mean* over the data; then the posterior is that of ``ess`` data under the prior
    ``Normal(0, 1 / (ess d))`` of each weight. ``h + d`` stays positive whatever the gradients.

    Example::

        >>> import torch
        >>> from pyro_blr.optim import IVON, predict
        >>> net = torch.nn.Linear(2, 1)
        >>> x = torch.randn(200, 2)
        >>> y = x @ torch.tensor([[1.0], [-1.0]])
        >>> optimizer = IVON(net.parameters(), lr=0.1, ess=len(x))
        >>> for _ in range(300):
        ...     optimizer.zero_grad()
        ...     with optimizer.sampled_params():
        ...         torch.nn.functional.mse_loss(net(x), y).backward()
        ...     optimizer.step()
        >>> predict(optimizer, lambda: net(x), num_draws=10).shape
        torch.Size([10, 200, 1])

    :param params: parameters, or groups of them with options of their own.
    :param float lr: the step size, in units of the first Newton step; see ``rescale_lr``.
    :param float ess: the effective sample size: the number of data. A smaller one has wider draws.
    :param float hessian_init: :math:`h_0`; it matters: the noise of the first draws is set by it.
    :param betas: the decays of the gradient and of the Hessian.
    :param float weight_decay: d, the prior's precision over ``ess``.
    :param str hessian: ``"price"``, which has no bias, or ``"squared_gradient"``, which is never
        negative and needs ``batch_size``, the M data of a loss. For several draws that is the
        square of the mean gradient.
    :param float clip_radius: :math:`\xi`, the largest change of a mean over ``lr (h_0 + d)``; 1e-3
        for language models.
    :param bool rescale_lr: whether ``lr`` is multiplied by :math:`h_0 + d`, as in the paper.
    :param bool debias: whether g is divided by ``1 - b1^t``.
    :param int draws: draws of ``step(closure)``; without a closure enter ``sampled_params`` as
        often as you like.
    :param int seed: of the noise; from torch's generator if it is None.
    :param process_group: ranks with a copy of the weights each: the first one's weights are taken
        by all, each takes draws of its own, and their gradients and Hessians are averaged in
        ``step``. By default the optimiser acts alone, or with the ranks of sharded parameters.

    **References** Shen et al., *Variational Learning is Effective for Large Deep Networks*,
    arXiv 2402.17641; the step that stays positive: Lin, Schmidt & Khan, arXiv 2002.10060.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        ess: float,
        hessian_init: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.99999),
        weight_decay: float = 1e-4,
        hessian: str = "price",
        batch_size: float | None = None,
        clip_radius: float = math.inf,
        rescale_lr: bool = True,
        debias: bool = True,
        draws: int = 1,
        seed: int | None = None,
        process_group: Any = None,
    ) -> None:
        defaults = {
            **{"lr": lr, "ess": ess, "hessian_init": hessian_init, "betas": betas},
            **{"weight_decay": weight_decay, "hessian": hessian, "batch_size": batch_size},
            **{"clip_radius": clip_radius, "rescale_lr": rescale_lr, "debias": debias},
        }
        super().__init__(params, defaults, draws, seed, process_group)

    def _estimates(
        self, group: State, scale: float, gradients: list[Tensor], source: list[Tensor],
        precisions: list[Tensor],
    ) -> list[Tensor]:  # fmt: skip
        if group["hessian"] == "squared_gradient":
            squares: list[Tensor] = each._foreach_mul(gradients, gradients)
            each._foreach_mul_(squares, group["batch_size"])
            return squares
        if self._sums_products():
            each._foreach_mul_(source, scale)
        else:  # the draw minus the mean
            each._foreach_mul_(source, gradients)
        each._foreach_mul_(source, precisions)
        each._foreach_mul_(source, group["ess"])
        return source

    def _changes(self, group: State, gaps: list[Tensor], precisions: list[Tensor]) -> list[Tensor]:
        return retraction(gaps, precisions, 1 - group["betas"][1])

    def _source(self, group: State, parameter: Tensor) -> Tensor:
        if group["hessian"] == "squared_gradient":
            return parameter  # not read
        if self._sums_products():
            return self._draws.product(parameter)
        return self._draws.buffers[parameter]

    def _sums_products(self) -> bool:
        return self._draws.count > 1 or self._ranks.has_copies

    def _summed(self) -> set[Tensor]:
        priced = [g["params"] for g in self.param_groups if g["hessian"] == "price"]
        return {p for own in priced for p in own} if self._sums_products() else set()

    # Several ranks: (z_s - m) g_s of each backward pass, before another rank's are added to .grad.

    def _listen(self, kinds: Sequence[Kind]) -> list[Any]:
        priced = [k for k in kinds if k[0]["hessian"] == "price"]
        return [GradientHook(p, self._collect) for _, alike in priced for p in alike]

    def _collect(self, parameter: Tensor, gradient: Tensor) -> None:
        if gradient.layout == torch.strided:  # else the step refuses it
            product = self._draws.product(parameter)
            ((_, away),) = self._draws.displacements([parameter], self.state)
            product.addcmul_(away, gradient.to(product.dtype))

    # Several draws: sum_s (z_s - m) g_s, where .grad holds the sum of gradients so far.

    def _before_draw(self, group: State, parameters: Sequence[Tensor]) -> None:
        if self._draws.count == 1:
            self._add(group, ((p, self._draws.buffers[p]) for p in parameters), 1.0)

    def _at_draw(self, group: State, parameters: Sequence[Tensor]) -> None:
        self._add(group, self._draws.displacements(parameters, self.state), -1.0)

    def _after_draw(self, group: State, parameters: Sequence[Tensor]) -> None:
        self._add(group, ((p, self._draws.buffers[p]) for p in parameters), 1.0)

    def _add(self, group: State, away: Iterable[tuple[Tensor, Tensor]], sign: float) -> None:
        """Add draws minus means, times the gradients so far."""
        if group["hessian"] == "squared_gradient" or self._ranks.has_copies:
            return
        for parameter, difference in away:
            if parameter.grad is not None:
                product = self._draws.product(parameter)
                product.addcmul_(difference, parameter.grad.to(product.dtype), value=sign)

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

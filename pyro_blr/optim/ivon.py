# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""IVON: variational online Newton with Hessians from gradients at draws (arXiv 2402.17641)."""

import math
from typing import Any

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

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""VOGN: variational online Gauss-Newton, from the gradient of every datum (arXiv 1806.04854)."""

import math
from typing import Any

from .each_datum import EachDatumOptimizer


class VOGN(EachDatumOptimizer):
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

    _hessian = "per_example"

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

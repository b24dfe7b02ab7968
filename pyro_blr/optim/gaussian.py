# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The one step of a diagonal Gaussian with all of its options, of which IVON and VOGN are two."""

import math
from typing import Any

from .each_datum import EachDatumOptimizer


class GaussianBLR(EachDatumOptimizer):
    r"""The Bayesian Learning Rule for a diagonal Gaussian over the weights, option by option.

    Mathematically, with m the means, h the Hessian of the mean loss, d the weight decay and g_hat
    the gradient at z, a step is

    .. math::
        \begin{aligned}
        g &\leftarrow b_1 g + (1 - b_1) \hat g \\
        h &\leftarrow b_2 h + (1 - b_2) \hat h \\
        m &\leftarrow m - \text{lr} \, (g / (1 - b_1^t) + d m) / ((h + d)^p + c)
        \end{aligned}

    Where z is, what :math:`\hat h` is, and the rates are choices, and well-known optimisers are
    some of them: SGD is ``at="mean", hessian="fixed", hessian_init=1``; RMSprop and Adam are
    ``at="mean", hessian="squared_gradient", batch_size=1, power=0.5, hessian_init=0``; dropout is
    ``at="masked"``; online Gauss-Newton is ``at="mean", hessian="per_example"``, at draws
    :class:`VOGN`; :class:`IVON` is ``hessian="price", retraction=True``.

    Example: Adam, and then the same at draws of q::

        >>> import torch
        >>> from pyro_blr.optim import GaussianBLR
        >>> net = torch.nn.Linear(2, 1)
        >>> adam = GaussianBLR(
        ...     net.parameters(), lr=1e-3, at="mean", hessian="squared_gradient", batch_size=1,
        ...     power=0.5, hessian_init=0.0, damping=1e-8, betas=(0.9, 0.999), debias_hessian=True,
        ... )
        >>> x, y = torch.randn(20, 2), torch.randn(20, 1)
        >>> with adam.sampled_params():
        ...     torch.nn.functional.mse_loss(net(x), y).backward()
        >>> adam.step()

    :param params: parameters, or groups of them with options of their own.
    :param float lr: the step size.
    :param float ess: the effective sample size, by which q's precision ``ess (h + d)`` is set. It
        may be left out unless ``at="draw"``: then q's width is unknown, and ``predict`` takes the
        mean (or masked means).
    :param str at: where gradients are taken. ``"draw"``: at a draw of q. ``"mean"``: at its mean,
        the delta method. ``"masked"``: at the mean times a mask of 0 and 1, as if q were a mixture
        with a second component at 0; the means of masked weights stay.
    :param str hessian: ``"price"``, from draw and gradient; ``"squared_gradient"``, M times the
        square of the gradient of ``batch_size`` = M data; ``"per_example"``, the mean square of
        each datum's gradient, by :meth:`backward`; ``"fixed"``, which leaves it at
        ``hessian_init``: a Gaussian of fixed covariance.
    :param float hessian_init: the first h.
    :param betas: the decays of the gradient and of the Hessian; 1 less the rate.
    :param float weight_decay: d, the prior's precision over ``ess``.
    :param float power: p, of the precision that divides a step: 1, or 1/2 for a square root.
    :param float damping: c, added to it for the step alone.
    :param float batch_size: M of ``"squared_gradient"``.
    :param bool retraction: whether h also takes ``(1 - b2)^2 / 2 (h - h_hat)^2 / (h + d)``, by
        which it stays positive whatever the estimate; None for where an estimate may be negative.
    :param float keep: of ``"masked"``, the probability that a unit is kept.
    :param int mask_dim: of ``"masked"``, along which dim of a weight its units are: 0 for outputs
        of a linear layer, 1 for inputs; a weight without that dim is kept. None for a mask of each
        weight.
    :param float clip_radius: the largest change of a mean over ``lr``.
    :param bool debias: whether g is divided by ``1 - b1^t``.
    :param bool debias_hessian: whether h is divided by ``1 - b2^t`` in a step.
    :param int draws: draws of ``step(closure)``.
    :param int seed: of the noise; from torch's generator if it is None.
    :param process_group: ranks with a copy of the weights each, as of :class:`IVON`.

    **References** Khan & Rue, *The Bayesian Learning Rule*, arXiv 2107.04562, Table 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        ess: float | None = None,
        *,
        at: str = "draw",
        hessian: str = "price",
        hessian_init: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        power: float = 1.0,
        damping: float = 0.0,
        batch_size: float | None = None,
        retraction: bool | None = None,
        keep: float = 0.5,
        mask_dim: int | None = None,
        clip_radius: float = math.inf,
        debias: bool = True,
        debias_hessian: bool = False,
        draws: int = 1,
        seed: int | None = None,
        process_group: Any = None,
    ) -> None:
        defaults = {
            **{"lr": lr, "ess": ess, "at": at, "hessian": hessian, "hessian_init": hessian_init},
            **{"betas": betas, "weight_decay": weight_decay, "power": power, "damping": damping},
            **{"batch_size": batch_size, "keep": keep, "mask_dim": mask_dim},
            **{"retraction": hessian == "price" if retraction is None else retraction},
            **{"clip_radius": clip_radius, "rescale_lr": False, "debias": debias},
            **{"debias_hessian": debias_hessian},
        }
        super().__init__(params, defaults, draws, seed, process_group)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Weights of -1 and 1: the rule for a Bernoulli law of each (BayesBiNN, arXiv 2002.10778)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, NonFiniteError
from ..families import Natural, SignBernoulli
from ..lifting import host
from .draws import Draws, State, is_rounded
from .factors import FactorOptimizer
from .noise import Noise
from .options import CHECKS
from .rows import prepared
from .sharding import is_sharded


class BinaryBLR(FactorOptimizer):
    r"""A probability of -1 and 1 for each weight, for networks whose weights are signs.

    Mathematically, with n the natural parameters (half the log odds), :math:`n_0` those of the
    prior, N the number of data and :math:`\rho` the step size, a step at the weights w is

    .. math::
        \begin{aligned}
        \delta &= \tfrac{1}{2} \log \tfrac{\epsilon}{1 - \epsilon}, \quad \epsilon \sim U(0, 1),
            \qquad w = \tanh((n + \delta) / \tau) \\
        n &\leftarrow (1 - \rho) n - \rho \, (N s \hat g - n_0), \qquad
            s = \frac{1 - w^2}{\tau (1 - \tanh(n)^2)}
        \end{aligned}

    with :math:`\hat g` the gradient of the *mean* loss. Outside ``sampled_params`` the weights are
    the means :math:`\tanh(n)`; draws for predictions are signs. The first n is the weight as it was
    initialised, so q begins near even odds.

    With ``at="mode", entropy=False, ess=1`` it is the straight-through estimator: the gradient at
    ``sign(n)`` is taken for that in n.

    Example::

        >>> import torch
        >>> from pyro_blr.optim import BinaryBLR, predict
        >>> net = torch.nn.Linear(10, 1, bias=False)
        >>> x = torch.randn(200, 10)
        >>> y = x @ torch.ones(10, 1)
        >>> optimizer = BinaryBLR(net.parameters(), lr=0.01, ess=len(x))
        >>> for _ in range(200):
        ...     optimizer.zero_grad()
        ...     with optimizer.sampled_params():
        ...         torch.nn.functional.mse_loss(net(x), y).backward()
        ...     optimizer.step()
        >>> predict(optimizer, lambda: net(x), num_draws=10).shape
        torch.Size([10, 200, 1])

    :param params: parameters in float32 or float64, or groups of them with options of their own.
    :param float lr: the step size, below 2 with the entropy: from there on steps never settle.
    :param float ess: N, the number of data.
    :param float tau: the temperature of the draws: near 0 they are signs, and their derivatives 0
        or huge; 1 is smooth, and far from signs.
    :param float prior: :math:`n_0`, half the prior's log odds of 1.
    :param float momentum: the decay of the gradient's running mean.
    :param str at: where gradients are taken: ``"draw"``, as above (Gumbel-softmax, or concrete,
        draws), or ``"mode"``, at ``sign(n)`` and with s = 1.
    :param bool entropy: whether the entropy and the prior are part of the objective; if not, a step
        is ``n - rho N s g``.
    :param bool debias: whether the running mean is divided by ``1 - momentum^t``.
    :param int draws: draws of ``step(closure)``.
    :param int seed: of the noise; from torch's generator if it is None.

    **References** Meng, Bachmann & Khan, *Training Binary Neural Networks using the Bayesian
    Learning Rule*, arXiv 2002.10778.
    """

    _state_keys = ("momentum", "natural")
    #: Where a step leads each parameter, until all of that is known to be finite.
    _waiting: list[tuple[Tensor, State, tuple[Tensor, Tensor]]]
    _family = SignBernoulli()

    def __init__(
        self,
        params: Any,
        lr: float,
        ess: float,
        *,
        tau: float = 1.0,
        prior: float = 0.0,
        momentum: float = 0.0,
        at: str = "draw",
        entropy: bool = True,
        debias: bool = True,
        draws: int = 1,
        seed: int | None = None,
    ) -> None:
        defaults = {
            **{"lr": lr, "ess": ess, "tau": tau, "prior": prior, "momentum": momentum},
            **{"at": at, "entropy": entropy, "debias": debias},
        }
        super().__init__(params, defaults, draws, seed, None)

    def add_param_group(self, param_group: State) -> None:
        """Add parameters with options of their own."""
        own = param_group if isinstance(param_group, dict) else {}  # else torch says so
        foreign = sorted((CHECKS.keys() - self.defaults.keys()) & own.keys())
        if foreign:
            raise ArgumentError(
                f"BinaryBLR: {foreign} are options of a Gaussian over the weights. Mend: leave "
                f"them out; signs have {sorted(CHECKS.keys() & self.defaults.keys())}."
            )
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if is_rounded(parameter) or is_sharded(parameter):
                del self.param_groups[-1]
                what = "a DTensor" if is_sharded(parameter) else f"of {parameter.dtype}"
                raise ArgumentError(
                    f"BinaryBLR: a parameter is {what}, and natural parameters are held beside "
                    "whole weights in float32 or float64. Mend: net.float(), on one process."
                )

    def _needs_factor(self, group: State) -> bool:
        return bool(group["at"] == "draw")

    def _prepare(self, parameter: Tensor, group: State) -> None:
        state = self.state[parameter]
        is_new = not state
        prepared(parameter, state, {"momentum": 0.0, "natural": 0.0})
        if is_new:
            with torch.inference_mode(False), torch.no_grad():
                state["natural"].copy_(parameter)
                parameter.copy_(state["natural"].tanh())

    def _put(
        self, group: State, parameters: Sequence[Tensor], draws: Draws, noise: Noise, counts: bool
    ) -> None:
        if counts and group["at"] == "mode":
            for parameter in parameters:
                parameter.copy_(_signs(self.state[parameter]["natural"]))
            return
        levels = noise.uniform_like(parameters, ())
        for parameter, level in zip(parameters, levels, strict=True):
            natural = self.state[parameter]["natural"]
            moved = natural + 0.5 * (level.log() - (-level).log1p())
            if not counts:
                parameter.copy_(_signs(moved))
                continue
            relaxed = moved / group["tau"]
            slopes = 2 * (_log_cosh(natural) - _log_cosh(relaxed))
            draws.factors[parameter] = slopes.exp_() / group["tau"]
            parameter.copy_(relaxed.tanh_())

    def _advance(
        self, group: State, parameters: Sequence[Tensor], states: Sequence[State], scale: float
    ) -> None:
        gradients = self._gradients(parameters)
        if self._needs_factor(group):
            gradients = self._multiplied(parameters, gradients)
        moved = [
            self._moved(group, state, gradient * scale)
            for state, gradient in zip(states, gradients, strict=True)
        ]
        _check_finite(group, [natural for _, natural in moved])
        self._waiting += zip(parameters, states, moved, strict=True)

    def _update(self, scale: float) -> None:
        self._waiting = []
        try:
            super()._update(scale)
            for parameter, state, (momentum, natural) in self._waiting:
                state["momentum"].copy_(momentum)
                state["natural"].copy_(natural)
                parameter.copy_(natural.tanh())
        finally:
            self._waiting = []

    @staticmethod
    def _moved(group: State, state: State, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The momentum and the natural parameters after a step."""
        decay, natural = group["momentum"], state["natural"]
        momentum = state["momentum"].lerp(gradient, 1 - decay)
        debias = 1 - decay ** state["step"] if group["debias"] else 1.0
        direction = momentum * (group["ess"] / debias)
        if group["entropy"]:
            direction += natural - group["prior"]
        return momentum, natural.sub(direction, alpha=group["lr"])

    def _natural_of(self, group: State, parameter: Tensor) -> Natural:
        return (self.state[parameter]["natural"],)


def _check_finite(group: State, naturals: Sequence[Tensor]) -> None:
    """Refuse a step that leaves the finite numbers; this waits once for each device.

    :raises NonFiniteError: naming the rate.
    """
    sums: dict[torch.device, list[Tensor]] = {}
    for natural in naturals:
        sums.setdefault(natural.device, []).append(torch.isfinite(natural).all())
    if all(host.truth(torch.stack(own).all()) for own in sums.values()):
        return
    raise NonFiniteError(
        f"BinaryBLR: a step of lr = {group['lr']:g} leads to natural parameters that are infinite "
        "or NaN; nothing was moved. Mend: a smaller lr; and tau nearer to 1, where the derivative "
        "of a draw does not grow with the natural parameters."
    )


def _signs(value: Tensor) -> Tensor:
    """-1 below 0, else 1: there is no weight of 0."""
    return torch.where(value < 0, -1.0, 1.0).to(value.dtype)


def _log_cosh(value: Tensor) -> Tensor:
    """Without overflow, and with its digits far out."""
    size = value.abs()
    return size + (-2 * size).exp().log1p() - math.log(2)

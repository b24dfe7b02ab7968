# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The posterior over the weights: as distributions, as draws, and in predictions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from ..families import Normal
from .optimizer import GaussianOptimizer
from .sharding import is_sharded, whole


def posterior(optimizer: GaussianOptimizer, parameter: Tensor) -> Any:
    """The Gaussian over one parameter, as a Pyro distribution whose event is the parameter.

    Of a sharded parameter it is the whole one; each rank has to ask.

    :param optimizer: an IVON or VOGN.
    :param parameter: one of the optimiser's, which has been drawn before.
    :raises ArgumentError: if it is not.
    """
    state = optimizer.state.get(parameter)
    group = next((g for g in optimizer.param_groups if _is_in(parameter, g)), None)
    if not state or group is None:
        raise ArgumentError(
            "posterior: the parameter is not the optimiser's, or was never drawn. Mend: pass one "
            "of net.parameters() after a first `with optimizer.sampled_params():`."
        )
    with torch.no_grad():
        precision = group["ess"] * (whole(state["hessian"]) + group["weight_decay"])
        natural = precision * whole(state.get("mean", parameter.detach())), -0.5 * precision
        return Normal().distribution(natural).to_event(parameter.dim())


def sample_posterior(
    optimizer: GaussianOptimizer, module: nn.Module, num_draws: int
) -> dict[str, Tensor]:
    """Draws of a module's weights, by name, as ``torch.func.functional_call`` takes them.

    :param optimizer: an IVON or VOGN.
    :param module: the net that it trains.
    :param num_draws: S, for each of which the memory of the weights is taken.
    :return: tensors  # shape: (S, *parameter)
    """
    _check(num_draws)
    if any(is_sharded(p) for p in module.parameters()):
        raise ArgumentError(
            "sample_posterior gives whole weights, and a parameter is a DTensor, of which each "
            "rank has a part. Mend: predict(optimizer, lambda: net(x)) on every rank."
        )
    drawn: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if optimizer.state.get(parameter) and parameter.requires_grad:
            values = posterior(optimizer, parameter).sample((num_draws,))
            drawn[name] = values.to(parameter.dtype)
    if not drawn:
        raise ArgumentError(
            f"no parameter of the {type(module).__name__} has a posterior in this optimiser. "
            "Mend: pass the net that it trains, after a first step."
        )
    return drawn


def predict(
    optimizer: GaussianOptimizer, function: Callable[[], Tensor], num_draws: int = 32
) -> Tensor:
    """What a function of the weights is at draws of them, without gradients.

    Average *probabilities*, not logits: ``predict(optimizer, lambda: net(x)).softmax(-1).mean(0)``.

    :param optimizer: an IVON or VOGN.
    :param function: takes no argument, for instance ``lambda: net(x)``; call ``net.eval()`` before.
    :param num_draws: S
    :return: its values  # shape: (S, *output)
    """
    _check(num_draws)
    values = []
    for _ in range(num_draws):
        with optimizer.sampled_params(train=False), torch.no_grad():
            values.append(function())
    return torch.stack(values)


def _is_in(parameter: Tensor, group: dict[str, Any]) -> bool:
    return any(p is parameter for p in group["params"])


def _check(num_draws: Any) -> None:
    if not isinstance(num_draws, int) or isinstance(num_draws, bool) or num_draws < 1:
        raise ArgumentError(f"num_draws = {num_draws!r}. Mend: a positive integer.")

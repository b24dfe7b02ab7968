# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The posterior over the weights: as distributions, as draws, and in predictions."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..counts import is_count
from ..errors import ArgumentError
from .optimizer import GaussianOptimizer
from .sharding import is_sharded


def posterior(optimizer: GaussianOptimizer, parameter: Tensor) -> Any:
    """The Gaussian over one parameter, as a Pyro distribution whose event is the parameter.

    Of a sharded parameter it is the whole one; each rank has to ask.

    :param optimizer: an IVON or VOGN.
    :param parameter: one of the optimiser's, which has been drawn before.
    :raises ArgumentError: if it is not.
    :raises StepOrderError: within ``sampled_params``.
    """
    optimizer.check_at_means("posterior")
    state = optimizer.state.get(parameter)
    group = next((g for g in optimizer.param_groups if _is_in(parameter, g)), None)
    if not state or group is None:
        raise ArgumentError(
            "posterior: the parameter is not the optimiser's, or was never drawn. Mend: pass one "
            "of net.parameters() after a first `with optimizer.sampled_params():`."
        )
    with torch.no_grad():
        natural = optimizer._natural_of(group, parameter)
        return optimizer._family.distribution(natural).to_event(parameter.dim())


def sample_posterior(
    optimizer: GaussianOptimizer, module: nn.Module, num_draws: int
) -> dict[str, Tensor]:
    """Draws of a module's weights, by name, as ``torch.func.functional_call`` takes them.

    :param optimizer: an IVON or VOGN.
    :param module: the net that it trains.
    :param num_draws: S, for each of which the memory of the weights is taken.
    :return: tensors  # shape: (S, *parameter)
    """
    check_draws(num_draws)
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
    return values_at_draws(lambda: optimizer.sampled_params(train=False), function, num_draws)


def values_at_draws(
    draw: Callable[[], AbstractContextManager[None]],
    function: Callable[[], Tensor],
    num_draws: int,
) -> Tensor:
    """What a function returns within each of several draws. # shape: (S, *output)

    :param draw: puts the weights at a draw for the time of a ``with`` block.
    :param function: takes no argument.
    :param num_draws: S
    :raises ArgumentError: if it returns no tensor.
    """
    check_draws(num_draws)
    values = []
    for _ in range(num_draws):
        with draw(), torch.no_grad():
            value = function()
            if not isinstance(value, Tensor):
                raise ArgumentError(
                    f"the function of a prediction returns a {type(value).__name__}, and draws are "
                    "stacked. Mend: one tensor, as of `lambda: net(x).logits` or torch.cat of "
                    "several."
                )
            values.append(value.detach().clone())  # else a weight itself, which goes back
    return torch.stack(values)


def _is_in(parameter: Tensor, group: dict[str, Any]) -> bool:
    return any(p is parameter for p in group["params"])


def check_draws(num_draws: Any) -> None:
    """Refuse what is no number of draws.

    :raises ArgumentError: if it is none.
    """
    if not is_count(num_draws):
        raise ArgumentError(f"num_draws = {num_draws!r}. Mend: a positive integer.")

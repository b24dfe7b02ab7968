# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The options of the optimisers, checked where a parameter group is added."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import ArgumentError

_Check = tuple[Callable[[Any], bool], str]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _at_least_zero(value: Any) -> bool:
    return _is_number(value) and 0 <= value < math.inf


def _positive(value: Any) -> bool:
    return _is_number(value) and 0 < value < math.inf


def _is_decay(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


CHECKS: dict[str, _Check] = {
    "lr": (_at_least_zero, "a number >= 0"),
    "ess": (_positive, "a number > 0: the number of data, or fewer to be less certain"),
    "hessian_init": (_at_least_zero, "a number >= 0, in [0.01, 1] as a rule"),
    "weight_decay": (_at_least_zero, "a number >= 0"),
    "damping": (_at_least_zero, "a number >= 0"),
    "clip_radius": (lambda v: _is_number(v) and v > 0, "a number > 0, or math.inf for no bound"),
    "batch_size": (lambda v: v is None or _positive(v), "the number of data of a loss"),
    "hessian": (lambda v: v in ("price", "squared_gradient"), '"price" or "squared_gradient"'),
    "betas": (
        lambda v: isinstance(v, tuple | list) and len(v) == 2 and all(map(_is_decay, v)),
        "a pair of numbers in [0, 1)",
    ),
}


def check_options(group: Mapping[str, Any], name: str) -> None:
    """Refuse options and parameters of a group that cannot be used.

    :param name: of the optimiser.
    :raises ArgumentError: with the option and what it can be.
    """
    for option, (is_good, what) in CHECKS.items():
        if option in group and not is_good(group[option]):
            raise ArgumentError(
                f"{name}: {option} = {group[option]!r} cannot be used. Mend: give {what}."
            )
    if not group["hessian_init"] + group["weight_decay"] > 0:
        raise ArgumentError(
            f"{name}: hessian_init + weight_decay is 0, so a draw has no standard deviation. "
            "Mend: hessian_init=0.1."
        )
    if group.get("hessian") == "squared_gradient" and group["batch_size"] is None:
        raise ArgumentError(
            f'{name}: hessian="squared_gradient" scales the square of a mean gradient by the '
            "number of data that it is a mean of. Mend: batch_size=64, as the loader has it."
        )
    for parameter in group["params"]:
        if not parameter.is_floating_point():
            raise ArgumentError(
                f"{name}: a parameter of dtype {parameter.dtype} has no Gaussian over it. Mend: "
                "leave it out, or hold real and imaginary parts as two parameters."
            )


def listed(parameters: Any, name: str) -> Any:
    """The parameters as a list, which is not empty.

    :raises ArgumentError: if there are none, or a module was given.
    """
    if isinstance(parameters, nn.Module):
        raise ArgumentError(
            f"{name} takes parameters, not a module. Mend: {name}(net.parameters(), ...)."
        )
    if isinstance(parameters, Tensor):  # torch says why one tensor is no list
        return parameters
    parameters = list(parameters)
    if not parameters:
        raise ArgumentError(
            f"{name} got no parameters: the module has none, or its iterator was used up before. "
            "Mend: pass net.parameters() of a module that has weights."
        )
    return parameters

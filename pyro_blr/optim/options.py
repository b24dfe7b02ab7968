# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The options of the optimisers, checked where a parameter group is added."""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..errors import ArgumentError
from .absent import option_of
from .places import PLACES
from .sharding import is_sharded

#: From what the Hessian of a Gaussian may be estimated.
HESSIANS = ("price", "squared_gradient", "per_example", "fixed")

_Check = tuple[Callable[[Any], bool], str]


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and value == value


def _at_least_zero(value: Any) -> bool:
    return _is_number(value) and 0 <= value < math.inf


def _positive(value: Any) -> bool:
    return _is_number(value) and 0 < value < math.inf


def _is_decay(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | int | np.integer | np.bool_) and value in (0, 1)


CHECKS: dict[str, _Check] = {
    "lr": (_at_least_zero, "a number >= 0"),
    "ess": (_positive, "a number > 0: the number of data, or fewer to be less certain"),
    "hessian_init": (_at_least_zero, "a number >= 0, in [0.01, 1] as a rule"),
    "weight_decay": (_at_least_zero, "a number >= 0"),
    "damping": (_at_least_zero, "a number >= 0"),
    "clip_radius": (lambda v: _is_number(v) and v > 0, "a number > 0, or math.inf for no bound"),
    "batch_size": (lambda v: v is None or _positive(v), "the number of data of a loss"),
    "hessian": (
        lambda v: v in HESSIANS,
        '"price" or "squared_gradient"; GaussianBLR has "per_example" and "fixed" as well',
    ),
    "at": (lambda v: v in (*PLACES, "mode"), '"draw" or "mean", "masked", "mode" where there is'),
    "power": (_positive, "a number > 0: 1, or 0.5 for a square root"),
    "keep": (lambda v: _positive(v) and v <= 1, "a probability in (0, 1]"),
    "mask_dim": (lambda v: v is None or type(v) is int, "a dim, or None"),
    "retraction": (_is_flag, "True or False"),
    "debias": (_is_flag, "True or False"),
    "debias_hessian": (_is_flag, "True or False"),
    "rescale_lr": (_is_flag, "True or False"),
    "entropy": (_is_flag, "True or False"),
    "tau": (_positive, "a number > 0"),
    "prior": (lambda v: _is_number(v) and abs(v) < math.inf, "a finite number"),
    "momentum": (_is_decay, "a number in [0, 1)"),
    "betas": (
        lambda v: isinstance(v, tuple | list) and len(v) == 2 and all(map(_is_decay, v)),
        "a pair of numbers in [0, 1)",
    ),
}


#: The rate from which on steps towards the entropy's optimum lead as far beyond it, or further.
DIVERGES = 2.0


def check_group(group: dict[str, Any], name: str) -> None:
    """Refuse options and parameters of a new group that cannot be used.

    :param name: of the optimiser.
    :raises ArgumentError: with the option and what it can be.
    """
    for option, value in group.items():
        if option != "params":
            group[option] = _plain(value)
    _check(group, "lr", name)
    check_options(group, name)
    if "hessian_init" in group:
        _check_precision(group, name)
    if len(set(group["params"])) < len(group["params"]):
        raise ArgumentError(
            f"{name}: a parameter is there twice, and would be drawn and moved twice. Mend: "
            "net.parameters() of the whole net has tied weights once; dict.fromkeys(parameters)."
        )
    for parameter in group["params"]:
        if not parameter.is_floating_point():
            raise ArgumentError(
                f"{name}: a parameter of dtype {parameter.dtype} has no law over it. Mend: "
                "leave it out, or hold real and imaginary parts as two parameters."
            )


def _plain(value: Any) -> Any:
    """An option without numbers of NumPy's, which no checkpoint may have."""
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, Real) and hasattr(value, "item") else value


def weight_of(given: Any, may_vanish: bool = False) -> float:
    """The weight of a draw, or of a part of a loss, as Python's number.

    :param may_vanish: whether it may be 0.
    :raises ArgumentError: for what is no such number.
    """
    if not _at_least_zero(given) or (given == 0 and not may_vanish):
        raise ArgumentError(f"weight = {given!r}. Mend: a number > 0; of a tensor weight.item().")
    return float(given)


def check_options(group: Mapping[str, Any], name: str) -> None:
    """Refuse options that cannot be used, which may be set while training too.

    That the rate is at least 0 is not among them: a schedule may end a rounding error below.

    :param name: of the optimiser.
    :raises ArgumentError: with the option and what it can be.
    """
    if not (isinstance(group["lr"], Real | Tensor) and math.isfinite(group["lr"])):
        raise ArgumentError(
            f"{name}: lr = {group['lr']!r} cannot be used: no weight would be a number after the "
            "step. Mend: a schedule whose rates are finite."
        )
    for option in CHECKS:
        is_open = option == "ess" and option in group and _needs_no_width(group)
        if option in group and option != "lr" and not is_open:
            _check(group, option, name)
    if "hessian_init" in group:
        _check_gaussian(group, name)
    elif group["at"] not in ("draw", "mode"):
        raise ArgumentError(f"{name}: at = {group['at']!r} cannot be used. Mend: 'draw' or 'mode'.")
    elif group["entropy"] and not group["lr"] < DIVERGES:
        raise ArgumentError(
            f"{name}: lr = {group['lr']:g} cannot be used. A step multiplies the natural "
            f"parameters by 1 - lr = {1 - group['lr']:g}, so that they never settle, whatever the "
            "data say. Mend: lr at most 1, where a step is all the way; 0.01 to begin with."
        )


def _needs_no_width(group: Mapping[str, Any]) -> bool:
    """Whether it is left open how many data there are, and no gradient is taken at a draw."""
    return group["ess"] is None and option_of(group, "at") in ("mean", "masked")


def _check_gaussian(group: Mapping[str, Any], name: str) -> None:
    """Refuse options of a Gaussian that do not fit together."""
    at, hessian = option_of(group, "at"), group.get("hessian", "")
    if "at" not in group and hessian in ("per_example", "fixed"):
        raise ArgumentError(
            f'{name}: hessian = "{hessian}" is not one of its own. Mend: GaussianBLR(...), or VOGN.'
        )
    if at == "mode":
        raise ArgumentError(f'{name}: at = "mode" is for weights of -1 and 1. Mend: at="mean".')
    if hessian == "fixed" and option_of(group, "debias_hessian"):
        raise ArgumentError(
            f'{name}: hessian="fixed" is no running mean from 0, as which debias_hessian '
            "would divide it. Mend: leave debias_hessian out."
        )
    if hessian == "squared_gradient" and group["batch_size"] is None:
        raise ArgumentError(
            f'{name}: hessian="squared_gradient" scales the square of a mean gradient by the '
            "number of data that it is a mean of. Mend: batch_size=64, as the loader has it."
        )
    if _may_vanish(group, at):
        raise ArgumentError(
            f"{name}: betas = {group['betas']!r} has the Hessian made of the last squares alone, "
            "which are 0 where a gradient is, as of a unit that is off; without weight_decay draws "
            "or steps then divide by 0. Mend: betas=(0.9, 0.999), weight_decay=1e-4 or "
            "retraction=True."
        )
    if (at, hessian) in (("mean", "price"), ("masked", "price"), ("masked", "per_example")):
        raise ArgumentError(
            f'{name}: hessian="{hessian}" cannot be had at="{at}": Price\'s estimate needs draws '
            'of q, and each datum would need the mask of its own. Mend: "squared_gradient" with '
            'batch_size, or "fixed".'
        )
    if at == "masked" and any(map(is_sharded, group["params"])):
        raise ArgumentError(
            f"{name}: a parameter is a DTensor, of which each rank has a part, and a mask is of "
            "whole units. Mend: process_group= with a copy of the weights on each rank."
        )


def _may_vanish(group: Mapping[str, Any], at: str) -> bool:
    """Whether nothing keeps the precision above 0 where squares of gradients are 0."""
    hessian = group.get("hessian", "per_example")  # VOGN has no other
    is_squares = hessian in ("squared_gradient", "per_example")
    is_kept = group.get("retraction", hessian != "per_example") or group["betas"][1] > 0
    is_added = group["weight_decay"] > 0 or (at != "draw" and option_of(group, "damping") > 0)
    return is_squares and not is_kept and not is_added


def _check_precision(group: Mapping[str, Any], name: str) -> None:
    """Refuse a first step that would divide by 0."""
    if group["hessian_init"] + group["weight_decay"] > 0:
        return
    if option_of(group, "at") == "draw":
        raise ArgumentError(
            f"{name}: hessian_init + weight_decay is 0, so a draw has no standard deviation. "
            "Mend: hessian_init=0.1."
        )
    if not option_of(group, "damping") > 0:
        raise ArgumentError(
            f"{name}: hessian_init, weight_decay and damping are 0, so a step may divide by 0. "
            "Mend: damping=1e-8."
        )


def _check(group: Mapping[str, Any], option: str, name: str) -> None:
    is_good, what = CHECKS[option]
    if not is_good(group[option]):
        raise ArgumentError(
            f"{name}: {option} = {group[option]!r} cannot be used. Mend: give {what}."
        )


def listed(parameters: Any, name: str) -> Any:
    """The parameters as a list, which is not empty.

    :raises ArgumentError: if there are none, or a module was given.
    """
    check_no_module(parameters, name)
    if isinstance(parameters, Tensor):  # torch says why one tensor is no list
        return parameters
    parameters = list(parameters)
    if not parameters:
        raise ArgumentError(
            f"{name} got no parameters: the module has none, or its iterator was used up before. "
            "Mend: pass net.parameters() of a module that has weights."
        )
    return parameters


def check_no_module(parameters: Any, name: str) -> None:
    """Refuse a module where its parameters belong.

    :raises ArgumentError: if it is one.
    """
    if isinstance(parameters, nn.Module):
        raise ArgumentError(
            f"{name} takes parameters, not a module. Mend: {name}(net.parameters(), ...), and in a "
            'group {"params": net.parameters()}.'
        )

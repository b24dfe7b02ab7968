# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which parameters of a module are meant, and which value each of them gets."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from ..errors import ArgumentError

#: From a parameter's name and value.
Choice = Callable[[str, Tensor], Any]


def chosen(module: nn.Module, where: Any) -> list[str]:
    """The names of the parameters that are meant, in the module's order.

    :param where: ``"all"``, ``"last"``, names or patterns, or a function of name and parameter.
    :raises ArgumentError: if none is meant.
    """
    parameters = dict(module.named_parameters())
    if not parameters:
        raise ArgumentError(
            f"a {type(module).__name__} without parameters has nothing to be uncertain of. Mend: "
            "pass the module that has the weights (after a first call, where they are made then)."
        )
    if any(map(is_lazy, parameters.values())):
        raise ArgumentError(
            f"a {type(module).__name__} with a lazy layer has parameters without a shape. Mend: "
            "call it once before, module(x)."
        )
    if isinstance(where, nn.Module):
        raise ArgumentError(
            "where is a module, and names of parameters are asked for. Mend: its name within "
            f"the network, one of {_listed(n for n, _ in module.named_children())}."
        )
    if callable(where) and not isinstance(where, type):
        names = [n for n, p in parameters.items() if where(n, p)]
    elif where == "all":
        names = list(parameters)
    elif where == "last":
        names = _last(module, parameters)
    else:
        names = _matching(_aliases(module), [where] if isinstance(where, str) else where)
    if not names:
        raise ArgumentError(f"where = {where!r} is none of {_listed(parameters)}. Mend: name one.")
    for name in names:
        if not parameters[name].is_floating_point():
            raise ArgumentError(
                f"parameter {name!r} of dtype {parameters[name].dtype} has no Gaussian prior. "
                "Mend: leave it out by where=."
            )
    return names


def _last(module: nn.Module, parameters: Mapping[str, Tensor]) -> list[str]:
    """The parameters of the last submodule that has any of its own.

    Those of its parametrizations (``weight_norm``, say), to torch submodules, are its own.
    """
    made = {m: m.get_submodule("parametrizations") for m in module.modules() if is_parametrized(m)}
    within = {inner for parametrizations in made.values() for inner in parametrizations.modules()}
    own = []
    for layer in module.modules():
        if layer not in within:
            inner = made[layer].parameters() if layer in made else ()
            own.append([*layer.parameters(recurse=False), *inner])
    last = {id(p) for p in next(ps for ps in reversed(own) if ps)}
    return [n for n, p in parameters.items() if id(p) in last]


def _aliases(module: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter, by its first: tied weights have several."""
    names: dict[Tensor, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return {own[0]: own for own in names.values()}


def _matching(aliases: Mapping[str, list[str]], patterns: Any) -> list[str]:
    parameters = [name for own in aliases.values() for name in own]
    if not isinstance(patterns, Sequence) or not all(isinstance(p, str) for p in patterns):
        raise ArgumentError(
            f'where = {patterns!r}. Mend: "all", "last", a name or pattern of {_listed(parameters)}'
            ", a list of these, or a function (name, parameter) -> bool."
        )
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in parameters):
            raise ArgumentError(
                f"where = {pattern!r} is none of {_listed(parameters)}. Mend: a name, that of a "
                "submodule, or a pattern such as '*.weight'."
            )
    return [
        first
        for first, own in aliases.items()
        if any(_fits(name, pattern) for name in own for pattern in patterns)
    ]


def _fits(name: str, pattern: str) -> bool:
    """Whether a parameter is one of a name, of a submodule's name, or of a pattern."""
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    return str(listed) if len(listed) <= 12 else f"{str(listed[:12])[:-1]}, ...]"


def values(option: str, given: Any, named: Mapping[str, Choice], module: nn.Module) -> Choice:
    """The value of each parameter from an argument: a number, a name, a function or a mapping.

    :param option: the argument's name, for errors.
    :param named: what strings stand for.
    :param module: whose parameters they are.
    :raises ArgumentError: for anything else.
    """
    if isinstance(given, str) and given in named:
        return named[given]
    if isinstance(given, Mapping):
        _check_names(option, given, module)
        choices = {p: values(option, v, named, module) for p, v in given.items()}
        return partial(_first, option, choices)
    if callable(given):
        return given  # type: ignore[no-any-return]
    if not isinstance(given, bool) and isinstance(given, Real | Tensor):
        return partial(_same, given)
    raise ArgumentError(
        f"{option} = {given!r}. Mend: a number, {' or '.join(map(repr, named))}, a function (name, "
        "parameter) -> number, or a mapping from names or patterns to these."
    )


def _check_names(option: str, given: Mapping[str, Any], module: nn.Module) -> None:
    """Refuse a name that fits no parameter; a pattern may be there for other networks."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name in given:
        is_pattern = any(c in str(name) for c in "*?[")
        if not is_pattern and not any(_fits(n, name) for n in parameters):
            raise ArgumentError(
                f"{option} has {name!r}, which is none of {_listed(parameters)}. Mend: a name, "
                "that of a submodule, or a pattern such as '*.weight'."
            )


def _same(value: Any, name: str, parameter: Tensor) -> Any:
    return value


def _first(option: str, by_pattern: Mapping[str, Choice], name: str, parameter: Tensor) -> Any:
    for pattern, choice in by_pattern.items():
        if _fits(name, pattern):
            return choice(name, parameter)
    raise ArgumentError(
        f"{option} has nothing for parameter {name!r}, only for {list(by_pattern)}. Mend: add "
        '"*" as the last one.'
    )


def own_value(name: str, parameter: Tensor) -> Tensor:
    """The parameter itself."""
    return parameter


def fan_in(name: str, parameter: Tensor) -> float:
    """``1 / sqrt(fan_in)`` of a matrix or kernel, 1 of a vector."""
    if parameter.dim() < 2:
        return 1.0
    return float((parameter.numel() / parameter.shape[0]) ** -0.5)


def filled(option: str, value: Any, name: str, parameter: Tensor) -> Tensor:
    """A value in a parameter's shape, dtype and on its device.

    :raises ArgumentError: if it has another shape, or is no number.
    """
    try:
        tensor = torch.as_tensor(value, dtype=parameter.dtype, device=parameter.device)
        return tensor.detach().expand(parameter.shape)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(
            f"{option} of parameter {name!r} is {value!r}, which is no number or tensor of the "
            f"shape {tuple(parameter.shape)}. Mend: one number, or a tensor of that shape."
        ) from error

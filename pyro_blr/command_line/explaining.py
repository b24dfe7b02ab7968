# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The command ``explain``: how a model's factors are evaluated, without a fit."""

import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..blr import BLR
from ..guides import AutoNatural
from ..signatures import signature_of
from .data_files import HINTS, Data, read_data
from .model_names import model_of, working_folder

#: What torch says of whole numbers in the place of real ones.
OF_DTYPES = re.compile(r"dtype|scalar type|Long|Int\b|int64|floating", re.IGNORECASE)

Parameters = Mapping[str, inspect.Parameter]


def explain(name: str, data: str | None, device: str, dtype: str | None) -> int:
    """Print the explanation of a model; return the exit status.

    :param name: ``module:model``.
    :param data: a file with its arguments.
    :raises BLRError: for what cannot be found, read or explained.
    """
    with _defaults(device, dtype) as place, working_folder():
        model = model_of(name)
        parameters = _parameters(model)
        read = Data({}) if data is None else read_data(Path(data), _wanted(parameters))
        found = {n: v.to(place) if isinstance(v, Tensor) else v for n, v in read.values.items()}
        if parameters is not None:
            _check(name, parameters, found, read, data)
        for own, value in found.items():
            print(f"{own}: {_described(value)}")
        if read.others:
            names = ", ".join(n or "a column without a name" for n in read.others)
            print(f"left out, as no arguments of the model: {names}")
        return _explained(model, *_split(parameters, found))


def _explained(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Print the explanation, or what the model itself raised."""
    try:
        blr = BLR(model, AutoNatural(model), on_sampled="ignore")
        print(blr.explain(*args, **kwargs))
    except errors.DeviceError as error:
        hint = _hint((*args, *kwargs.values()), error)
        raise errors.DeviceError(f"{str(error).rstrip('.')}{hint}.") from error
    except errors.BLRError:
        raise
    except Exception as error:
        traceback.print_exc()
        print(
            f"error: the model raised {type(error).__name__}. Mend: call it with such data in "
            f"Python first{_hint((*args, *kwargs.values()), error)}.",
            file=sys.stderr,
        )
        return 1
    return 0


def _hint(values: Sequence[Any], error: Exception) -> str:
    """What may be wrong with data that hold whole numbers, if the error is one of dtypes."""
    is_whole = any(isinstance(v, Tensor) and not v.is_floating_point() for v in values)
    if not is_whole or not OF_DTYPES.search(str(error)):
        return ""
    return "; whole numbers of a file stay whole, so write 1.0 where a real number is meant"


@contextmanager
def _defaults(device: str, dtype: str | None) -> Iterator[torch.device]:
    """The device, and the dtype of real numbers, of this command alone."""
    before = torch.get_default_dtype()
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0].rstrip(".")
        raise errors.ArgumentError(
            f"there is no device {device!r} here: {said}. Mend: cpu, or the name of a GPU that "
            "`python -m pyro_blr` lists."
        ) from error
    try:
        if dtype is not None:
            torch.set_default_dtype(getattr(torch, dtype))
        with nullcontext() if place.type == "cpu" else place:
            yield place
    finally:
        torch.set_default_dtype(before)


def _parameters(model: Callable[..., Any]) -> Parameters | None:
    """The arguments of a model; None where Python does not know them."""
    signature = signature_of(model)
    return None if signature is None else signature.parameters


def _wanted(parameters: Parameters | None) -> Collection[str] | None:
    """The names that are read from a file; None for all of them."""
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return [n for n, p in parameters.items() if p.kind is not p.VAR_POSITIONAL]


def _check(
    name: str, parameters: Parameters, found: Mapping[str, Any], read: Data, data: str | None
) -> None:
    """Refuse a call without an argument that the model needs.

    :raises ArgumentError: naming it, and what the file has.
    """
    missing = [
        n
        for n, p in parameters.items()
        if n not in found
        and p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if not missing:
        return
    needed = f"the model {name!r} needs {', '.join(map(repr, missing))}"
    if data is None:
        raise errors.ArgumentError(f"{needed}, and no file was given. Mend: add --data FILE.")
    there = ", ".join(map(repr, read.names)) or "nothing"
    kind = Path(data).suffix.lower()
    single = "; a single number, such as a size, needs .json or .npz" if kind == ".csv" else ""
    raise errors.ArgumentError(
        f"{needed}, and the file {data!r} has {there}. Mend: {HINTS[kind]}, by the names of the "
        f"model's arguments{single}."
    )


def _split(
    parameters: Parameters | None, found: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments that have no name in a call, and the others."""
    known = {} if parameters is None else parameters
    first = [n for n, p in known.items() if p.kind is p.POSITIONAL_ONLY and n in found]
    return [found[n] for n in first], {n: v for n, v in found.items() if n not in first}


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        bad = int((~torch.isfinite(value)).sum())
        said = f", NaN or infinite in {bad} places (mask them: poutine.mask)" if bad else ""
        return f"{dtype} of shape {tuple(value.shape)}{said}"
    return repr(value) if isinstance(value, int | float | str) else type(value).__name__

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What is behind an error of Pyro's or torch's that names no plate and no site."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger

from . import errors
from ._compat import site_is_subsample
from .devices import is_mix_of_devices, is_mix_of_dtypes
from .energy.subsamples import Subsamples
from .random_state import same_random_state
from .signatures import misfit, signature_of


class PlateChecks(Messenger):
    """Refuses minibatches that do not fit their plates, in whatever runs inside.

    :raises SubsampleError: naming the plate.
    """

    def __init__(self) -> None:
        super().__init__()
        self._plates = Subsamples()

    def __enter__(self) -> Any:
        self._plates = Subsamples()
        return super().__enter__()

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            self._plates.before(msg)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            self._plates.after(msg)


@contextmanager
def diagnosed(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    caller: str,
) -> Iterator[None]:
    """Give errors that name no plate and no site one that does, where a run finds the cause.

    :param str caller: the function that the user called, for errors.
    :raises ArgumentError: for a call that the model does not take.
    :raises SubsampleError: for a minibatch that does not fit its plate.
    :raises GuideError: for a site whose sizes in the guide and in the model differ.
    :raises DeviceError: for a model that mixes devices or dtypes.
    """
    try:
        with PlateChecks(), called(model, args, kwargs, caller):
            yield
    except errors.BLRError:
        raise
    except Exception as error:
        cause = (
            _of_mixes(error, model, args, kwargs)
            or _of_plates(model, args, kwargs)
            or _of_shapes(model, guide, args, kwargs)
        )
        if cause is None:
            raise
        raise cause from error


@contextmanager
def called(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], caller: str
) -> Iterator[None]:
    """Say of a call that a model does not take which arguments it needs.

    :raises ArgumentError: in the place of the model's own ``TypeError``.
    """
    try:
        yield
    except TypeError as error:
        why = misfit(model, args, kwargs)
        if why is None:
            raise
        given = "those of the fit" if caller not in ("fit", "step") else "the data"
        raise errors.ArgumentError(
            f"{caller} calls the model, whose arguments are {signature_of(model)}, and what was "
            f"given does not fit: {why}. Mend: call {caller} with these arguments, {given}."
        ) from error


@contextmanager
def _aside() -> Iterator[None]:
    """For runs that only look: nothing outside sees them, and no random number is spent."""
    with same_random_state(), torch.no_grad(), poutine.block(), pyro.validation_enabled(False):
        yield


def _of_plates(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> errors.SubsampleError | None:
    try:
        with _aside(), PlateChecks():
            model(*args, **kwargs)
    except errors.SubsampleError as error:
        return error
    except Exception:  # the model's own, which the user has in hand
        return None
    return None


class _LastSite(Messenger):
    """Remembers the last site of a run."""

    name: str | None = None

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        self.name = msg["name"]


def _of_mixes(
    error: Exception, model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> errors.DeviceError | None:
    """The error for a mix of devices or dtypes, with the last site before it, if the model run by
    itself has it too.
    """
    is_mix = is_mix_of_devices if is_mix_of_devices(error) else is_mix_of_dtypes
    if not is_mix(error):
        return None
    where = ""
    try:
        with _aside(), _LastSite() as last:
            model(*args, **kwargs)
    except Exception as again:
        where = f" after site {last.name!r}" if last.name and is_mix(again) else ""
    said = str(error).split("\n")[0].rstrip(".!")
    if is_mix is is_mix_of_dtypes:
        return errors.DeviceError(
            f"the model mixes dtypes{where}: {said}. Mend: give its constants and priors the dtype "
            "of the data, dist.Normal(x.new_zeros(3), 1.0), or set torch.set_default_dtype to it, "
            "as plain numbers have the default one."
        )
    return errors.DeviceError(
        f"the model mixes devices{where}: {said}. Mend: make its constants where the data are, "
        "x.new_zeros(3) or torch.zeros(3, device=x.device), or call torch.set_default_device "
        "before anything is made. Priors in plain numbers, dist.Normal(0.0, 1.0), follow the "
        "arguments of the call."
    )


def _of_shapes(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> errors.GuideError | None:
    """The error for the first site that both sample in different sizes."""
    with suppress(Exception), _aside():
        own, wanted = (_shapes(f, args, kwargs) for f in (guide, model))
        for name, shape in own.items():
            if wanted.get(name, shape) != shape:
                return errors.GuideError(
                    f"site {name!r} has the shape {shape} in the guide, but {wanted[name]} in the "
                    "model. Mend: give the guide's parameters the size of the model's site."
                )
    return None


def _shapes(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """The shape of each latent, by name."""
    trace = poutine.trace(function).get_trace(*args, **kwargs)
    return {
        name: tuple(site["fn"].shape())
        for name, site in trace.iter_stochastic_nodes()
        if not site_is_subsample(site)
    }

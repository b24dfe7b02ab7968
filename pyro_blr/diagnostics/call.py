# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The call of a model that a diagnosis is of: its arguments, its data, its discrete latents."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import errors
from ..arguments import reject_unknown
from ..draws.fitted import Fitted
from ..signatures import misfit, signature_of


def check_call(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], caller: str
) -> None:
    """Refuse arguments that the model does not take, and a call that lacks some.

    :raises ArgumentError: naming the argument.
    """
    reject_unknown(model, caller, kwargs)
    signature, error = signature_of(model), misfit(model, args, kwargs)
    if signature is not None and error is not None:
        first = "model" if caller == "sbc" else "fit"
        names = ", ".join(signature.parameters)
        raise errors.ArgumentError(
            f"{caller} passes on to the model what it is given after the {first}, and the model "
            f"cannot be called with it: {error}. Mend: {caller}({first}, {names})."
        ) from error


@contextmanager
def finite_data(args: tuple[Any, ...], kwargs: Mapping[str, Any], caller: str) -> Iterator[None]:
    """Say of data that are not finite what is else said of a site that refuses them.

    Data that are NaN may be masked, so that they are looked at only where the model refuses them.

    :raises NonFiniteError: naming the argument.
    """
    try:
        yield
    except ValueError as error:
        given = {**{f"argument {i + 1}": a for i, a in enumerate(args)}, **kwargs}
        bad = [name for name, value in given.items() if not _is_finite(value)]
        is_other = isinstance(error, errors.BLRError) and not isinstance(
            error, errors.NonFiniteError
        )
        if is_other or not bad:
            raise
        said = str(error).partition(" Mend: ")[0].splitlines()[0].rstrip(":.")
        raise errors.NonFiniteError(
            f"{', '.join(bad)} of the model has NaN or infinite values, and then: {said}. Mend: "
            f"{caller} takes the data that the model was fitted to; mask what is missing "
            "(poutine.mask, obs_mask=)."
        ) from error


def _is_finite(value: Any) -> bool:
    """Whether all numbers of an argument are finite, in whatever it holds them."""
    if isinstance(value, Mapping):
        return all(_is_finite(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(_is_finite(v) for v in value)
    if isinstance(value, float | np.ndarray):
        is_number = isinstance(value, float) or value.dtype.kind in "fc"
        return not is_number or bool(np.isfinite(value).all())
    return not isinstance(value, Tensor) or bool(torch.isfinite(value).all())


def discrete_sites(own: Fitted) -> frozenset[str]:
    """The discrete latents that q holds: weights judge them, moments of their values do not."""
    latents = getattr(own.view, "latents", {})
    return frozenset(n for n, latent in latents.items() if latent.site.is_discrete)

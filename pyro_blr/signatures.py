# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The arguments that a model takes, as far as Python knows them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def signature_of(model: Callable[..., Any]) -> inspect.Signature | None:
    """The signature of a model, of a module that of its ``forward``; None if it is not known."""
    try:
        return inspect.signature(getattr(model, "forward", model))
    except (TypeError, ValueError):
        return None


def misfit(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> TypeError | None:
    """Why a model cannot be called with some arguments; None if nothing speaks against it."""
    signature = signature_of(model)
    if signature is None:
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return error
    return None

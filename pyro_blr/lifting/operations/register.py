# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The decorator that enters a handler into the table of operations."""

from collections.abc import Callable
from typing import TypeVar

from ..dispatch import OPERATIONS

Handler = TypeVar("Handler", bound=Callable[..., object])


def operation(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for torch functions and tensor methods of these names."""

    def enter(handler: Handler) -> Handler:
        for name in names:
            OPERATIONS[name] = handler
        return handler

    return enter

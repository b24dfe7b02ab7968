# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What all methods that take the model's arguments have around them."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from .arguments import RESERVED
from .chunks import parts_in
from .diagnosis import diagnosed

Method = TypeVar("Method", bound=Callable[..., Any])


def call_of_model(method: Method) -> Method:
    """A method that takes the model's arguments.

    Messages are gradients: they are computed also where the caller has switched gradients off.
    """

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = RESERVED.get(method.__name__, ())
        given = {k: v for k, v in kwargs.items() if k not in own}
        run = self.model, self.guide, args, given
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            self._known_to_all(),
            parts.in_call()
            if (parts := parts_in(args, given)) is not None
            else diagnosed(*run, method.__name__),
        ):
            return method(self, *args, **kwargs)

    return cast(Method, wrapped)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How operations are entered into their tables: by a handler, or as acting element by element."""

from collections.abc import Callable
from typing import TypeVar

from ..dispatch import OPERATIONS
from ..elementwise import ELEMENTWISE, JUMPING, KINKED

Handler = TypeVar("Handler", bound=Callable[..., object])


def register_elementwise(*names: str, kinks: bool = False, jumps: bool = False) -> None:
    """Say that torch functions act element by element, so that quadrature may integrate them.

    Each element of the result must depend on one element of each (broadcast) argument alone.

    :param names: of the torch functions, as for :func:`~pyro_blr.extend.operation`.
    :param kinks: whether their first derivative jumps: their second one then says too little.
    :param jumps: whether they jump themselves: gradients along a draw then say too little.
    """
    ELEMENTWISE.update(names)
    if kinks:
        KINKED.update(names)
    if jumps:
        JUMPING.update(names)


def operation(*names: str) -> Callable[[Handler], Handler]:
    """Enter a handler for torch functions and tensor methods of these names; a decorator.

    The handler takes what the torch function takes, with a polynomial in the place of each lifted
    tensor, and returns polynomials; torch itself has said what their shapes must be. Where it
    raises :class:`~pyro_blr.extend.NotPolynomial`, the call is by quadrature or sampled. Its first
    sentence goes into the table of operations.

    :param names: as the functions call themselves: ``linalg_solve``, ``special_ndtr``; of a custom
        operation ``mylib::bump`` the part ``bump``.
    """

    def enter(handler: Handler) -> Handler:
        for name in names:
            OPERATIONS[name] = handler
        return handler

    return enter

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Data that are no longer wanted: their messages are subtracted.

An update ends where ``natural = natural_old + messages(q)``. So subtracting the messages at q gives
natural_old back: always for the data of the last update, and for all data where messages do not
depend on q.
"""

from typing import Any

from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from .. import errors
from ..energy.previous import Previous, shared_parts
from ..lifting.blocks import Block
from .checks import Call, check_known, holds_posterior, no_messages, no_posterior
from .prepared import (
    Naturals,
    Prepared,
    check_data,
    check_no_draws,
    check_sum,
    objective_of,
    only,
    plus,
    prepared,
    whole,
    write,
)
from .result import Streamed

EXACT = "the messages of the data were subtracted"
INEXACT = (
    "the messages of the data at q were subtracted: this undoes the last update, and of data "
    "before it is right to first order in how far later ones moved q"
)


def forget(blr: Any, call: Call, plate: str | None) -> Streamed:
    """Take the data of a call out of a posterior."""
    check_known(blr)
    if blr._rule(*call) is not None:
        raise no_messages(blr, "forget")
    if not holds_posterior(blr):
        raise no_posterior("forget")
    with whole(blr):
        return _forgotten(blr, call, plate)


def _forgotten(blr: Any, call: Call, plate: str | None) -> Streamed:
    at = prepared(blr, call, plate, "forget")
    exact = only(at.energy, at.split.own)
    if not exact:
        _check_local(blr, at)
    at.energy.calibrate(at.naturals, blr.quad_tol)
    check_no_draws(at.energy, "forget")
    own = objective_of(blr, call, at, at.split.own)
    check_data(own, at.naturals)
    new = plus(at.naturals, _messages(own.messages(at.naturals), at), -1.0)
    check_sum(new, _improper)
    loss = None
    if not at.split.local & set(at.energy.latents):
        Previous(at.split, new).put_into(at.energy)
        loss = -own.value(at.naturals).elbo
    write(blr, new)
    return Streamed(
        exact, loss, 0, exact, 0.0 if exact else float("inf"), EXACT if exact else INEXACT
    )


def _messages(messages: Naturals, at: Prepared) -> Naturals:
    """What the data say of shared latents, their own integrated out."""
    try:
        return shared_parts(messages, at.split.local)
    except LinAlgError as error:
        names = sorted(at.split.local)
        raise errors.ImproperPosteriorError(
            f"the latents {names} of these data have no proper distribution given the others. "
            "Mend: give them proper priors."
        ) from error


def _check_local(blr: Any, at: Prepared) -> None:
    """Refuse latents of the data's own of which q has those of other data.

    :raises GuideError: naming them.
    """
    held = sorted(at.split.local & set(at.energy.latents))
    if held:
        raise errors.GuideError(
            f"the guide holds the latents {held} of the last data, on which the messages of the "
            "data to forget depend. Mend: fit the data that are left, blr.fit(*args)."
        )


def _improper(block: Block) -> str:
    return (
        f"without these data {block.name!r} is no proper {block.family.name}: they say more than "
        "the posterior knows, so that they were never added, or are taken out a second time. Mend: "
        "forget what was added, with the same arguments; or fit the data that are left."
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Data that are no longer wanted: what they added is subtracted.

Messages that do not depend on q are known from the data. Others were those at the q of their time,
which later data have moved: an update keeps what it added, and that is subtracted.
"""

import math
from typing import Any

from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from .. import errors
from ..energy.previous import Previous, shared_parts
from ..engine import detached
from ..lifting.blocks import Block
from .checks import Call, check_guide, holds_posterior, no_posterior
from .fits import Fitted, aligned, change_of, give_room
from .laws import Naturals
from .prepared import (
    Prepared,
    check_data,
    check_sum,
    objective_of,
    only,
    plus,
    prepared,
    whole,
    write,
)
from .result import Streamed


def forget(blr: Any, call: Call, plate: str | None) -> Streamed:
    """Take the data of a call out of a posterior, or what was done to it before."""
    done = _done(call)
    if done is not None:
        rest = tuple(a for a in call[0] if a is not done), call[1]
        return _taken_back(blr, done, rest, plate)
    check_guide(blr, call, "forget")
    if not holds_posterior(blr):
        raise no_posterior("forget")
    with whole(blr, call, plate):
        return _forgotten(blr, call, plate)


def _forgotten(blr: Any, call: Call, plate: str | None) -> Streamed:
    at = prepared(blr, call, plate, "forget")
    _check_exact(at)
    own = objective_of(blr, call, at, at.split.own)
    check_data(own, at.naturals)
    old = shared_parts(at.naturals, at.split.local)
    new = plus(at.naturals, _messages(own.messages(at.naturals), at), -1.0)
    check_sum(new, _improper)
    loss = None
    if not at.split.local & set(at.energy.latents):
        Previous(at.split, new).put_into(at.energy)
        loss = -own.value(at.naturals).elbo
    write(blr, new)
    change = change_of(at.energy.latents, at.split.local, old, new)
    return Streamed(True, loss, 0, True, 0.0, "the messages of the data were subtracted", change)


def _done(call: Call) -> Streamed | None:
    """What an update returned, if that is to be taken back and not data.

    :raises ArgumentError: for several at once.
    """
    found = [a for a in call[0] if isinstance(a, Streamed)]
    lists = [a for a in call[0] if isinstance(a, list | tuple)]
    if len(found) > 1 or any(isinstance(a, Streamed) for several in lists for a in several):
        raise errors.ArgumentError(
            "forget takes back what one call returned, and several were given. Mend: for done in "
            "several: blr.forget(done)."
        )
    return found[0] if found else None


def _taken_back(blr: Any, done: Streamed, call: Call, plate: str | None) -> Streamed:
    """Undo what was done before, wherever it was among the rest.

    :param call: the model's arguments, if there are any, by which a guide that has not seen the
        model since it took up a state is set up.
    """
    if done.change is None:
        raise errors.GuideError(
            "what the first data added is not told apart from their prior, whose message depends "
            "on q. Mend: fit the data that are left, blr.fit(*args)."
        )
    if any(call):
        check_guide(blr, call, "forget")
    view = blr.view
    if not holds_posterior(blr):
        raise no_posterior("forget")
    if view is None or not (view.is_set_up or any(call)):
        raise errors.GuideError(
            "the guide has not seen the model since it took up a saved state, so that its latents "
            "are not known yet. Mend: blr.forget(done, *args) with the model's arguments, any data."
        )
    fit = Fitted(done.change)
    with whole(blr, call if any(call) else None, plate):
        give_room(view, [fit])
        held, local = detached(view.naturals()), frozenset(view.latents) - set(fit.state["latents"])
        new = plus(held, aligned(fit, held, view.latents, local), -1.0)
        check_sum(new, _improper)
        write(blr, new)
        change = change_of(view.latents, local, shared_parts(held, local), new)
    why = "what was added before was subtracted"
    if not done.is_exact:
        why += "; data that came later were read in its light"
    gap = 0.0 if done.is_exact else math.inf
    return Streamed(done.is_exact, None, 0, done.is_exact, gap, why, change)


def _check_exact(at: Prepared) -> None:
    """Refuse data whose messages are not what they were when they came.

    :raises NotConjugatedError: naming the factors.
    """
    own = [f.name for f in at.energy.factors if f.name in at.split.own]
    names = [n for n in own if not only(at.energy, frozenset({n}))]
    if names:
        raise errors.NotConjugatedError(
            f"the messages of {sorted(names)} depend on q, which other data have moved since: what "
            "these data added is not known from them. Mend: blr.forget(done), with what "
            "blr.update returned for them; or blr.without(index, *args) after a fit of all data."
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


def _improper(block: Block) -> str:
    return (
        f"without these data {block.name!r} is no proper {block.family.name}: they say more than "
        "the posterior knows, so that they were never added, or are taken out a second time. Mend: "
        "forget what was added, with the same arguments; or fit the data that are left."
    )

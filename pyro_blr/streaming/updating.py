# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""New data: the posterior becomes the prior.

Where the messages of the new data's factors do not depend on q, they are added to its natural
parameters, and that is all. Elsewhere steps are taken on

    E_q[log p(new data | z)] - KL(q, q_old),

with the model's factors for latents that are the new data's own. The first of these steps is that
of Bayesian online natural gradients (arXiv 2405.19681).
"""

from typing import Any

from ..energy.previous import Previous
from ..lifting.blocks import Block
from ..loop import run
from .checks import Call, check_known, holds_posterior, no_messages
from .prepared import (
    Prepared,
    check_data,
    check_sum,
    objective_of,
    only,
    plus,
    prepared,
    under,
    whole,
    write,
)
from .result import Streamed, of_fit


def update(blr: Any, call: Call, plate: str | None, limits: dict[str, Any]) -> Streamed:
    """Add the data of a call to a posterior; of a guide that has none, fit it."""
    check_known(blr)
    if blr._rule(*call) is not None:
        raise no_messages(blr, "update")
    with whole(blr):
        return _updated(blr, call, plate, limits)


def _updated(blr: Any, call: Call, plate: str | None, limits: dict[str, Any]) -> Streamed:
    at = prepared(blr, call, plate, "update")
    exact = only(at.energy, at.split.own)
    if not holds_posterior(blr):
        fit = run(blr, *call, **limits)
        return of_fit(fit, blr.evaluate_loss(*call[0], **call[1]), exact)
    previous = Previous(at.split, at.naturals)
    if exact:
        return _added(blr, call, at, previous)
    with under(blr, previous):
        fit = run(blr, *call, **limits)
        loss = blr.evaluate_loss(*call[0], **call[1])
    return of_fit(fit, loss, False)


def _added(blr: Any, call: Call, at: Prepared, previous: Previous) -> Streamed:
    """The sum of what was known and the messages of new data."""
    own = objective_of(blr, call, at, at.split.own)
    new = plus(own.messages(at.naturals), previous.naturals, 1.0)
    check_data(own, at.naturals)
    check_sum(new, _improper)
    previous.put_into(at.energy)
    loss = -own.value(new).elbo
    write(blr, new)
    return Streamed(True, loss, 0, True, 0.0, "the messages of the data were added")


def _improper(block: Block) -> str:
    return (
        f"with these data {block.name!r} is no proper {block.family.name}: their messages lead out "
        "of its domain. Mend: check the sign and the scale of every pyro.factor."
    )

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
from ..engine import detached
from ..fit import Fit
from ..lifting.blocks import Block
from ..loop import run
from .checks import Call, check_guide, holds_posterior
from .fits import change_of
from .laws import Naturals, shared_sites
from .prepared import (
    Prepared,
    check_data,
    check_sum,
    messages_of,
    objective_of,
    only,
    plus,
    prepared,
    under,
    whole,
    write,
)
from .result import Streamed


def update(blr: Any, call: Call, plate: str | None, limits: dict[str, Any]) -> Streamed:
    """Add the data of a call to a posterior; of a guide that has none, fit it."""
    check_guide(blr, call, "update")
    with whole(blr, call, plate):
        return _updated(blr, call, plate, limits)


def _updated(blr: Any, call: Call, plate: str | None, limits: dict[str, Any]) -> Streamed:
    at = prepared(blr, call, plate, "update")
    is_sum = only(at.energy, at.split.own)
    if not holds_posterior(blr):
        before = _prior(blr, call, at)
        if is_sum and before is not None:
            return _added(blr, call, at, before)
        fit = run(blr, *call, **limits)
        loss = blr.evaluate_loss(*call[0], **call[1])
        return _stepped(blr, at, fit, loss, before)
    previous = Previous(at.split, at.naturals)
    if is_sum:
        previous.put_into(at.energy)
        return _added(blr, call, at, previous.naturals)
    with under(blr, previous):
        fit = run(blr, *call, **limits)
        loss = blr.evaluate_loss(*call[0], **call[1])
    return _stepped(blr, at, fit, loss, previous.naturals)


def _prior(blr: Any, call: Call, at: Prepared) -> Naturals | None:
    """The natural parameters of the model's own prior; None if they depend on q."""
    if not only(at.energy, at.split.shared):
        return None
    sent = messages_of(blr, call, at, at.split.shared)
    return {b: n for b, n in sent.items() if shared_sites(b, at.split.local)}


def _stepped(blr: Any, at: Prepared, fit: Fit, loss: float, before: Naturals | None) -> Streamed:
    """What steps did.

    :param before: what was known of latents that all data share; None if it is no fixed message.
    """
    change = None
    if before is not None:
        after = detached(blr.view.naturals())
        change = change_of(at.energy.latents, at.split.local, before, after)
    return Streamed(False, loss, fit.steps, fit.converged, fit.gap, fit.reason, change)


def _added(blr: Any, call: Call, at: Prepared, before: Naturals) -> Streamed:
    """The sum of what was known of shared latents and the messages of new data."""
    every = at.energy.factors
    own = objective_of(blr, call, at, at.split.own)
    new = plus(own.messages(at.naturals), before, 1.0)
    check_data(own, at.naturals)
    check_sum(new, _improper)
    at.energy.factors = every
    loss = -own.value(new).elbo
    write(blr, new)
    change = change_of(at.energy.latents, at.split.local, before, new)
    return Streamed(True, loss, 0, True, 0.0, "the messages of the data were added", change)


def _improper(block: Block) -> str:
    return (
        f"with these data {block.name!r} is no proper {block.family.name}: their messages lead out "
        "of its domain. Mend: a proper prior, or more data in the first batch; check the sign and "
        "the scale of every pyro.factor."
    )

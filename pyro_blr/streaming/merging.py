# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Fits of disjoint data as one: ``sum_k natural_k - (K - 1) natural_prior``."""

import math
from typing import Any

from .. import errors
from ..lifting.blocks import Block
from .checks import Call, check_known, holds_posterior, no_messages, no_posterior
from .fits import Fitted, aligned, fits_of
from .prepared import (
    Naturals,
    Prepared,
    check_sum,
    objective_of,
    only,
    plus,
    prepared,
    whole,
    write,
)
from .resizing import with_rows
from .result import Streamed

EXACT = "the natural parameters of the fits were added, those of the prior counted once"
INEXACT = f"{EXACT}: the product of what each fit takes its data to say"


def merge(blr: Any, others: Any, call: Call, plate: str | None) -> Streamed:
    """Put fits together in the guide of one engine."""
    check_known(blr)
    call = _call(blr, call)
    if blr._rule(*call) is not None:
        raise no_messages(blr, "merge")
    if not holds_posterior(blr):
        raise no_posterior("merge")
    fits = fits_of(blr, others)
    with whole(blr):
        return _merged(blr, fits, call, plate)


def _merged(blr: Any, fits: list[Fitted], call: Call, plate: str | None) -> Streamed:
    at = prepared(blr, call, plate, "merge")
    at = _with_room(blr, call, plate, at, fits)
    exact = only(at.energy, at.split.own)
    each = [aligned(fit, at) for fit in fits]
    prior = _prior(blr, call, at)
    new = at.naturals
    for natural in each:
        new = plus(plus(new, natural, 1.0), {b: prior[b] for b in natural}, -1.0)
    check_sum(new, _improper)
    write(blr, new)
    gap = 0.0 if exact else math.inf
    return Streamed(exact, None, 0, exact, gap, EXACT if exact else INEXACT)


def _call(blr: Any, call: Call) -> Call:
    """The arguments by which the model's prior is known.

    :raises ArgumentError: if none were given, now or before.
    """
    args, kwargs = call
    if args or kwargs:
        return call
    if blr._fit_call is None:
        raise errors.ArgumentError(
            "the prior, which each fit counts once, is not known: this engine has not been given "
            "data yet. Mend: blr.merge(others, *args) with the model's arguments, any data."
        )
    return blr._fit_call  # type: ignore[no-any-return]


def _with_room(
    blr: Any, call: Call, plate: str | None, at: Prepared, fits: list[Fitted]
) -> Prepared:
    """The same call where rows have a covariance each, if those of some fit have."""
    apart = {s for fit in fits for s in fit.sites_with_own_rows}
    blocks = [b for b in at.naturals if b.row_dims and any(s.name in apart for s in b.sites)]
    if not blocks:
        return at
    view = blr.view
    view.hold(dict(with_rows(b, n) if b in blocks else (b, n) for b, n in at.naturals.items()))
    return prepared(blr, call, plate, "merge")


def _prior(blr: Any, call: Call, at: Prepared) -> Naturals:
    """The natural parameters of the prior.

    :raises GuideError: for one that is no fixed distribution of q's family.
    """
    shared = at.split.shared
    for factor in at.energy.factors:
        if factor.name in shared and not only(at.energy, frozenset({factor.name})):
            raise errors.GuideError(
                f"the prior of {factor.name!r} is no fixed distribution of the guide's family: its "
                "message depends on q, so that it cannot be counted once in a sum of fits. Mend: a "
                "conjugate prior with fixed parameters; or fit all data with one engine, "
                "blr.update(*args) batch by batch."
            )
    every = at.energy.factors
    found = objective_of(blr, call, at, shared).messages(at.naturals)
    at.energy.factors = every
    return found


def _improper(block: Block) -> str:
    return (
        f"merged, {block.name!r} is no proper {block.family.name}: together the fits know less "
        "than the prior that each of them counts. Mend: merge fits of the same model and prior, "
        "each of data of its own."
    )

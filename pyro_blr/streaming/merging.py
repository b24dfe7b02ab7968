# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Fits of disjoint data as one: ``sum_k natural_k - (K - 1) natural_prior``."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from .. import errors
from ..chunks import first_call
from ..energy.previous import shared_parts
from ..engine import detached
from ..guides.checkpoint import guide_state
from ..lifting import host
from ..lifting.blocks import Block
from ..state import Resumable
from .checks import Call, check_guide, holds_posterior, no_posterior, split_of
from .fits import Fitted, aligned, change_of, fits_of, give_room, listed
from .laws import Naturals
from .prepared import (
    Prepared,
    check_sum,
    messages_of,
    only,
    plus,
    prepared,
    whole,
    write,
)
from .resizing import energy_of
from .result import Streamed

EXACT = "the natural parameters of the fits were added, those of the prior counted once"
INEXACT = f"{EXACT}: the product of what each fit takes its data to say"


def merge(blr: Any, others: Any, call: Call, plate: str | None) -> Streamed:
    """Put fits together in the guide of one engine."""
    call = _call(blr, call)
    check_guide(blr, call, "merge")
    given = listed(others)
    fits = fits_of(blr, given, call)
    _check_temperatures(blr, given)
    with whole(blr, call, plate):
        return _merged(blr, fits, given, call, plate)


def _check_temperatures(blr: Any, given: list[Any]) -> None:
    """Refuse fits in which a datum counts more, or less, than in others; a guide does not know.

    :raises ArgumentError: naming the temperatures.
    """
    for other in given:
        own = blr.temperature
        if isinstance(other, Resumable):
            own = other.temperature
        elif isinstance(other, Mapping) and isinstance(other.get("engine"), Mapping):
            own = other["engine"].get("temperature", own)  # states saved before it was in them
        if own != blr.temperature:
            raise errors.ArgumentError(
                f"a fit is at temperature {own:g}, and the engine into which it is to be merged at "
                f"{blr.temperature:g}: log densities of their data are divided by other numbers. "
                "Mend: fit both at the same temperature."
            )


def _merged(
    blr: Any, fits: list[Fitted], given: list[Any], call: Call, plate: str | None
) -> Streamed:
    at = prepared(blr, call, plate, "merge")
    if give_room(blr.view, fits):
        at = prepared(blr, call, plate, "merge")
    exact = only(at.energy, at.split.own)
    latents, local = at.energy.latents, at.split.local
    each = [aligned(fit, at.naturals, latents, local) for fit in fits]
    prior = prior_of(blr, call, at)
    old = at.naturals if holds_posterior(blr) else _prior_alone(at, prior)
    new = old
    for natural in each:
        new = plus(plus(new, natural, 1.0), {b: prior[b] for b in natural}, -1.0)
    check_sum(new, _improper)
    for other in given if not local & set(latents) else ():
        if isinstance(other, Resumable):
            for theirs in _priors_of(other, plate):
                _check_prior(prior, aligned(theirs, at.naturals, latents, local))
    write(blr, new)
    change = change_of(latents, local, shared_parts(old, local), new)
    gap = 0.0 if exact else math.inf
    return Streamed(exact, None, 0, exact, gap, EXACT if exact else INEXACT, change)


def _priors_of(other: Any, plate: str | None) -> Iterator[Fitted]:
    """The prior of another engine, where its data are at hand by which it is known."""
    if other._fit_call is not None and other._parted.is_alone:
        call = first_call(*other._fit_call)
        energy = energy_of(other, call, plate)
        at = Prepared(energy, split_of(energy.traced, plate), detached(other.view.naturals()))
        yield Fitted(guide_state(energy.latents, prior_of(other, call, at)))


def _check_prior(prior: Naturals, other: Naturals) -> None:
    """Refuse fits with another prior than the one that is counted once.

    :raises ArgumentError: naming the block.
    """
    for block, natural in other.items():
        for own, given in zip(prior[block], natural, strict=True):
            scale = own.abs().max() if own.numel() else 0.0
            if not host.truth(((own - given).abs() <= 1e-6 * scale + 1e-12).all()):
                raise errors.ArgumentError(
                    f"a fit has another prior of {block.name!r} than the engine into which it is "
                    "to be merged, whose own is counted once. Mend: fits of one model with the "
                    "same prior; or blr.update(*args) with the data of the other."
                )


def _prior_alone(at: Prepared, prior: Naturals) -> Naturals:
    """What an engine knows that has seen no data.

    :raises GuideError: for a model whose data have latents of their own in the guide.
    """
    if at.split.local & set(at.energy.latents):
        raise no_posterior("merge")
    return prior


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
    return first_call(*blr._fit_call)


def prior_of(blr: Any, call: Call, at: Prepared) -> Naturals:
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
    return messages_of(blr, call, at, shared)


def _improper(block: Block) -> str:
    return (
        f"merged, {block.name!r} is no proper {block.family.name}: together the fits know less "
        "than the prior that each of them counts. Mend: merge fits of the same model and prior, "
        "each of data of its own."
    )

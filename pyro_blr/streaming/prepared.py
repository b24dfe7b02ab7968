# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A call with the data of a batch, and the posterior that they are added to or taken out of."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..energy.energy import Energy
from ..energy.parts import Split
from ..energy.previous import Previous
from ..engine import detached
from ..families import Natural
from ..guides.natural_guide import NaturalGuide
from ..lifting import host
from ..lifting.blocks import Block
from ..objective import EnergyObjective
from .checks import Call, check_streamed, split_of
from .laws import Naturals
from .resizing import energy_of, take_up


@dataclass(frozen=True, eq=False)
class Prepared:
    """A traced call of the model.

    :param energy: under the model's own priors.
    :param split: which factors are of the batch.
    :param naturals: q as it stands.
    """

    energy: Energy
    split: Split
    naturals: Naturals


def prepared(blr: Any, call: Call, plate: str | None, method: str) -> Prepared:
    """Trace a call, its guide laid out so that it has room for what the batch says.

    :raises ArgumentError: if it is not known which factors are those of the batch.
    """
    energy = energy_of(blr, call, plate)
    check_streamed(blr, energy, method)
    return Prepared(energy, split_of(energy.traced, plate), detached(blr.view.naturals()))


@contextmanager
def whole(blr: Any, call: Call | None, plate: str | None) -> Iterator[None]:
    """Whatever interrupts it leaves q as it was, and a guide that held no posterior without one.

    :param call: by which a new guide is set up; None if it is not new.
    """
    view = blr.view
    blr._take_copied()
    saved = view.saved_kept() if isinstance(view, NaturalGuide) else nullcontext()
    resuming = blr._is_resuming
    try:
        with saved, _as_before(blr, call, plate):
            yield
    except BaseException:
        blr._is_resuming = resuming
        raise


@contextmanager
def _as_before(blr: Any, call: Call | None, plate: str | None) -> Iterator[None]:
    """What :func:`whole` is to a guide that has taken up what was saved."""
    view, is_new = blr.view, not blr.view.is_set_up
    with nullcontext() if is_new else _unchanged(view):
        if call is not None:
            take_up(blr, call, plate)
        steps, held = blr.num_steps, view.holds_posterior
        try:
            # A new guide is set up anew; asked for its parameters, it would store them unmerged.
            with _unchanged(view) if is_new and held else nullcontext():
                yield
        except BaseException:
            blr.num_steps, view.holds_posterior = steps, held
            if is_new and not held and isinstance(view, NaturalGuide):
                view.latents, blr._is_laid_out = {}, False  # the next data may have other sizes
            raise


@contextmanager
def _unchanged(view: Any) -> Iterator[None]:
    if isinstance(view, NaturalGuide):
        with view.as_before_an_error():
            yield
        return
    before = detached(view.naturals())
    try:
        yield
    except BaseException:
        view.write(before)
        raise


def only(energy: Energy, names: frozenset[str]) -> bool:
    """Whether no message of some factors depends on q."""
    every = energy.factors
    energy.factors = [f for f in every if f.name in names]
    try:
        return energy.has_constant_messages
    finally:
        energy.factors = every


@contextmanager
def under(blr: Any, previous: Previous) -> Iterator[None]:
    """An engine whose prior is an earlier posterior, and that has taken no step yet."""
    steps = blr.num_steps
    blr._previous = previous
    blr.begin()
    try:
        yield
    finally:
        blr._previous = None
        blr.num_steps += steps
        blr.begin(blr.num_steps)


def plus(left: Mapping[Block, Natural], right: Mapping[Block, Natural], times: float) -> Naturals:
    """Natural parameters and a multiple of others, where there are any."""
    return {
        b: tuple(a + times * o for a, o in zip(n, right[b], strict=True)) if b in right else n
        for b, n in left.items()
    }


def objective_of(blr: Any, call: Call, at: Prepared, names: frozenset[str]) -> EnergyObjective:
    """Some of the factors alone."""
    at.energy.factors = [f for f in at.energy.factors if f.name in names]
    return EnergyObjective(at.energy, None, blr._builder.cache, call)


def messages_of(blr: Any, call: Call, at: Prepared, names: frozenset[str]) -> Naturals:
    """The messages of some of the factors at q."""
    every = at.energy.factors
    try:
        return objective_of(blr, call, at, names).messages(at.naturals)
    finally:
        at.energy.factors = every


def check_data(own: EnergyObjective, naturals: Naturals) -> None:
    """Refuse data that are not finite.

    :raises NonFiniteError: naming the site.
    """
    own.check_finite(own.value(naturals))


def check_sum(new: Naturals, explained: Callable[[Block], str]) -> None:
    """Refuse what is no distribution.

    :param explained: what led to it, and the mend.
    :raises ImproperPosteriorError: for natural parameters outside their domain.
    """
    for block, natural in new.items():
        if not host.truth(block.family.in_domain(natural).all()):
            raise errors.ImproperPosteriorError(f"{explained(block)} The guide is left as it was.")


def write(blr: Any, new: Naturals) -> None:
    """Set q, as a posterior: a sum of messages is one natural step of size 1."""
    blr.view.write({b: b.family.symmetrize(n) for b, n in new.items()})
    blr.view.holds_posterior = True
    blr.begin(blr.num_steps + 1)  # averages of steps, say, are of another q

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A call with the data of a batch, and the posterior that they are added to or taken out of."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from .. import errors
from ..energy.energy import Energy
from ..energy.parts import Split
from ..energy.previous import Previous
from ..energy.sampled import SampledFactor
from ..engine import detached
from ..families import MultivariateNormal, Natural
from ..guides.natural_guide import NaturalGuide
from ..influence.checks import is_exact
from ..lifting import host
from ..lifting.blocks import Block
from ..objective import EnergyObjective
from .checks import Call, check_served, split_of

Naturals = dict[Block, Natural]


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
    """Trace a call, its guide set up and laid out so that it has room for what the batch says.

    :raises ArgumentError: if it is not known which factors are those of the batch.
    """
    args, kwargs = call
    blr._resume(args, kwargs)
    if isinstance(blr.guide, NaturalGuide) and blr.guide.holds_posterior:
        blr._is_laid_out = True  # its blocks, which may be another engine's, hold a posterior
    blr.view.set_up(args, kwargs, blr._builder)
    if blr._is_laid_out:
        _give_rows_room(blr, call)
    energy = blr._energy(args, kwargs)
    check_served(blr, energy, method)
    return Prepared(energy, split_of(energy.traced, plate), detached(blr.view.naturals()))


def _give_rows_room(blr: Any, call: Call) -> None:
    """Rows that share a covariance get one each where the batch says different things of them."""
    view = blr.view
    if not any(b.row_dims for b in view.blocks):
        return
    traced = blr._builder.trace(*call, view.latents)
    energy = blr._builder.build(traced, view.latents, view.layout)
    apart = [b for b in view.blocks if b.row_dims and not energy.is_conjugate_in(b)]
    if apart:
        view.hold(
            dict(with_rows(b, n) if b in apart else (b, n) for b, n in view.naturals().items())
        )


def with_rows(block: Block, natural: Natural) -> tuple[Block, Natural]:
    """The block with a covariance for each row, and its natural parameters; q is the same."""
    if not block.row_dims:
        return block, natural
    linear, square = natural
    size = linear.shape[-1]
    matrix = square.reshape(*block.own_shape, *(1,) * block.row_dims, size, size)
    own = replace(block, family=MultivariateNormal(), row_dims=0)
    shape = block.batch_shape
    return own, (linear.reshape(*shape, size), matrix.expand(*shape, size, size).clone())


def only(energy: Energy, names: frozenset[str]) -> bool:
    """Whether no message of some factors depends on q."""
    every = energy.factors
    energy.factors = [f for f in every if f.name in names]
    try:
        return is_exact(energy)
    finally:
        energy.factors = every


def check_no_draws(energy: Energy, method: str) -> None:
    """Refuse factors at draws, whose messages have an error.

    :raises SampledFactorError: naming the factor.
    """
    for factor in energy.factors:
        if isinstance(factor, SampledFactor):
            raise errors.SampledFactorError(
                f"factor {factor.name!r} is at draws of q ({factor.reason}), so that {method} "
                "would leave the error of its message in q. Mend: the spelling that keeps it "
                "deterministic, see blr.explain(); or fit the data that are left."
            )


@contextmanager
def under(blr: Any, previous: Previous) -> Iterator[None]:
    """An engine whose prior is an earlier posterior, and that has taken no step yet.

    Whatever interrupts it leaves the guide as it was.
    """
    before, steps = detached(blr.view.naturals()), blr.num_steps
    blr._previous = previous
    blr.begin()
    try:
        yield
    except BaseException:
        blr.view.write(before)
        blr.num_steps = 0
        raise
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


def check_data(own: EnergyObjective, naturals: Naturals) -> None:
    """Refuse data that are not finite.

    :raises NonFiniteError: naming the site.
    """
    own.energy.check_finite(own.value(naturals), None)


def check_sum(new: Naturals, explained: Callable[[Block], str]) -> None:
    """Refuse what is no distribution.

    :param explained: what led to it, and the mend.
    :raises ImproperPosteriorError: for natural parameters outside their domain.
    """
    for block, natural in new.items():
        if not host.truth(block.family.in_domain(natural).all()):
            raise errors.ImproperPosteriorError(f"{explained(block)} The guide is left as it was.")


def write(blr: Any, new: Naturals) -> None:
    """Set q, as a posterior."""
    blr.view.write({b: b.family.symmetrize(n) for b, n in new.items()})
    blr.view.holds_posterior = True

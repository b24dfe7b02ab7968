# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Elements of a Gaussian block: which mean, covariance and second moment are theirs, and where."""

from dataclasses import dataclass

from .arrow_blocks import ArrowBlock
from .axes import Address, Axis, same_address
from .blocks import Block
from .chain_blocks import ChainBlock, meeting
from .coincidence import coincidence, same_everywhere
from .plan import Stat
from .statistics import (
    CHAIN_COV,
    CHAIN_MEAN,
    CHAIN_SECOND,
    COV,
    CROSS_COV,
    CROSS_SECOND,
    GLOBAL_COV,
    GLOBAL_MEAN,
    GLOBAL_SECOND,
    LOCAL_COV,
    LOCAL_MEAN,
    LOCAL_SECOND,
    MEAN,
    NEXT_COV,
    NEXT_SECOND,
    SECOND,
    Statistic,
)
from .terms import Atom, Constant, NotPolynomial


class OutsideStructure(NotPolynomial):
    """A product of two elements whose covariance a block with structure does not hold: of two
    groups of an arrow-head, of two times of a chain that are no neighbours.
    """


@dataclass(frozen=True)
class Element:
    """Elements of a Gaussian block, by their addresses.

    :param batch: along the batch dims; of a local element of an arrow-head block, its group; of a
        chain the batch dims and the time.
    :param event: along the event dim, if there is one.
    """

    block: Block
    batch: tuple[Address, ...]
    event: tuple[Address, ...]

    @property
    def mean(self) -> Stat:
        """Its mean."""
        which = MEAN
        if isinstance(self.block, ArrowBlock):
            which = LOCAL_MEAN if self.batch else GLOBAL_MEAN
        if isinstance(self.block, ChainBlock):
            which = CHAIN_MEAN
        return Stat(self.block, which, (*self.batch, *self.event))


def element_of(block: Block, atom: Atom) -> Element:
    """The element of a block that a variable is."""
    batch, event = block.place(atom)
    if isinstance(block, ChainBlock):
        batch = (*batch, block.time_of(atom))
    return Element(block, batch, () if event is None else (event,))


def element_at(mean: Stat) -> Element:
    """The element that a mean is of."""
    dims = len(mean.block.batch_shape)
    if isinstance(mean.block, ArrowBlock):
        dims = 1 if mean.which == LOCAL_MEAN else 0
    if isinstance(mean.block, ChainBlock):
        dims += 1
    return Element(mean.block, mean.where[:dims], mean.where[dims:])


#: Of an arrow-head block: by how many of the two elements are local.
_ARROW_COV: tuple[Statistic, ...] = (GLOBAL_COV, CROSS_COV, LOCAL_COV)
_ARROW_SECOND: tuple[Statistic, ...] = (GLOBAL_SECOND, CROSS_SECOND, LOCAL_SECOND)

Restriction = tuple[tuple[Constant, ...], dict[Axis, Address]]


def covariance_of(
    first: Element, second: Element, out: tuple[Axis, ...], factors: tuple[Constant, ...] = ()
) -> tuple[Stat, Restriction]:
    """The covariance of two elements of one block, and the restriction to where it is not 0.

    :param factors: the constants that it is multiplied with.

    Elements of a plate are correlated only where they coincide (see :func:`coincidence`).

    :raises OutsideStructure: for elements whose covariance the block does not hold.
    """
    block = first.block
    if isinstance(block, ChainBlock):
        cov = _chain_pair(block, first, second, (CHAIN_COV, NEXT_COV), factors)
        if cov is None:
            raise OutsideStructure(f"a product of times of {block.name} that are no neighbours")
        return cov, coincidence(first.batch[:-1], second.batch[:-1], out)
    if isinstance(block, ArrowBlock):
        if not _same_group(first, second):
            raise OutsideStructure(f"a product of different elements of the plate {block.plate!r}")
        return _arrow_pair(first, second, _ARROW_COV), ((), {})
    own = first.batch[: len(block.own_shape)]
    cov = Stat(block, COV, (*own, *first.event, *second.event))
    return cov, coincidence(first.batch, second.batch, out)


def second_moment_of(
    first: Element, second: Element, factors: tuple[Constant, ...] = ()
) -> Stat | None:
    """``E[first second]`` as one statistic, or None where they may be independent somewhere.

    :param factors: the constants that it is multiplied with.
    """
    block = first.block
    if isinstance(block, ArrowBlock):
        return _arrow_pair(first, second, _ARROW_SECOND) if _same_group(first, second) else None
    if isinstance(block, ChainBlock):
        if not all(map(same_address, first.batch[:-1], second.batch[:-1])):
            return None
        return _chain_pair(block, first, second, (CHAIN_SECOND, NEXT_SECOND), factors)
    if not all(same_address(v, w) for v, w in zip(first.batch, second.batch, strict=True)):
        return None
    own = first.batch[: len(block.own_shape)]
    return Stat(block, SECOND, (*own, *first.event, *second.event))


def _same_group(first: Element, second: Element) -> bool:
    """Whether two elements are never in different groups; a global one is in none."""
    return all(same_everywhere(v, w) for v, w in zip(first.batch, second.batch, strict=False))


def _arrow_pair(first: Element, second: Element, which: tuple[Statistic, ...]) -> Stat:
    if len(first.batch) > len(second.batch):
        first, second = second, first
    kind = which[len(first.batch) + len(second.batch)]
    return Stat(first.block, kind, (*second.batch, *first.event, *second.event))


def _chain_pair(
    block: ChainBlock,
    first: Element,
    second: Element,
    which: tuple[Statistic, ...],
    factors: tuple[Constant, ...],
) -> Stat | None:
    """The statistic of two elements of one time, or of one and the next; None if they are neither
    everywhere.
    """
    found = meeting(first.batch[-1], second.batch[-1], block.length, factors)
    if found is None:
        return None
    by, time = found
    if by < 0:
        first, second = second, first
    return Stat(block, which[abs(by)], (*first.batch[:-1], time, *first.event, *second.event))

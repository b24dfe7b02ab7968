# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a precision matrix would take, asked before it is allocated."""

from collections.abc import Sequence
from math import ceil, isqrt, log2, prod

import torch

from .. import errors
from ..energy.arrow import Coupled
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block
from ..lifting.memory import BYTES, available_bytes

#: Matrices of the precision's size that a step holds at a time: the precision, its Cholesky factor,
#: the covariance, the message to it, and one more while the next precision is tried.
MATRICES = 5

#: Tensors with each component's density at every point of all components that a mixture holds at a
#: time: five at a step (the densities, their shares, what they are made of), more at the start.
DENSITIES = 8

#: Points of each component to begin with; in few dimensions they cost less than a trace.
POINTS = 64

#: Points for each element: two antithetic pairs, whose second moments are then exact.
POINTS_PER_ELEMENT = 4


def fits(numbers: int, device: torch.device) -> bool:
    """Whether the matrices of a step fit, each of so many numbers."""
    free = available_bytes(device)
    return free is None or MATRICES * BYTES * numbers <= free


def in_words(numbers: int) -> str:
    """The memory of so many numbers: ``"1.2 GB"``."""
    size = float(BYTES * numbers)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def check_dense(guide: str, size: int, device: torch.device, structure: str = "") -> None:
    """Refuse a full covariance over more elements than memory holds.

    :param guide: the guide's name, for the error.
    :param size: the length D of the latent vector.
    :param structure: what is to be said of a precision with structure, in sentences.
    :raises MemoryLimitError: with what would fit.
    """
    if fits(size * size, device):
        return
    rank = max(1, round(size**0.5))
    raise errors.MemoryLimitError(
        f"{guide} over {size} elements holds {size} x {size} matrices of "
        f"{in_words(size * size)} each, {MATRICES} of them at a step, and "
        f"{_free_in_words(device)} of memory are free. {structure}{' ' if structure else ''}Mend: "
        f"AutoNaturalLowRankMultivariateNormal(model, rank={rank}) takes "
        f"{in_words(size * (rank + 2))}, AutoNaturalNormal(model) {in_words(2 * size)}; or name "
        f"the sites that belong together, {guide}(model, sites=[...])."
    )


def check_latent(guide: str, block: Block, device: torch.device) -> None:
    """Refuse a full covariance within a vector, of one latent, that memory does not hold.

    :param block: the latent's own.
    :param guide: the guide's name, for the error.
    :raises MemoryLimitError: with what would fit.
    """
    size = block.event_size or 1
    groups = prod(block.batch_shape)
    if fits(groups * size * size, device):
        return
    count = f"{groups} matrices" if groups > 1 else "a matrix"
    raise errors.MemoryLimitError(
        f"{guide} holds {count} of {size} x {size} numbers for site {block.name!r}, "
        f"{in_words(groups * size * size)}, {MATRICES} times at a step, and "
        f"{_free_in_words(device)} of memory are free. Mend: AutoNatural(model, families="
        f"{{{block.name!r}: DiagonalNormal}}) has no correlations within it and takes "
        f"{in_words(2 * groups * size)}, as AutoNaturalNormal(model) does."
    )


def check_arrow(guide: str, block: ArrowBlock, device: torch.device) -> None:
    """Refuse an arrow-head precision that memory does not hold.

    :param guide: the guide's name, for the error.
    :raises MemoryLimitError: with what would fit.
    """
    if fits(block.numbers, device):
        return
    raise errors.MemoryLimitError(
        f"{guide} with an {_shape(block)} holds {MATRICES} times {in_words(block.numbers)}, and "
        f"{_free_in_words(device)} of memory are free. Mend: AutoNaturalNormal(model) takes "
        f"{in_words(2 * (block.event_size or 0))}; or name the sites that belong together, "
        f"{guide}(model, sites=[...])."
    )


def first_points(size: int) -> int:
    """How many points each component of a mixture over so many elements has at first."""
    return max(POINTS, 1 << ceil(log2(POINTS_PER_ELEMENT * size)))


def check_mixture(guide: str, components: int, size: int, device: torch.device) -> None:
    """Refuse a mixture whose precisions, or densities at its points, memory does not hold.

    :param guide: the guide's name, for the error.
    :param components: the number of matrices.
    :param size: the length D of the latent vector.
    :raises MemoryLimitError: with what would fit.
    """
    free = available_bytes(device)
    points = first_points(size)
    matrices, densities = components * size * size, components * components * points
    if free is None or BYTES * max(MATRICES * matrices, DENSITIES * densities) <= free:
        return
    fewer = min(
        free // (MATRICES * BYTES * size * size), isqrt(free // (DENSITIES * BYTES * points))
    )
    rank = max(1, round(size**0.5))
    mend = (
        f"{guide}(model, components={fewer})"
        if fewer > 1
        else f"one Gaussian, AutoNaturalLowRankMultivariateNormal(model, rank={rank})"
    )
    what = f"{components} matrices of {size} x {size} numbers, {in_words(matrices)}, {MATRICES}"
    if DENSITIES * densities > MATRICES * matrices:
        what = (
            f"the densities of all components at {points} points of each, {in_words(densities)}, "
            f"{DENSITIES}"
        )
    raise errors.MemoryLimitError(
        f"{guide} with {components} components over {size} elements holds {what} times at a step, "
        f"and {_free_in_words(device)} of memory are free. Mend: {mend}."
    )


def offered(blocks: Sequence[ArrowBlock]) -> str:
    """A sentence on the smallest arrow-head, if there is one."""
    if not blocks:
        return ""
    arrow = blocks[0]
    return f"structure='arrow', an {_shape(arrow)}, would take {in_words(arrow.numbers)}."


def described(block: ArrowBlock, found: Coupled) -> tuple[str, ...]:
    """The notes of an explanation on a block that is held."""
    size = block.event_size or 0
    notes = [
        f"the joint Gaussian has an {_shape(block)}: {in_words(block.numbers)}, in the place of "
        f"{in_words(size * size)}"
    ]
    if found.unseen:
        notes.append(
            f"whether sampled factors ({', '.join(found.unseen)}) couple groups of the plate "
            f"{block.plate!r} was not seen; q has no such couplings"
        )
    return tuple(notes)


def _shape(block: ArrowBlock) -> str:
    return (
        f"arrow-head precision along the plate {block.plate!r}, with {block.global_size} global "
        f"numbers and {block.groups} groups of {block.local_size}"
    )


def _free_in_words(device: torch.device) -> str:
    return in_words((available_bytes(device) or 0) // BYTES)

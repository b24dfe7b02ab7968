# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which estimator a sampled factor's message to a block has."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..estimators.hessians import COLUMNS, EXACT
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block, has_fixed_scale
from ..lifting.chain_blocks import ChainBlock
from ..lifting.outputs import Output, is_network, output_of
from ..lifting.points import PointBlock
from ..lifting.tensor import LiftedTensor
from .at_prior import NoiseBlock

SCORE = "the score function"
PATH = "derivatives along its draws"
EXACT_HESSIAN = "exact Hessians"
PROBES = "Hessian-vector products"
STEIN = "Stein's form of the Hessian"
GAUSS_NEWTON = "Gauss-Newton"


#: Elements of a block from which on a network's Hessian is Gauss and Newton's: Stein's form would
#: take four draws an element to stay in the cone, and this one takes ten in all.
NETWORK = 512


@dataclass(frozen=True, eq=False)
class Way:
    """How a factor's message to one block is estimated.

    :param name: the estimator.
    :param output: for Gauss-Newton, the outputs of which the factor is a concave function.
    """

    name: str
    output: Output | None = None


def ways_of(
    density: LiftedTensor,
    blocks: Iterable[Block],
    wanted: str,
    has_jumps: bool,
    has_kinks: bool,
) -> dict[Block, Way]:
    """The way of each block; the rule of ``"auto"``, and what the other options change in it.

    Jumps are seen by the score function alone. Blocks that are no Gaussian with its own full
    covariances are differentiated along their draws. Of the others, up to 128 elements have exact
    Hessians; above 512 Gauss and Newton's part of them is taken where a likelihood is concave in
    the outputs of a network; else Hessian-vector products where events have at most 64 elements,
    and Stein's form. Kinks are seen by Stein's form alone, but for those inside such a network.

    Where a network has more than 128 independent weights, Gauss and Newton's part is taken for each
    of their blocks where there is one, and else Hessian-vector products.

    A Gaussian of fixed scale has no use for a Hessian. Under ``"delta"`` there is one draw, the
    mean, at which Hessians are exact.

    ``"hessian"`` takes Hessian-vector products for large events too, ``"gauss_newton"`` takes
    concave outputs for small blocks, and where they are no network's; ``"stein"`` takes Stein's
    form for all.
    """
    held = tuple(blocks)
    scalars = sum(b.numel for b in held if b.gaussian and b.event_size is None)
    is_wide = scalars > EXACT and is_network(density)
    return {b: _way(density, b, wanted, has_jumps, has_kinks, is_wide) for b in held}


def _way(
    density: LiftedTensor, block: Block, wanted: str, jumps: bool, kinks: bool, is_wide: bool
) -> Way:
    """The way of one block.

    :param is_wide: whether it is a network with so many independent weights that none of their
        Hessians is taken column by column, however small the block: each passage is through all.
    """
    if wanted == "delta" and block.gaussian:
        return Way(PATH if has_fixed_scale(block) else EXACT_HESSIAN)
    if jumps:
        return Way(SCORE)
    if isinstance(block, PointBlock | NoiseBlock) or not block.gaussian or has_fixed_scale(block):
        return Way(PATH)
    is_wide &= block.event_size is None
    size = block.numel
    is_small = size <= EXACT and not is_wide
    if isinstance(block, ArrowBlock | ChainBlock) or (block.family.is_curved and not is_small):
        return Way(PATH)
    if wanted == "stein":
        return Way(STEIN)
    if wanted == "gauss_newton" or (wanted == "auto" and (size > NETWORK or is_wide)):
        output = _output(density, block)
        if output is not None and (output.is_mixed or wanted == "gauss_newton"):
            return Way(GAUSS_NEWTON, output)
    if kinks:
        return Way(STEIN)
    if is_small:
        return Way(EXACT_HESSIAN)
    has_few = block.event_size is None or block.event_size <= COLUMNS
    return Way(PROBES if has_few or wanted == "hessian" else STEIN)


def _output(density: LiftedTensor, block: Block) -> Output | None:
    """The block's concave outputs; a vector of more than 64 would need as many passes."""
    output = output_of(density, frozenset(s.name for s in block.sites))
    if output is None or (output.is_vector and output.node.shape[-1] > COLUMNS):
        return None
    return output


def named(ways: Mapping[Block, Way]) -> str:
    """The estimators in words: by block where there are several."""
    blocks: dict[str, list[str]] = {}
    for block, way in ways.items():
        blocks.setdefault(way.name, []).append(block.name)
    if len(blocks) == 1:
        return f"estimated by {next(iter(blocks))}"
    return "estimated by " + ", ".join(f"{n} for {' and '.join(b)}" for n, b in blocks.items())

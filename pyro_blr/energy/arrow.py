# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Along which plate a joint Gaussian has an arrow-head precision, and whether a model keeps to it.

The elements of a plate are the groups: numbers that are independent of other groups' given the
global ones, where no factor has a product of two groups. Then the messages have no such product,
the full covariance's optimum has the same zeros in its precision, and nothing is lost by holding
the arrow-head alone. One plate is taken; what other plates a site is in lies within its group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ..families import ArrowNormal
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block, Placement
from ..lifting.expectation import Layout, check_moments
from ..lifting.laws import joint_plan
from ..lifting.pairs import OutsideStructure
from ..lifting.predictor import find_predictor
from ..lifting.tensor import LiftedTensor
from ..lifting.terms import LatentSite, NotPolynomial
from .latents import Latent
from .traced import Traced


def arrow_blocks(latents: Sequence[Latent]) -> list[ArrowBlock]:
    """The joint block of some Gaussian latents along each plate, the smallest first."""
    plates = {name: size for latent in latents for name, size in latent.plates.values()}
    blocks = [_along(plate, size, latents) for plate, size in plates.items() if size > 1]
    return sorted(blocks, key=lambda block: block.numbers)


def _along(plate: str, groups: int, latents: Sequence[Latent]) -> ArrowBlock:
    sites: dict[bool, list[LatentSite]] = {False: [], True: []}
    placements: dict[str, Placement] = {}
    sizes = {False: 0, True: 0}
    for latent in latents:
        dims = tuple(d for d, (name, _) in latent.plates.items() if name == plate)
        local = bool(dims)
        placements[latent.name] = Placement(dims, sizes[local])
        sites[local].append(latent.site)
        sizes[local] += prod(s for d, s in enumerate(latent.site.shape) if d not in dims)
    return ArrowBlock(
        "+".join(n.name for n in latents),
        ArrowNormal(),
        (*sites[False], *sites[True]),
        (),
        sizes[False] + groups * sizes[True],
        placements,
        plate=plate,
        groups=groups,
        global_size=sizes[False],
        local_size=sizes[True],
    )


@dataclass(frozen=True)
class Coupled:
    """What a model's factors say of the groups of a plate.

    :param across: the first factor with a product of two groups, and why; empty if there is none.
    :param unseen: the factors that are sampled, whose products are not known.
    """

    across: str
    unseen: tuple[str, ...]


def coupled(block: Block, layout: Layout, traced: Traced) -> Coupled:
    """Whether some factor has a product that a block with structure does not hold.

    :param layout: the blocks of all sites, of which the block is one.
    """
    own = {s.name for s in block.sites}
    unseen = []
    for site in traced.sites:
        nodes = [f for f in site.lifted_factors if not own.isdisjoint(f.site_names)]
        try:
            if not all(_has_moments(node, layout) for node in nodes):
                unseen.append(site.name)
        except OutsideStructure as error:
            return Coupled(f"site {site.name!r} has {error}", ())
    return Coupled("", tuple(unseen))


def _has_moments(node: LiftedTensor, layout: Layout) -> bool:
    """Whether a log density is a polynomial with moments, or has a predictor with a law.

    :raises OutsideStructure: if either needs a product of two groups.
    """
    if node.poly is not None:
        try:
            check_moments(node.poly, layout)
            return True
        except OutsideStructure:
            raise
        except NotPolynomial:
            pass
    predictor = find_predictor(node)
    if isinstance(predictor, str):
        return False
    values = tuple(v.poly for v in predictor.values if v.poly is not None)
    try:
        joint_plan(values, layout, predictor.aligned)
        return True
    except OutsideStructure:
        raise
    except NotPolynomial:
        return False

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussians that share a block with their own precision: Normal-Gamma and its relatives.

Where every factor that touches a Gaussian z or a precision tau is linear in ``log tau``, ``tau``,
``tau z`` and ``tau z z'``, given the other latents, the exact posterior of both is one
Normal-Gamma law, evidence included; apart they would be a mean field. The same holds for a variance
(Normal-inverse-Gamma) and for a precision matrix (Normal-Wishart).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

from ..families import (
    ExponentialFamily,
    Gamma,
    InverseGamma,
    NormalGamma,
    NormalInverseGamma,
    NormalWishart,
    Wishart,
)
from ..lifting.axes import same_address
from ..lifting.blocks import Block, Placement, has_fixed_scale
from ..lifting.chain_blocks import ChainBlock
from ..lifting.expectation import is_linear
from ..lifting.polynomial import Polynomial
from ..lifting.terms import LatentSite
from .at_prior import NoiseBlock
from .build import summed_polynomial
from .merging import MAX_BLOCK_SIZE
from .traced import Traced

#: The joint family of a Gaussian and a scale, by the scale's own family.
JOINT: dict[type[ExponentialFamily], ExponentialFamily] = {
    Gamma: NormalGamma(),
    InverseGamma: NormalInverseGamma(),
    Wishart: NormalWishart(),
}


def join(blocks: Sequence[Block], traced: Traced) -> list[Block]:
    """The blocks, each Gaussian one with its precision where their joint posterior is exact."""
    blocks = list(blocks)
    factors = summed_factors(traced)
    for scale in [b for b in blocks if type(b.family) in JOINT]:
        own = scale
        for gaussian in [b for b in blocks if _may_join(b)]:
            joint = _joint_block(gaussian, own, factors)
            if joint is None or not rows_move_alone([joint], traced):
                continue
            trial = [joint if b is gaussian else b for b in blocks if b is not own]
            if is_conjugate(joint, trial, traced, factors):
                blocks, own = trial, joint
    return blocks


def _may_join(block: Block) -> bool:
    """Whether a block is a Gaussian by its means and covariances."""
    apart = isinstance(block, ChainBlock | NoiseBlock) or has_fixed_scale(block)
    return block.gaussian and not apart


def summed_factors(traced: Traced) -> dict[str, Polynomial]:
    """The log density of each site that is a polynomial, summed over its dims.

    Of a hidden chain it is the sum of its log factors, whatever their weights: mask and scale act
    on sequences, and not on the dims of these.
    """
    found = {}
    for site in traced.sites:
        if site.chain is not None:
            site = replace(site, mask=None, scale=1)
        polys = [f.poly for f in site.lifted_factors]
        known = [summed_polynomial(poly, site) for poly in polys if poly is not None]
        if known and len(known) == len(polys):
            found[site.name] = sum(known[1:], start=known[0])
    return found


def is_conjugate(
    block: Block, blocks: Sequence[Block], traced: Traced, factors: dict[str, Polynomial]
) -> bool:
    """Whether every factor is linear in the block's mean parameters, given the others."""
    layout = {s.name: b for b in blocks for s in b.sites}
    own = {s.name for s in block.sites}
    for site in traced.sites:
        if own.isdisjoint(site.touches):
            continue
        if site.name not in factors or not is_linear(factors[site.name], layout, block):
            return False
    return True


def rows_move_alone(blocks: Iterable[Block], traced: Traced) -> bool:
    """Whether every subsampled plate is a batch dim with natural parameters of its own.

    A step sees the rows of the subsample, and moves no other. Along a plate whose elements are
    spread over parts a part has its own rows, which may share a covariance.
    """
    for block in blocks:
        own = len(block.own_shape)
        for name, placement in block.placements.items():
            if not set(traced.rows.get(name, ())) <= set(placement.batch_dims[:own]):
                return False
            if not traced.sharded.get(name, frozenset()) <= set(placement.batch_dims):
                return False
    return True


def _joint_block(gaussian: Block, scale: Block, factors: dict[str, Polynomial]) -> Block | None:
    """The block of both: the scale's batch dims stay, all other dims of z are its event.

    :param scale: the precision's block, which may hold Gaussians already.
    """
    own = scale.scale
    batch = _batch_dims(own)
    placements: dict[str, Placement] = {}
    offset = 0
    held = scale.sites[:-1]
    for site in (*held, *gaussian.sites):
        dims = scale.placements[site.name].batch_dims if site in held else None
        dims = _aligned(site, own, batch, factors) if dims is None else dims
        if dims is None:
            return None
        placements[site.name] = Placement(dims, offset)
        offset += prod(s for d, s in enumerate(site.shape) if d not in dims)
    if offset > MAX_BLOCK_SIZE or (own.event_dim == 2 and offset != own.shape[-1]):
        return None
    placements[own.name] = Placement(batch, offset)
    sites = (*held, *gaussian.sites, own)
    size = offset + prod(s for d, s in enumerate(own.shape) if d not in batch)
    name = "+".join(s.name for s in sites)
    family = scale.family if scale.is_joint else JOINT[type(scale.family)]
    shape = tuple(own.shape[d] for d in batch)
    return Block(name, family, sites, shape, size, placements)


def _batch_dims(scale: LatentSite) -> tuple[int, ...]:
    """The dims along which there are several scales; those of size 1 have no axis to run along."""
    return tuple(d for d in range(len(scale.shape) - scale.event_dim) if scale.shape[d] != 1)


def _aligned(
    site: LatentSite, scale: LatentSite, batch: tuple[int, ...], factors: dict[str, Polynomial]
) -> tuple[int, ...] | None:
    """The dims of a site along which the scale's batch dims run in their products, or None."""
    for factor in factors.values():
        for term in factor.terms:
            mine = [a for a in term.atoms if a.site is site]
            theirs = [a for a in term.atoms if a.site is scale]
            if not mine or not theirs:
                continue
            dims: list[int] = []
            for d in batch:
                fits = [
                    e
                    for e, where in enumerate(mine[0].where)
                    if e not in dims
                    and site.shape[e] == scale.shape[d]
                    and same_address(where, theirs[0].where[d])
                ]
                if not fits:
                    return None
                dims.append(fits[0])
            return tuple(dims)
    return None

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Polynomials in which each datum has its own copy of the latents: their gradient is by datum.

The sum of all data's terms is one function of the latents, and its gradient one message. Where the
n-th term is of the n-th of N copies instead, the gradient in the copies is the N messages, and one
pass takes what N passes would. The copies are a plate: latents get a batch dim in front, and every
atom is addressed along it by the datum's axis. Nothing else changes, so that every family, moment
and rule of ``lifting/`` serves as it is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from .. import errors
from ..energy.at_prior import NoiseBlock
from ..families import Natural
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.axes import Address, Axis, Gather
from ..lifting.blocks import Block, Placement
from ..lifting.chain_blocks import ChainBlock
from ..lifting.expectation import Layout
from ..lifting.moments import Moments
from ..lifting.points import PointBlock
from ..lifting.polynomial import Polynomial
from ..lifting.terms import Affine, Atom, Exponential, LatentSite, Term

#: Blocks that no datum moves: parameters, and the noise of latents at their prior.
HELD = (PointBlock, NoiseBlock)


class Copies:
    """Copies of the latents for some data of a plate.

    :param rows: the data's positions, flat; a single one twice, as an axis has two elements.
        # shape: (C,)
    :param shape: the sizes of the plates that the data are in.
    :param layout: the block of each site.
    """

    def __init__(self, rows: Tensor, shape: tuple[int, ...], layout: Layout) -> None:
        self.count = len(rows)
        self.rows = rows if self.count > 1 else rows.repeat(2)
        self.shape = shape
        self.axis = Axis(len(self.rows))
        self.layout = layout

    @cached_property
    def blocks(self) -> dict[Block, Block]:
        """The copied block of each block; what is held has none."""
        blocks = dict.fromkeys(self.layout.values())
        return {b: self._copied_block(b) for b in blocks if not isinstance(b, HELD)}

    @cached_property
    def copied_layout(self) -> dict[str, Block]:
        """The copied block of each site."""
        return {name: self.blocks.get(b, b) for name, b in self.layout.items()}

    def _copied_block(self, block: Block) -> Block:
        check_block(block)
        moved = {
            name: Placement((0, *(d + 1 for d in p.batch_dims)), p.offset)
            for name, p in block.placements.items()
        }
        sites = tuple(self._copied_site(s) for s in block.sites)
        batch = (self.axis.size, *block.batch_shape)
        if not isinstance(block, ChainBlock):
            return replace(block, sites=sites, batch_shape=batch, placements=moved)
        times = {
            n: t if t.dim is None else replace(t, dim=t.dim + 1) for n, t in block.times.items()
        }
        return replace(block, sites=sites, batch_shape=batch, placements=moved, times=times)

    @cached_property
    def _sites(self) -> dict[LatentSite, LatentSite]:
        return {}

    def _copied_site(self, site: LatentSite) -> LatentSite:
        if isinstance(self.layout[site.name], HELD):
            return site
        if site not in self._sites:
            self._sites[site] = replace(site, shape=(self.axis.size, *site.shape))
        return self._sites[site]

    # Polynomials

    def of(self, value: Polynomial, dims: Iterable[int], keep: bool = False) -> Polynomial:
        """A polynomial at the data's copies: their axis first.

        :param dims: the negative dims along which the data lie.
        :param keep: whether its other dims stay; else they are summed over.
        """
        dims = tuple(dims)
        others = [d for d in range(-value.ndim, 0) if d not in dims]
        if not keep:
            value = value.sum(others, keepdim=True)
        value = value.fresh()
        where = dict(self._addresses(value, dims))
        left = [value.dims[d] for d in others] if keep else []
        terms = (self._term(t.renamed(where), self.axis) for t in value.terms)
        return Polynomial((self.axis, *left), terms)

    def _addresses(
        self, value: Polynomial, dims: tuple[int, ...]
    ) -> Iterable[tuple[Axis, Address]]:
        places = torch.unravel_index(self.rows, self.shape)
        steps = self.rows[1:] - self.rows[:-1]
        is_range = len(dims) == 1 and bool((steps == 1).all())
        for dim, place in zip(dims, places, strict=True):
            axis = value.dims[dim]
            if axis is None:
                continue
            start = int(place[0])
            index = range(start, start + len(place)) if is_range else place
            is_whole = is_range and axis.size == len(place)
            yield axis, self.axis if is_whole else Gather(index, (self.axis,))

    def _term(self, term: Term, along: Axis) -> Term:
        return Term(
            term.number,
            term.constants,
            tuple(self._atom(a, along) for a in term.atoms),
            tuple(self._exponential(e, along) for e in term.exponentials),
        )

    def _atom(self, atom: Atom, along: Axis) -> Atom:
        site = self._copied_site(atom.site)
        if site is atom.site:
            return atom
        return Atom(site, atom.kind, atom.power, (along, *atom.where))

    def _exponential(self, exponential: Exponential, along: Axis) -> Exponential:
        inner = Axis(along.size)
        exponent = exponential.exponent
        terms = tuple(self._term(t, inner) for t in exponent.terms)
        copied = Affine((inner, *exponent.dims), terms)
        return Exponential(copied, exponential.power, (along, *exponential.where))

    # Moments

    def expanded(self, moments: Mapping[Block, Moments]) -> dict[Block, Moments]:
        """The moments of all copies where they are equal: views, of which none is computed again.

        They have leaves of their own, so that a gradient in them is by datum.
        """
        found: dict[Block, Moments] = {}
        for block, own in moments.items():
            copied = self.blocks.get(block)
            found[copied or block] = own if copied is None else self._expanded(own, copied)
        return found

    def _expanded(self, own: Moments, block: Block) -> Moments:
        made: Moments = object.__new__(type(own))
        made.block, made._cache = block, {}
        made.natural = self.natural(own.natural)
        made.leaves = tuple(
            t.detach().expand(self.axis.size, *t.shape).requires_grad_() for t in own.leaves
        )
        return made

    def natural(self, natural: Natural) -> Natural:
        """Natural parameters for every copy, the same for all."""
        return tuple(n.detach().expand(self.axis.size, *n.shape) for n in natural)


def positions(shape: tuple[int, ...]) -> Tensor:
    """The flat positions of all data of plates of some sizes, on the host."""
    return torch.arange(prod(shape), device="cpu")


def check_block(block: Block) -> None:
    """Refuse blocks of which a batch has no meaning here.

    :raises GuideError: naming the block.
    """
    if isinstance(block, ArrowBlock) or block.family.is_curved:
        what = block.family.name
        raise errors.GuideError(
            f"the block {block.name!r} is a {what}, whose messages by datum are not taken apart. "
            "Mend: use AutoNatural(model), or AutoNaturalMultivariateNormal(model, "
            'structure="dense") up to a few thousand elements.'
        )

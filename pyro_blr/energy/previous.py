# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A posterior as the prior of new data: ``E_q[log q_old]`` in the place of the priors' factors.

Bayes' rule for new data has the posterior of the old ones as its prior. As q_old is of q's own
family, its log density is ``<natural_old, T(z)>`` and a constant: one more message, that depends on
nothing. The ELBO is then ``-KL(q, q_old) + E_q[log p(new data | z)]``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import errors
from ..families import Natural
from ..families.normal import LOG_TWO_PI
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block
from ..lifting.chain_blocks import ChainBlock
from ..lifting.statistics import sufficient_statistics
from .draws import Draws
from .energy import Energy
from .factors import Coefficients, Factor, MomentsMap, Value
from .parts import Split


@dataclass(eq=False)
class PreviousFactor(Factor):
    """The expected log density of one block under an earlier posterior.

    :param natural: that posterior's natural parameters; 0 for latents that it says nothing of.
    :param log_partition: what normalises it, in nats.
    """

    natural: Natural
    log_partition: Tensor

    @property
    def block(self) -> Block:
        """The block that it is a law of."""
        (only,) = self.blocks
        return only

    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        own = self.coefficients(moments, self.block)
        terms = [c * moments[self.block].statistic(which) for which, c in own.items()]
        value = torch.stack([t.sum() for t in terms]).sum() - self.log_partition
        size = torch.stack([t.detach().abs().sum() for t in terms]).sum()
        return value, size + self.log_partition.abs()

    def is_linear_in(self, block: Block) -> bool:
        return True

    def couples(self, block: Block) -> bool:
        return block is self.block and block.event_size is not None

    def coefficients(self, moments: MomentsMap, block: Block) -> Coefficients:
        statistics = sufficient_statistics(block)
        shapes = [moments[block].statistic(which).shape for which in statistics]
        each = zip(statistics, self.natural, shapes, strict=True)
        return {which: natural.reshape(shape) for which, natural, shape in each}


class Previous:
    """A posterior that is the prior of a call with new data.

    :param split: which factors of the model are those of the new data.
    :param naturals: the posterior's natural parameters, by block.
    """

    def __init__(self, split: Split, naturals: Mapping[Block, Natural]) -> None:
        self.split = split
        self.factors = []
        for block, natural in naturals.items():
            part = shared_part(block, natural, split.local)
            if part is not None:
                kept, inside = part
                outside = block.family.log_partition(natural).sum() - inside
                own = PreviousFactor(block.name, frozenset({block}), "", kept, outside)
                self.factors.append(own)

    @property
    def naturals(self) -> dict[Block, Natural]:
        """What it is of latents that new data share with old ones; others' blocks are left out."""
        return {f.block: f.natural for f in self.factors}

    def put_into(self, energy: Energy) -> None:
        """Have an energy of the model count what is new, and this in the place of its priors."""
        new = [f for f in energy.factors if f.name in self.split.own]
        energy.factors = [*new, *self.factors]


def shared_parts(naturals: Mapping[Block, Natural], local: frozenset[str]) -> dict[Block, Natural]:
    """The laws of all latents but the local ones, or messages to them, by block."""
    found = {b: shared_part(b, n, local) for b, n in naturals.items()}
    return {b: part[0] for b, part in found.items() if part is not None}


def shared_part(
    block: Block, natural: Natural, local: frozenset[str]
) -> tuple[Natural, Tensor] | None:
    """The law of a block's latents but the local ones, in the block's own coordinates.

    It is the marginal, with zeros in the places of local latents, and the log of what was
    integrated over these; None if all latents are local.

    :param local: the latents that are left out, by site.
    :raises GuideError: for a block that holds both and whose marginal is not of that form.
    """
    out = [s.name in local for s in block.sites]
    if all(out):
        return None
    if not any(out):
        return natural, natural[0].new_zeros(())
    if isinstance(block, ArrowBlock):
        if [block.is_local(s) for s in block.sites] == out:
            return _arrow_part(natural)
    elif block.gaussian and not (block.row_dims or isinstance(block, ChainBlock)):
        return _dense_part(block, natural, local)
    left = sorted(local & {s.name for s in block.sites})
    raise errors.GuideError(
        f"the latents {left} belong to the data and share the block {block.name!r} "
        f"({block.family.name}) with others, whose own law is not one of that form. Mend: "
        'BLR(..., blocks="site"), which keeps a block for each site.'
    )


def _arrow_part(natural: Natural) -> tuple[Natural, Tensor]:
    """The global numbers of an arrow-head: the Schur complement of the groups'."""
    first, local, full, cross, each = natural
    linear, square, inside = _integrated(local, each, cross.mT)
    zeros = [torch.zeros_like(t) for t in (local, cross, each)]
    kept = (first + linear.sum(0), zeros[0], full + square.sum(0), zeros[1], zeros[2])
    return kept, inside


def _dense_part(block: Block, natural: Natural, local: frozenset[str]) -> tuple[Natural, Tensor]:
    """Some numbers of a Gaussian vector, the others integrated out."""
    linear, square = natural
    is_out = torch.zeros(linear.shape[-1], dtype=torch.bool, device=linear.device)
    for site in block.sites:
        is_out[block.event_slice(site)] = site.name in local
    out, kept = is_out.nonzero().flatten(), (~is_out).nonzero().flatten()
    rows = square[..., out, :]
    more, matrix, inside = _integrated(linear[..., out], rows[..., out], 2 * rows[..., kept])
    own = linear[..., kept] + more
    matrix = matrix + square[..., kept, :][..., kept]
    into = torch.eye(linear.shape[-1], dtype=linear.dtype, device=linear.device)[kept]
    return (own @ into, into.mT @ matrix @ into), inside


def _integrated(linear: Tensor, square: Tensor, cross: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the integral over l of ``exp(<linear, l> + l' square l + l' cross g)`` says of g.

    The natural parameters of g, and the log of the integral where g = 0, summed.

    :param cross: # shape: (*batch, L, G)
    """
    factor = torch.linalg.cholesky(-2 * square)
    half = torch.linalg.solve_triangular(factor, cross, upper=False)
    white = torch.linalg.solve_triangular(factor, linear.unsqueeze(-1), upper=False)
    logs = factor.diagonal(dim1=-2, dim2=-1).log().sum()
    inside = 0.5 * white.square().sum() - logs + 0.5 * LOG_TWO_PI * linear.numel()
    return (half.mT @ white).squeeze(-1), 0.5 * half.mT @ half, inside

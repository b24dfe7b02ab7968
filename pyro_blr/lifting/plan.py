# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A compiled expectation: a sum of products of folded constants and moments of blocks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .axes import Address, Axis, common_device, on_device, take
from .blocks import Block
from .contraction import Operand, contract
from .moments import Moments, Statistic, sufficient_statistics


@dataclass(frozen=True, eq=False)
class Stat:
    """A statistic of a block, addressed like a tensor."""

    block: Block
    which: Statistic
    where: tuple[Address, ...]


@dataclass(frozen=True, eq=False)
class Product:
    """A product of constants and expected statistics, summed over axes outside the plan's.

    :param constants: folded constants along plain axes.
    :param free: constants that require a gradient: the place among the free ones, their addresses.
    """

    constants: tuple[Operand, ...]
    free: tuple[tuple[int, tuple[Address, ...]], ...]
    stats: tuple[Stat, ...]
    _placed: dict[torch.device, "Product"] = field(default_factory=dict, repr=False)

    @property
    def blocks(self) -> frozenset[Block]:
        """The blocks that occur."""
        return frozenset(s.block for s in self.stats)

    def on(self, device: torch.device) -> "Product":
        """The product with what was made from shapes alone on the statistics' device, once."""
        if device.type == "cpu":
            return self
        if device not in self._placed:
            consts = tuple((t.to(device), axes) for t, axes in self.constants)
            free = tuple((slot, _on_device(where, device)) for slot, where in self.free)
            stats = tuple(Stat(s.block, s.which, _on_device(s.where, device)) for s in self.stats)
            self._placed[device] = Product(consts, free, stats)
        return self._placed[device]


def _on_device(where: tuple[Address, ...], device: torch.device) -> tuple[Address, ...]:
    return tuple(on_device(w, device) for w in where)


@dataclass(frozen=True, eq=False)
class Plan:
    """A compiled expectation: ``sum of products`` along the axes ``out``."""

    dims: tuple[Axis | None, ...]
    products: tuple[Product, ...]

    @property
    def out(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.dims if a)

    @property
    def blocks(self) -> frozenset[Block]:
        """The blocks that occur."""
        return frozenset(b for p in self.products for b in p.blocks)

    def is_linear_in(self, block: Block) -> bool:
        """Whether the expectation is linear in a block's mean parameters, given the others."""
        sufficient = sufficient_statistics(block)
        for product in self.products:
            own = [s for s in product.stats if s.block is block]
            if len(own) > 1 or any(s.which not in sufficient for s in own):
                return False
        return True

    def evaluate(
        self,
        moments: Mapping[Block, Moments],
        free: tuple[Tensor, ...] = (),
        touching: Block | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The expectation and the sum of the absolute products (what bounds its rounding error).

        :param touching: leave out the products in which this block does not occur.
        """
        out = self.out
        shape = [a.size if a else 1 for a in self.dims]
        total: Tensor | None = None
        magnitude: Tensor | None = None
        for product in self.products:
            if touching is not None and touching not in product.blocks:
                continue
            value = _evaluate(product, moments, free, out)
            size = value.detach().abs().sum()
            total = value if total is None else total + value
            magnitude = size if magnitude is None else magnitude + size
        if total is None or magnitude is None:
            zero = zero_of(moments)
            return zero.expand(shape), zero
        return total.expand([a.size for a in out]).reshape(shape), magnitude


def zero_of(moments: Mapping[Block, Moments]) -> Tensor:
    """Where a sum over moments begins: on the device of the first block."""
    first = next(iter(moments.values())).leaves[0]
    return torch.zeros((), dtype=first.dtype, device=first.device)


def _evaluate(
    product: Product,
    moments: Mapping[Block, Moments],
    free: tuple[Tensor, ...],
    out: tuple[Axis, ...],
) -> Tensor:
    product = product.on(common_device(moments[s.block].leaves[0] for s in product.stats))
    operands = list(product.constants)
    for slot, where in product.free:
        tensor, axes = take(free[slot], where)
        operands.append((tensor.double(), axes))
    for stat in product.stats:
        operands.append(take(moments[stat.block].statistic(stat.which), stat.where))
    present = {a for _, axes in operands for a in axes}
    kept = tuple(a for a in out if a in present)
    value = contract(operands, kept)
    return value.reshape([a.size if a in present else 1 for a in out])

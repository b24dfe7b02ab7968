# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A compiled expectation: a sum of products of folded constants and moments of blocks."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from .axes import (
    Address,
    Axis,
    Gather,
    all_axes,
    common_device,
    is_same_table,
    on_device,
    take,
)
from .blocks import Block
from .contraction import Operand, along, contract
from .moments import Moments
from .segments import scatter
from .statistics import COV, SECOND, Statistic, statistic_shape, sufficient_statistics


@dataclass(frozen=True, eq=False)
class Stat:
    """A statistic of a block, addressed like a tensor."""

    block: Block
    which: Statistic
    where: tuple[Address, ...]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The block that it is of."""
        return (self.block,)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the dims that its addresses name (a vector's lacks the last one)."""
        return statistic_shape(self.block, self.which)

    @property
    def key(self) -> Hashable:
        """What it is a statistic of, wherever it is taken."""
        return self.block.name, self.which

    @cached_property
    def axes(self) -> tuple[Axis, ...] | None:
        """The axes along which it runs, if it is addressed by no index map (but dims of size 1)."""
        plain = tuple(w for w in self.where if isinstance(w, Axis))
        others = [i for i, w in enumerate(self.where) if not isinstance(w, Axis)]
        repeated = len(set(plain)) < len(plain) and not self.is_diagonal
        return None if repeated or any(self.shape[i] != 1 for i in others) else plain

    @property
    def is_diagonal(self) -> bool:
        """Whether its last two dims run along one axis, and no others do."""
        axes = [w for w in self.where if isinstance(w, Axis)]
        return len(axes) > 1 and axes[-1] is axes[-2] and len(set(axes)) == len(axes) - 1

    @cached_property
    def is_elementwise(self) -> bool:
        """Whether the last two addresses always name the same element."""
        return len(self.where) > 1 and is_same_table(*self.where[-2:])

    def at(self, where: tuple[Address, ...]) -> "Stat":
        """The same statistic at other addresses."""
        return Stat(self.block, self.which, where)

    def operand(
        self, moments: Mapping[Block, Moments], free: tuple[Tensor, ...], known: dict[int, Tensor]
    ) -> Operand:
        """Its value along axes; of a matrix of which only the diagonal is taken, perhaps that."""
        own = moments[self.block]
        if self.block.family.is_curved and self.which in (COV, SECOND) and self.is_elementwise:
            diagonal = own.elementwise(self.which)
            if diagonal is not None:
                return take(diagonal, self.where[:-1])
        return take(own.statistic(self.which), self.where)


@dataclass(frozen=True, eq=False)
class Marginal:
    """The law of a tensor that is affine in Gaussian latents, element by element."""

    mean: "Plan"
    variance: "Plan"

    def expected_exp(self, moments: Mapping[Block, Moments], free: tuple[Tensor, ...]) -> Tensor:
        """``E[exp f] = exp(mean + variance / 2)``, the mass of the density tilted by exp(f)."""
        return (self.mean.values(moments, free) + 0.5 * self.variance.values(moments, free)).exp()


@dataclass(frozen=True, eq=False)
class Mass:
    """``E[exp f]`` of an affine Gaussian f, addressed like a tensor.

    :param blocks: the blocks that f depends on.
    :param marginal: f's law, or None while only the structure matters.
    :param shape: the sizes of f's dims.
    """

    blocks: tuple[Block, ...]
    marginal: Marginal | None
    shape: tuple[int, ...]
    where: tuple[Address, ...]

    axes = None

    @property
    def key(self) -> Hashable:
        """The exponent, wherever it is taken."""
        return "exp", id(self.marginal)

    def at(self, where: tuple[Address, ...]) -> "Mass":
        """The same expectation at other addresses."""
        return Mass(self.blocks, self.marginal, self.shape, where)

    def operand(
        self, moments: Mapping[Block, Moments], free: tuple[Tensor, ...], known: dict[int, Tensor]
    ) -> Operand:
        """Its value along axes; computed once an evaluation."""
        assert self.marginal is not None
        name = id(self.marginal)
        if name not in known:
            known[name] = self.marginal.expected_exp(moments, free)
        return take(known[name], self.where)


@dataclass(frozen=True, eq=False)
class Product:
    """A product of constants and expected statistics, summed over axes outside the plan's.

    :param constants: folded constants along plain axes.
    :param free: constants that require a gradient: the place among the free ones, their addresses.
    """

    constants: tuple[Operand, ...]
    free: tuple[tuple[int, tuple[Address, ...]], ...]
    stats: tuple[Stat | Mass, ...]
    _placed: dict[torch.device, "Product"] = field(default_factory=dict, repr=False)

    @cached_property
    def blocks(self) -> frozenset[Block]:
        """The blocks that occur."""
        return frozenset(b for s in self.stats for b in s.blocks)

    def on(self, device: torch.device) -> "Product":
        """The product with what was made from shapes alone on the statistics' device, once."""
        if device.type == "cpu":
            return self
        if device not in self._placed:
            consts = tuple((t.to(device), axes) for t, axes in self.constants)
            free = tuple((slot, _on_device(where, device)) for slot, where in self.free)
            stats = tuple(s.at(_on_device(s.where, device)) for s in self.stats)
            self._placed[device] = Product(consts, free, stats)
        return self._placed[device]


def _on_device(where: tuple[Address, ...], device: torch.device) -> tuple[Address, ...]:
    return tuple(on_device(w, device) for w in where)


@dataclass(frozen=True, eq=False)
class Plan:
    """A compiled expectation: ``sum of products`` along the axes ``out``."""

    dims: tuple[Axis | None, ...]
    products: tuple[Product, ...]

    @cached_property
    def out(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.dims if a)

    @cached_property
    def blocks(self) -> frozenset[Block]:
        """The blocks that occur."""
        return frozenset(b for p in self.products for b in p.blocks)

    @cached_property
    def _home(self) -> torch.device:
        """Where the constants meet."""
        return common_device(t for p in self.products for t, _ in p.constants)

    def _on(self, moments: Mapping[Block, Moments]) -> list[Product]:
        """The products where constants and statistics meet."""
        device = self._home
        if device.type == "cpu":
            device = common_device(moments[b].leaves[0] for b in self.blocks)
        return [p.on(device) for p in self.products]

    @cached_property
    def _linear(self) -> dict[Block, bool]:
        return {}

    def is_linear_in(self, block: Block) -> bool:
        """Whether the expectation is linear in a block's mean parameters, given the others."""
        if block not in self._linear:
            linear = (is_linear_product(product.stats, block) for product in self.products)
            self._linear[block] = all(linear)
        return self._linear[block]

    def couples(self, block: Block) -> bool:
        """Whether a product has two statistics of a block."""
        return any(sum(block in s.blocks for s in p.stats) > 1 for p in self.products)

    def coefficients(
        self,
        moments: Mapping[Block, Moments],
        free: tuple[Tensor, ...],
        block: Block,
        weights: Tensor | None = None,
    ) -> dict[Statistic, Tensor] | None:
        """What multiplies each mean parameter of a block in which a summed plan is linear.

        That is the plan's message to the block, without differentiation.

        :param weights: of each element, for a plan that is not summed, or of each sum of them along
            dims of size 1. # shape: the plan's, or with such dims
        :returns: None where a statistic is addressed by index maps that make too large a table.
        """
        total: dict[Statistic, Tensor] = {}
        known: dict[int, Tensor] = {}
        given = [] if weights is None else [self._weighing(weights)]
        for product in self._on(moments):
            if block not in product.blocks:
                continue
            (own,) = (s for s in product.stats if block in s.blocks)
            if not isinstance(own, Stat):
                return None
            operands = given + _operands(product, moments, free, known, without=own)
            shape = moments[block].statistic(own.which).shape
            value = coefficients_of_statistic(own, operands, shape)
            if value is None:
                return None
            value = value.reshape(shape)
            total[own.which] = total[own.which] + value if own.which in total else value
        return total

    def _weighing(self, weights: Tensor) -> Operand:
        sizes = zip(self.dims, weights.shape, strict=True)
        axes = tuple(a for a, size in sizes if a is not None and size == a.size)
        return weights.reshape([a.size for a in axes]), axes

    @cached_property
    def repeated(self) -> tuple[bool, ...]:
        """For each dim, whether the elements along it are the same whatever the moments are."""
        used: set[Axis] = set()
        for product in self.products:
            for _, axes in product.constants:
                used.update(axes)
            used.update(all_axes(w for s in product.stats for w in s.where))
            used.update(all_axes(w for _, where in product.free for w in where))
        return tuple(a is not None and a not in used for a in self.dims)

    def values(self, moments: Mapping[Block, Moments], free: tuple[Tensor, ...] = ()) -> Tensor:
        """The expectation along the plan's dims, without what bounds its rounding error."""
        known: dict[int, Tensor] = {}
        parts = [_evaluate(p, moments, free, self.out, known) for p in self._on(moments)]
        # The small ones first, so that as few sums as can be have the size of the result.
        parts.sort(key=Tensor.numel)
        total = sum(parts[1:], start=parts[0]) if parts else zero_of(moments)
        total = total.expand([a.size for a in self.out])
        return total.reshape([a.size if a else 1 for a in self.dims])

    def evaluate(
        self,
        moments: Mapping[Block, Moments],
        free: tuple[Tensor, ...] = (),
        touching: Block | None = None,
    ) -> tuple[Tensor, Callable[[], Tensor]]:
        """The expectation, and how to compute the sum of the absolute products (what bounds its
        rounding error).

        :param touching: leave out the products in which this block does not occur.
        """
        out = self.out
        total: Tensor | None = None
        parts: list[Tensor] = []
        known: dict[int, Tensor] = {}
        for product in self._on(moments):
            if touching is not None and touching not in product.blocks:
                continue
            value = _evaluate(product, moments, free, out, known)
            parts.append(value.detach())
            total = value if total is None else total + value
        if total is None:
            total = zero_of(moments)
            parts.append(total)
        value = total.expand([a.size for a in out]).reshape([a.size if a else 1 for a in self.dims])
        return value, partial(_magnitude, parts)


def _magnitude(parts: list[Tensor]) -> Tensor:
    """The sum of the absolute values of all elements."""
    sizes = [p if p.dim() == 0 else p.abs().sum() for p in parts]
    return sizes[0].abs() if len(sizes) == 1 else torch.stack(sizes).abs().sum()


def coefficients_of_statistic(
    own: Stat, operands: list[Operand], shape: torch.Size
) -> Tensor | None:
    """The coefficient of each element of a statistic, from the other factors of its product."""
    axes = own.axes
    if axes is None:
        return _scattered(own, operands, shape)
    axes = tuple(dict.fromkeys(axes))
    value = along(operands, axes)
    value = torch.diag_embed(value) if own.is_diagonal else value
    return value if value.numel() == shape.numel() else None


def _scattered(own: Stat, operands: list[Operand], shape: torch.Size) -> Tensor | None:
    """The same for a statistic that is addressed by index maps: sums over what they name."""
    plain = [w for w in own.where if isinstance(w, Axis)]
    maps = [w for w in own.where if isinstance(w, Gather)]
    over = all_axes(maps)
    if len(shape) != len(own.where) or len(set(plain)) < len(plain) or set(plain) & set(over):
        return None
    sizes = [s for w, s in zip(own.where, shape, strict=True) if isinstance(w, Gather)]
    every = (*over, *plain)
    found = scatter(((along(operands, every), every),), maps, sizes, over)
    if found is None:
        return None
    ((summed, _),), _ = found
    if summed.numel() != shape.numel():
        return None
    # The index maps' dims stand in front: back to the order of the statistic's own.
    laid = [n for n in sizes if n != 1] + [a.size for a in plain]
    order = [i for i, w in enumerate(own.where) if isinstance(w, Gather)]
    kept = [i for i, n in zip(order, sizes, strict=True) if n != 1]
    places = kept + [i for i, w in enumerate(own.where) if isinstance(w, Axis)]
    return summed.reshape(laid).permute([places.index(i) for i in sorted(places)])


def is_linear_product(stats: Iterable[Stat | Mass], block: Block) -> bool:
    """Whether a product is linear in a block's mean parameters: at most one of them occurs."""
    own = [s for s in stats if block in s.blocks]
    sufficient = sufficient_statistics(block)
    return len(own) < 2 and all(isinstance(s, Stat) and s.which in sufficient for s in own)


def zero_of(moments: Mapping[Block, Moments]) -> Tensor:
    """Where a sum over moments begins: on the device of the first block."""
    first = next(iter(moments.values())).leaves[0]
    return torch.zeros((), dtype=first.dtype, device=first.device)


def _evaluate(
    product: Product,
    moments: Mapping[Block, Moments],
    free: tuple[Tensor, ...],
    out: tuple[Axis, ...],
    known: dict[int, Tensor],
) -> Tensor:
    operands = _operands(product, moments, free, known)
    if not out:
        return contract(operands, ())
    present = {a for _, axes in operands for a in axes}
    kept = tuple(a for a in out if a in present)
    value = contract(operands, kept)
    return value.reshape([a.size if a in present else 1 for a in out])


def _operands(
    product: Product,
    moments: Mapping[Block, Moments],
    free: tuple[Tensor, ...],
    known: dict[int, Tensor],
    without: Stat | Mass | None = None,
) -> list[Operand]:
    """The factors of a product as tensors along axes, perhaps all but one of its statistics."""
    operands = list(product.constants)
    for slot, where in product.free:
        tensor, axes = take(free[slot], where)
        operands.append((tensor.double(), axes))
    for stat in product.stats:
        if stat is not without:
            operands.append(stat.operand(moments, free, known))
    return operands

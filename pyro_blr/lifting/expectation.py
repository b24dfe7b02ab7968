# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The expectation of a polynomial under q, compiled to a few contractions.

Blocks are independent under q, so the expectation of a product is the product of the blocks'
moments; a block's own moment is looked up by :func:`_block_moment`. :func:`compile_plan` then does
once what depends on constants alone: it folds them, pushes index maps of statistics into them (a
sum over rows becomes a sum over groups) and merges like products. What is left to do at each step
costs what the latents cost, whatever the number of rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from . import constants
from .axes import (
    Address,
    Axis,
    Gather,
    all_axes,
    common_device,
    device_of,
    grid,
    on_device,
    rename,
    same_address,
    take,
)
from .blocks import Block
from .contraction import Operand, contract, fold, together
from .moments import COV, LOG, LOG1M, MEAN, SECOND, Moments, Statistic, sufficient_statistics
from .polynomial import Atom, Constant, NotPolynomial, Polynomial, Term, key_of, same_atoms

Layout = Mapping[str, Block]


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
            zero = _zero(moments)
            return zero.expand(shape), zero
        return total.expand([a.size for a in out]).reshape(shape), magnitude


def _zero(moments: Mapping[Block, Moments]) -> Tensor:
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


def compile_plan(value: Polynomial, layout: Layout) -> Plan:
    """Compile E_q of a polynomial.

    :raises NotPolynomial: if a moment that it needs has no closed form here.
    """
    out = value.out
    free = key_of(value)[1]
    merged: dict[object, tuple[Product, Tensor | None]] = {}
    for term in value.terms:
        for expanded in _expectation(term, layout, out):
            _merge(merged, _compile(expanded, out, free), out)
    return Plan(value.dims, tuple(_with_constant(p, c) for p, c in merged.values()))


def is_linear(value: Polynomial, layout: Layout, block: Block) -> bool:
    """Whether E_q of a polynomial is linear in a block's mean parameters; reads no data.

    :returns: False also where the expectation has no closed form.
    """
    sufficient = sufficient_statistics(block)
    try:
        for term in value.terms:
            for product in _expectation(term, layout, value.out):
                own = [s for s in product.stats if s.block is block]
                if len(own) > 1 or any(s.which not in sufficient for s in own):
                    return False
    except NotPolynomial:
        return False
    return True


@dataclass(frozen=True, eq=False)
class _Expanded:
    """One product of a term's expectation, before folding."""

    number: float
    constants: tuple[Constant, ...]
    stats: tuple[Stat, ...]


def _expectation(term: Term, layout: Layout, out: tuple[Axis, ...]) -> list[_Expanded]:
    groups: dict[Block, list[Atom]] = {}
    for atom in term.atoms:
        groups.setdefault(layout[atom.site.name], []).append(atom)
    products = [_Expanded(term.number, term.constants, ())]
    for block, atoms in groups.items():
        moment = _block_moment(block, atoms, out)
        products = [
            _renamed(_Expanded(p.number * number, p.constants + consts, p.stats + stats), renaming)
            for p in products
            for number, consts, stats, renaming in moment
        ]
    return products


def _renamed(product: _Expanded, renaming: dict[Axis, Address]) -> _Expanded:
    if not renaming:
        return product
    return _Expanded(
        product.number,
        tuple(c.renamed(renaming) for c in product.constants),
        tuple(
            Stat(s.block, s.which, tuple(rename(w, renaming) for w in s.where))
            for s in product.stats
        ),
    )


Moment = tuple[float, tuple[Constant, ...], tuple[Stat, ...], dict[Axis, Address]]


def _block_moment(block: Block, atoms: list[Atom], out: tuple[Axis, ...]) -> list[Moment]:
    """The expectation of a product of one block's atoms, as a sum of products of its statistics."""
    if block.gaussian:
        if any(a.kind == "exp" for a in atoms):
            return [_tilted_moment(block, atoms)]
        return _gaussian_moment(block, atoms, out)
    return [_elementwise_moment(block, atoms)]


def _elementwise_moment(block: Block, atoms: list[Atom]) -> Moment:
    """Gamma, Beta, Dirichlet: one statistic, or powers of the same element."""
    name = atoms[0].site.name
    if any(not same_atoms(a, atoms[0]) for a in atoms[1:]):
        raise NotPolynomial(f"a product of different elements of {name}")
    kinds = {a.kind for a in atoms}
    if kinds == {"power"}:
        power = sum(a.power for a in atoms)
        if power == 0:
            return 1.0, (), (), {}
        return 1.0, (), (Stat(block, ("power", power, 0), atoms[0].where),), {}
    if len(atoms) > 1:
        raise NotPolynomial(f"a product of {' and '.join(sorted(kinds))} of {name}")
    which = LOG if atoms[0].kind == "log" else LOG1M
    if which not in sufficient_statistics(block):
        raise NotPolynomial(f"log(1 - {name}) under a {block.family.name}")
    return 1.0, (), (Stat(block, which, atoms[0].where),), {}


def _tilted_moment(block: Block, atoms: list[Atom]) -> Moment:
    """E[z^k exp(p z)] of one Gaussian element (log-normal moments)."""
    name = atoms[0].site.name
    if any(not same_atoms(a, atoms[0]) for a in atoms[1:]):
        raise NotPolynomial(f"exp of {name} times another element of its block")
    degree = sum(int(a.power) for a in atoms if a.kind == "power")
    power = sum(a.power for a in atoms if a.kind == "exp")
    if degree > 2:
        raise NotPolynomial(f"degree {degree} in {name}")
    where = _flat(block, atoms[0])
    if power == 0:
        if degree == 0:
            return 1.0, (), (), {}
        second = where if block.event_size is None else (*where, where[-1])
        which = MEAN if degree == 1 else SECOND
        return 1.0, (), (Stat(block, which, where if degree == 1 else second),), {}
    return 1.0, (), (Stat(block, ("exp", power, degree), where),), {}


def _flat(block: Block, atom: Atom) -> tuple[Address, ...]:
    batch, event = block.place(atom)
    return batch if event is None else (*batch, event)


def _gaussian_moment(block: Block, atoms: list[Atom], out: tuple[Axis, ...]) -> list[Moment]:
    """Means and second moments; elements of a plate are correlated only where they coincide."""
    elements = [a for a in atoms for _ in range(int(a.power))]
    if len(elements) == 1:
        return [(1.0, (), (Stat(block, MEAN, _flat(block, elements[0])),), {})]
    if len(elements) > 2:
        raise NotPolynomial(f"degree {len(elements)} in {atoms[0].site.name}")
    (batch1, event1), (batch2, event2) = (block.place(a) for a in elements)
    events = () if event1 is None or event2 is None else (event1, event2)
    if all(same_address(v, w) for v, w in zip(batch1, batch2, strict=True)):
        return [(1.0, (), (Stat(block, SECOND, (*batch1, *events)),), {})]
    means = tuple(Stat(block, MEAN, _flat(block, a)) for a in elements)
    deltas, renaming = coincidence(batch1, batch2, out)
    cov = Stat(block, COV, (*batch1, *events))
    return [(1.0, (), means, {}), (1.0, deltas, (cov,), renaming)]


def coincidence(
    first: tuple[Address, ...], second: tuple[Address, ...], out: tuple[Axis, ...]
) -> tuple[tuple[Constant, ...], dict[Axis, Address]]:
    """Restrict a product to where two batch addresses coincide: contracted axes, or 0-1 tables."""
    deltas: list[Constant] = []
    renaming: dict[Axis, Address] = {}
    for x, y in zip(first, second, strict=True):
        if same_address(x, y):
            continue
        if isinstance(y, Axis) and y not in out and y not in renaming:
            renaming[y] = x
        elif isinstance(x, Axis) and x not in out and x not in renaming:
            renaming[x] = y
        else:
            axes = all_axes((x, y))
            device = device_of((x, y))
            table = grid(x, axes, device) == grid(y, axes, device)
            deltas.append(Constant(table.expand([a.size for a in axes]).double(), axes))
    return tuple(deltas), renaming


def _compile(term: _Expanded, out: tuple[Axis, ...], free: tuple[Tensor, ...]) -> Product:
    """Fold the constants of a product, and push the statistics' index maps into them."""
    fixed = [c for c in term.constants if not c.tensor.requires_grad]
    slots = [
        (next(i for i, t in enumerate(free) if t is c.tensor), c.where)
        for c in term.constants
        if c.tensor.requires_grad
    ]
    outside = {*out, *all_axes(w for _, where in slots for w in where)}
    used = {*outside, *all_axes(w for s in term.stats for w in s.where)}
    folded = fold([(c.tensor, c.where) for c in fixed], used, term.number)
    folded, stats = _push_gathers(folded, list(term.stats), outside)
    folded = _joined(folded, stats)
    return Product(folded, tuple(slots), tuple(stats))


def _joined(consts: tuple[Operand, ...], stats: list[Stat]) -> tuple[Operand, ...]:
    """Multiply constants out where the result is no larger than what it meets anyway."""
    if len(consts) < 2:
        return consts
    axes = tuple(dict.fromkeys(a for _, own in consts for a in own))
    size = prod(a.size for a in axes)
    largest = max((prod(_stat_shape(s)) for s in stats), default=1)
    if size > max(largest, max(t.numel() for t, _ in consts)):
        return consts
    return ((contract(together(consts), axes), axes),)


@dataclass(frozen=True, eq=False)
class _Place:
    """A dim of a statistic that is addressed by an index map."""

    stat: int
    dim: int
    gather: Gather
    size: int


def _push_gathers(
    consts: tuple[Operand, ...], stats: list[Stat], outside: set[Axis]
) -> tuple[tuple[Operand, ...], list[Stat]]:
    """``sum_n c[n] S[i[n]] = sum_p S[p] (sum_{n: i[n]=p} c[n])``: gathers become sums of constants.

    All index maps that share an axis are pushed together; a set of maps that also reaches an axis
    of the result, a free constant or a plainly addressed statistic is left alone.
    """
    places = [
        _Place(i, dim, address, _stat_shape(stat)[dim])
        for i, stat in enumerate(stats)
        for dim, address in enumerate(stat.where)
        if isinstance(address, Gather)
    ]
    plain = {w for s in stats for w in s.where if isinstance(w, Axis)}
    for group in _connected(places):
        axes = all_axes(p.gather for p in group)
        if (outside | plain) & set(axes):
            continue
        distinct, slots = _distinct(group)
        pushed = scatter(consts, [p.gather for p in distinct], [p.size for p in distinct], axes)
        if pushed is None:
            continue
        consts, new_axes = pushed
        for place, slot in zip(group, slots, strict=True):
            stats[place.stat] = _readdress(stats[place.stat], place.dim, new_axes[slot])
    return consts, stats


def _distinct(group: list[_Place]) -> tuple[list[_Place], list[int]]:
    """The different index maps of a group, and which of them each place has.

    Fixed positions are kept apart: ``M[0, 0]`` becomes a cell of a matrix, like its neighbours.
    """
    distinct: list[_Place] = []
    slots = []
    for place in group:
        for i, other in enumerate(distinct):
            known = place.gather.axes and place.size == other.size
            if known and same_address(place.gather, other.gather):
                slots.append(i)
                break
        else:
            slots.append(len(distinct))
            distinct.append(place)
    return distinct, slots


def _connected(places: list[_Place]) -> list[list[_Place]]:
    """Places grouped by the axes that their index maps share; fixed positions each alone."""
    groups: list[list[_Place]] = []
    for place in places:
        mine = set(place.gather.axes)
        touching = [g for g in groups if any(mine & set(p.gather.axes) for p in g)]
        groups = [g for g in groups if g not in touching]
        groups.append([*(p for g in touching for p in g), place])
    return groups


def _stat_shape(stat: Stat) -> tuple[int, ...]:
    block = stat.block
    if not block.gaussian:
        return block.sites[0].shape
    event = () if block.event_size is None else (block.event_size, block.event_size)
    return (*block.batch_shape, *event)


def _readdress(stat: Stat, dim: int, axis: Axis | None) -> Stat:
    where = list(stat.where)
    where[dim] = axis if axis is not None else Gather(0, ())
    return Stat(stat.block, stat.which, tuple(where))


#: A pushed index map may make a constant this much larger than what it replaces, never more:
#: a pair of maps (user, item) would otherwise become a dense table of users times items.
GROWTH = 4


def scatter(
    consts: tuple[Operand, ...],
    gathers: list[Gather],
    sizes: list[int],
    axes: tuple[Axis, ...],
) -> tuple[tuple[Operand, ...], list[Axis | None]] | None:
    """Sum constants over index maps: from ``axes`` to a new axis for each map (None if size 1)."""
    mine = [c for c in consts if set(c[1]) & set(axes)]
    if len(mine) > 1:
        return None
    one = torch.ones((), dtype=torch.float64, device="cpu")
    tensor, own = mine[0] if mine else (one, ())
    if tensor.device.type == "cpu":
        tensor = tensor.to(device_of(gathers))
    rest = tuple(a for a in own if a not in axes)
    rows = 1
    for a in axes:
        rows *= a.size
    cells = 1
    for size in sizes:
        cells *= size
    if cells > GROWTH * max(rows, 4096):
        return None
    order = [own.index(a) for a in (*(x for x in axes if x in own), *rest)]
    tensor = tensor.permute(order)
    shape = [a.size if a in own else 1 for a in axes]
    behind = [a.size for a in rest]
    tensor = tensor.reshape([*shape, *behind]).expand([*(a.size for a in axes), *behind])
    flat = torch.zeros((), dtype=torch.long, device=tensor.device)
    for gather, size in zip(gathers, sizes, strict=True):
        flat = flat * size + grid(gather, axes, tensor.device)
    index = flat.expand([a.size for a in axes]).reshape(-1)
    values = tensor.reshape([rows, *behind])
    summed = segment_sum(values, index, cells)
    kept = [Axis(size) if size != 1 else None for size in sizes]
    summed = summed.reshape([*(a.size for a in kept if a), *behind])
    others = tuple(c for c in consts if not any(c is m for m in mine))
    return (*others, (summed, (*(a for a in kept if a), *rest))), kept


def segment_sum(values: Tensor, index: Tensor, count: int) -> Tensor:
    """``out[p] = sum of values[n] with index[n] = p``, in one order on every device.

    On CUDA the rows are sorted by segment first, and each sum's rows found by bisection (counting
    them would wait for the device), since ``index_add`` adds in an order that changes from run to
    run.
    """
    if values.device.type == "cpu":
        out = torch.zeros(count, *values.shape[1:], dtype=values.dtype, device="cpu")
        return out.index_add(0, index, values)
    order = torch.argsort(index, stable=True)
    ends = torch.arange(count + 1, device=index.device)
    offsets = torch.searchsorted(index.index_select(0, order), ends)
    return torch.segment_reduce(values.index_select(0, order), "sum", offsets=offsets, axis=0)


def _merge(
    merged: dict[object, tuple[Product, Tensor | None]], product: Product, out: tuple[Axis, ...]
) -> None:
    """Add a product to the like one, if any: same statistics, constants along the same axes."""
    if len(product.constants) > 1:
        merged[object()] = (product, None)
        return
    names = {a: -1 - i for i, a in enumerate(out)}
    stats = sorted(product.stats, key=lambda s: (s.block.name, s.which))
    signature: list[object] = [
        tuple((slot, _address_names(where, names)) for slot, where in product.free)
    ]
    for s in stats:
        signature.append((s.block.name, s.which, _address_names(s.where, names)))
    tensor, axes = product.constants[0]
    order = sorted(range(len(axes)), key=lambda i: names[axes[i]])
    key = (tuple(signature), tuple(names[axes[i]] for i in order))
    tensor = tensor.permute(order)
    axes = tuple(axes[i] for i in order)
    if key in merged:
        known, total = merged[key]
        merged[key] = (known, tensor if total is None else _sum(total, tensor))
    else:
        merged[key] = (Product(((tensor, axes),), product.free, tuple(stats)), tensor)


def _address_names(where: tuple[Address, ...], names: dict[Axis, int]) -> object:
    result: list[object] = []
    for address in where:
        axes = address.axes if isinstance(address, Gather) else (address,)
        numbers = tuple(names.setdefault(a, len(names)) for a in axes)
        if isinstance(address, Gather):
            index = address.index
            named = constants.key_of(index) if isinstance(index, Tensor) else index
            result.append((named, numbers))
        else:
            result.append(numbers)
    return tuple(result)


def _sum(left: Tensor, right: Tensor) -> Tensor:
    device = common_device((left, right))
    return left.to(device) + right.to(device)


def _with_constant(product: Product, constant: Tensor | None) -> Product:
    if constant is None:
        return product
    return Product(((constant.contiguous(), product.constants[0][1]),), product.free, product.stats)


def contract_constants(value: Polynomial) -> Tensor:
    """The plain tensor of a polynomial without latents."""
    out = value.out
    total: Tensor | None = None
    for term in value.terms:
        assert not term.atoms
        folded = fold([(c.tensor, c.where) for c in term.constants], set(out), term.number)
        present = {a for _, axes in folded for a in axes}
        piece = contract(list(folded), tuple(a for a in out if a in present))
        piece = piece.reshape([a.size if a in present else 1 for a in out])
        total = piece if total is None else _sum(total, piece)
    if total is None:
        total = torch.zeros((), dtype=torch.float64, device="cpu")
    return total.expand([a.size for a in out]).reshape(value.shape)

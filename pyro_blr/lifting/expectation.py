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

from torch import Tensor

from .axes import Address, Axis, all_axes, device_of, grid, rename, same_address
from .blocks import Block
from .folding import Expanded, folded_product, merge_into, merged_product
from .moments import COV, LOG, LOG1M, MEAN, SECOND, sufficient_statistics
from .plan import Plan, Product, Stat
from .polynomial import Polynomial, key_of
from .terms import Atom, Constant, NotPolynomial, Term, same_atoms

Layout = Mapping[str, Block]


def compile_plan(value: Polynomial, layout: Layout) -> Plan:
    """Compile E_q of a polynomial.

    :raises NotPolynomial: if a moment that it needs has no closed form here.
    """
    out = value.out
    free = key_of(value)[1]
    merged: dict[object, tuple[Product, Tensor | None]] = {}
    for term in value.terms:
        for expanded in _expectation(term, layout, out):
            merge_into(merged, folded_product(expanded, out, free), out)
    return Plan(value.dims, tuple(merged_product(p, c) for p, c in merged.values()))


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


def _expectation(term: Term, layout: Layout, out: tuple[Axis, ...]) -> list[Expanded]:
    groups: dict[Block, list[Atom]] = {}
    for atom in term.atoms:
        groups.setdefault(layout[atom.site.name], []).append(atom)
    products = [Expanded(term.number, term.constants, ())]
    for block, atoms in groups.items():
        moment = _block_moment(block, atoms, out)
        products = [
            _renamed(Expanded(p.number * number, p.constants + consts, p.stats + stats), renaming)
            for p in products
            for number, consts, stats, renaming in moment
        ]
    return products


def _renamed(product: Expanded, renaming: dict[Axis, Address]) -> Expanded:
    if not renaming:
        return product
    return Expanded(
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

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The expectation of a polynomial under q, compiled to a few contractions.

Blocks are independent under q, so the expectation of a product is the product of the blocks'
moments. Products of Gaussian variables, and exponentials of affine expressions of them, are reduced
to means, covariances and the masses ``E[exp f]``, whatever their number. :func:`compile_plan` does
once what depends on constants alone: it folds them, pushes index maps of statistics into them (a
sum over rows becomes a sum over groups) and merges like products. What is left to do at each step
costs what the latents cost, whatever the number of rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .axes import Address, Axis, all_axes, rename, same_address
from .blocks import Block
from .covariance import covariance_plan
from .discrete import separated
from .folding import Expanded, folded_product, merge_into, merged_product
from .joint import joint_moment
from .keys import key_of
from .pairs import covariance_of, element_of, second_moment_of
from .plan import Marginal, Mass, Plan, Product, Stat, is_linear_product
from .polynomial import Polynomial
from .statistics import IS, Statistic, sufficient_statistics
from .terms import (
    Affine,
    Atom,
    Constant,
    Exponential,
    LatentSite,
    NotPolynomial,
    Term,
    same_atoms,
)

Layout = Mapping[str, Block]


def compile_plan(
    value: Polynomial,
    layout: Layout,
    free: tuple[Tensor, ...] | None = None,
    is_mean: bool = False,
) -> Plan:
    """Compile E_q of a polynomial.

    :param free: the constants that require a gradient, in the order of their places; those of the
        polynomial itself if None.
    :param is_mean: whether covariances are to be had from the plan of an affine expression: one
        time of a chain then stays that time, and is not a cell among all of them.
    :raises NotPolynomial: if a moment that it needs has no closed form here.
    """
    out = value.out
    free = key_of(value)[1] if free is None else free
    marginals = _Marginals(layout, free)
    merged: dict[object, tuple[Product, Tensor | None]] = {}
    for term in value.terms:
        for expanded in _expectation(term, layout, out, marginals):
            merge_into(merged, folded_product(expanded, out, free, is_mean), out)
    return Plan(value.dims, tuple(merged_product(p, c) for p, c in merged.values()))


def check_moments(value: Polynomial, layout: Layout) -> None:
    """Look for the moments that E_q of a polynomial needs; reads no data but that of exponents.

    :raises NotPolynomial: if one has no closed form here.
    """
    marginals = _Marginals(layout, key_of(value)[1])
    for term in value.terms:
        _expectation(term, layout, value.out, marginals)


def is_linear(value: Polynomial, layout: Layout, block: Block) -> bool:
    """Whether E_q of a polynomial is linear in a block's mean parameters; reads no data.

    :returns: False also where the expectation has no closed form.
    """
    try:
        return all(
            is_linear_product(product.stats, block)
            for term in value.terms
            for product in _expectation(term, layout, value.out, None)
        )
    except NotPolynomial:
        return False


class _Marginals:
    """The laws of the exponents of one polynomial, compiled once each."""

    def __init__(self, layout: Layout, free: tuple[Tensor, ...]) -> None:
        self.layout = layout
        self.free = free
        self._known: dict[object, Marginal] = {}

    def of(self, exponent: Affine, power: float) -> Marginal:
        """The law of ``power * exponent``."""
        value = Polynomial(exponent.dims, (t.scaled(power) for t in exponent.terms))
        structure, free = key_of(value)
        key = structure, tuple(id(t) for t in free)
        if key not in self._known:
            mean = compile_plan(value, self.layout, self.free, is_mean=True)
            self._known[key] = Marginal(mean, covariance_plan(mean, mean, mean.dims))
        return self._known[key]


@dataclass(frozen=True)
class _Partial:
    """A product on its way to its expectation.

    :param elements: Gaussian variables that are still to be paired.
    :param tilts: the exponentials, whose exponents shift the variables' means.
    """

    product: Expanded
    elements: tuple[Atom, ...]
    tilts: tuple[Exponential, ...]

    def renamed(self, renaming: dict[Axis, Address]) -> "_Partial":
        if not renaming:
            return self
        product = self.product
        return _Partial(
            Expanded(
                product.number,
                tuple(c.renamed(renaming) for c in product.constants),
                tuple(s.at(tuple(rename(w, renaming) for w in s.where)) for s in product.stats),
            ),
            tuple(a.renamed(renaming) for a in self.elements),
            tuple(e.renamed(renaming) for e in self.tilts),
        )

    def times(
        self,
        number: float,
        consts: tuple[Constant, ...],
        stats: tuple[Stat | Mass, ...],
        left: tuple[Atom, ...],
    ) -> "_Partial":
        """The product with more factors, and the elements that are left."""
        own = self.product
        grown = Expanded(own.number * number, own.constants + consts, own.stats + stats)
        return _Partial(grown, left, self.tilts)


def _expectation(
    term: Term, layout: Layout, out: tuple[Axis, ...], marginals: _Marginals | None
) -> list[Expanded]:
    """E of a product, discrete elements that coincide taken apart, as a sum of products."""
    if not any(a.site.is_discrete for a in term.atoms):
        return _of_independent(term, layout, out, marginals)
    apart = separated(term, out)
    return [e for own in apart for e in _of_independent(own, layout, out, marginals)]


def _of_independent(
    term: Term, layout: Layout, out: tuple[Axis, ...], marginals: _Marginals | None
) -> list[Expanded]:
    """E of a product of independent blocks' statistics, as a sum of products.

    Under the density tilted by exp(f), f affine in Gaussians, every Gaussian z keeps its covariance
    and its mean becomes ``E[z] + Cov(z, f)``; the mass is ``E[exp f]``. Products of Gaussian
    variables then follow by Isserlis' theorem, pair by pair.
    """
    elements: list[Atom] = []
    others: dict[Block, list[Atom]] = {}
    for atom in term.atoms:
        block = layout[atom.site.name]
        if block.gaussian:
            elements += [atom] * int(atom.power)
        else:
            others.setdefault(block, []).append(atom)
    if len(elements) > MAX_DEGREE:
        names = " ".join(dict.fromkeys(a.site.name for a in elements))
        raise NotPolynomial(f"degree {len(elements)} in {names}")
    tilts = _combined(term.exponentials)
    choices: list[tuple[Stat | Mass, ...]] = [_masses(tilts, layout, marginals)]
    for block, atoms in others.items():
        joint = block.is_joint
        own = joint_moment(block, atoms, term, out) if joint else [_own_moment(block, atoms)]
        choices = [(*before, *more) for before in choices for more in own]
    left = [
        _Partial(Expanded(term.number, term.constants, stats), tuple(elements), tilts)
        for stats in choices
    ]
    done: list[Expanded] = []
    while left:
        partial = left.pop()
        if partial.elements:
            left.extend(reversed(_paired(partial, layout, out)))
        else:
            done.append(partial.product)
    return done


#: Gaussian variables in one product: the number of pairings grows as 1, 2, 4, 10, 26, 76.
MAX_DEGREE = 6


def _paired(partial: _Partial, layout: Layout, out: tuple[Axis, ...]) -> list[_Partial]:
    """The first variable at its mean, shifted by each tilt, and paired with each other one."""
    first, *rest = partial.elements
    block = layout[first.site.name]
    twins = [a for a in rest if layout[a.site.name] is block]
    shifts = [t for e in partial.tilts for t in e.terms if layout[t.atoms[0].site.name] is block]
    others = tuple(a for a in rest if not any(a is t for t in twins))
    if len(twins) == 1 and not shifts:
        twin = element_of(block, twins[0])
        second = second_moment_of(element_of(block, first), twin, partial.product.constants)
        alone = not block.row_dims or _sums_rows_alone(partial, block, first, others, out)
        if second is not None and alone:
            return [partial.times(1.0, (), (second,), others)]
    result = [partial.times(1.0, (), (element_of(block, first).mean,), tuple(rest))]
    for term in shifts:
        result.append(_covaried(partial, block, first, term, tuple(rest), out))
    for i, other in enumerate(rest):
        if layout[other.site.name] is block:
            left = (*rest[:i], *rest[i + 1 :])
            pair = Term(1.0, (), (other,))
            result.append(_covaried(partial, block, first, pair, left, out))
    return result


def _covaried(
    partial: _Partial,
    block: Block,
    first: Atom,
    term: Term,
    left: tuple[Atom, ...],
    out: tuple[Axis, ...],
) -> _Partial:
    """The product with ``Cov(first, term)``, term a multiple of one variable of the same block.

    Elements of a plate are correlated only where they coincide.
    """
    pair = element_of(block, first), element_of(block, term.atoms[0])
    factors = (*partial.product.constants, *term.constants)
    cov, (deltas, renaming) = covariance_of(*pair, out, factors)
    grown = partial.times(term.number, term.constants + deltas, (cov,), left)
    return grown.renamed(renaming)


def _own_batch(block: Block, atom: Atom) -> tuple[Address, ...]:
    """The addresses along the batch dims that have covariances of their own."""
    return block.batch_of(atom)[: len(block.own_shape)]


def _sums_rows_alone(
    partial: _Partial, block: Block, pair: Atom, others: tuple[Atom, ...], out: tuple[Axis, ...]
) -> bool:
    """Whether the product is summed over all rows of ``z z'`` and nothing else runs along them.

    Then it holds the mean parameter ``sum_n z_n z_n'`` of rows that share a covariance.
    """
    rows = block.batch_of(pair)[len(block.own_shape) :]
    own = partial.product
    elsewhere = {
        *out,
        *all_axes(w for f in (*own.constants, *own.stats, *others) for w in f.where),
        *all_axes((*_own_batch(block, pair), *_event(block, pair))),
    }
    plain = [w for w in rows if isinstance(w, Axis) and w not in elsewhere]
    fixed = [
        w
        for w, size in zip(rows, block.batch_shape[len(block.own_shape) :], strict=True)
        if size == 1
    ]
    return len(plain) + len(fixed) == len(rows) and len(set(plain)) == len(plain)


def _event(block: Block, atom: Atom) -> tuple[Address, ...]:
    event = block.place(atom)[1]
    return () if event is None else (event,)


def _combined(exponentials: tuple[Exponential, ...]) -> tuple[Exponential, ...]:
    """Powers of the same exponential at the same elements joined; those that vanish dropped."""
    joined: list[Exponential] = []
    for one in exponentials:
        for i, other in enumerate(joined):
            if _same_exponential(one, other):
                power = one.power + other.power
                joined[i] = Exponential(other.exponent, power, other.where)
                break
        else:
            joined.append(one)
    return tuple(e for e in joined if e.power != 0)


def _same_exponential(first: Exponential, second: Exponential) -> bool:
    if first.exponent is not second.exponent and _leaf_of(first) is not _leaf_of(second):
        return False
    if first.exponent is not second.exponent and _leaf_of(first) is None:
        return False
    return all(same_address(v, w) for v, w in zip(first.where, second.where, strict=True))


def _leaf_of(exponential: Exponential) -> LatentSite | None:
    """The latent whose elements the exponent is, dim by dim, if it is no more than that."""
    term, *others = exponential.exponent.terms
    if others or term.constants or term.number != 1.0:
        return None
    (atom,) = term.atoms
    own = tuple(w for w, size in zip(atom.where, atom.site.shape, strict=True) if size != 1)
    return atom.site if own == exponential.exponent.dims else None


def _masses(
    tilts: tuple[Exponential, ...], layout: Layout, marginals: _Marginals | None
) -> tuple[Mass, ...]:
    """``E[exp(f + g + ...)]``: one mass for each set of exponents that share no block."""
    groups: list[list[Exponential]] = []
    for tilt in tilts:
        mine = _blocks(tilt, layout)
        touching = [g for g in groups if any(mine & _blocks(e, layout) for e in g)]
        groups = [g for g in groups if not any(g is t for t in touching)]
        groups.append([*(e for g in touching for e in g), tilt])
    return tuple(_mass(group, layout, marginals) for group in groups)


def _blocks(tilt: Exponential, layout: Layout) -> frozenset[Block]:
    return frozenset(layout[s.name] for s in tilt.exponent.sites)


def _mass(group: list[Exponential], layout: Layout, marginals: _Marginals | None) -> Mass:
    heavy = [s.name for e in group for s in e.exponent.sites if not layout[s.name].gaussian]
    if heavy:
        raise NotPolynomial(f"`exp` of {heavy[0]}, whose posterior has heavy tails")
    if len(group) == 1:
        exponent, power, where = group[0].exponent, group[0].power, group[0].where
    else:
        axes = all_axes(w for e in group for w in e.where)
        exponent = Affine(axes, tuple(t for e in group for t in e.terms))
        power, where = 1.0, axes
    marginal = None if marginals is None else marginals.of(exponent, power)
    blocks = tuple(dict.fromkeys(layout[s.name] for s in exponent.sites))
    return Mass(blocks, marginal, tuple(a.size for a in exponent.dims), where)


def _own_moment(block: Block, atoms: list[Atom]) -> tuple[Stat, ...]:
    """Gamma, Beta, Dirichlet, Wishart: one statistic, or powers of the same element."""
    name = atoms[0].site.name
    if atoms[0].site.is_discrete:  # of different elements, each of which is independent
        return tuple(Stat(block, IS, a.where) for a in atoms)
    if any(not same_atoms(a, atoms[0]) for a in atoms[1:]):
        raise NotPolynomial(f"a product of different elements of {name}")
    kinds = {a.kind for a in atoms}
    sufficient = sufficient_statistics(block)
    if kinds == {"power"}:
        which: Statistic = ("power", sum(a.power for a in atoms))
        if which not in sufficient and atoms[0].site.event_dim == 2:
            raise NotPolynomial(f"power {which[1]:g} of the matrix {name}")
        return () if which[1] == 0 else (Stat(block, which, atoms[0].where),)
    if len(atoms) > 1:
        raise NotPolynomial(f"a product of {' and '.join(sorted(kinds))} of {name}")
    which = (atoms[0].kind, 1.0)
    if which not in sufficient:
        raise NotPolynomial(f"{LOGARITHMS[atoms[0].kind].format(name)} under a {block.family.name}")
    return (Stat(block, which, atoms[0].where),)


#: How the logarithms are written in a reason.
LOGARITHMS = {"log": "log({})", "log1m": "log(1 - {})", "logdet": "logdet({})"}

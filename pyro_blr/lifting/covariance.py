# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Variances and covariances of affine expressions under q, from the plans of their means."""

from .axes import Axis, all_axes, rename, take
from .contraction import Operand
from .pairs import covariance_of, element_at
from .plan import Plan, Product, Stat
from .polynomial import Dims
from .terms import Constant, NotPolynomial


def covariance_plan(left: Plan, right: Plan, dims: Dims, count: int = 0) -> Plan:
    """Cov[f, g] of affine f and g: in the product of their means, pairs become covariances.

    Means of different blocks do not covary; means of one block at different batch elements covary
    only where the elements coincide. No cancelling difference E[fg] - E[f] E[g] is formed. The
    variance is the case in which left is right.

    :param left: the plan of E[f]; its products have at most one statistic each.
    :param right: the plan of E[g], whose axes are those of the left where they broadcast.
    :param dims: the axes of both, broadcast.
    :param count: the number of the left's free constants, after which the right's are numbered.
    """
    out = tuple(a for a in dims if a)
    first = [p for p in left.products if p.stats]
    second = [p for p in right.products if p.stats]
    products = []
    for i, f in enumerate(first):
        for j, g in enumerate(second):
            if f.stats[0].blocks != g.stats[0].blocks or (left is right and j < i):
                continue
            times = 2.0 if left is right and j > i else 1.0
            products.append(_covariance(f, _fresh(g, out, count), out, times))
    return Plan(dims, tuple(products))


def _covariance(left: Product, right: Product, out: tuple[Axis, ...], times: float) -> Product:
    (a,), (b,) = left.stats, right.stats
    assert isinstance(a, Stat)
    assert isinstance(b, Stat)
    factors = tuple(Constant(t, axes) for t, axes in (*left.constants, *right.constants))
    cov, (deltas, renaming) = covariance_of(element_at(a), element_at(b), out, factors)
    if (left.free or right.free) and (renaming or deltas):
        raise NotPolynomial("a parameter times independent elements of a plate")
    consts = [
        take(t, tuple(rename(x, renaming) for x in axes))
        for t, axes in (*left.constants, *right.constants)
    ]
    consts += [take(d.tensor, d.where) for d in deltas]
    number, axes = consts[0]
    scaled: tuple[Operand, ...] = ((number * times, axes), *consts[1:])
    cov = cov.at(tuple(rename(w, renaming) for w in cov.where))
    return Product(scaled, (*left.free, *right.free), (cov,))


def _fresh(product: Product, out: tuple[Axis, ...], count: int) -> Product:
    """The same product with new names for the axes that it sums over, free constants renumbered."""
    axes = {a for _, own in product.constants for a in own}
    axes |= set(all_axes(w for s in product.stats for w in s.where))
    axes |= set(all_axes(w for _, where in product.free for w in where))
    new = {a: Axis(a.size) for a in axes if a not in out}
    return Product(
        tuple((t, tuple(new.get(a, a) for a in own)) for t, own in product.constants),
        tuple((slot + count, tuple(rename(w, new) for w in where)) for slot, where in product.free),
        tuple(s.at(tuple(rename(w, new) for w in s.where)) for s in product.stats),
    )

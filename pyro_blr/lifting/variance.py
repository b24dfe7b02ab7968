# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The variance of an affine expression under q, from the compiled plan of its mean."""

from .axes import Axis, all_axes, rename, take
from .coincidence import coincidence
from .contraction import Operand
from .plan import Plan, Product, Stat
from .statistics import COV
from .terms import NotPolynomial


def variance_plan(mean: Plan) -> Plan:
    """Var[f] of an affine f: in the square of its mean, each pair of means becomes a covariance.

    Means of different blocks do not covary; means of one block at different batch elements covary
    only where the elements coincide. No cancelling difference E[f^2] - E[f]^2 is formed.

    :param mean: the plan of E[f]; its products have at most one statistic each.
    """
    products = []
    moving = [p for p in mean.products if p.stats]
    for i, left in enumerate(moving):
        for right in moving[i:]:
            if left.stats[0].blocks == right.stats[0].blocks:
                times = 1.0 if left is right else 2.0
                products.append(_covariance(left, _fresh(right, mean.out), mean.out, times))
    return Plan(mean.dims, tuple(products))


def _covariance(left: Product, right: Product, out: tuple[Axis, ...], times: float) -> Product:
    (a,), (b,) = left.stats, right.stats
    assert isinstance(a, Stat)
    batch = len(a.block.batch_shape)
    deltas, renaming = coincidence(a.where[:batch], b.where[:batch], out)
    if (left.free or right.free) and (renaming or deltas):
        raise NotPolynomial("a parameter times independent elements of a plate")
    consts = [
        take(t, tuple(rename(x, renaming) for x in axes))
        for t, axes in (*left.constants, *right.constants)
    ]
    consts += [take(d.tensor, d.where) for d in deltas]
    first, axes = consts[0]
    scaled: tuple[Operand, ...] = ((first * times, axes), *consts[1:])
    where = tuple(rename(w, renaming) for w in (*a.where, *b.where[batch:]))
    return Product(scaled, (*left.free, *right.free), (Stat(a.block, COV, where),))


def _fresh(product: Product, out: tuple[Axis, ...]) -> Product:
    """The same product with new names for the axes that it sums over."""
    axes = {a for _, own in product.constants for a in own}
    axes |= set(all_axes(w for s in product.stats for w in s.where))
    axes |= set(all_axes(w for _, where in product.free for w in where))
    new = {a: Axis(a.size) for a in axes if a not in out}
    return Product(
        tuple((t, tuple(new.get(a, a) for a in own)) for t, own in product.constants),
        tuple((slot, tuple(rename(w, new) for w in where)) for slot, where in product.free),
        tuple(s.at(tuple(rename(w, new) for w in s.where)) for s in product.stats),
    )

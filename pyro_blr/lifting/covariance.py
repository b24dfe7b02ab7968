# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Variances and covariances of affine expressions under q, from the plans of their means."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .axes import Axis, all_axes, rename, take
from .blocks import Block
from .contraction import Operand
from .expectation import Layout, coincidence, compile_plan
from .moments import COV, Moments
from .plan import Plan, Product, Stat
from .polynomial import Dims, Polynomial, align, key_of
from .scalars import Scalars
from .terms import NotPolynomial


@dataclass(frozen=True, eq=False)
class JointPlan:
    """The compiled means, variances and covariance of one or two affine expressions.

    :param covariance: None where no block is common to both.
    """

    means: tuple[Plan, ...]
    variances: tuple[Plan, ...]
    covariance: Plan | None

    def evaluate(
        self, moments: Mapping[Block, Moments], free: tuple[tuple[Tensor, ...], ...]
    ) -> Scalars:
        """The scalars' joint law.

        :param free: the free constants of each expression.
        """
        means = [p.evaluate(moments, f)[0] for p, f in zip(self.means, free, strict=True)]
        variances = [p.evaluate(moments, f)[0] for p, f in zip(self.variances, free, strict=True)]
        variances = [v.expand(m.shape) for v, m in zip(variances, means, strict=True)]
        covariance = None
        if self.covariance is not None:
            both = tuple(t for own in free for t in own)
            covariance, _ = self.covariance.evaluate(moments, both)
        return Scalars(tuple(means), tuple(variances), covariance)


def joint_plan(values: tuple[Polynomial, ...], layout: Layout, aligned: bool) -> JointPlan:
    """Compile the joint law of one or two affine expressions.

    :param aligned: whether an element of the factor depends on the elements of both that broadcast
        against each other; two expressions without a common block need not be aligned.
    :raises NotPolynomial: if they are not and have one, or if a covariance has no plan.
    """
    blocks = [{layout[s.name] for s in value.sites} for value in values]
    if len(values) == 1 or not blocks[0] & blocks[1]:
        means = tuple(compile_plan(value, layout) for value in values)
        return JointPlan(means, tuple(covariance_plan(m, m, m.dims) for m in means), None)
    if not aligned:
        names = ", ".join(sorted(b.name for b in blocks[0] & blocks[1]))
        raise NotPolynomial(f"different elements of two Gaussian expressions in {names}")
    first, second, dims = align(*values)
    left, right = compile_plan(first, layout), compile_plan(second, layout)
    own = (covariance_plan(left, left, left.dims), covariance_plan(right, right, right.dims))
    count = len(key_of(first)[1])
    return JointPlan((left, right), own, covariance_plan(left, right, dims, count))


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
            if f.stats[0].block is not g.stats[0].block or (left is right and j < i):
                continue
            times = 2.0 if left is right and j > i else 1.0
            products.append(_covariance(f, _fresh(g, out, count), out, times))
    return Plan(dims, tuple(products))


def _covariance(left: Product, right: Product, out: tuple[Axis, ...], times: float) -> Product:
    (a,), (b,) = left.stats, right.stats
    batch = len(a.block.batch_shape)
    deltas, renaming = coincidence(a.where[:batch], b.where[:batch], out)
    if (left.free or right.free) and (renaming or deltas):
        raise NotPolynomial("a parameter times independent elements of a plate")
    consts = [
        take(t, tuple(rename(x, renaming) for x in axes))
        for t, axes in (*left.constants, *right.constants)
    ]
    consts += [take(d.tensor, d.where) for d in deltas]
    number, axes = consts[0]
    scaled: tuple[Operand, ...] = ((number * times, axes), *consts[1:])
    where = tuple(rename(w, renaming) for w in (*a.where, *b.where[batch:]))
    return Product(scaled, (*left.free, *right.free), (Stat(a.block, COV, where),))


def _fresh(product: Product, out: tuple[Axis, ...], count: int) -> Product:
    """The same product with new names for the axes that it sums over, free constants renumbered."""
    axes = {a for _, own in product.constants for a in own}
    axes |= set(all_axes(w for s in product.stats for w in s.where))
    axes |= set(all_axes(w for _, where in product.free for w in where))
    new = {a: Axis(a.size) for a in axes if a not in out}
    return Product(
        tuple((t, tuple(new.get(a, a) for a in own)) for t, own in product.constants),
        tuple((slot + count, tuple(rename(w, new) for w in where)) for slot, where in product.free),
        tuple(
            Stat(s.block, s.which, tuple(rename(w, new) for w in s.where)) for s in product.stats
        ),
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The joint law of the one or two affine Gaussian expressions that a factor depends on."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .blocks import Block
from .covariance import covariance_plan
from .expectation import Layout, compile_plan
from .keys import key_of
from .moments import Moments
from .plan import Plan
from .polynomial import Polynomial, align
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
        means = [p.values(moments, f) for p, f in zip(self.means, free, strict=True)]
        variances = [p.values(moments, f) for p, f in zip(self.variances, free, strict=True)]
        variances = [v.expand(m.shape) for v, m in zip(variances, means, strict=True)]
        covariance = None
        if self.covariance is not None:
            both = tuple(t for own in free for t in own)
            covariance = self.covariance.values(moments, both)
        return Scalars(tuple(means), tuple(variances), covariance)


def joint_plan(values: tuple[Polynomial, ...], layout: Layout, aligned: bool) -> JointPlan:
    """Compile the joint law of one or two affine expressions.

    :param aligned: whether an element of the factor depends on the elements of both that broadcast
        against each other; two expressions without a common block need not be aligned.
    :raises NotPolynomial: if they are not and have one, or if a covariance has no plan.
    """
    blocks = [{layout[s.name] for s in value.sites} for value in values]
    heavy = [s.name for value in values for s in value.sites if not layout[s.name].gaussian]
    if heavy:
        raise NotPolynomial(f"{heavy[0]}, whose posterior with its precision is no Gaussian")
    if len(values) == 1 or not blocks[0] & blocks[1]:
        means = tuple(compile_plan(value, layout, is_mean=True) for value in values)
        return JointPlan(means, tuple(covariance_plan(m, m, m.dims) for m in means), None)
    if not aligned:
        names = ", ".join(sorted(b.name for b in blocks[0] & blocks[1]))
        raise NotPolynomial(f"different elements of two Gaussian expressions in {names}")
    first, second, dims = align(*values)
    left, right = (compile_plan(each, layout, is_mean=True) for each in (first, second))
    own = (covariance_plan(left, left, left.dims), covariance_plan(right, right, right.dims))
    count = len(key_of(first)[1])
    return JointPlan((left, right), own, covariance_plan(left, right, dims, count))

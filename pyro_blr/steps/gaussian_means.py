# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Newton's step of the means of Gaussians, all precisions held.

Far from the optimum -ELBO is not convex in natural parameters, also where the log density is
concave: Newton's step in them is then none. In the means alone, given precisions, it is convex
there (its Hessian is the mean of the log density's), and the step sees how elements and blocks are
coupled, which steps in the metric of independent elements do not.
"""

from torch import Tensor

from ..conjugate_gradients import solve
from ..families import (
    DiagonalNormal,
    ExponentialFamily,
    MultivariateNormal,
    Natural,
    Normal,
    SharedCovarianceNormal,
    matrices,
)
from .certificate import LOOSE, MAX_ITERATIONS, Curvature, Vector
from .objective import Block

#: Families with the natural parameters ``(S m, -S/2)``, element by element or as a matrix.
GAUSSIANS = (Normal, DiagonalNormal, MultivariateNormal)


def means_direction(curvature: Curvature) -> dict[Block, Natural] | None:
    """Newton's step of the means, in natural parameters; None where there is none.

    With x = S m and S held a step dm is dx = S dm, so that the Hessian in m is ``S H_xx S``, and is
    conditioned by the metric S of the means: ``S^-1 (S r) = r`` in m is ``S r`` in x.
    """
    if not any(isinstance(b.family, GAUSSIANS) for b in curvature.blocks):
        return None
    found = solve(
        lambda v: _of_means(curvature, curvature.times(v)),
        _of_means(curvature, curvature.gradient),
        most=MAX_ITERATIONS,
        relative=LOOSE,
        precondition=lambda v: _times_precision(curvature, v),
    )
    return curvature.split([-t for t in found.value])


def _of_means(curvature: Curvature, vector: Vector) -> Vector:
    """The part that belongs to means; 0 elsewhere."""
    result: Vector = []
    for block, parts in curvature.split(vector).items():
        first, *rest = parts
        kept = first if isinstance(block.family, GAUSSIANS) else first.new_zeros(first.shape)
        result += [kept, *(t.new_zeros(t.shape) for t in rest)]
    return result


def _times_precision(curvature: Curvature, vector: Vector) -> Vector:
    """S times the part of the means."""
    result: Vector = []
    for block, (first, *rest) in curvature.split(vector).items():
        if isinstance(block.family, GAUSSIANS):
            first = precision_times(block.family, curvature.naturals[block], first)
        result += [first, *rest]
    return result


def precision_times(family: ExponentialFamily, natural: Natural, shift: Tensor) -> Tensor:
    """S times a shift of the mean: what it adds to the first natural parameter.

    :param natural: ``(S m, -S/2)``; of rows that share S, with a row of the mean each.
    """
    precision = -2.0 * natural[1]
    if isinstance(family, SharedCovarianceNormal):
        return shift @ precision
    if isinstance(family, MultivariateNormal):
        return matrices.apply(precision, shift)
    return precision * shift

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Standard normal points: quasi-random, in antithetic pairs, with a covariance of exactly I.

In a pair ``e, -e`` whatever is odd about the centre has no error: so the mean of the gradients of a
quadratic is exact. Each point is standard normal over the seeds, whatever their number, so that a
mean over points has no bias. Where there are enough pairs the points may also be mapped linearly
so that their second moments are exactly I, which makes the mean of a quadratic itself exact. Fourth
moments are then too small by a share of ``2 / (pairs + 2)`` at the most (that of independent
pairs): far below the error of one set of points, but not below that of a mean over many.
"""

import math

import torch
from torch import Tensor

#: torch's table of Sobol directions ends here; beyond, points are pseudo-random.
SOBOL_DIMENSIONS = 21201

#: Pairs for each dimension from which on the linear map to exact second moments is mild: with fewer
#: than one it does not exist, and with one it stretches the least direction without bound.
PAIRS_PER_DIMENSION = 2


#: Half the distance of two of torch's Sobol levels, which are multiples of 2^-30, 0 among them.
HALF_LEVEL = 2.0**-31


def gaussian_points(
    count: int, dim: int, seed: int, matched: bool = True, moved: int | None = None
) -> Tensor:
    """Standard normal points on the CPU, the same for the same seed. # shape: (count, dim)

    :param count: the number of points; an odd last one has no twin.
    :param matched: whether to map them to exact second moments where there are enough.
    :param moved: how many columns, the first ones, belong to what steps move; all of them if None.
        Where points are too few for all, the moments of these are exact, those with the others too.
    """
    moved = dim if moved is None else moved
    pairs = (count + 1) // 2
    half = _half(pairs, dim, seed)
    points = torch.cat([half, -half])[:count]
    if matched and count % 2 == 0 and pairs >= PAIRS_PER_DIMENSION * dim:
        factor = torch.linalg.cholesky(points.mT @ points / count)
        points = torch.linalg.solve_triangular(factor, points.mT, upper=False).mT
    elif matched and count % 2 == 0 and pairs >= PAIRS_PER_DIMENSION * moved:
        points = _matched_beside(points[:, :moved], points[:, moved:])
    return points


def _matched_beside(moved: Tensor, others: Tensor) -> Tensor:
    """Points whose moved columns have exact second moments, also with the others."""
    count = len(moved)
    factor = torch.linalg.cholesky(moved.mT @ moved / count)
    moved = torch.linalg.solve_triangular(factor, moved.mT, upper=False).mT
    others = others - moved @ (moved.mT @ others / count)
    return torch.cat([moved, others / others.square().mean(0).sqrt()], -1)


def _half(pairs: int, dim: int, seed: int) -> Tensor:
    """One point of each pair."""
    if pairs > 1 and 0 < dim <= SOBOL_DIMENSIONS:
        sobol = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed % 2**31)
        # A scrambled point is uniform over its levels: moved half a level, between them.
        levels = sobol.draw(pairs, dtype=torch.float64) + HALF_LEVEL
        return math.sqrt(2) * torch.erfinv(2 * levels - 1)
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(pairs, dim, dtype=torch.float64, generator=generator, device="cpu")

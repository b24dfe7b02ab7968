# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Standard normal points: quasi-random, in antithetic pairs, with a covariance of exactly I.

In a pair ``e, -e`` whatever is odd about the centre has no error: so the mean of the gradients of a
quadratic is exact. Where there are enough pairs the points are also mapped linearly so that their
second moments are exactly I, which makes the mean of a quadratic itself exact.
"""

import math

import torch
from torch import Tensor

#: torch's table of Sobol directions ends here; beyond, points are pseudo-random.
SOBOL_DIMENSIONS = 21201

#: Pairs for each dimension from which on the linear map to exact second moments is mild: with fewer
#: than one it does not exist, and with one it stretches the least direction without bound.
PAIRS_PER_DIMENSION = 2


def gaussian_points(count: int, dim: int, seed: int) -> Tensor:
    """Standard normal points on the CPU, the same for the same seed. # shape: (count, dim)

    :param count: the number of points; an odd last one has no twin.
    """
    pairs = (count + 1) // 2
    half = _half(pairs, dim, seed)
    points = torch.cat([half, -half])[:count]
    if count % 2 == 0 and pairs >= PAIRS_PER_DIMENSION * dim:
        factor = torch.linalg.cholesky(points.mT @ points / count)
        points = torch.linalg.solve_triangular(factor, points.mT, upper=False).mT
    return points


def _half(pairs: int, dim: int, seed: int) -> Tensor:
    """One point of each pair."""
    if pairs > 1 and 0 < dim <= SOBOL_DIMENSIONS:
        sobol = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed % 2**31)
        # Sobol points may be exactly 0; half a cell away from both ends they are as even.
        levels = sobol.draw(pairs, dtype=torch.float64) * (1 - 1 / pairs) + 0.5 / pairs
        return math.sqrt(2) * torch.erfinv(2 * levels - 1)
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(pairs, dim, dtype=torch.float64, generator=generator, device="cpu")

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Fixed draws: the same points for every q make an ELBO a function without noise.

The points are scrambled Sobol points in antithetic pairs, so that whatever is odd about the centre
has no error. Those of Gaussians are linearly mapped to a covariance of exactly I, so that whatever
is quadratic in the latents has none either.
"""

import math
from typing import Any

import torch
from scipy.special import gammaincinv
from torch import Tensor


class FixedDraws:
    """Points for so many Gaussian and Gamma dimensions.

    ``normal`` has standard normal points, ``levels`` uniform ones. # shape: (count, dimensions)
    """

    def __init__(self, count: int, gaussian: int, gamma: int, seed: int) -> None:
        sobol = torch.quasirandom.SobolEngine(gaussian + gamma, scramble=True, seed=seed)
        # Sobol points may be exactly 0; half a cell away from both ends they are as even.
        half = sobol.draw(count // 2, dtype=torch.float64) * (1 - 1 / count) + 0.5 / count
        normal = math.sqrt(2) * torch.erfinv(2 * half[:, :gaussian] - 1)
        normal = torch.cat([normal, -normal])
        scale = torch.linalg.cholesky(normal.T @ normal / count)
        self.normal = torch.linalg.solve_triangular(scale, normal.T, upper=False).T
        self.levels = torch.cat([half, 1 - half])[:, gaussian:]


class GammaQuantile(torch.autograd.Function):
    """The quantile of Gamma(shape, 1) at fixed levels, differentiable in the shape."""

    @staticmethod
    def forward(ctx: Any, shape: Tensor, levels: Tensor) -> Tensor:
        value = torch.from_numpy(gammaincinv(shape.detach().numpy(), levels.numpy()))
        ctx.save_for_backward(shape, value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        shape, value = ctx.saved_tensors
        slope = torch._standard_gamma_grad(shape.expand_as(value), value)
        return (gradient * slope).sum(), None

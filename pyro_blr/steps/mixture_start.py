# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where the components of a mixture start: spread over where the posterior may have mass.

Components that are all at one place stay together: their messages are the same, and q is at a
saddle. So a cloud of points, drawn from the prior and about the guide's start, is moved towards
``p(z)^t``, t rising from 0 to 1 (annealed importance sampling with kernels, Neal 2001; population
Monte Carlo), and mixtures are fitted to it by EM. In many dimensions the cloud stops on its way;
then the components are where it is thick, and the steps do the rest.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..families import Natural
from ..lifting import host

#: log p at points. # shape: (N, D) -> (N,)
Density = Callable[[Tensor], Tensor]

#: The share of the points that a temperature leaves, as their effective number.
KEPT = 0.25

#: Rounds of moving the cloud; fifteen times a quarter is a factor of 1e9 in volume.
ROUNDS = 15

#: Halvings by which a temperature is found.
HALVINGS = 30

#: Rounds of EM on the cloud, and draws of its first centres (k-means++, Arthur & Vassilvitskii
#: 2007).
ROUNDS_OF_EM, TRIES = 20, 4

#: Of a point, what a component without any has.
EMPTY = 1e-3


def spread(
    pool: Tensor, density: Density, components: int, generator: torch.Generator
) -> list[Natural]:
    """The coordinates of several mixtures that are spread over a density.

    :param pool: points to begin with. # shape: (N, D)
    :param generator: on the CPU.
    """
    cloud = _annealed(pool, density, generator)
    root = _root(_covariance(cloud))
    flat = torch.linalg.solve_triangular(root, cloud.mT, upper=False).mT
    starts: list[Natural] = []
    for weights, flat_means, covariances in fitted(flat, components, generator):
        factor = torch.linalg.cholesky(root @ covariances @ root.mT)
        # Half of them even: the cloud is small, and a component without weight is lost.
        shares = 0.5 * (weights + 1 / components)
        starts.append((shares.log(), flat_means @ root.mT, torch.cholesky_inverse(factor)))
    return starts


def _annealed(pool: Tensor, density: Density, generator: torch.Generator) -> Tensor:
    """Points about where the density is, as far as the rounds go. # shape: (N, D)"""
    cloud, reached = pool, 0.0
    for _ in range(ROUNDS):
        log_p, log_kernel = density(cloud), _log_kernels(cloud, cloud)
        if not host.truth(torch.isfinite(log_p).any()):
            return cloud  # the first step will say so
        reached, weights = _temperature(log_p, log_kernel, reached)
        chosen = torch.multinomial(weights.cpu(), len(cloud), True, generator=generator)
        kept = cloud[chosen.to(cloud.device)]
        if reached >= 1:
            return kept
        noise = torch.randn(cloud.shape, dtype=cloud.dtype, device="cpu", generator=generator)
        cloud = kept + noise.to(cloud.device) @ (_width(kept) * _root(_covariance(kept))).mT
    return kept


def _temperature(log_p: Tensor, log_kernel: Tensor, reached: float) -> tuple[float, Tensor]:
    """The largest temperature in (reached, 1] that leaves enough points, and their weights."""
    is_finite = torch.isfinite(log_p)

    def weights(t: float) -> Tensor:  # none of what is impossible, also at t = 0
        return (torch.where(is_finite, t * log_p, -torch.inf) - log_kernel).softmax(-1)

    def leaves(w: Tensor) -> bool:
        return host.number(w.square().sum().reciprocal()) >= KEPT * len(w)

    if leaves(weights(1.0)):
        return 1.0, weights(1.0)
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if leaves(weights(middle)) else (low, middle)
    return low, weights(max(low, reached))


def _width(cloud: Tensor) -> float:
    """Scott's width of a kernel, as a share of the cloud's own spread."""
    exponent = 1.0 / (cloud.shape[-1] + 4)
    return 1.0 / float(len(cloud) ** exponent)


def _log_kernels(points: Tensor, cloud: Tensor) -> Tensor:
    """The log density of points under kernels at a cloud, but for a constant. # shape: (N,)"""
    root = _width(cloud) * _root(_covariance(cloud))
    flat = torch.linalg.solve_triangular(root, cloud.mT, upper=False).mT
    own = torch.linalg.solve_triangular(root, points.mT, upper=False).mT
    return (-0.5 * torch.cdist(own, flat).square()).logsumexp(-1)


def _covariance(cloud: Tensor) -> Tensor:
    away = cloud - cloud.mean(0)
    return away.mT @ away / len(cloud)


def _root(covariance: Tensor) -> Tensor:
    """A Cholesky factor; of a cloud that lies in a plane, of its variances alone."""
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(covariance)
    if host.truth(info == 0):
        return factor
    variance = covariance.diagonal()
    return torch.diag(torch.where(variance > 0, variance, 1.0).sqrt())


# A mixture fitted to the cloud


Fitted = tuple[Tensor, Tensor, Tensor]


def fitted(points: Tensor, count: int, generator: torch.Generator) -> list[Fitted]:
    """Weights, means and covariances of mixtures at several local optima of EM."""
    size = points.shape[-1]
    # What each covariance has for D + 1 points of its own: an equal share of the cloud's volume.
    share = torch.eye(size, dtype=points.dtype, device=points.device) * count ** (-2.0 / size)
    found = []
    for _ in range(TRIES):
        centres = _first_centres(points, count, generator)
        responsible = torch.cdist(points, centres).argmin(-1)
        shares = torch.nn.functional.one_hot(responsible, count).to(points)
        for _ in range(ROUNDS_OF_EM):
            mixture = _maximised(points, shares, share)
            shares = _log_density(points, mixture).softmax(-1)
        found.append(mixture)
    return found


def _maximised(points: Tensor, shares: Tensor, share: Tensor) -> Fitted:
    """The M-step, of covariances with a prior. # shape of shares: (N, K)"""
    counts, size = shares.sum(0), points.shape[-1]
    # A component without points is at the mean of all, as wide as its prior.
    means = (shares.mT @ points + points.mean(0) * EMPTY) / (counts + EMPTY).unsqueeze(-1)
    away = points.unsqueeze(1) - means
    outer = torch.einsum("nk,nki,nkj->kij", shares, away, away)
    total = outer + (size + 1) * share
    covariances = total / (counts + size + 1).reshape(-1, 1, 1)
    return (counts + EMPTY) / (counts + EMPTY).sum(), means, covariances


def _log_density(points: Tensor, mixture: Fitted) -> Tensor:
    """The log density of points and components, but for a constant. # shape: (N, K)"""
    weights, means, covariances = mixture
    root = torch.linalg.cholesky(covariances)
    away = (points - means.unsqueeze(1)).mT  # all points as columns: a matrix each would be copied
    flat = torch.linalg.solve_triangular(root, away, upper=False)
    width = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    density: Tensor = weights.log() - width - 0.5 * flat.square().sum(-2).mT
    return density


def _first_centres(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    chosen: list[int] = [int(torch.randint(len(points), (), device="cpu", generator=generator))]
    for _ in range(1, count):
        near = torch.cdist(points, points[chosen]).amin(-1).square().cpu()
        near = near if host.truth(near.sum() > 0) else torch.ones_like(near)
        chosen.append(int(torch.multinomial(near, 1, generator=generator)))
    centres: Tensor = points[chosen]
    return centres

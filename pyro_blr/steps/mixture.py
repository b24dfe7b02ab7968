# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Natural gradients of a mixture of normals, in the family of the component and z together.

For ``r = log q - log p``, with expectations under component k (arXiv 1906.02914)

    S_k <- S_k + rho E_k[hess r],   m_k <- m_k - rho S_k^-1 E_k[grad r],
    log(pi_k / pi_K) <- log(pi_k / pi_K) - rho (E_k[r] - E_K[r]),

with the new S_k in the second, and inside the cone (``cone.retract``). Expectations are means over
points ``z = m + W e``, W the Cholesky factor of the covariance and e noise that stays the same, and

    E_k[hess r] = W^-T M W^-1,     M = W' E_k[grad r(z) e']  with its lower triangle mirrored,

which is twice the derivative of the mean of r along the points in the covariance. In the mean over
noise it is the Hessian (Stein's lemma, by which M is then symmetric), also where log p has kinks,
of which no Hessian at points says anything. It is exact where r is quadratic, as the points have
exact second moments.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..families import MultivariateNormal, Natural
from ..families.normal_mixture import NormalMixture
from ..lifting import host
from .cone import inside, retract_matrices

FAMILY, COMPONENT = NormalMixture(), MultivariateNormal()

#: log p and its gradient at points. # shape: (K, S, D) -> (K, S), (K, S, D)
ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]

#: A value that falls by so many times its rounding has not fallen.
ROUNDING = 64.0


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of normals, and its points.

    :param coordinates: log weights, means, precisions. # shape: (K,), (K, D), (K, D, D)
    :param noise: standard normal points of each component. # shape: (K, S, D)
    """

    coordinates: Natural
    noise: Tensor

    @property
    def log_weights(self) -> Tensor:
        """# shape: (K,)"""
        return self.coordinates[0]

    @property
    def means(self) -> Tensor:
        """# shape: (K, D)"""
        return self.coordinates[1]

    @property
    def precisions(self) -> Tensor:
        """# shape: (K, D, D)"""
        return self.coordinates[2]

    @cached_property
    def root(self) -> Tensor:
        """W, the Cholesky factors of the covariances. # shape: (K, D, D)"""
        factor = torch.linalg.cholesky(self.precisions)
        root: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(factor))
        return root

    @cached_property
    def points(self) -> Tensor:
        """# shape: (K, S, D)"""
        return self.means.unsqueeze(1) + self.noise @ self.root.mT

    @cached_property
    def entropies(self) -> Tensor:
        """Of each component, less a constant. # shape: (K,)"""
        return self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def log_components(self, points: Tensor) -> Tensor:
        """The log density of points and of each component. # shape: (*points, K)"""
        return FAMILY.log_components(self.coordinates, points)

    def own_log_share(self, points: Tensor) -> Tensor:
        """The log probability that a point of each component is its own. # shape: (K, S)"""
        density = self.log_components(points)
        own = density.diagonal(dim1=0, dim2=2).mT
        return own - density.logsumexp(-1)


@dataclass(frozen=True, eq=False)
class State:
    """A mixture with log p at its points.

    :param log_p: # shape: (K, S)
    :param gradient: of log p. # shape: (K, S, D)
    """

    mixture: Mixture
    log_p: Tensor
    gradient: Tensor

    @classmethod
    def at(cls, mixture: Mixture, log_joint: ValueAndGradient) -> "State":
        """The state of a mixture."""
        return cls(mixture, *log_joint(mixture.points))

    @cached_property
    def log_ratio(self) -> Tensor:
        """log p - log q at the points. # shape: (K, S)"""
        return self.log_p - self.mixture.log_components(self.mixture.points).logsumexp(-1)

    @cached_property
    def elbos(self) -> Tensor:
        """E_k[log p - log q]. # shape: (K,)"""
        return self.log_ratio.mean(1)

    @property
    def elbo(self) -> float:
        """The ELBO on the points."""
        return host.number(self.mixture.log_weights.exp() @ self.elbos)

    @property
    def slack(self) -> float:
        """By how much rounding may let the ELBO fall."""
        magnitude = host.number(self.log_p.abs().mean()) + 1.0
        return ROUNDING * torch.finfo(self.log_p.dtype).eps * magnitude


@dataclass(frozen=True, eq=False)
class Gradient:
    """The natural gradient of the ELBO on the points.

    :param slope: E_k[grad (log p - log q)]. # shape: (K, D)
    :param curvature: E_k[hess (log p - log q)]. # shape: (K, D, D)
    :param excess: ``E_k[log p - log q]`` less their mean under the weights. # shape: (K,)
    """

    slope: Tensor
    curvature: Tensor
    excess: Tensor

    @classmethod
    def of(cls, state: State) -> "Gradient":
        """The gradient at a state."""
        mixture = state.mixture
        gradient = state.gradient - _slope_of_log_q(mixture)
        root, count = mixture.root, mixture.noise.shape[1]
        outer = root.mT @ gradient.mT @ mixture.noise / count
        mirrored = outer.tril() + outer.tril(-1).mT
        half = torch.linalg.solve_triangular(root.mT, mirrored, upper=True)
        curvature = torch.linalg.solve_triangular(root.mT, half.mT, upper=True)
        elbos = state.elbos
        excess = elbos - mixture.log_weights.exp() @ elbos
        symmetric = 0.5 * (curvature + curvature.mT)
        return cls(gradient.mean(1), symmetric, excess)

    def direction(self, mixture: Mixture) -> Natural:
        """The natural gradient in the coordinates."""
        root = mixture.root
        mean = root @ (root.mT @ self.slope.unsqueeze(-1))
        return self.excess, mean.squeeze(-1), -self.curvature

    def steps(self, mixture: Mixture) -> Tensor:
        """The natural gradient, whitened."""
        return whitened(mixture, self.direction(mixture))

    def residual(self, mixture: Mixture) -> float:
        """``d' F d / 2``, what a full step is long, in nats."""
        return 0.5 * host.number(self.steps(mixture).square().sum())

    def moved(self, mixture: Mixture, rho: Tensor) -> Natural:
        """Means and precisions after a step of each component's size. # shape of rho: (K,)"""
        size = rho.reshape(-1, 1, 1)
        plain = mixture.precisions - size * self.curvature
        precisions = plain
        if not inside(COMPONENT, (mixture.means, -0.5 * plain)):
            within = COMPONENT.in_domain((mixture.means, -0.5 * plain))
            bent = self._retracted(mixture, size)
            precisions = torch.where(within.reshape(-1, 1, 1), plain, bent)
        factor = torch.linalg.cholesky(precisions)
        slope = torch.cholesky_solve(self.slope.unsqueeze(-1), factor).squeeze(-1)
        return mixture.means + rho.unsqueeze(-1) * slope, precisions

    def _retracted(self, mixture: Mixture, size: Tensor) -> Tensor:
        """The precisions of the improved rule, which are inside the cone for every size."""
        zero = torch.zeros_like(self.slope)
        message = zero, -0.5 * (mixture.precisions - self.curvature)
        new = retract_matrices((zero, -0.5 * mixture.precisions), message, size)
        return -2 * new[1]


def whitened(mixture: Mixture, change: Natural) -> Tensor:
    """A change of the coordinates as one vector whose squared length is ``d' F d`` in nats.

    F is the Fisher matrix of component and z together. # shape: (K (1 + D + D^2),)
    """
    odds = change[0] - mixture.log_weights.exp() @ change[0]
    root, share = mixture.root, (0.5 * mixture.log_weights).exp()
    mean = torch.linalg.solve_triangular(root, change[1].unsqueeze(-1), upper=False)
    spread = root.mT @ change[2] @ root
    parts = (odds.unsqueeze(-1), mean.squeeze(-1), 0.5**0.5 * spread.flatten(1))
    return (share.unsqueeze(-1) * torch.cat(parts, -1)).flatten()


def unwhitened(mixture: Mixture, vector: Tensor) -> Natural:
    """The change of the coordinates that :func:`whitened` makes a vector of, as near as there is.

    :param vector: # shape: (K (1 + D + D^2),)
    """
    count, size = mixture.means.shape
    share = (0.5 * mixture.log_weights).exp().unsqueeze(-1)
    parts = (vector.reshape(count, -1) / share).split([1, size, size * size], -1)
    mean = mixture.root @ parts[1].unsqueeze(-1)
    spread = 2**0.5 * parts[2].reshape(count, size, size)
    half = torch.linalg.solve_triangular(mixture.root.mT, spread + spread.mT, upper=True)
    precision = 0.5 * torch.linalg.solve_triangular(mixture.root.mT, half.mT, upper=True)
    return parts[0].squeeze(-1), mean.squeeze(-1), 0.5 * (precision + precision.mT)


def _slope_of_log_q(mixture: Mixture) -> Tensor:
    """The gradient of log q at the points. # shape: (K, S, D)"""
    points = mixture.points
    share = mixture.log_components(points).softmax(-1)
    total = torch.zeros_like(points)
    for k, (mean, precision) in enumerate(zip(mixture.means, mixture.precisions, strict=True)):
        total = total - share[..., k : k + 1] * ((points - mean) @ precision)
    return total

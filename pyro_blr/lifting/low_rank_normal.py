# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The normal distribution whose covariance is of low rank but for its diagonal: a curved family."""

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ..families import MeanParams, Natural
from ..families.base import derivative_times
from ..families.curved import CurvedFamily
from .low_rank import LowRankCovariance

#: log(2 pi) + 1, the entropy of a standard normal number times two, in nats.
TWICE_ENTROPY = 2.8378770664093453

#: The least share of an element's variance that d may have where a Newton step ends. Products in
#: the whitened frame cancel to eps over that share: six digits are left. Natural gradients stop
#: where the damping of the metric holds them, at about 1e-7; a Newton step of log d, along which
#: the ELBO is flat, would go on.
LEAST_SHARE = 1e-10


class LowRankNormal(CurvedFamily):
    """Normal of a D-vector with mean m and covariance ``W W' + diag(d)``.

    It is a subset of the full-covariance normals, and curved in them: a step in natural parameters
    leaves it, and the gradient in mean parameters is not its natural gradient. So what stands here
    where an exponential family has natural parameters are the *coordinates* (m, W, log d), which
    range over all real numbers, and the natural gradient is ``F^-1`` of the gradient in them, F the
    Fisher matrix pulled back (arXiv 2102.07405). W is known up to a rotation ``W R``.

    Covariances ``W W' + diag(d)`` and precisions ``W W' + diag(d)`` are two different sets (each
    other's inverses have ``- W W'``); this is the first.

    - support: real D-vector z
    - coordinates: m  # shape: (D,); W  # shape: (D, K); log d  # shape: (D,)
    """

    name = "LowRankNormal"
    event_dim = 1
    natural_event_dims = (1, 2, 1)
    support = constraints.real_vector
    distribution_type = dist.LowRankMultivariateNormal
    has_rsample = True
    coordinate_names = ("loc", "cov_factor", "log_cov_diag")

    # What a step asks for

    def covariance(self, coordinates: Natural) -> LowRankCovariance:
        """The covariance, with the Fisher matrix of its coordinates."""
        return LowRankCovariance(coordinates[1], coordinates[2].detach().exp())

    def mean_params(self, natural: Natural) -> MeanParams:
        """F times the coordinates, F taken at their values: a map whose derivative is F."""
        return self.at(natural).mean_params(natural)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        covariance = self.covariance(natural)
        solved = covariance.inverse_metric_times((covector[1], covector[2]))
        return covariance.covariance_times(covector[0]), *solved

    def at(self, coordinates: Natural) -> "LocalFamily":
        """The geometry at a point."""
        return LocalFamily(self, coordinates)

    def in_domain(self, natural: Natural) -> Tensor:
        """Whether all coordinates are numbers, and d a positive one in floating point."""
        mean, factor, log_diagonal = natural
        diagonal = log_diagonal.exp()
        proper = torch.isfinite(mean) & (diagonal > 0) & torch.isfinite(diagonal)
        return proper.all(-1) & torch.isfinite(factor).all(-1).all(-1)

    def symmetrize(self, blocks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The blocks as they are: W is no symmetric matrix."""
        return blocks

    # The distribution

    def entropy(self, natural: Natural) -> Tensor:
        """By the matrix determinant lemma: ``log det(I + A'A) + sum(log d)``, A = diag(d)^-1/2 W.

        The first is from the triangle of (A, I), not from ``A'A``: where a d is small beside its
        row of W, the other rows would be lost in that.
        """
        mean, factor, log_diagonal = natural
        scaled = factor * (-0.5 * log_diagonal).exp().unsqueeze(-1)
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        triangle: Tensor = torch.linalg.qr(torch.cat([scaled, eye], -2))[1]
        inner = triangle.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        return inner + 0.5 * (log_diagonal.sum(-1) + TWICE_ENTROPY * mean.shape[-1])

    def distribution(self, natural: Natural) -> Any:
        with self.naming_domain():
            return dist.LowRankMultivariateNormal(natural[0], natural[1], natural[2].exp())

    def natural_of(self, distribution: Any) -> Natural:
        """The coordinates of a ``LowRankMultivariateNormal``."""
        if not isinstance(distribution, torch.distributions.LowRankMultivariateNormal):
            raise self.wrong_distribution(distribution)
        return distribution.loc, distribution.cov_factor, distribution.cov_diag.log()

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        return self.distribution(natural).log_prob(value)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class LocalFamily:
    """A low-rank normal near one point, without the rotations of W.

    The ELBO does not change along ``W R``, R orthogonal. Tangent vectors here are orthogonal to
    these rotations at the point, and covectors are 0 along them: a Hessian between the two is that
    of the ELBO as a function of q, and its negative curvature is q's.
    """

    family: LowRankNormal
    point: Natural

    def __post_init__(self) -> None:
        object.__setattr__(self, "_covariance", self.family.covariance(self.point))

    @property
    def covariance(self) -> LowRankCovariance:
        """The covariance at the point."""
        return self._covariance  # type: ignore[attr-defined, no-any-return]

    def mean_params(self, natural: Natural) -> Natural:
        """F times the coordinates, F taken at the point: a map whose derivative is F."""
        mean, *rest = natural
        factor, log_diagonal = self.covariance.metric_times((rest[0], rest[1]))
        return self.covariance.precision_times(mean), factor, log_diagonal

    def fisher(self, natural: Natural, vector: Natural) -> tuple[Tensor, ...]:
        """F vector, F taken at the point."""
        return derivative_times(self.mean_params, natural, vector)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        """The same as the family's, less what the damping leaves of rotations."""
        solved = self.covariance.inverse_metric_times((covector[1], covector[2]))
        mean = self.covariance.covariance_times(covector[0])
        return mean, *self.covariance.horizontal_vector(solved)

    def symmetrize(self, covector: tuple[Tensor, ...]) -> Natural:
        """The part of a covector that is 0 along the rotations of W."""
        return covector[0], *self.covariance.horizontal_covector((covector[1], covector[2]))

    def in_domain(self, natural: Natural) -> Tensor:
        """Whether the coordinates are those of a proper distribution near the point: of one whose
        covariance a step from there may reach, where no element is without a variance of its own.
        """
        moved = tuple(n - p for n, p in zip(natural[1:], self.point[1:], strict=True))
        near = self.covariance.relative_change((moved[0], moved[1])) <= 1
        diagonal = natural[2].exp()
        share = diagonal / (natural[1].square().sum(-1) + diagonal)
        falls = (natural[2] < self.point[2]) & (share < LEAST_SHARE)
        return self.family.in_domain(natural) & near & ~falls.any(-1)

    def damped_step(self, direction: Natural, rho: float) -> Natural:
        """The step of a size in (0, 1] along a natural gradient: see ``steps/curved.py``."""
        covariance, (_, factor, log_diagonal) = self.covariance, self.point
        gradient = covariance.precision_times(direction[0])
        step = covariance.damped_step((direction[1], direction[2]), rho)
        share = covariance.relative_change(step).clamp_min(1).reciprocal()
        change = share * step[1]
        # In 1/d where d falls: exact for one Gaussian element, and never through 0.
        change = torch.where(change < 0, -torch.log1p(change.clamp_max(0).abs()), change)
        step = share * step[0], change
        new = factor + step[0]
        spread = new @ (new.mT @ gradient) + (log_diagonal + step[1]).exp() * gradient
        return rho * share * spread, *step

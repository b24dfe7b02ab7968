# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The mixture of normal distributions of a real vector: no exponential family, but nearly one."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from .. import errors
from . import matrices
from .base import Natural
from .curved import CurvedFamily
from .normal import LOG_TWO_PI

#: Halvings of an interval down to neighbouring numbers of float64: 52 for the digits of a number,
#: the others for an interval that is up to 2^48 times as long as the number in it.
BISECTIONS = 100


class NormalMixture(CurvedFamily):
    """Mixture of K normals of a D-vector, each with a mean and a precision matrix of its own.

    The law of (component, z) is an exponential family, with the log-odds of the weights and, given
    the component, a normal's natural parameters; that of z alone is none. So what stands here where
    an exponential family has natural parameters are *coordinates*: log weights, means, precisions.

    - support: real D-vector z
    - coordinates: log weights  # shape: (K,); means  # shape: (K, D); precisions  # (K, D, D)
    """

    name = "NormalMixture"
    event_dim = 1
    natural_event_dims = (1, 2, 3)
    support = constraints.real_vector
    distribution_type = dist.MixtureSameFamily
    coordinate_names = ("log_weights", "means", "precisions")

    def log_components(self, coordinates: Natural, value: Tensor) -> Tensor:
        """The log density of z and of each component. # shape: (*sample, K)"""
        log_weights, means, precisions = coordinates
        factors = matrices.cholesky(precisions)
        constant = log_weights + matrices.log_diagonal(factors) - 0.5 * LOG_TWO_PI * means.shape[-1]
        # One by one: of many points and components together the differences would not fit.
        pairs = zip(means, factors, strict=True)
        distances = [((value - m) @ factor).square().sum(-1) for m, factor in pairs]
        return constant - 0.5 * torch.stack(distances, -1)

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        density: Tensor = self.log_components(natural, value).logsumexp(-1)
        return density

    def in_domain(self, natural: Natural) -> Tensor:
        log_weights, means, precisions = natural
        finite = torch.isfinite(means).all(-1) & torch.isfinite(log_weights)
        return (finite & matrices.positive_definite(precisions)).all(-1)

    def symmetrize(self, blocks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The blocks, with the symmetric part of each precision."""
        log_weights, means, precisions = blocks
        return log_weights, means, 0.5 * (precisions + precisions.mT)

    def distribution(self, natural: Natural) -> Any:
        log_weights, means, precisions = natural
        with self.naming_domain():
            components = dist.MultivariateNormal(means, precision_matrix=precisions)
            return dist.MixtureSameFamily(dist.Categorical(logits=log_weights), components)

    def natural_of(self, distribution: Any) -> Natural:
        """The coordinates of a ``MixtureSameFamily`` of multivariate normals."""
        normal = getattr(distribution, "component_distribution", None)
        if not isinstance(normal, torch.distributions.MultivariateNormal):
            raise self.wrong_distribution(distribution)
        log_weights = distribution.mixture_distribution.logits.log_softmax(-1)
        return log_weights, normal.loc, normal.precision_matrix

    def wrong_distribution(self, distribution: Any) -> errors.ArgumentError:
        """Return the error to raise for anything but a mixture of multivariate normals."""
        normal = getattr(distribution, "component_distribution", None)
        of = "" if normal is None else f" of {type(normal).__name__} components"
        return errors.ArgumentError(
            f"A {type(distribution).__name__}{of} is not in the family {self.name}; pass a "
            "MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances)), of "
            "means with one row a component."
        )

    def quantile(self, weights: Tensor, loc: Tensor, scale: Tensor, level: float) -> Tensor:
        """The quantile of mixtures of scalar normals, by bisection to rounding.

        :param loc: of each component, along the first dim, as the weights. # shape: (K, *elements)
        """
        share = weights.reshape(-1, *(1,) * (loc.dim() - 1))
        normal = torch.special.ndtri(torch.tensor(level, dtype=loc.dtype, device=loc.device))
        ends = loc + scale * normal
        low, high = ends.amin(0), ends.amax(0)  # where each has at least, and at most, the level
        for _ in range(BISECTIONS):
            half = 0.5 * (low + high)
            below = (share * torch.special.ndtr((half - loc) / scale)).sum(0) < level
            low, high = torch.where(below, half, low), torch.where(below, high, half)
        middle: Tensor = 0.5 * (low + high)
        return middle

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Pyro distributions of a normal vector and its random scale, packed in one vector."""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import matrices
from pyro_blr.families import wishart_functions as fn

from ..shapes import broadcast_shapes


class _VectorThenPositive(constraints.Constraint):
    """Vectors of real numbers, the last of which is positive."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value.abs() < math.inf).all(-1) & (value[..., -1] > 0.0)


class _VectorThenPositiveDefinite(constraints.Constraint):
    """Vectors of D real numbers and then, row by row, a positive definite D x D matrix."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        vector, matrix = split_matrix(value)
        definite: Tensor = constraints.positive_definite.check(matrix)
        return (vector.abs() < math.inf).all(-1) & definite


vector_then_positive = _VectorThenPositive()
vector_then_positive_definite = _VectorThenPositiveDefinite()


def split_matrix(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vector and the matrix of a packed value.

    :param value: D + D^2 numbers, the matrix row by row  # shape: (*batch, D + D^2)
    :return: two tensors  # shapes: (*batch, D), (*batch, D, D)
    """
    dim = (math.isqrt(1 + 4 * value.shape[-1]) - 1) // 2
    vector, rows = value.split((dim, value.shape[-1] - dim), -1)
    return vector, rows.unflatten(-1, (dim, dim))


class _PackedDistribution(dist.TorchDistribution):
    """Several variables in one event; the parameters broadcast over the batch."""

    event_dims: ClassVar[dict[str, int]]
    """Number of event dimensions of each parameter."""

    has_rsample = True

    def __init__(
        self, size: int | torch.Size, validate_args: bool | None, **parameters: Tensor
    ) -> None:
        batches = (p.shape[: p.dim() - self.event_dims[name]] for name, p in parameters.items())
        batch_shape = broadcast_shapes(*batches)
        self._expand_parameters(batch_shape, parameters)
        event_shape = torch.Size((size,)) if isinstance(size, int) else size
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    def _expand_parameters(self, batch_shape: torch.Size, parameters: dict[str, Tensor]) -> None:
        for name, parameter in parameters.items():
            event = parameter.shape[parameter.dim() - self.event_dims[name] :]
            setattr(self, name, parameter.expand(batch_shape + event))

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        """Return the distribution with its batch dimensions expanded."""
        new = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        new._expand_parameters(batch_shape, {name: getattr(self, name) for name in self.event_dims})
        torch.distributions.Distribution.__init__(new, batch_shape, self.event_shape, False)
        new._validate_args = self._validate_args
        return new


class _ScaledNormal(_PackedDistribution):
    """A number s and a vector z whose precision matrix, given s, is a multiple of P."""

    event_dims: ClassVar = {"loc": 1, "precision_matrix": 2, "concentration": 0, "rate": 0}
    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real_vector,
        "precision_matrix": constraints.positive_definite,
        "concentration": constraints.positive,
        "rate": constraints.positive,
    }
    support = vector_then_positive

    def __init__(
        self,
        loc: Tensor,
        precision_matrix: Tensor,
        concentration: Tensor,
        rate: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(
            loc.shape[-1] + 1,
            validate_args,
            loc=loc,
            precision_matrix=precision_matrix,
            concentration=concentration,
            rate=rate,
        )

    def scale_marginal(self) -> Any:
        """Return the distribution of s."""
        raise NotImplementedError

    def precision_factor(self, scale: Tensor) -> Tensor:
        """Return the multiple of P at s."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density at (z_1, ..., z_D, s), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        vector, scale = value[..., :-1], value[..., -1]
        precision = matrices.scaled(self.precision_factor(scale), self.precision_matrix)
        normal = dist.MultivariateNormal(self.loc, precision_matrix=precision, validate_args=False)
        density: Tensor = self.scale_marginal().log_prob(scale) + normal.log_prob(vector)
        return density

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return draws of (z_1, ..., z_D, s), differentiable in the parameters."""
        scale = self.scale_marginal().rsample(sample_shape).unsqueeze(-1)
        noise = torch.randn(
            self._extended_shape(sample_shape)[:-1] + self.loc.shape[-1:],
            dtype=scale.dtype,
            device=scale.device,
        )
        # P = L L': L'^-1 noise has the covariance P^-1.
        factor = matrices.cholesky(self.precision_matrix)
        spread = matrices.triangular_solve(factor.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)
        return torch.cat([self.loc + spread / self.precision_factor(scale).sqrt(), scale], -1)


class NormalGammaDistribution(_ScaledNormal):
    """Law of (z, tau): tau is Gamma(a, b) and z, given tau, normal (m, (tau P)^-1).

    :param loc: m  # shape: (*batch, D)
    :param precision_matrix: P  # shape: (*batch, D, D)
    :param concentration: a  # shape: (*batch,)
    :param rate: b  # shape: (*batch,)
    """

    def scale_marginal(self) -> Any:
        """Return the distribution of tau."""
        return dist.Gamma(self.concentration, self.rate, validate_args=False)

    def precision_factor(self, scale: Tensor) -> Tensor:
        """Return tau."""
        return scale


class NormalInverseGammaDistribution(_ScaledNormal):
    """Law of (z, s): s is InverseGamma(a, b) and z, given s, normal (m, s P^-1).

    :param loc: m  # shape: (*batch, D)
    :param precision_matrix: P  # shape: (*batch, D, D)
    :param concentration: a  # shape: (*batch,)
    :param rate: b  # shape: (*batch,)
    """

    def scale_marginal(self) -> Any:
        """Return the distribution of s."""
        return dist.InverseGamma(self.concentration, self.rate, validate_args=False)

    def precision_factor(self, scale: Tensor) -> Tensor:
        """Return 1/s."""
        return scale.reciprocal()


class NormalWishartDistribution(_PackedDistribution):
    """Law of (z, L): L is Wishart(nu, V) and z, given L, normal (m, (kappa L)^-1).

    :param loc: m  # shape: (*batch, D)
    :param kappa: the number of observations that m is worth  # shape: (*batch,)
    :param df: nu, above D - 1  # shape: (*batch,)
    :param precision_matrix: V^-1  # shape: (*batch, D, D)
    """

    event_dims: ClassVar = {"loc": 1, "kappa": 0, "df": 0, "precision_matrix": 2}
    support = vector_then_positive_definite

    def __init__(
        self,
        loc: Tensor,
        kappa: Tensor,
        df: Tensor,
        precision_matrix: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        dim = loc.shape[-1]
        super().__init__(
            dim + dim * dim,
            validate_args,
            loc=loc,
            kappa=kappa,
            df=df,
            precision_matrix=precision_matrix,
        )

    @property
    def arg_constraints(self) -> dict[str, Any]:
        """The domain of each parameter."""
        return {
            "loc": constraints.real_vector,
            "kappa": constraints.positive,
            "df": constraints.greater_than(self.loc.shape[-1] - 1),
            "precision_matrix": constraints.positive_definite,
        }

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density at (z, L row by row), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        vector, matrix = split_matrix(value)
        wishart = dist.Wishart(self.df, precision_matrix=self.precision_matrix, validate_args=False)
        precision = matrices.scaled(self.kappa, matrix)
        normal = dist.MultivariateNormal(self.loc, precision_matrix=precision, validate_args=False)
        density: Tensor = wishart.log_prob(matrix) + normal.log_prob(vector)
        return density

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return draws of (z, L row by row), differentiable in the parameters."""
        dim = self.loc.shape[-1]
        # L = root root' with root = C'^-1 B, so that root'^-1 = C B'^-1.
        factor = matrices.cholesky(0.5 * self.precision_matrix)
        root, bartlett = fn.draws(0.5 * (self.df - dim + 1.0), factor, sample_shape)
        noise = torch.randn((*root.shape[:-1], 1), dtype=root.dtype, device=root.device)
        spread = factor @ matrices.triangular_solve(bartlett.mT, noise, upper=True)
        vector = self.loc + spread.squeeze(-1) / self.kappa.sqrt().unsqueeze(-1)
        return torch.cat([vector, (root @ root.mT).flatten(-2)], -1)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Textbook cases whose latent is Gaussian: the evidence is a Gaussian density of the data."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from tests.oracles.textbook_case import Case, Marginals, Mask, mvn_log_prob, normals


class NormalMean(Case):
    """The mean of a Normal with known standard deviation: mu ~ N(1, 2^2), y ~ N(mu, 1.5^2)."""

    name = "normal_mean"

    @staticmethod
    def model(y: Tensor, mask: Mask = True) -> None:
        mu = pyro.sample("mu", dist.Normal(y.new_tensor(1.0), 2.0))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(mu, 1.5), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (2.5 + 1.5 * normals(generator, 11),)

    @staticmethod
    def prior(y: Tensor) -> Marginals:
        return {"mu": dist.Normal(y.new_tensor(1.0), 2.0)}

    @staticmethod
    def posterior(y: Tensor) -> Marginals:
        precision = 1 / 2.0**2 + len(y) / 1.5**2
        mean = (1.0 / 2.0**2 + y.sum() / 1.5**2) / precision
        return {"mu": dist.Normal(mean, precision**-0.5)}

    @staticmethod
    def log_evidence(y: Tensor) -> Tensor:
        covariance = 1.5**2 * torch.eye(len(y), dtype=y.dtype) + 2.0**2
        return mvn_log_prob(y, torch.full_like(y, 1.0), covariance)


class NormalNormalPlate(Case):
    """A mean for each column: theta_g ~ N(-1, 2^2), y_ng ~ N(theta_g, 0.8^2), plates nested."""

    name = "normal_normal_plate"

    @staticmethod
    def model(y: Tensor, mask: Mask = True) -> None:
        repeats, groups = y.shape
        with pyro.plate("groups", groups, dim=-1):
            theta = pyro.sample("theta", dist.Normal(y.new_tensor(-1.0), 2.0))
            with pyro.plate("repeats", repeats, dim=-2), poutine.mask(mask=mask):
                pyro.sample("y", dist.Normal(theta, 0.8), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        theta = 2.0 * normals(generator, 4) - 1.0
        return (theta + 0.8 * normals(generator, 6, 4),)

    @staticmethod
    def prior(y: Tensor) -> Marginals:
        return {"theta": dist.Normal(torch.full_like(y[0], -1.0), 2.0)}

    @staticmethod
    def posterior(y: Tensor) -> Marginals:
        precision = 1 / 2.0**2 + len(y) / 0.8**2
        mean = (-1.0 / 2.0**2 + y.sum(0) / 0.8**2) / precision
        return {"theta": dist.Normal(mean, precision**-0.5)}

    @staticmethod
    def log_evidence(y: Tensor) -> Tensor:
        covariance = 0.8**2 * torch.eye(len(y), dtype=y.dtype) + 2.0**2
        return mvn_log_prob(y.T, torch.full_like(y.T, -1.0), covariance).sum()


class NormalNormalGroups(Case):
    """A mean for each group, with a group index per datum; groups are unequal, the last empty."""

    name = "normal_normal_groups"
    groups = 5

    @staticmethod
    def model(group: Tensor, y: Tensor, mask: Mask = True) -> None:
        with pyro.plate("groups", NormalNormalGroups.groups):
            theta = pyro.sample("theta", dist.Normal(y.new_tensor(-1.0), 2.0))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(theta[group], 0.8), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        groups = NormalNormalGroups.groups
        group = torch.randint(groups - 1, (23,), generator=generator)
        theta = 2.0 * normals(generator, groups) - 1.0
        return group, theta[group] + 0.8 * normals(generator, 23)

    @staticmethod
    def prior(group: Tensor, y: Tensor) -> Marginals:
        return {"theta": dist.Normal(y.new_full((NormalNormalGroups.groups,), -1.0), 2.0)}

    @staticmethod
    def posterior(group: Tensor, y: Tensor) -> Marginals:
        counts = torch.bincount(group, minlength=NormalNormalGroups.groups)
        sums = torch.bincount(group, y, minlength=NormalNormalGroups.groups)
        precision = 1 / 2.0**2 + counts.to(y.dtype) / 0.8**2
        mean = (-1.0 / 2.0**2 + sums / 0.8**2) / precision
        return {"theta": dist.Normal(mean, precision.rsqrt())}

    @staticmethod
    def log_evidence(group: Tensor, y: Tensor) -> Tensor:
        same_group = (group[:, None] == group).to(y.dtype)
        covariance = 0.8**2 * torch.eye(len(y), dtype=y.dtype) + 2.0**2 * same_group
        return mvn_log_prob(y, torch.full_like(y, -1.0), covariance)


class MultivariateNormalMean(Case):
    """The mean of a multivariate Normal with known covariance: mu ~ N(m0, S0), y ~ N(mu, R)."""

    name = "multivariate_normal_mean"

    @staticmethod
    def model(m0: Tensor, S0: Tensor, R: Tensor, y: Tensor, mask: Mask = True) -> None:
        mu = pyro.sample("mu", dist.MultivariateNormal(m0, covariance_matrix=S0))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.MultivariateNormal(mu, covariance_matrix=R), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        m0, A, B = normals(generator, 3), normals(generator, 3, 5), normals(generator, 3, 5)
        S0, R = A @ A.T, B @ B.T / 2
        mu = m0 + torch.linalg.cholesky(S0) @ normals(generator, 3)
        return m0, S0, R, mu + normals(generator, 12, 3) @ torch.linalg.cholesky(R).T

    @staticmethod
    def prior(m0: Tensor, S0: Tensor, R: Tensor, y: Tensor) -> Marginals:
        return {"mu": dist.MultivariateNormal(m0, covariance_matrix=S0)}

    @staticmethod
    def posterior(m0: Tensor, S0: Tensor, R: Tensor, y: Tensor) -> Marginals:
        precision = torch.linalg.inv(S0) + len(y) * torch.linalg.inv(R)
        shift = torch.linalg.solve(S0, m0) + torch.linalg.solve(R, y.sum(0))
        return {"mu": _from_information(shift, precision)}

    @staticmethod
    def log_evidence(m0: Tensor, S0: Tensor, R: Tensor, y: Tensor) -> Tensor:
        # The N vectors stacked have the covariance  eye(N) (x) R + ones(N, N) (x) S0.
        eye, ones = torch.eye(len(y), dtype=y.dtype), torch.ones(len(y), len(y), dtype=y.dtype)
        covariance = torch.kron(eye, R) + torch.kron(ones, S0)
        return mvn_log_prob(y.reshape(-1), m0.repeat(len(y)), covariance)


class LinearRegression(Case):
    """Linear regression with known noise: w ~ N(0, 2^2 I), y ~ N(X w, 0.6^2)."""

    name = "linear_regression"

    @staticmethod
    def model(X: Tensor, y: Tensor, mask: Mask = True) -> None:
        w = pyro.sample("w", dist.Normal(X.new_zeros(X.shape[1]), 2.0).to_event(1))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(X @ w, 0.6), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        X = normals(generator, 30, 4)
        return X, X @ normals(generator, 4) + 0.6 * normals(generator, 30)

    @staticmethod
    def prior(X: Tensor, y: Tensor) -> Marginals:
        covariance = 2.0**2 * torch.eye(X.shape[1], dtype=X.dtype)
        return {"w": dist.MultivariateNormal(X.new_zeros(X.shape[1]), covariance)}

    @staticmethod
    def posterior(X: Tensor, y: Tensor) -> Marginals:
        precision = torch.eye(X.shape[1], dtype=X.dtype) / 2.0**2 + X.T @ X / 0.6**2
        return {"w": _from_information(X.T @ y / 0.6**2, precision)}

    @staticmethod
    def log_evidence(X: Tensor, y: Tensor) -> Tensor:
        covariance = 0.6**2 * torch.eye(len(y), dtype=X.dtype) + 2.0**2 * X @ X.T
        return mvn_log_prob(y, torch.zeros_like(y), covariance)


def _from_information(shift: Tensor, precision: Tensor) -> dist.MultivariateNormal:
    """The Gaussian with the given precision S and S m."""
    covariance = torch.linalg.inv(precision)
    mean = torch.linalg.solve(precision, shift)
    return dist.MultivariateNormal(mean, covariance_matrix=(covariance + covariance.mT) / 2)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Textbook cases of a Gaussian and the scale of its covariance: the posterior is a joint law.

The evidence is a Student t density of the data, computed apart from the posterior's normaliser.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from tests.oracles.textbook_case import (
    Case,
    JointCase,
    Marginals,
    Mask,
    Values,
    normals,
    student_log_prob,
)
from tests.oracles.textbook_laws import NormalGammaLaw, NormalWishartLaw


class NormalGammaMean(JointCase):
    """mu and tau of a Normal: tau ~ Gamma(2, 3), mu ~ N(1, 1 / (0.5 tau)), y ~ N(mu, 1 / tau)."""

    name = "normal_gamma_mean"

    @staticmethod
    def model(y: Tensor, mask: Mask = True) -> None:
        tau = pyro.sample("tau", dist.Gamma(y.new_tensor(2.0), 3.0))
        mu = pyro.sample("mu", dist.Normal(1.0, (0.5 * tau).rsqrt()))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (2.5 + 0.8 * normals(generator, 11),)

    @staticmethod
    def prior_law(y: Tensor) -> NormalGammaLaw:
        return NormalGammaLaw(y.new_ones(1), y.new_full((1, 1), 0.5), y.new_tensor(2.0), 3.0)

    @staticmethod
    def posterior_law(y: Tensor) -> NormalGammaLaw:
        return NormalGammaMean.prior_law(y).given(torch.ones_like(y)[:, None], y)

    @staticmethod
    def marginals(law: NormalGammaLaw) -> Marginals:
        return {"mu": law.element(0), "tau": law.precision}

    @staticmethod
    def log_density(law: NormalGammaLaw, values: Values) -> Tensor:
        return law.log_prob(values["mu"][None], values["tau"])

    @staticmethod
    def log_evidence(y: Tensor) -> Tensor:
        scale = 3.0 / 2.0 * (torch.eye(len(y), dtype=y.dtype) + 1 / 0.5)
        return student_log_prob(y, y.new_tensor(4.0), torch.ones_like(y), scale)


class NormalGammaRegression(JointCase):
    """Weights with the noise's precision: w ~ N(m0, (tau P0)^-1), y ~ N(X w, 1 / tau)."""

    name = "normal_gamma_regression"

    @staticmethod
    def model(m0: Tensor, P0: Tensor, X: Tensor, y: Tensor, mask: Mask = True) -> None:
        tau = pyro.sample("tau", dist.Gamma(y.new_tensor(2.5), 1.5))
        w = pyro.sample("w", dist.MultivariateNormal(m0, precision_matrix=tau * P0))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        m0, A, X = normals(generator, 3), normals(generator, 3, 5), normals(generator, 15, 3)
        return m0, A @ A.T, X, X @ normals(generator, 3) + 0.6 * normals(generator, 15)

    @staticmethod
    def prior_law(m0: Tensor, P0: Tensor, X: Tensor, y: Tensor) -> NormalGammaLaw:
        return NormalGammaLaw(m0, P0, y.new_tensor(2.5), 1.5)

    @staticmethod
    def posterior_law(m0: Tensor, P0: Tensor, X: Tensor, y: Tensor) -> NormalGammaLaw:
        return NormalGammaRegression.prior_law(m0, P0, X, y).given(X, y)

    @staticmethod
    def marginals(law: NormalGammaLaw) -> Marginals:
        return {"w": law.vector(slice(None)), "tau": law.precision}

    @staticmethod
    def log_density(law: NormalGammaLaw, values: Values) -> Tensor:
        return law.log_prob(values["w"], values["tau"])

    @staticmethod
    def log_evidence(m0: Tensor, P0: Tensor, X: Tensor, y: Tensor) -> Tensor:
        unit = torch.eye(len(y), dtype=y.dtype) + X @ torch.linalg.inv(P0) @ X.T
        return student_log_prob(y, y.new_tensor(5.0), X @ m0, 1.5 / 2.5 * unit)


class NormalGammaEvent(NormalGammaRegression):
    """The same with independent weights, declared as an event: w ~ N(m0, 1 / (tau P0_dd))."""

    name = "normal_gamma_event"

    @staticmethod
    def model(m0: Tensor, P0: Tensor, X: Tensor, y: Tensor, mask: Mask = True) -> None:
        tau = pyro.sample("tau", dist.Gamma(y.new_tensor(2.5), 1.5))
        scale = (tau * P0.diagonal()).rsqrt()
        w = pyro.sample("w", dist.Normal(m0, scale).to_event(1))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        m0, P0, X, y = NormalGammaRegression.data(generator)
        return m0, P0.diagonal().diag(), X, y


class NormalGammaPlate(NormalGammaEvent):
    """The same with the weights in a plate, whose elements the likelihood couples."""

    name = "normal_gamma_plate"

    @staticmethod
    def model(m0: Tensor, P0: Tensor, X: Tensor, y: Tensor, mask: Mask = True) -> None:
        tau = pyro.sample("tau", dist.Gamma(y.new_tensor(2.5), 1.5))
        with pyro.plate("groups", len(m0)):
            w = pyro.sample("w", dist.Normal(m0, (tau * P0.diagonal()) ** -0.5))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(X @ w, tau**-0.5), obs=y)


class NormalGammaCoupled(JointCase):
    """An intercept and slopes, both scaled by tau: one law of four numbers and tau."""

    name = "normal_gamma_coupled"

    @staticmethod
    def model(X: Tensor, y: Tensor, mask: Mask = True) -> None:
        tau = pyro.sample("tau", dist.Gamma(y.new_tensor(2.0), 1.0))
        a = pyro.sample("a", dist.Normal(0.5, 2.0 * tau.rsqrt()))
        w = pyro.sample("w", dist.Normal(X.new_zeros(3), tau.rsqrt()).to_event(1))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(a + X @ w, tau.rsqrt()), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        X = normals(generator, 14, 3)
        return X, 1.0 + X @ normals(generator, 3) + 0.6 * normals(generator, 14)

    @staticmethod
    def prior_law(X: Tensor, y: Tensor) -> NormalGammaLaw:
        loc, precision = y.new_tensor([0.5, 0.0, 0.0, 0.0]), y.new_tensor([0.25, 1.0, 1.0, 1.0])
        return NormalGammaLaw(loc, precision.diag(), y.new_tensor(2.0), 1.0)

    @staticmethod
    def posterior_law(X: Tensor, y: Tensor) -> NormalGammaLaw:
        design = torch.cat([torch.ones_like(y)[:, None], X], -1)
        return NormalGammaCoupled.prior_law(X, y).given(design, y)

    @staticmethod
    def marginals(law: NormalGammaLaw) -> Marginals:
        return {"a": law.element(0), "w": law.vector(slice(1, 4)), "tau": law.precision}

    @staticmethod
    def log_density(law: NormalGammaLaw, values: Values) -> Tensor:
        return law.log_prob(torch.cat([values["a"][None], values["w"]]), values["tau"])

    @staticmethod
    def log_evidence(X: Tensor, y: Tensor) -> Tensor:
        unit = torch.eye(len(y), dtype=y.dtype) + 4.0 + X @ X.T
        return student_log_prob(y, y.new_tensor(4.0), torch.full_like(y, 0.5), unit / 2.0)


class NormalGammaGroups(JointCase):
    """A mean and a precision for each group, data by group; groups unequal, the last empty."""

    name = "normal_gamma_groups"
    groups = 4

    @staticmethod
    def model(group: Tensor, y: Tensor, mask: Mask = True) -> None:
        with pyro.plate("groups", NormalGammaGroups.groups):
            tau = pyro.sample("tau", dist.Gamma(y.new_tensor(2.0), 1.0))
            mu = pyro.sample("mu", dist.Normal(0.5, (0.3 * tau) ** -0.5))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(mu[group], tau[group].rsqrt()), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        group = torch.randint(NormalGammaGroups.groups - 1, (17,), generator=generator)
        means = 2.0 * normals(generator, NormalGammaGroups.groups)
        return group, means[group] + 0.8 * normals(generator, 17)

    @staticmethod
    def prior_law(group: Tensor, y: Tensor) -> NormalGammaLaw:
        groups = (NormalGammaGroups.groups,)
        loc, precision = y.new_full((*groups, 1), 0.5), y.new_full((*groups, 1, 1), 0.3)
        return NormalGammaLaw(loc, precision, y.new_full(groups, 2.0), 1.0)

    @staticmethod
    def posterior_law(group: Tensor, y: Tensor) -> NormalGammaLaw:
        # The design of each group has a row of zeros, and a datum of zero, for the others' data.
        own = (group == torch.arange(NormalGammaGroups.groups)[:, None]).to(y.dtype)
        law = NormalGammaGroups.prior_law(group, y).given(own[..., None], own * y)
        surplus = (len(y) - own.sum(-1)) / 2
        return NormalGammaLaw(law.loc, law.matrix, law.shape - surplus, law.rate)

    @staticmethod
    def marginals(law: NormalGammaLaw) -> Marginals:
        return {"mu": law.element(0), "tau": law.precision}

    @staticmethod
    def log_density(law: NormalGammaLaw, values: Values) -> Tensor:
        return law.log_prob(values["mu"][:, None], values["tau"]).sum()

    @staticmethod
    def log_evidence(group: Tensor, y: Tensor) -> Tensor:
        total = y.new_zeros(())
        for g in group.unique():
            own = y[group == g]
            unit = torch.eye(len(own), dtype=y.dtype) + 1 / 0.3
            loc = torch.full_like(own, 0.5)
            total = total + student_log_prob(own, y.new_tensor(4.0), loc, unit / 2.0)
        return total


class NormalInverseGammaRegression(JointCase):
    """Weights with the noise's variance: w ~ N(0, s2 V0), y ~ N(X w, s2)."""

    name = "normal_inverse_gamma_regression"

    @staticmethod
    def model(V0: Tensor, X: Tensor, y: Tensor, mask: Mask = True) -> None:
        s2 = pyro.sample("s2", dist.InverseGamma(y.new_tensor(2.5), y.new_tensor(1.5)))
        loc = X.new_zeros(X.shape[1])
        w = pyro.sample("w", dist.MultivariateNormal(loc, covariance_matrix=s2 * V0))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(X @ w, s2.sqrt()), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        A, X = normals(generator, 3, 5), normals(generator, 15, 3)
        return A @ A.T, X, X @ normals(generator, 3) + 0.6 * normals(generator, 15)

    @staticmethod
    def prior_law(V0: Tensor, X: Tensor, y: Tensor) -> NormalGammaLaw:
        P0 = torch.linalg.inv(V0)
        return NormalGammaLaw(y.new_zeros(X.shape[1]), P0, y.new_tensor(2.5), 1.5)

    @staticmethod
    def posterior_law(V0: Tensor, X: Tensor, y: Tensor) -> NormalGammaLaw:
        return NormalInverseGammaRegression.prior_law(V0, X, y).given(X, y)

    @staticmethod
    def marginals(law: NormalGammaLaw) -> Marginals:
        return {"w": law.vector(slice(None)), "s2": law.variance}

    @staticmethod
    def log_density(law: NormalGammaLaw, values: Values) -> Tensor:
        tau = 1 / values["s2"]
        # |d tau / d s2| = tau^2
        return law.log_prob(values["w"], tau) + 2 * tau.log()

    @staticmethod
    def log_evidence(V0: Tensor, X: Tensor, y: Tensor) -> Tensor:
        unit = torch.eye(len(y), dtype=y.dtype) + X @ V0 @ X.T
        return student_log_prob(y, y.new_tensor(5.0), torch.zeros_like(y), 1.5 / 2.5 * unit)


class NormalWishartMean(JointCase):
    """A Normal vector: L ~ Wishart(df, V), mu ~ N(m0, (kappa L)^-1), y ~ N(mu, L^-1)."""

    name = "normal_wishart_mean"
    kappa = 0.4

    @staticmethod
    def model(df: Tensor, V: Tensor, m0: Tensor, y: Tensor, mask: Mask = True) -> None:
        kappa = NormalWishartMean.kappa
        L = pyro.sample("L", dist.Wishart(df, covariance_matrix=V))
        mu = pyro.sample("mu", dist.MultivariateNormal(m0, precision_matrix=kappa * L))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.MultivariateNormal(mu, precision_matrix=L), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        A, m0 = normals(generator, 3, 5), normals(generator, 3)
        df = torch.tensor(4.5, dtype=torch.float64)
        return df, A @ A.T / 5, m0, 1 + normals(generator, 14, 3) @ normals(generator, 3, 3)

    @staticmethod
    def prior_law(df: Tensor, V: Tensor, m0: Tensor, y: Tensor) -> NormalWishartLaw:
        return NormalWishartLaw(m0, NormalWishartMean.kappa, df, torch.linalg.inv(V))

    @staticmethod
    def posterior_law(df: Tensor, V: Tensor, m0: Tensor, y: Tensor) -> NormalWishartLaw:
        return NormalWishartMean.prior_law(df, V, m0, y).given(y)

    @staticmethod
    def marginals(law: NormalWishartLaw) -> Marginals:
        return {"mu": law.vector, "L": law.precision}

    @staticmethod
    def log_density(law: NormalWishartLaw, values: Values) -> Tensor:
        return law.log_prob(values["mu"], values["L"])

    @staticmethod
    def log_evidence(df: Tensor, V: Tensor, m0: Tensor, y: Tensor) -> Tensor:
        """One datum after the other: each is Student t given those before it."""
        law, total = NormalWishartMean.prior_law(df, V, m0, y), y.new_zeros(())
        for row in y:
            t = law.vector  # mu's own law; that of the next datum has (kappa + 1) times its scale
            scale = (law.kappa + 1) * t.scale_tril @ t.scale_tril.mT
            total = total + student_log_prob(row, t.df, t.loc, scale)
            law = law.given(row[None])
        return total


#: Without ``NormalGammaPlate``: a plate's elements start apart, so no start fits its posterior.
JOINT: tuple[Case, ...] = (
    NormalGammaMean(),
    NormalGammaRegression(),
    NormalGammaEvent(),
    NormalGammaCoupled(),
    NormalGammaGroups(),
    NormalInverseGammaRegression(),
    NormalWishartMean(),
)

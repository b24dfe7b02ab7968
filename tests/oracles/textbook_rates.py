# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Textbook cases whose latent is a rate, a precision or a probability.

All have the same evidence: the base measures of the data plus the growth of the log-partition
``A`` from prior to posterior.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from tests.oracles.textbook_case import Case, Marginals, Mask, normals


def gamma_log_partition(q: dist.Gamma) -> Tensor:
    """The log of the integral of x^(a-1) exp(-b x)."""
    return q.concentration.lgamma() - q.concentration * q.rate.log()


def dirichlet_log_partition(concentration: Tensor) -> Tensor:
    """The log of the multivariate Beta function."""
    return concentration.lgamma().sum() - concentration.sum().lgamma()


def beta_log_partition(q: dist.Beta) -> Tensor:
    """The log of the Beta function."""
    return dirichlet_log_partition(torch.stack([q.concentration1, q.concentration0]))


class NormalPrecision(Case):
    """The precision of a Normal with known mean: tau ~ Gamma(2, 3), y ~ N(0.7, 1/tau)."""

    name = "normal_precision"

    @staticmethod
    def model(y: Tensor, mask: Mask = True) -> None:
        tau = pyro.sample("tau", dist.Gamma(y.new_tensor(2.0), 3.0))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(0.7, tau.rsqrt()), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (0.7 + 0.5 * normals(generator, 13),)

    @staticmethod
    def prior(y: Tensor) -> Marginals:
        return {"tau": dist.Gamma(y.new_tensor(2.0), 3.0)}

    @staticmethod
    def posterior(y: Tensor) -> Marginals:
        return {"tau": dist.Gamma(2.0 + len(y) / 2, 3.0 + (y - 0.7).square().sum() / 2)}

    @staticmethod
    def log_evidence(y: Tensor) -> Tensor:
        base = -len(y) / 2 * math.log(2 * math.pi)
        prior, posterior = NormalPrecision.prior(y)["tau"], NormalPrecision.posterior(y)["tau"]
        return base + gamma_log_partition(posterior) - gamma_log_partition(prior)


class BetaBernoulli(Case):
    """A coin: p ~ Beta(2, 3.5), y ~ Bernoulli(p)."""

    name = "beta_bernoulli"

    @staticmethod
    def model(y: Tensor, mask: Mask = True) -> None:
        p = pyro.sample("p", dist.Beta(y.new_tensor(2.0), 3.5))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.bernoulli(torch.full((17,), 0.7, dtype=torch.float64), generator=generator),)

    @staticmethod
    def prior(y: Tensor) -> Marginals:
        return {"p": dist.Beta(y.new_tensor(2.0), 3.5)}

    @staticmethod
    def posterior(y: Tensor) -> Marginals:
        return {"p": dist.Beta(2.0 + y.sum(), 3.5 + (1 - y).sum())}

    @staticmethod
    def log_evidence(y: Tensor) -> Tensor:
        prior, posterior = BetaBernoulli.prior(y)["p"], BetaBernoulli.posterior(y)["p"]
        return beta_log_partition(posterior) - beta_log_partition(prior)


class BetaBinomial(Case):
    """Coins thrown many times: p ~ Beta(2, 3.5), y_n ~ Binomial(total_n, p)."""

    name = "beta_binomial"

    @staticmethod
    def model(total: Tensor, y: Tensor, mask: Mask = True) -> None:
        p = pyro.sample("p", dist.Beta(y.new_tensor(2.0), 3.5))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Binomial(total, p), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        total = torch.randint(1, 20, (15,), generator=generator).double()
        return total, torch.binomial(total, torch.full_like(total, 0.3), generator=generator)

    @staticmethod
    def prior(total: Tensor, y: Tensor) -> Marginals:
        return {"p": dist.Beta(y.new_tensor(2.0), 3.5)}

    @staticmethod
    def posterior(total: Tensor, y: Tensor) -> Marginals:
        return {"p": dist.Beta(2.0 + y.sum(), 3.5 + (total - y).sum())}

    @staticmethod
    def log_evidence(total: Tensor, y: Tensor) -> Tensor:
        choose = (total + 1).lgamma() - (y + 1).lgamma() - (total - y + 1).lgamma()
        prior, posterior = BetaBinomial.prior(total, y)["p"], BetaBinomial.posterior(total, y)["p"]
        return choose.sum() + beta_log_partition(posterior) - beta_log_partition(prior)


class DirichletCategorical(Case):
    """A die: theta ~ Dirichlet(concentration), y ~ Categorical(theta)."""

    name = "dirichlet_categorical"

    @staticmethod
    def model(concentration: Tensor, y: Tensor, mask: Mask = True) -> None:
        theta = pyro.sample("theta", dist.Dirichlet(concentration))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Categorical(theta), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        concentration = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)
        # No datum has the last category.
        return concentration, torch.randint(3, (19,), generator=generator)

    @staticmethod
    def prior(concentration: Tensor, y: Tensor) -> Marginals:
        return {"theta": dist.Dirichlet(concentration)}

    @staticmethod
    def posterior(concentration: Tensor, y: Tensor) -> Marginals:
        counts = torch.bincount(y, minlength=len(concentration))
        return {"theta": dist.Dirichlet(concentration + counts)}

    @staticmethod
    def log_evidence(concentration: Tensor, y: Tensor) -> Tensor:
        posterior = DirichletCategorical.posterior(concentration, y)["theta"].concentration
        return dirichlet_log_partition(posterior) - dirichlet_log_partition(concentration)


class GammaPoisson(Case):
    """Counts under known exposures: rate ~ Gamma(3, 2), y_n ~ Poisson(exposure_n * rate)."""

    name = "gamma_poisson"

    @staticmethod
    def model(exposure: Tensor, y: Tensor, mask: Mask = True) -> None:
        rate = pyro.sample("rate", dist.Gamma(y.new_tensor(3.0), 2.0))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Poisson(exposure * rate), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        exposure = 0.5 + torch.rand(20, generator=generator, dtype=torch.float64)
        return exposure, torch.poisson(1.7 * exposure, generator=generator)

    @staticmethod
    def prior(exposure: Tensor, y: Tensor) -> Marginals:
        return {"rate": dist.Gamma(y.new_tensor(3.0), 2.0)}

    @staticmethod
    def posterior(exposure: Tensor, y: Tensor) -> Marginals:
        return {"rate": dist.Gamma(3.0 + y.sum(), 2.0 + exposure.sum())}

    @staticmethod
    def log_evidence(exposure: Tensor, y: Tensor) -> Tensor:
        base = (y * exposure.log() - (y + 1).lgamma()).sum()
        prior = GammaPoisson.prior(exposure, y)["rate"]
        posterior = GammaPoisson.posterior(exposure, y)["rate"]
        return base + gamma_log_partition(posterior) - gamma_log_partition(prior)


class GammaExponential(Case):
    """Waiting times: rate ~ Gamma(1.5, 2), y ~ Exponential(rate)."""

    name = "gamma_exponential"

    @staticmethod
    def model(y: Tensor, mask: Mask = True) -> None:
        rate = pyro.sample("rate", dist.Gamma(y.new_tensor(1.5), 2.0))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Exponential(rate), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (-torch.rand(14, generator=generator, dtype=torch.float64).log() / 0.9,)

    @staticmethod
    def prior(y: Tensor) -> Marginals:
        return {"rate": dist.Gamma(y.new_tensor(1.5), 2.0)}

    @staticmethod
    def posterior(y: Tensor) -> Marginals:
        return {"rate": dist.Gamma(1.5 + len(y), 2.0 + y.sum())}

    @staticmethod
    def log_evidence(y: Tensor) -> Tensor:
        prior, posterior = GammaExponential.prior(y)["rate"], GammaExponential.posterior(y)["rate"]
        return gamma_log_partition(posterior) - gamma_log_partition(prior)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Textbook cases whose data are counts of many categories, or of failures."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from tests.oracles.textbook_case import Case, Marginals, Mask
from tests.oracles.textbook_rates import beta_log_partition, dirichlet_log_partition


class DirichletMultinomial(Case):
    """Dice thrown seven times: theta ~ Dirichlet(concentration), y_n ~ Multinomial(7, theta)."""

    name = "dirichlet_multinomial"

    @staticmethod
    def model(concentration: Tensor, y: Tensor, mask: Mask = True) -> None:
        theta = pyro.sample("theta", dist.Dirichlet(concentration))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Multinomial(7, theta), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        concentration = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)
        throws = torch.randint(3, (9, 7), generator=generator)  # never the last category
        return concentration, torch.nn.functional.one_hot(throws, 4).sum(1).double()

    @staticmethod
    def prior(concentration: Tensor, y: Tensor) -> Marginals:
        return {"theta": dist.Dirichlet(concentration)}

    @staticmethod
    def posterior(concentration: Tensor, y: Tensor) -> Marginals:
        return {"theta": dist.Dirichlet(concentration + y.sum(0))}

    @staticmethod
    def log_evidence(concentration: Tensor, y: Tensor) -> Tensor:
        arrangements = (y.sum(-1) + 1).lgamma() - (y + 1).lgamma().sum(-1)
        posterior = concentration + y.sum(0)
        growth = dirichlet_log_partition(posterior) - dirichlet_log_partition(concentration)
        return arrangements.sum() + growth


class BetaNegativeBinomial(Case):
    """Successes before the third failure: p ~ Beta(2, 3.5), y ~ NegativeBinomial(3, p)."""

    name = "beta_negative_binomial"

    @staticmethod
    def model(y: Tensor, mask: Mask = True) -> None:
        p = pyro.sample("p", dist.Beta(y.new_tensor(2.0), 3.5))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.NegativeBinomial(3, probs=p), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.poisson(torch.full((13,), 2.0), generator=generator).double(),)

    @staticmethod
    def prior(y: Tensor) -> Marginals:
        return {"p": dist.Beta(y.new_tensor(2.0), 3.5)}

    @staticmethod
    def posterior(y: Tensor) -> Marginals:
        return {"p": dist.Beta(2.0 + y.sum(), y.new_tensor(3.5 + 3 * len(y)))}

    @staticmethod
    def log_evidence(y: Tensor) -> Tensor:
        arrangements = ((y + 2) * (y + 1) / 2).log()  # C(y + 2, y)
        prior = BetaNegativeBinomial.prior(y)["p"]
        posterior = BetaNegativeBinomial.posterior(y)["p"]
        return arrangements.sum() + beta_log_partition(posterior) - beta_log_partition(prior)


class BetaGeometric(Case):
    """Failures before the first success: p ~ Beta(2, 3.5), y ~ Geometric(p)."""

    name = "beta_geometric"

    @staticmethod
    def model(y: Tensor, mask: Mask = True) -> None:
        p = pyro.sample("p", dist.Beta(y.new_tensor(2.0), 3.5))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Geometric(probs=p), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.poisson(torch.full((11,), 1.2), generator=generator).double(),)

    @staticmethod
    def prior(y: Tensor) -> Marginals:
        return {"p": dist.Beta(y.new_tensor(2.0), 3.5)}

    @staticmethod
    def posterior(y: Tensor) -> Marginals:
        return {"p": dist.Beta(y.new_tensor(2.0 + len(y)), 3.5 + y.sum())}

    @staticmethod
    def log_evidence(y: Tensor) -> Tensor:
        prior, posterior = BetaGeometric.prior(y)["p"], BetaGeometric.posterior(y)["p"]
        return beta_log_partition(posterior) - beta_log_partition(prior)

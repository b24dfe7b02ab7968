# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""GPyTorch's natural gradient descent (arXiv 1803.09151), its kernel and inducing points held."""

from typing import Any

import gpytorch
import torch
from gpytorch.likelihoods.likelihood import _OneDimensionalLikelihood
from gpytorch.variational import NaturalVariationalDistribution, VariationalStrategy

from .stepping import held

RATES = (1.0, 0.3, 0.1)


class Logistic(_OneDimensionalLikelihood):
    """Its own Bernoulli has a probit link."""

    def forward(self, f: torch.Tensor, *_: Any, **__: Any) -> torch.distributions.Bernoulli:
        """y given f."""
        return torch.distributions.Bernoulli(logits=f)


class SparseGP(gpytorch.models.ApproximateGP):
    """Whitened, with the kernel of the problem."""

    def __init__(self, Z: torch.Tensor, given: dict[str, Any]) -> None:
        strategy = VariationalStrategy(
            self, Z, NaturalVariationalDistribution(len(Z)), learn_inducing_locations=False
        )
        strategy.jitter_val = given["kernel"]["jitter"]
        super().__init__(strategy)
        self.mean_module = gpytorch.means.ZeroMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        self.covar_module.outputscale = given["kernel"]["variance"]
        self.covar_module.base_kernel.lengthscale = given["kernel"]["length"]
        for parameter in [*self.covar_module.parameters()]:
            parameter.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        """The prior at x."""
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Every rate."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(given["threads"])
    return held(Steps, given, RATES)


class Steps:
    """A step on all data."""

    gradients = 1

    def __init__(self, given: dict[str, Any]) -> None:
        _, y, X, Z = (torch.from_numpy(a) for a in given["args"])
        self.X, self.y, self.Z, self.given = X, y, Z, given

    def start(self, rate: float, horizon: int, seed: int) -> None:
        """At the prior."""
        torch.manual_seed(seed)
        self.model, self.likelihood = SparseGP(self.Z, self.given), Logistic()
        self.model.train()
        self.bound = gpytorch.mlls.VariationalELBO(self.likelihood, self.model, len(self.y))
        self.optimiser = gpytorch.optim.NGD(
            self.model.variational_parameters(), num_data=len(self.y), lr=rate
        )

    def advance(self, count: int) -> None:
        """Step."""
        for _ in range(count):
            self.optimiser.zero_grad()
            loss = -self.bound(self.model(self.X), self.y)
            loss.backward()
            self.optimiser.step()

    def state(self) -> dict[str, Any]:
        """The whitened law."""
        with torch.no_grad():
            law = self.model.variational_strategy.variational_distribution
            scale = torch.linalg.cholesky(law.covariance_matrix)
            return {
                "sites": self.given["sites"],
                "loc": law.mean.numpy(),
                "scale": scale.numpy(),
            }

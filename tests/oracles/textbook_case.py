# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a textbook case is: a Pyro model, a generator of data, and the closed forms."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

Mask = Tensor | bool
Marginals = dict[str, dist.Distribution]
Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """A model with data of one dtype and everything that is known about it.

    :param model: the Pyro model; takes ``*args`` and ``mask=True``, the mask of its observed site.
    :param args: its arguments, the data last.
    :param prior: the prior of each latent site, which is the posterior when ``mask=False``.
    :param posterior: the exact posterior of each latent site.
    :param log_evidence: the exact ``log p(data)`` in nats, computed in float64.
    :param log_prior: the joint prior density at values of all sites, in nats.
    :param log_posterior: the joint posterior density at values of all sites, in nats.
    """

    model: Callable[..., None]
    args: tuple[Tensor, ...]
    prior: Marginals
    posterior: Marginals
    log_evidence: float
    log_prior: Callable[[Values], Tensor]
    log_posterior: Callable[[Values], Tensor]


class Case(ABC):
    """One textbook case; every method but ``make`` is static and reads like the textbook."""

    name: ClassVar[str]

    @staticmethod
    @abstractmethod
    def model(*args: Tensor, mask: Mask = True) -> None:
        """The model as a Pyro user would write it; its dtype follows the arguments."""

    @staticmethod
    @abstractmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the arguments of the model, in float64."""

    @staticmethod
    @abstractmethod
    def prior(*args: Tensor) -> Marginals:
        """The prior of each latent site."""

    @staticmethod
    @abstractmethod
    def posterior(*args: Tensor) -> Marginals:
        """The posterior of each latent site, in closed form."""

    @staticmethod
    @abstractmethod
    def log_evidence(*args: Tensor) -> Tensor:
        """The log evidence in closed form, in nats."""

    def log_prior(self, values: Values, *args: Tensor) -> Tensor:
        """The prior density at values of all sites."""
        return _product(self.prior(*args), values)

    def log_posterior(self, values: Values, *args: Tensor) -> Tensor:
        """The posterior density at values of all sites."""
        return _product(self.posterior(*args), values)

    def make(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Problem:
        """Draw data from the seed and round them to the dtype.

        The closed forms get the rounded data in float64, so that their answers belong to the very
        data of the problem and only their last rounding is in its dtype.
        """
        generator = torch.Generator().manual_seed(seed)
        args = tuple(_cast(x, dtype) for x in self.data(generator))
        exact = tuple(_cast(x, torch.float64) for x in args)
        return Problem(
            self.model,
            args,
            _cast_marginals(self.prior(*exact), dtype),
            _cast_marginals(self.posterior(*exact), dtype),
            float(self.log_evidence(*exact)),
            lambda values: self.log_prior(values, *exact),
            lambda values: self.log_posterior(values, *exact),
        )


class JointCase(Case):
    """A case whose sites are dependent: a joint law (``textbook_laws``), and marginals of it."""

    @staticmethod
    @abstractmethod
    def prior_law(*args: Tensor) -> Any:
        """The joint prior."""

    @staticmethod
    @abstractmethod
    def posterior_law(*args: Tensor) -> Any:
        """The joint posterior, in closed form."""

    @staticmethod
    @abstractmethod
    def marginals(law: Any) -> Marginals:
        """The marginal of each site."""

    @staticmethod
    @abstractmethod
    def log_density(law: Any, values: Values) -> Tensor:
        """The density of the sites' values."""

    def prior(self, *args: Tensor) -> Marginals:  # type: ignore[override]
        return self.marginals(self.prior_law(*args))

    def posterior(self, *args: Tensor) -> Marginals:  # type: ignore[override]
        return self.marginals(self.posterior_law(*args))

    def log_prior(self, values: Values, *args: Tensor) -> Tensor:
        return self.log_density(self.prior_law(*args), values)

    def log_posterior(self, values: Values, *args: Tensor) -> Tensor:
        return self.log_density(self.posterior_law(*args), values)


CONSTRUCTOR_ARGUMENTS = {
    dist.Normal: ("loc", "scale"),
    dist.MultivariateNormal: ("loc", "covariance_matrix"),
    dist.Gamma: ("concentration", "rate"),
    dist.Beta: ("concentration1", "concentration0"),
    dist.Dirichlet: ("concentration",),
    dist.InverseGamma: ("concentration", "rate"),
    dist.StudentT: ("df", "loc", "scale"),
    dist.MultivariateStudentT: ("df", "loc", "scale_tril"),
    dist.Wishart: ("df", "covariance_matrix"),
}


def _product(marginals: Marginals, values: Values) -> Tensor:
    return torch.stack([q.log_prob(values[site]).sum() for site, q in marginals.items()]).sum()


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Change the dtype of real data; leave group indices and categories as they are."""
    return x.to(dtype) if x.is_floating_point() else x


def _cast_marginals(marginals: Marginals, dtype: torch.dtype) -> Marginals:
    """Rebuild each distribution in the dtype, from the arguments of its own constructor."""
    return {
        site: type(q)(**{k: getattr(q, k).to(dtype) for k in CONSTRUCTOR_ARGUMENTS[type(q)]})
        for site, q in marginals.items()
    }


def normals(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw standard normals in float64."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def mvn_log_prob(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """The log density of a Gaussian with a dense covariance."""
    return dist.MultivariateNormal(mean, covariance_matrix=covariance).log_prob(x)


def student_log_prob(x: Tensor, df: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """The log density of a Student t vector; df / (df - 2) times the scale is its covariance."""
    return dist.MultivariateStudentT(df, mean, torch.linalg.cholesky(scale)).log_prob(x)

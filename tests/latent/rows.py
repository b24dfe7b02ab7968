# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Conjugated models, data for each, and the log evidence by a formula that the package lacks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor

K, P, D, N = 3, 5, 2, 7


@dataclass(frozen=True)
class Row:
    """A model and its evidence.

    :param evidence: log p(x) of each datum.
    """

    model: Callable[..., Any]
    data: tuple[Tensor, ...]
    evidence: Callable[..., Tensor]
    latents: tuple[str, ...]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


W = torch.tensor([0.2, 0.3, 0.5])
M, A, U = 2.0 * numbers(K), numbers(P, D, seed=1), numbers(P, seed=2)
AA, UU = numbers(K, P, D, seed=3), 2.0 * numbers(K, P, seed=4)
SD = 0.5 + numbers(P, seed=5).abs()
ROOT = torch.tril(numbers(P, P, seed=6), -1) + torch.diag(SD)
X = 2.0 * numbers(N, P, seed=7)
Y = 2.0 * numbers(N, seed=8)
COUNTS = torch.tensor([0.0, 3.0, 1.0, 7.0, 2.0, 0.0, 4.0])
PROPORTIONS = torch.sigmoid(Y)
CLASSES = torch.tensor([0, 2, 1, 1, 3, 0, 2])
TABLE = numbers(K, 4, seed=9).softmax(-1)
B = M.abs() + 0.5


def mixture(component: Callable[[Any], Any]) -> Callable[..., Any]:
    """Of three components, in a plate of the data."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(W))
            pyro.sample("x", component(k), obs=x)

    return model


def summed(log_prob: Callable[[int, Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """The evidence of a mixture by the densities of SciPy."""

    def evidence(x: Tensor) -> Tensor:
        each = [np.log(W[k].item()) + np.asarray(log_prob(k, x)) for k in range(K)]
        return torch.from_numpy(special.logsumexp(np.stack(each), axis=0))

    return evidence


def normal_evidence(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    found = stats.multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(x.numpy())
    return torch.from_numpy(np.atleast_1d(found))


def scores() -> Tensor:
    return pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))


def factor_analysis(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(scores() @ A.T + U, SD).to_event(1), obs=x)


def of_one_datum(x: Tensor) -> None:
    pyro.sample("x", dist.Normal(scores() @ A.T + U, SD).to_event(1), obs=x)


def probabilistic_pca(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(scores() @ A.T + U, 0.7).to_event(1), obs=x)


def linear_gaussian(x: Tensor) -> None:
    """Two latents of which one depends on the other, and noise with a full covariance."""
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(1.0, 2.0))
        b = pyro.sample("b", dist.Normal(0.5 * a - 1.0, 0.6))
        mean = a.unsqueeze(-1) * A[:, 0] + b.unsqueeze(-1) * A[:, 1] + U
        pyro.sample("x", dist.MultivariateNormal(mean, scale_tril=ROOT), obs=x)


def linear_gaussian_evidence(x: Tensor) -> Tensor:
    mean = torch.tensor([1.0, -0.5])
    cov = torch.tensor([[4.0, 2.0], [2.0, 1.0 + 0.36]])
    return normal_evidence(x, A @ mean + U, A @ cov @ A.T + ROOT @ ROOT.T)


BITS = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * D)
COUPLED = (numbers(len(BITS), seed=11) * 2).softmax(0)


def boltzmann(x: Tensor) -> None:
    """Binary vectors with any joint law, as a Boltzmann machine gives them."""
    with pyro.plate("data", len(x)):
        z = BITS[pyro.sample("k", dist.Categorical(COUPLED))]
        pyro.sample("x", dist.MultivariateNormal(z @ A.T + U, scale_tril=ROOT), obs=x)


def boltzmann_evidence(x: Tensor) -> Tensor:
    each = [
        COUPLED[k].log() + normal_evidence(x, A @ b + U, ROOT @ ROOT.T) for k, b in enumerate(BITS)
    ]
    return torch.stack(each).logsumexp(0)


def binary(x: Tensor) -> None:
    """Independent bits, one site."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor([0.3, 0.6])).to_event(1))
        pyro.sample("x", dist.Normal(z @ A.T + U, SD).to_event(1), obs=x)


def binary_evidence(x: Tensor) -> Tensor:
    p = torch.tensor([0.3, 0.6])
    each = [
        (b * p.log() + (1 - b) * torch.log1p(-p)).sum()
        + normal_evidence(x, A @ b + U, torch.diag(SD**2))
        for b in BITS
    ]
    return torch.stack(each).logsumexp(0)


CONCENTRATION = torch.tensor([0.5, 1.0, 2.0, 3.5])


def dirichlet_categorical(x: Tensor) -> None:
    z = pyro.sample("z", dist.Dirichlet(CONCENTRATION))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Categorical(z), obs=x)


def dirichlet_categorical_evidence(x: Tensor) -> Tensor:
    counts = torch.bincount(x, minlength=4)
    a = CONCENTRATION
    gain = torch.lgamma(a + counts) - torch.lgamma(a)
    return gain.sum() + torch.lgamma(a.sum()) - torch.lgamma(a.sum() + counts.sum())


BAGS = torch.tensor([[3.0, 1, 0, 2], [0, 0, 6, 0], [1, 2, 1, 2]])


def dirichlet_multinomial(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Dirichlet(CONCENTRATION))
        pyro.sample("x", dist.Multinomial(6, z), obs=x)


def beta_bernoulli(x: Tensor) -> None:
    z = pyro.sample("z", dist.Beta(2.0, 3.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Bernoulli(z), obs=x)


def beta_bernoulli_evidence(x: Tensor) -> Tensor:
    ones, n = x.sum().item(), len(x)
    return torch.tensor(special.betaln(2.0 + ones, 3.0 + n - ones) - special.betaln(2.0, 3.0))


TRIALS, SUCCESSES = torch.tensor([3.0, 5.0, 2.0]), torch.tensor([1.0, 4.0, 0.0])


def beta_binomial(x: Tensor) -> None:
    with pyro.plate("data", 3):
        z = pyro.sample("z", dist.Beta(2.0, 3.0))
        pyro.sample("x", dist.Binomial(TRIALS, z), obs=x)


def beta_binomial_evidence(x: Tensor) -> Tensor:
    return torch.from_numpy(stats.betabinom(TRIALS.numpy(), 2.0, 3.0).logpmf(x.numpy()))


def poisson_gamma(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(2.0, 3.0))
        pyro.sample("x", dist.Poisson(z), obs=x)


def normal_precision(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(2.0, 3.0))
        pyro.sample("x", dist.Normal(0.4, z.rsqrt()), obs=x)


def mixture_of_factor_analysers(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(W))
        mean = (AA[k] @ scores().unsqueeze(-1)).squeeze(-1) + UU[k]
        pyro.sample("x", dist.Normal(mean, SD).to_event(1), obs=x)


def mixture_of_factor_analysers_evidence(x: Tensor) -> Tensor:
    each = [
        W[k].log() + normal_evidence(x, UU[k], AA[k] @ AA[k].T + torch.diag(SD**2))
        for k in range(K)
    ]
    return torch.stack(each).logsumexp(0)


CENTRES = 2.0 * numbers(K, D, seed=12)


def hierarchical_mixture(x: Tensor) -> None:
    """A mixture in the space of the scores: the hierarchical mixture of Gaussians."""
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(W))
        z = pyro.sample("z", dist.MultivariateNormal(CENTRES[k], 0.5 * torch.eye(D)))
        pyro.sample("x", dist.Normal(z @ A.T + U, SD).to_event(1), obs=x)


def hierarchical_mixture_evidence(x: Tensor) -> Tensor:
    cov = 0.5 * A @ A.T + torch.diag(SD**2)
    each = [W[k].log() + normal_evidence(x, A @ CENTRES[k] + U, cov) for k in range(K)]
    return torch.stack(each).logsumexp(0)


def topics(x: Tensor) -> None:
    """One word of a document: its topic, given the document's proportions, has a posterior too."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Dirichlet(torch.tensor([0.5, 1.0, 2.0])))
        k = pyro.sample("k", dist.Categorical(z))
        pyro.sample("x", dist.Categorical(TABLE[k]), obs=x)


def topics_evidence(x: Tensor) -> Tensor:
    return (torch.tensor([0.5, 1.0, 2.0]) / 3.5 @ TABLE)[x].log()


def two_kinds(x: Tensor, y: Tensor) -> None:
    """Two observed sites of one latent, in plates of their own."""
    z = pyro.sample("z", dist.Gamma(2.0, 3.0))
    with pyro.plate("counts", len(x)):
        pyro.sample("x", dist.Poisson(z), obs=x)
    with pyro.plate("times", len(y)):
        pyro.sample("y", dist.Exponential(z), obs=y)


def two_kinds_evidence(x: Tensor, y: Tensor) -> Tensor:
    a, b = 2.0 + x.sum() + len(y), 3.0 + len(x) + y.sum()
    start = 2.0 * torch.tensor(3.0).log() - torch.lgamma(torch.tensor(2.0))
    return start + torch.lgamma(a) - a * b.log() - torch.lgamma(x + 1.0).sum()


MIXTURES: dict[str, Row] = {
    name: Row(mixture(component), (data,), summed(log_prob), ("k",))
    for name, component, data, log_prob in (
        (
            "Normal",
            lambda k: dist.Normal(M[k], B[k]),
            Y,
            lambda k, x: stats.norm(M[k], B[k]).logpdf(x),
        ),
        (
            "MultivariateNormal",
            lambda k: dist.MultivariateNormal(UU[k], scale_tril=ROOT),
            X,
            lambda k, x: normal_evidence(x, UU[k], ROOT @ ROOT.T),
        ),
        (
            "diagonal Normal",
            lambda k: dist.Normal(UU[k], SD).to_event(1),
            X,
            lambda k, x: normal_evidence(x, UU[k], torch.diag(SD**2)),
        ),
        (
            "Poisson",
            lambda k: dist.Poisson(B[k]),
            COUNTS,
            lambda k, x: stats.poisson(B[k]).logpmf(x),
        ),
        (
            "Gamma",
            lambda k: dist.Gamma(B[k], 2.0),
            Y.abs(),
            lambda k, x: stats.gamma(B[k], scale=0.5).logpdf(x),
        ),
        (
            "Beta",
            lambda k: dist.Beta(B[k], 2.0),
            PROPORTIONS,
            lambda k, x: stats.beta(B[k], 2.0).logpdf(x),
        ),
        (
            "Categorical",
            lambda k: dist.Categorical(TABLE[k]),
            CLASSES,
            lambda k, x: TABLE[k].log()[x],
        ),
        (
            "Exponential",
            lambda k: dist.Exponential(B[k]),
            Y.abs(),
            lambda k, x: stats.expon(scale=1.0 / B[k]).logpdf(x),
        ),
        (
            "von Mises",
            lambda k: dist.VonMises(M[k], B[k]),
            torch.tensor([-3.0, 0.1, 2.0, 3.1, -1.0]),
            lambda k, x: stats.vonmises(B[k], loc=M[k]).logpdf(x),
        ),
        (
            "Binomial",
            lambda k: dist.Binomial(9, PROPORTIONS[k]),
            COUNTS,
            lambda k, x: stats.binom(9, PROPORTIONS[k]).logpmf(x),
        ),
        (
            "Multinomial",
            lambda k: dist.Multinomial(6, TABLE[k]),
            BAGS,
            lambda k, x: stats.multinomial(6, TABLE[k].numpy()).logpmf(x.numpy()),
        ),
        (
            "Geometric",
            lambda k: dist.Geometric(W[k]),
            COUNTS,
            lambda k, x: stats.geom(W[k]).logpmf(x + 1),
        ),
        (
            "LogNormal",
            lambda k: dist.LogNormal(M[k], B[k]),
            Y.abs(),
            lambda k, x: stats.lognorm(B[k], scale=M[k].exp()).logpdf(x),
        ),
        (
            "Uniform",
            lambda k: dist.Uniform(-B[k], 2.0 * B[k] + 9.0 * (k == 2), validate_args=False),
            Y.abs(),
            lambda k, x: stats.uniform(-B[k], 3.0 * B[k] + 9.0 * (k == 2)).logpdf(x),
        ),
        # In no family of the package: its density, datum by datum.
        (
            "StudentT",
            lambda k: dist.StudentT(4.0, M[k], B[k]),
            Y,
            lambda k, x: stats.t(4.0, M[k], B[k]).logpdf(x),
        ),
    )
}

NEGATIVE_BINOMIAL = stats.nbinom(2.0, 0.75)
ROWS: dict[str, Row] = {
    "factor analysis": Row(
        factor_analysis, (X,), lambda x: normal_evidence(x, U, A @ A.T + torch.diag(SD**2)), ("z",)
    ),
    "factor analysis of one datum": Row(
        of_one_datum, (X,), lambda x: normal_evidence(x, U, A @ A.T + torch.diag(SD**2)), ("z",)
    ),
    "probabilistic PCA": Row(
        probabilistic_pca,
        (X,),
        lambda x: normal_evidence(x, U, A @ A.T + 0.49 * torch.eye(P)),
        ("z",),
    ),
    "linear Gaussian": Row(linear_gaussian, (X,), linear_gaussian_evidence, ("a", "b")),
    "Gaussian-Boltzmann": Row(boltzmann, (X,), boltzmann_evidence, ("k",)),
    "independent bits": Row(binary, (X,), binary_evidence, ("z",)),
    "Dirichlet-categorical": Row(
        dirichlet_categorical, (CLASSES,), dirichlet_categorical_evidence, ("z",)
    ),
    "Dirichlet-multinomial": Row(
        dirichlet_multinomial,
        (BAGS,),
        lambda x: torch.from_numpy(stats.dirichlet_multinomial(CONCENTRATION, 6).logpmf(x.numpy())),
        ("z",),
    ),
    "Beta-Bernoulli": Row(beta_bernoulli, ((Y > 0).double(),), beta_bernoulli_evidence, ("z",)),
    "Beta-binomial of a count each": Row(
        beta_binomial, (SUCCESSES,), beta_binomial_evidence, ("z",)
    ),
    "Poisson-gamma": Row(
        poisson_gamma,
        (COUNTS,),
        lambda x: torch.from_numpy(NEGATIVE_BINOMIAL.logpmf(x.numpy())),
        ("z",),
    ),
    "Normal-gamma": Row(
        normal_precision,
        (Y,),
        lambda x: torch.from_numpy(stats.t(4.0, 0.4, (3.0 / 2.0) ** 0.5).logpdf(x.numpy())),
        ("z",),
    ),
    "mixture of factor analysers": Row(
        mixture_of_factor_analysers, (X,), mixture_of_factor_analysers_evidence, ("k", "z")
    ),
    "hierarchical mixture": Row(
        hierarchical_mixture, (X,), hierarchical_mixture_evidence, ("k", "z")
    ),
    "topic and proportions": Row(topics, (CLASSES,), topics_evidence, ("k", "z")),
    "two observed sites": Row(two_kinds, (COUNTS, Y.abs()), two_kinds_evidence, ("z",)),
}
ALL = {**{f"mixture of {name}": row for name, row in MIXTURES.items()}, **ROWS}

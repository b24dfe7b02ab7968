# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Three models in plain Pyro code, with their data and the guide that SVI gets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide, AutoGuideList, AutoMultivariateNormal
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """A model, its data, and how SVI is run on it.

    :param groups: the latents that share one full-covariance Gaussian of SVI's guide, in the order
        in which the model samples them: the same ones that BLR holds together.
    :param family: q in words, SVI's and BLR's.
    :param svi_steps: about half a minute on a slow core.
    :param learning_rate: of Adam at the start; it decays to a hundredth of that. The best of 0.02,
        0.05, 0.1 and 0.3 in so many steps.
    :param labels: a name for each element of the latents that the picture shows.
    """

    title: str
    model: Callable[..., Any]
    args: tuple[Tensor, ...]
    groups: tuple[tuple[str, ...], ...]
    family: tuple[str, str]
    svi_steps: int
    learning_rate: float
    labels: dict[str, list[str]]

    def svi_guide(self) -> AutoGuide:
        """Pyro's own automatic guide whose family is the nearest to BLR's."""
        if len(self.groups) == 1:
            return AutoMultivariateNormal(self.model)
        guide = AutoGuideList(self.model)
        for group in self.groups:
            guide.append(AutoMultivariateNormal(poutine.block(self.model, expose=list(group))))
        return guide


def eight_schools_model(sigma, y):
    """Rubin (1981): the effect of coaching in eight schools, centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def linear_model(X, y):
    """Linear regression with an unknown noise precision."""
    tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    with pyro.plate("feature", X.shape[1]):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("patient", len(y)):
        pyro.sample("y", dist.Normal(b + X @ w, tau.rsqrt()), obs=y)


def logistic_model(X, y):
    """Logistic regression."""
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    with pyro.plate("feature", X.shape[1]):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("patient", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=b + X @ w), obs=y)


def eight_schools() -> Problem:
    """y and its standard error, from table 5.2 of Gelman et al., Bayesian Data Analysis."""
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    return Problem(
        "eight schools",
        eight_schools_model,
        (sigma, y),
        groups=(("tau",), ("mu", "theta")),
        family=("LogNormal x MultivariateNormal", "LogNormal x MultivariateNormal"),
        svi_steps=2000,
        learning_rate=0.3,
        labels={"tau": ["tau"], "mu": ["mu"], "theta": [f"school {c}" for c in "ABCDEFGH"]},
    )


def diabetes() -> Problem:
    """442 patients, 10 covariates; disease progression after a year."""
    data = load_diabetes()
    return Problem(
        "diabetes",
        linear_model,
        (standardised(data.data), standardised(data.target)),
        groups=(("tau",), ("b", "w")),
        family=("LogNormal x MultivariateNormal", "Gamma x MultivariateNormal"),
        svi_steps=2000,
        learning_rate=0.05,
        labels={"w": list(data.feature_names)},
    )


def breast_cancer() -> Problem:
    """569 tumours, 30 covariates; benign or malignant."""
    data = load_breast_cancer()
    return Problem(
        "breast cancer",
        logistic_model,
        (standardised(data.data), torch.as_tensor(data.target, dtype=torch.get_default_dtype())),
        groups=(("b", "w"),),
        family=("MultivariateNormal", "MultivariateNormal"),
        svi_steps=2000,
        learning_rate=0.05,
        labels={"w": list(data.feature_names)},
    )


def standardised(values: Any) -> Tensor:
    """Each column with mean 0 and variance 1."""
    tensor = torch.as_tensor(values, dtype=torch.get_default_dtype())
    return (tensor - tensor.mean(0)) / tensor.std(0, correction=0)


PROBLEMS = (eight_schools, diabetes, breast_cancer)

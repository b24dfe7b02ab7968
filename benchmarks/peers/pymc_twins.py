# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The models in PyMC, with the names, arguments and priors of those in Pyro.

PyMC's automatic transforms are Pyro's: logarithms of positive sites, logits of intervals.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt


def diabetes(X: Any, y: Any) -> None:
    """Linear regression with an unknown noise precision."""
    tau = pm.Gamma("tau", 1.0, 1.0)
    b = pm.Normal("b", 0.0, 10.0)
    w = pm.Normal("w", 0.0, 1.0, shape=X.shape[1])
    pm.Normal("y", b + pt.dot(X, w), tau=tau, observed=y)


def a1a(X: Any, y: Any, prior_precision: Any) -> None:
    """Logistic regression."""
    w = pm.Normal("w", np.zeros(X.shape[1]), prior_precision**-0.5)
    pm.Bernoulli("y", logit_p=pt.dot(X, w), observed=y)


def radon(log_radon: Any, county: Any, log_uppm: Any, floor_measure: Any, counties: int) -> None:
    """Radon by floor and uranium, with an intercept for each county."""
    sigma_alpha = pm.HalfNormal("sigma_alpha", 1.0)
    sigma_y = pm.HalfNormal("sigma_y", 1.0)
    mu_alpha = pm.Normal("mu_alpha", 0.0, 10.0)
    beta = pm.Normal("beta", 0.0, 10.0, shape=2)
    alpha = pm.Normal("alpha", mu_alpha, sigma_alpha, shape=counties)
    mean = alpha[county] + log_uppm * beta[0] + floor_measure * beta[1]
    pm.Normal("log_radon", mean, sigma_y, observed=log_radon)


def eight_schools(y: Any, sigma: Any) -> None:
    """Effects of coaching in eight schools."""
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    theta_trans = pm.Normal("theta_trans", 0.0, 1.0, shape=len(y))
    pm.Normal("y", theta_trans * tau + mu, sigma, observed=y)


def election88(y: Any, X: Any, groups: Any, sizes: Any) -> None:
    """Votes, with effects a to e of five groupings."""
    logits = pt.dot(X, pm.Normal("beta", 0.0, 100.0, shape=X.shape[1]))
    for name, group, size in zip("abcde", groups, sizes, strict=True):
        sigma = pm.Uniform(f"sigma_{name}", 0.0, 100.0)
        logits = logits + pm.Normal(name, 0.0, sigma, shape=size)[group]
    pm.Bernoulli("y", logit_p=logits, observed=y)


def counts(y: Any) -> None:
    """Log rates along a random walk."""
    x = pm.Flat("x", shape=len(y))
    pm.Potential("first", pm.logp(pm.Normal.dist(1.0, 1.0), x[0]))
    pm.Potential("move", pm.logp(pm.Normal.dist(x[:-1], 0.1), x[1:]).sum())
    pm.Poisson("y", pt.exp(x), observed=y)


def banana(A: Any, y: Any, X: Any, Z: Any) -> None:
    """Whitened values at inducing points."""
    v = pm.Normal("v", 0.0, 1.0, shape=A.shape[1])
    pm.Bernoulli("y", logit_p=pt.dot(A, v), observed=y)


#: By the name of the problem.
TWINS: dict[str, Callable[..., None]] = {
    "diabetes": diabetes,
    "a1a": a1a,
    "radon": radon,
    "eight_schools": eight_schools,
    "election88": election88,
    "counts": counts,
    "banana": banana,
}


def model_of(given: dict[str, Any]) -> Any:
    """The model of a problem."""
    with pm.Model() as model:
        TWINS[given["problem"]](*given["args"])
    return model


def start_of(given: dict[str, Any]) -> dict[Any, Any] | None:
    """Where every side starts, by PyMC's names; its default if None."""
    start = given["start"]
    return {name: np.array(value) for name, value in start.items()} if start else None

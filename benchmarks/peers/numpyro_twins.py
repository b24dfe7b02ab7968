# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The ten models in NumPyro, discrete latents summed out: names, arguments and priors are Pyro's.

``tests`` hold the two log joints to each other. Those of posteriordb are in ``numpyro_models``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro import sample

from .. import numpyro_models


def diabetes(X: Array, y: Array) -> None:
    """Linear regression with an unknown noise precision."""
    tau = sample("tau", dist.Gamma(1.0, 1.0))
    b = sample("b", dist.Normal(0.0, 10.0))
    with numpyro.plate("feature", X.shape[1]):
        w = sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("patient", len(y)):
        sample("y", dist.Normal(b + X @ w, tau**-0.5), obs=y)


def a1a(X: Array, y: Array, prior_precision: Array) -> None:
    """Logistic regression."""
    zero = jnp.zeros(X.shape[1])
    w = sample("w", dist.Normal(zero, prior_precision**-0.5).to_event(1))
    with numpyro.plate("data", len(y)):
        sample("y", dist.Bernoulli(logits=X @ w), obs=y)


def mixture(y: Array, K: int) -> None:
    """A mean and a precision for each class and each column."""
    theta = sample("theta", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("classes", K, dim=-2), numpyro.plate("columns", y.shape[1], dim=-1):
        mu = sample("mu", dist.Normal(0.0, 10.0))
        tau = sample("tau", dist.Gamma(1.0, 1.0))
    each = dist.Normal(mu, tau**-0.5).to_event(1)
    with numpyro.plate("data", len(y)):
        sample("y", dist.MixtureSameFamily(dist.Categorical(theta), each), obs=y)


def topics(doc: Array, words: Array, sizes: tuple[int, ...]) -> None:
    """Latent Dirichlet allocation, with the topics of the tokens summed out."""
    documents, _, K, V = sizes
    with numpyro.plate("documents", documents):
        theta = sample("theta", dist.Dirichlet(jnp.full(K, 0.5)))
    with numpyro.plate("topics", K):
        phi = sample("phi", dist.Dirichlet(jnp.full(V, 0.1)))
    numpyro.factor("w", jnp.log((theta @ phi)[doc, words]).sum())


def hidden_markov(y: Array, K: int) -> None:
    """Normal emissions; the paths are summed out by the forward recursion."""
    with numpyro.plate("from", K):
        rows = sample("rows", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("states", K):
        mu = sample("mu", dist.Normal(0.0, 10.0))
        tau = sample("tau", dist.Gamma(1.0, 1.0))
    seen = dist.Normal(mu, tau**-0.5).log_prob(jnp.asarray(y)[:, None])

    def step(carry: Any, own: Array) -> tuple[Any, None]:
        belief, total = carry
        ahead = (belief @ rows) * jnp.exp(own - own.max())
        size = ahead.sum()
        return (ahead / size, total + jnp.log(size) + own.max()), None

    begin = (jnp.full(K, 1 / K), 0.0)
    numpyro.factor("y", jax.lax.scan(step, begin, seen)[0][1])


def counts(y: Array) -> None:
    """Log rates along a random walk."""
    with numpyro.plate("times", len(y)):
        x = sample("x", dist.Normal(0.0, 1.0).mask(False))
    sample("first", dist.Normal(1.0, 1.0), obs=x[0])
    sample("move", dist.Normal(x[:-1], 0.1).to_event(1), obs=x[1:])
    sample("y", dist.Poisson(jnp.exp(x)).to_event(1), obs=y)


def banana(A: Array, y: Array, X: Array, Z: Array) -> None:
    """Whitened values at inducing points."""
    v = sample("v", dist.Normal(jnp.zeros(A.shape[1]), 1.0).to_event(1))
    with numpyro.plate("points", len(y)):
        sample("y", dist.Bernoulli(logits=A @ v), obs=y)


#: By the name of the problem.
TWINS: dict[str, Callable[..., Any]] = {
    "diabetes": diabetes,
    "a1a": a1a,
    "radon": numpyro_models.radon_hierarchical_intercept_centered,
    "eight_schools": numpyro_models.eight_schools_noncentered,
    "election88": numpyro_models.election88_full,
    "mixture": mixture,
    "topics": topics,
    "hidden_markov": hidden_markov,
    "counts": counts,
    "banana": banana,
}

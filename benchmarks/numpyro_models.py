# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The twenty models in NumPyro, with the names, arguments and priors of those in Pyro.

A twin is found by the name of its Pyro model; ``tests`` hold the two log joints to each other.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro import sample
from numpyro.distributions import constraints


def flat(name: str, constraint: constraints.Constraint, *event: int) -> Array:
    """A parameter without a prior."""
    return sample(name, dist.ImproperUniform(constraint, (), event))


def coefficients(size: int, scale: float) -> Array:
    """Normal coefficients about zero."""
    return sample("beta", dist.Normal(jnp.zeros(size), scale).to_event(1))


def normal_data(name: str, mean: Array, scale: Array, y: Array) -> None:
    """Normal data in a plate."""
    with numpyro.plate("data", len(y)):
        sample(name, dist.Normal(mean, scale), obs=y)


def logearn_interaction(log_earn: Array, height: Array, male: Array, inter: Array) -> None:
    """Log earnings by height and sex."""
    beta = flat("beta", constraints.real_vector, 4)
    sigma = flat("sigma", constraints.positive)
    mean = beta[0] + beta[1] * height + beta[2] * male + beta[3] * inter
    normal_data("log_earn", mean, sigma, log_earn)


def kidscore_interaction(kid_score: Array, mom_hs: Array, mom_iq: Array, inter: Array) -> None:
    """Children's test scores by their mothers' schooling and IQ."""
    beta = flat("beta", constraints.real_vector, 4)
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    mean = beta[0] + beta[1] * mom_hs + beta[2] * mom_iq + beta[3] * inter
    normal_data("kid_score", mean, sigma, kid_score)


def kidscore_momiq(kid_score: Array, mom_iq: Array) -> None:
    """Children's test scores by their mothers' IQ."""
    beta = flat("beta", constraints.real_vector, 2)
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    normal_data("kid_score", beta[0] + beta[1] * mom_iq, sigma, kid_score)


def logmesquite_logvash(log_weight: Array, *features: Array) -> None:
    """Log weight of mesquite leaves."""
    beta = flat("beta", constraints.real_vector, 6)
    sigma = flat("sigma", constraints.positive)
    normal_data("log_weight", beta[0] + beta[1:] @ jnp.stack(features), sigma, log_weight)


def nes(partyid7: Array, real_ideo: Array, race_adj: Array, age: Array, *rest: Array) -> None:
    """Party identification."""
    beta = flat("beta", constraints.real_vector, 9)
    sigma = flat("sigma", constraints.positive)
    features = jnp.stack([real_ideo, race_adj, *age.T, *rest])
    normal_data("partyid7", beta[0] + beta[1:] @ features, sigma, partyid7)


def blr(X: Array, y: Array) -> None:
    """Regression with priors of scale ten."""
    beta = coefficients(X.shape[1], 10.0)
    sigma = sample("sigma", dist.HalfNormal(10.0))
    normal_data("y", X @ beta, sigma, y)


def eight_schools_noncentered(y: Array, sigma: Array) -> None:
    """Effects of coaching in eight schools."""
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        theta_trans = sample("theta_trans", dist.Normal(0.0, 1.0))
    normal_data("y", theta_trans * tau + mu, sigma, y)


def radon_hierarchical_intercept_centered(
    log_radon: Array, county: Array, log_uppm: Array, floor_measure: Array, counties: int
) -> None:
    """Radon by floor and uranium, with an intercept for each county."""
    sigma_alpha = sample("sigma_alpha", dist.HalfNormal(1.0))
    sigma_y = sample("sigma_y", dist.HalfNormal(1.0))
    mu_alpha = sample("mu_alpha", dist.Normal(0.0, 10.0))
    beta = coefficients(2, 10.0)
    with numpyro.plate("counties", counties):
        alpha = sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
    mean = alpha[county] + log_uppm * beta[0] + floor_measure * beta[1]
    normal_data("log_radon", mean, sigma_y, log_radon)


def radon_variable_intercept_slope_noncentered(
    log_radon: Array, county: Array, floor_measure: Array, counties: int
) -> None:
    """Radon by floor, with a standardised intercept and slope for each county."""
    sigma_y = sample("sigma_y", dist.HalfNormal(1.0))
    sigma_alpha = sample("sigma_alpha", dist.HalfNormal(1.0))
    sigma_beta = sample("sigma_beta", dist.HalfNormal(1.0))
    mu_alpha = sample("mu_alpha", dist.Normal(0.0, 10.0))
    mu_beta = sample("mu_beta", dist.Normal(0.0, 10.0))
    with numpyro.plate("counties", counties):
        alpha = mu_alpha + sigma_alpha * sample("alpha_raw", dist.Normal(0.0, 1.0))
        beta = mu_beta + sigma_beta * sample("beta_raw", dist.Normal(0.0, 1.0))
    mean = alpha[county] + floor_measure * beta[county]
    normal_data("log_radon", mean, sigma_y, log_radon)


def rats_model(y: Array, rat: Array, x: Array, rats: int) -> None:
    """Weights of rats by age, with a line for each rat."""
    mu_alpha = sample("mu_alpha", dist.Normal(0.0, 100.0))
    mu_beta = sample("mu_beta", dist.Normal(0.0, 100.0))
    sigma_y = flat("sigma_y", constraints.positive)
    sigma_alpha = flat("sigma_alpha", constraints.positive)
    sigma_beta = flat("sigma_beta", constraints.positive)
    with numpyro.plate("rats", rats):
        alpha = sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
        beta = sample("beta", dist.Normal(mu_beta, sigma_beta))
    normal_data("y", alpha[rat] + beta[rat] * x, sigma_y, y)


def wells_dist100_model(switched: Array, dist100: Array) -> None:
    """Whether a household switches wells."""
    alpha = flat("alpha", constraints.real)
    beta = flat("beta", constraints.real)
    with numpyro.plate("households", len(switched)):
        sample("switched", dist.Bernoulli(logits=alpha + beta * dist100), obs=switched)


def seeds_model(n: Array, N: Array, x1: Array, x2: Array, x1x2: Array) -> None:
    """Germinated seeds of each plate, overdispersed."""
    alpha0 = sample("alpha0", dist.Normal(0.0, 1e3))
    alpha1 = sample("alpha1", dist.Normal(0.0, 1e3))
    alpha2 = sample("alpha2", dist.Normal(0.0, 1e3))
    alpha12 = sample("alpha12", dist.Normal(0.0, 1e3))
    tau = sample("tau", dist.Gamma(1e-3, 1e-3))
    with numpyro.plate("plates", len(n)):
        b = sample("b", dist.Normal(0.0, tau**-0.5))
        logits = alpha0 + alpha1 * x1 + alpha2 * x2 + alpha12 * x1x2 + b
        sample("n", dist.BinomialLogits(logits, N.astype(int)), obs=n)


def election88_full(y: Array, X: Array, groups: tuple[Array, ...], sizes: list[int]) -> None:
    """Votes, with effects a to e of five groupings."""
    logits = X @ coefficients(X.shape[1], 100.0)
    for name, group, size in zip("abcde", groups, sizes, strict=True):
        sigma = sample(f"sigma_{name}", dist.Uniform(0.0, 100.0))
        with numpyro.plate(f"groups_{name}", size):
            effect = sample(name, dist.Normal(0.0, sigma))
        logits = logits + effect[group]
    with numpyro.plate("voters", len(y)):
        sample("y", dist.Bernoulli(logits=logits), obs=y)


def irt_2pl(y: Array) -> None:
    """Answers to items (rows) of people (columns)."""
    items, people = y.shape
    sigma_theta = sample("sigma_theta", dist.HalfCauchy(2.0))
    sigma_a = sample("sigma_a", dist.HalfCauchy(2.0))
    mu_b = sample("mu_b", dist.Normal(0.0, 5.0))
    sigma_b = sample("sigma_b", dist.HalfCauchy(2.0))
    item_plate, people_plate = (
        numpyro.plate("items", items, dim=-2),
        numpyro.plate("people", people),
    )
    with people_plate:
        theta = sample("theta", dist.Normal(0.0, sigma_theta))
    with item_plate:
        a = sample("a", dist.LogNormal(0.0, sigma_a))
        b = sample("b", dist.Normal(mu_b, sigma_b))
    with item_plate, people_plate:
        sample("y", dist.Bernoulli(logits=a * (theta - b)), obs=y)


def GLMM_Poisson_model(C: Array, year: Array, square: Array, cube: Array) -> None:
    """Counts of peregrines by a cubic in the year, with an effect of each year."""
    alpha = sample("alpha", dist.Uniform(-20.0, 20.0))
    beta1 = sample("beta1", dist.Uniform(-10.0, 10.0))
    beta2 = sample("beta2", dist.Uniform(-10.0, 10.0))
    beta3 = sample("beta3", dist.Uniform(-10.0, 10.0))
    sigma = sample("sigma", dist.Uniform(0.0, 5.0))
    with numpyro.plate("years", len(C)):
        eps = sample("eps", dist.Normal(0.0, sigma))
        log_lambda = alpha + beta1 * year + beta2 * square + beta3 * cube + eps
        sample("C", dist.Poisson(jnp.exp(log_lambda)), obs=C)


def arK(y: Array, lags: Array) -> None:
    """An autoregression."""
    alpha = sample("alpha", dist.Normal(0.0, 10.0))
    beta = coefficients(lags.shape[1], 10.0)
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    normal_data("y", alpha + lags @ beta, sigma, y)


def garch11(y: Array, sigma1: float) -> None:
    """Returns whose variance follows the last return and the last variance."""
    mu = flat("mu", constraints.real)
    alpha0 = flat("alpha0", constraints.positive)
    alpha1, beta1, _ = sample("shares", dist.Dirichlet(jnp.ones(3)))

    def step(variance: Array, value: Array) -> tuple[Array, Array]:
        new = alpha0 + alpha1 * (value - mu) ** 2 + beta1 * variance
        return new, new

    first = jnp.asarray(sigma1**2, y.dtype)
    _, later = jax.lax.scan(step, first, y[:-1])
    normal_data("y", mu, jnp.sqrt(jnp.concatenate([first[None], later])), y)


def gp_regr(y: Array, squared_distance: Array) -> None:
    """A Gaussian process with a squared exponential kernel."""
    rho = sample("rho", dist.Gamma(25.0, 4.0))
    alpha = sample("alpha", dist.HalfNormal(2.0))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    covariance = alpha**2 * jnp.exp(-0.5 * squared_distance / rho**2) + sigma * jnp.eye(len(y))
    scale_tril = jnp.linalg.cholesky(covariance)
    sample("y", dist.MultivariateNormal(jnp.zeros(len(y)), scale_tril=scale_tril), obs=y)


def low_dim_gauss_mix(y: Array) -> None:
    """Two Gaussians in order."""
    theta = sample("theta", dist.Beta(5.0, 5.0))
    lower = sample("lower", dist.Normal(0.0, 2.0))
    gap = flat("gap", constraints.positive)
    sample("upper", dist.Normal(0.0, 2.0), obs=lower + gap)
    with numpyro.plate("components", 2):
        sigma = sample("sigma", dist.HalfNormal(2.0))
    first = jnp.log(theta) + dist.Normal(lower, sigma[0]).log_prob(y)
    second = jnp.log1p(-theta) + dist.Normal(lower + gap, sigma[1]).log_prob(y)
    with numpyro.plate("data", len(y)):
        numpyro.factor("y", jnp.logaddexp(first, second))


def ldaK2(word: Array, document: Array, words: int, documents: int) -> None:
    """Two topics: theta of each document, phi of each topic."""
    with numpyro.plate("documents", documents):
        theta = sample("theta", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("topics", 2):
        phi = sample("phi", dist.Dirichlet(jnp.ones(words)))
    gamma = jnp.log(theta[document]) + jnp.log(phi[:, word].T)
    with numpyro.plate("tokens", len(word)):
        numpyro.factor("word", jax.nn.logsumexp(gamma, -1))

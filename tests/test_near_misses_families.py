# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Near misses in rates, precisions, probabilities and products, against plain Monte Carlo."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_blr import families
from tests.checks import engine, factor_of
from tests.estimates import Site, assert_agree, by_engine, by_monte_carlo

pytestmark = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")

Y = torch.tensor([0.4, -0.9, 1.3, 0.1, -2.2], dtype=torch.float64)
LABELS = (Y > 0).double()
COUNTS = torch.tensor([1.0, 0.0, 4.0, 2.0, 0.0], dtype=torch.float64)


def scale_instead_of_precision() -> None:
    s = pyro.sample("s", dist.Gamma(3.0, 2.0))
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Normal(0.3, s), obs=Y)


def variance_instead_of_precision() -> None:
    v = pyro.sample("v", dist.Gamma(3.0, 2.0))
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Normal(0.3, v.sqrt()), obs=Y)


def square_of_a_rate() -> None:
    r = pyro.sample("r", dist.Gamma(3.0, 2.0))
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Exponential(r**2), obs=Y.abs())


def sum_of_two_rates() -> None:
    r, s = (pyro.sample(k, dist.Gamma(3.0, 2.0)) for k in "rs")
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Poisson(r + s), obs=COUNTS)


def rate_with_an_offset() -> None:
    r = pyro.sample("r", dist.Gamma(3.0, 2.0))
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Poisson(r + 0.5), obs=COUNTS)


def sum_of_two_precisions() -> None:
    r, s = (pyro.sample(k, dist.Gamma(3.0, 2.0)) for k in "rs")
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Normal(0.3, (r + s).rsqrt()), obs=Y)


def shape_of_a_gamma() -> None:
    a = pyro.sample("a", dist.Gamma(3.0, 2.0))
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Gamma(a, 2.0), obs=Y.abs())


def square_of_a_probability() -> None:
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Bernoulli(p**2), obs=LABELS)


def product_of_probabilities() -> None:
    p, q = (pyro.sample(k, dist.Beta(2.0, 3.0)) for k in "pq")
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Bernoulli(p * q), obs=LABELS)


def probability_as_a_mean() -> None:
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Normal(p, 0.7), obs=Y)


def share_of_a_dirichlet_as_a_coin() -> None:
    theta = pyro.sample("theta", dist.Dirichlet(torch.tensor([1.0, 2.0, 1.5])))
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Bernoulli(theta[..., 0]), obs=LABELS)


def flattened_categories() -> None:
    theta = pyro.sample("theta", dist.Dirichlet(torch.tensor([1.0, 2.0, 1.5])))
    with pyro.plate("data", len(Y)):
        probs = (theta + 0.1) / 1.3
        pyro.sample("y", dist.Categorical(probs), obs=COUNTS.long().clamp(max=2))


def product_with_itself_across_a_plate() -> None:
    with pyro.plate("groups", 3):
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
    g, h = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 1, 0, 2, 2])
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Normal(u[g] * u[h], 0.7), obs=Y)


def product_of_elements_of_a_vector() -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Normal(w[..., 0] * w[..., 1], 0.7), obs=Y)


def mean_and_scale_of_one_latent() -> None:
    t = pyro.sample("t", dist.Gamma(3.0, 2.0))
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Normal(t, t.rsqrt()), obs=Y)


def drift_by_a_product_of_three() -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Normal(a * b + 0.3 * a, 0.7), obs=Y)


def scale_by_two_latents() -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(Y)):
        pyro.sample("y", dist.Normal(a, s.exp()), obs=Y)


GAMMA, BETA = Site("gamma", 14.0, 10.0), Site("beta", 6.0, 7.0)
NORMAL, DIRICHLET = Site("normal", 0.4, 0.5), Site("dirichlet", [4.0, 6.0, 5.0])
OTHERS: dict[Callable[[], None], dict[str, Site]] = {
    scale_instead_of_precision: {"s": GAMMA},
    variance_instead_of_precision: {"v": GAMMA},
    square_of_a_rate: {"r": GAMMA},
    sum_of_two_rates: {"r": GAMMA, "s": Site("gamma", 12.0, 12.0)},
    rate_with_an_offset: {"r": GAMMA},
    sum_of_two_precisions: {"r": GAMMA, "s": Site("gamma", 12.0, 12.0)},
    shape_of_a_gamma: {"a": GAMMA},
    square_of_a_probability: {"p": BETA},
    product_of_probabilities: {"p": BETA, "q": Site("beta", 9.0, 5.0)},
    probability_as_a_mean: {"p": BETA},
    share_of_a_dirichlet_as_a_coin: {"theta": DIRICHLET},
    flattened_categories: {"theta": DIRICHLET},
    product_with_itself_across_a_plate: {"u": Site("normal", [0.5, -0.8, 0.3], [0.4, 0.3, 0.5])},
    product_of_elements_of_a_vector: {
        "w": Site("multivariate", [0.3, -0.4], [[0.6, 0.0], [0.5, 0.3]])
    },
    mean_and_scale_of_one_latent: {"t": GAMMA},
    scale_by_two_latents: {"a": NORMAL, "s": Site("normal", -0.2, 0.3)},
}
FAMILIES = {"gamma": families.Gamma, "beta": families.Beta, "dirichlet": families.Dirichlet}


def engine_at(model: Callable[[], None], sites: dict[str, Site], particles: int = 1) -> Any:
    named = {n: FAMILIES[s.kind] for n, s in sites.items() if s.kind in FAMILIES}
    start = {name: site.detached for name, site in sites.items()}
    loss = Trace_ELBO(num_particles=particles)
    return engine(model, start, families=named, blocks="site", loss=loss)[0]


@pytest.mark.parametrize("model", OTHERS, ids=lambda m: m.__name__)
def test_other_near_miss(model: Callable[[], None]) -> None:
    """Not conjugate, and value and gradient agree with Monte Carlo of the real model."""
    sites = OTHERS[model]
    blr = engine_at(model, sites, particles=4)
    factor = factor_of(blr, "y")
    assert not factor.conjugate
    repeats = 16 if factor.tier == "sampled" else 2
    truth = by_monte_carlo(model, sites, num_draws=20_000)
    assert_agree(by_engine(blr, sites, repeats), truth, bound=6.5)  # of Student t, 15 degrees


def test_product_of_two_latents_is_conjugate_in_each() -> None:
    """The other control: bilinear is conjugate, in each latent given the other."""
    sites = {"a": NORMAL, "b": Site("normal", -0.7, 0.3)}
    blr = engine_at(drift_by_a_product_of_three, sites)
    factor = factor_of(blr, "y")
    assert factor.tier == "exact"
    assert factor.conjugate
    assert set(factor.latents) == {"a", "b"}
    truth = by_monte_carlo(drift_by_a_product_of_three, sites, num_draws=20_000)
    assert_agree(by_engine(blr, sites, 2), truth)


@pytest.mark.parametrize("default", [scale_instead_of_precision, shape_of_a_gamma])
def test_default_family_of_a_near_miss_fits(default: Callable[[], None]) -> None:
    """Whatever family the guide picks: never conjugate, and the loss comes down."""
    blr, guide = engine(default)
    assert not factor_of(blr, "y").conjugate
    losses = [blr.step() for _ in range(40)]
    assert losses[-1] < losses[0]
    (site,) = OTHERS[default]
    assert guide.median()[site] > 0


def test_scale_as_a_latent_by_hand() -> None:
    """E log N(y; mu, s) under s ~ Gamma(a, b): E s^-2 = b^2 / ((a - 1)(a - 2)), E log s."""
    a, b = (float(x) for x in GAMMA.leaves)
    blr = engine_at(scale_instead_of_precision, {"s": GAMMA}, particles=200)
    log_s = float(torch.digamma(torch.tensor(a))) - math.log(b)
    squares = float((Y - 0.3).square().sum())
    likelihood = -len(Y) * (log_s + 0.5 * math.log(2 * math.pi))
    likelihood -= 0.5 * squares * b**2 / ((a - 1) * (a - 2))
    prior = 3 * math.log(2.0) - math.lgamma(3.0) + 2 * log_s - 2 * a / b
    expected = likelihood + prior + float(GAMMA.detached.entropy())
    tolerance = 1e-10 if factor_of(blr, "y").tier == "exact" else 0.05
    assert -blr.evaluate_loss() == pytest.approx(expected, rel=tolerance)

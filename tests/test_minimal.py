# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The minimal implementation against closed forms and the oracles, to 1e-12."""

from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.distribution import COERCIONS

from pyro_blr import minimal
from pyro_blr.errors import DomainError
from tests.oracles import coordinate_ascent, designs
from tests.oracles.textbook import TEXTBOOK

EXACT = {"rtol": 1e-12, "atol": 1e-12}


# --- One latent: one step is the textbook posterior --------------------------------------------


def normal_mean(y):
    mu = pyro.sample("mu", dist.Normal(1.0, 2.0))
    for i, x in enumerate(y):
        pyro.sample(f"y{i}", dist.Normal(mu, 1.5), obs=x)


def normal_precision(y):
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
    for i, x in enumerate(y):
        pyro.sample(f"y{i}", dist.Normal(0.7, tau.rsqrt()), obs=x)


def beta_bernoulli(y):
    p = pyro.sample("p", dist.Beta(2.0, 3.5))
    for i, x in enumerate(y):
        pyro.sample(f"y{i}", dist.Bernoulli(p), obs=x)


def gamma_poisson(exposure, y):
    rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
    for i, (e, x) in enumerate(zip(exposure, y, strict=True)):
        pyro.sample(f"y{i}", dist.Poisson(e * rate), obs=x)


def gamma_exponential(y):
    rate = pyro.sample("rate", dist.Gamma(1.5, 2.0))
    for i, x in enumerate(y):
        pyro.sample(f"y{i}", dist.Exponential(rate), obs=x)


SCALAR = {
    m.__name__: m
    for m in (normal_mean, normal_precision, beta_bernoulli, gamma_poisson, gamma_exponential)
}
CASES = [case for case in TEXTBOOK if case.name in SCALAR]
ids = [case.name for case in CASES]


def parameters(q):
    return torch.stack([getattr(q, name) for name in sorted(q.arg_constraints) if name != "logits"])


def test_all_scalar_models_are_tested():
    assert len(CASES) == len(SCALAR) == 5


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_one_step_is_the_textbook_posterior(case):
    problem = case.make()
    result = minimal.fit(SCALAR[case.name], *problem.args, steps=1)
    ((site, posterior),) = problem.posterior.items()
    torch.testing.assert_close(
        parameters(result.distributions[site]), parameters(posterior), **EXACT
    )
    np.testing.assert_allclose(result.elbo, problem.log_evidence, rtol=1e-12)
    again = minimal.fit(SCALAR[case.name], *problem.args, steps=2)
    torch.testing.assert_close(result.natural[site], again.natural[site], **EXACT)


@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize("step_size", [0.1, 0.5])
def test_smaller_steps_contract_geometrically(case, step_size):
    """natural_t - natural* = (1 - rho)^t (natural_0 - natural*)."""
    args, model = case.make().args, SCALAR[case.name]
    start, exact = (minimal.fit(model, *args, steps=t).natural for t in (0, 1))
    result = minimal.fit(model, *args, steps=7, step_size=step_size).natural
    for site in exact:
        for n0, n7, n in zip(start[site], result[site], exact[site], strict=True):
            torch.testing.assert_close(n7 - n, (1 - step_size) ** 7 * (n0 - n), **EXACT)


# --- Several latents: the mean-field fixed points, by coordinate ascent by hand ------------------


def regression_on_one(y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    for i, x in enumerate(y):
        pyro.sample(f"y{i}", dist.Normal(w, 1 / tau.sqrt()), obs=x)


def hierarchical(group, y, groups):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau_group = pyro.sample("tau_group", dist.Gamma(2.0, 1.0))
    tau_noise = pyro.sample("tau_noise", dist.Gamma(2.0, 1.0))
    theta = [
        pyro.sample(f"theta{g}", dist.Normal(mu, torch.rsqrt(tau_group))) for g in range(groups)
    ]
    for i, (g, x) in enumerate(zip(group, y, strict=True)):
        pyro.sample(f"y{i}", dist.Normal(theta[g], tau_noise**-0.5), obs=x)


def check_against(solution, result, sites):
    """Compare the mean parameters and the bound with those found by hand."""
    np.testing.assert_allclose(result.elbo, solution.lower_bound, rtol=1e-12)
    for site, moments in sites.items():
        first, second = (float(m) for m in result.mean_params[site])
        if "mean_log" in moments:
            first, second = second, first  # T of a Gamma is (log z, z)
        theirs = [np.squeeze(x) for x in moments.values()]
        np.testing.assert_allclose([first, second], theirs, **EXACT)


def test_the_normal_gamma_fixed_point():
    y = 0.4 + 0.6 * torch.randn(15, generator=torch.Generator().manual_seed(0))
    result = minimal.fit(regression_on_one, y, steps=60)
    solution = coordinate_ascent.regression(np.ones((15, 1)), y.numpy())
    check_against(solution, result, solution.posterior)


def test_the_hierarchical_fixed_point():
    generator = torch.Generator().manual_seed(1)
    group = torch.arange(30) % 4
    y = torch.randn(4, generator=generator)[group] + 0.5 * torch.randn(30, generator=generator)
    result = minimal.fit(hierarchical, group.tolist(), y, 4, steps=120)
    solution = coordinate_ascent.hierarchical(group.numpy(), y.numpy(), 4)
    sites = {site: moments for site, moments in solution.posterior.items() if site != "theta"}
    for g in range(4):
        sites[f"theta{g}"] = {k: v[g] for k, v in solution.posterior["theta"].items()}
    check_against(solution, result, sites)


def test_sweeps_never_lower_the_elbo():
    y = torch.randn(10, generator=torch.Generator().manual_seed(2)) - 1
    elbos = [minimal.fit(regression_on_one, y, steps=t).elbo for t in range(12)]
    assert all(b >= a - 1e-12 for a, b in pairwise(elbos))
    assert elbos[1] > elbos[0] + 1


# --- Ordinary code: the expectation agrees with the designs, which know no algebra ----------------


def varied_arithmetic():
    a = pyro.sample("a", dist.Normal(0.3, 1.5))
    b = pyro.sample("b", dist.Normal(2 * a - 1, torch.tensor(0.7)))
    t = pyro.sample("t", dist.Exponential(2.0))
    s = pyro.sample("s", dist.Gamma(3.0, rate=t * 4))
    mean = (a - torch.tensor(0.5) * b) / 2 + (1 - a) * 0.25 + np.float64(0.1) * b - (-a)
    pyro.sample("x", dist.Normal(mean * 1.0, 1 / torch.sqrt(3 * s)), obs=torch.tensor(0.4))
    pyro.sample("y", dist.Normal(a * b, 2.0), obs=torch.tensor(1.1))
    with pyro.poutine.scale(scale=2.5):
        pyro.sample("n", dist.Poisson(s * t / 3), obs=torch.tensor(2.0))


def probabilities():
    p = pyro.sample("p", dist.Beta(1.5, 2.0))
    r = pyro.sample("r", dist.Beta(1.0, 1.0))
    pyro.sample("x", dist.Bernoulli(1 - p), obs=torch.tensor(1.0))
    pyro.sample("y", dist.Bernoulli(probs=r), obs=torch.tensor(0.0))
    pyro.sample("z", dist.Exponential(torch.pow(p, 0.5)), obs=torch.tensor(0.0))


@pytest.mark.parametrize("model", [varied_arithmetic, probabilities])
def test_the_elbo_is_the_expectation_of_the_real_model(model):
    result = minimal.fit(model, steps=3, step_size=0.7)
    exact = designs.expected_log_joint(model, (), result.distributions)
    exact = exact + sum(q.entropy() for q in result.distributions.values())
    np.testing.assert_allclose(result.elbo, float(exact), **EXACT)


# --- What it refuses ------------------------------------------------------------------------------


def latent(prior=None):
    return pyro.sample("z", prior or dist.Normal(0.0, 1.0))


def positive():
    return latent(dist.Gamma(2.0, 1.0))


def observe(fn):
    pyro.sample("x", fn, obs=torch.tensor(1.0))


REFUSED = {
    "tanh": (lambda: torch.tanh(latent()), "torch.tanh of a latent"),
    "root of a square": (lambda: (latent() ** 2) ** 0.5, r"positive product, not \['z'\]"),
    "log of a normal": (lambda: latent().log(), "the logarithm needs"),
    "log of a sum": (lambda: (1 + positive()).log(), "the logarithm needs"),
    "root of a sum": (lambda: (1 + positive()) ** 0.5, "the power 0.5"),
    "one over a sum": (lambda: 1 / (1 + positive()), "power -1.0 of a sum"),
    "power of a number": (lambda: 2 ** latent(), "unsupported operand"),
    "power of a tensor": (lambda: torch.tensor(2.0) ** latent(), "no polynomial in it"),
    "a branch": (lambda: 1 if latent() == 0 else 2, "`if` cannot use it"),
    "a scale": (lambda: observe(dist.Normal(0.0, positive())), "no statistic of Gamma"),
    "a fourth power": (lambda: observe(dist.Normal(latent() ** 2, 1.0)), "no statistic of Normal"),
    "a mean and its log": (
        lambda: (lambda z: observe(dist.Normal(z.log() * z, 1.0)))(positive()),
        "no statistic of Gamma",
    ),
    "a concentration": (lambda: observe(dist.Gamma(positive(), 1.0)), "no polynomial in it"),
    "StudentT": (lambda: observe(dist.StudentT(3.0, latent())), "StudentT: use pyro_blr.BLR"),
    "a discrete latent": (lambda: latent(dist.Poisson(2.0)), "no family for a latent Poisson"),
    "a plate": (lambda: pyro.plate("data", 3), "use pyro_blr.BLR"),
    "a mask": (
        lambda: pyro.poutine.mask(latent, mask=torch.tensor(True))(),
        "masks are left to pyro_blr.BLR",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_polynomial_is_refused(name):
    model, message = REFUSED[name]
    kind = TypeError if name == "power of a number" else minimal.NotConjugate
    with pytest.raises(kind, match=message):
        minimal.fit(model, steps=1)
    assert COERCIONS == []


def test_an_improper_step_is_refused():
    def model():
        observe(dist.Exponential(latent(dist.Gamma(2.0, 0.1)) / 10))

    with pytest.raises(DomainError, match="site 'z'"):
        minimal.fit(model, steps=1, step_size=2.0)
    minimal.fit(model, steps=1)


def test_float32_and_integer_data_are_data():
    y = torch.tensor([1, 0, 1, 1])
    result = minimal.fit(beta_bernoulli, y, steps=1)
    torch.testing.assert_close(result.distributions["p"].concentration1, torch.tensor(5.0))
    single = minimal.fit(normal_mean, torch.tensor([0.5, 1.5], dtype=torch.float32), steps=1)
    double = minimal.fit(normal_mean, torch.tensor([0.5, 1.5]), steps=1)
    assert single.natural["mu"] == double.natural["mu"]

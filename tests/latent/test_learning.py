# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Learning from the exact evidence: EM and its direction, gradients, scikit-learn as a judge."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.testing import assert_close

from pyro_blr.errors import ArgumentError, EmptyStateError, NonFiniteError
from pyro_blr.latent import conjugated
from pyro_blr.latent.evidence_metric import fisher_of_evidence

K, D, P, N = 3, 2, 6, 200
CENTRES = torch.tensor([[-3.0, 0.0], [3.0, 1.0], [0.0, 4.0]])


def clusters(seed: int = 0, spread: float = 1.0) -> Tensor:
    rng = np.random.default_rng(seed)
    rows = CENTRES.numpy()[rng.integers(0, K, N)] + spread * rng.normal(size=(N, D))
    return torch.from_numpy(rows)


def gaussian_mixture(x: Tensor) -> None:
    weights = pyro.param("weights", torch.ones(K) / K, constraint=constraints.simplex)
    means = pyro.param("means", lambda: clusters()[:K])
    roots = pyro.param("roots", torch.eye(D).repeat(K, 1, 1), constraint=constraints.lower_cholesky)
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(weights))
        pyro.sample("x", dist.MultivariateNormal(means[k], scale_tril=roots[k]), obs=x)


def scikit(x: Tensor, **options: Any) -> GaussianMixture:
    start = {"weights_init": np.ones(K) / K, "means_init": clusters()[:K].numpy()}
    start["precisions_init"] = np.tile(np.eye(D), (K, 1, 1))
    return GaussianMixture(K, reg_covar=0.0, **start, **options).fit(x.numpy())


def scored() -> Tensor:
    rng = np.random.default_rng(1)
    loadings, noise = rng.normal(size=(P, D)), 0.5 + rng.random(P)
    rows = rng.normal(size=(N, D)) @ loadings.T + noise * rng.normal(size=(N, P))
    return torch.from_numpy(rows + rng.normal(size=P))


def factor_analysis(x: Tensor) -> None:
    loadings = pyro.param("loadings", lambda: torch.randn(P, D))
    centre = pyro.param("centre", torch.zeros(P))
    noise = pyro.param("noise", torch.ones(P), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ loadings.T + centre, noise).to_event(1), obs=x)


def negative_binomial(x: Tensor) -> None:
    """A prior with parameters, one of them without a closed-form M-step."""
    shape = pyro.param("shape", torch.tensor(1.0), constraint=constraints.positive)
    rate = pyro.param("rate", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(shape, rate))
        pyro.sample("x", dist.Poisson(z), obs=x)


def analysers(x: Tensor) -> None:
    weights = pyro.param("weights", torch.ones(K) / K, constraint=constraints.simplex)
    loadings = pyro.param("loadings", lambda: torch.randn(K, D, 1))
    means = pyro.param("means", lambda: clusters()[:K])
    noise = pyro.param("noise", torch.ones(D), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(weights))
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        mean = (loadings[k] @ z.unsqueeze(-1)).squeeze(-1) + means[k]
        pyro.sample("x", dist.Normal(mean, noise).to_event(1), obs=x)


def von_mises_mixture(x: Tensor) -> None:
    centres = pyro.param("centres", torch.tensor([-1.0, 1.0]))
    strength = pyro.param("strength", torch.tensor([1.0, 2.0]), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.VonMises(centres[k], strength[k]), obs=x)


def angles() -> Tensor:
    rng = np.random.default_rng(5)
    return torch.from_numpy(np.concatenate([rng.vonmises(-2, 3, 60), rng.vonmises(0.5, 8, 90)]))


def counts() -> Tensor:
    return torch.from_numpy(np.random.default_rng(4).negative_binomial(3, 0.4, N).astype(float))


MODELS: dict[str, tuple[Callable[[Tensor], None], Callable[[], Tensor]]] = {
    "Gaussian mixture": (gaussian_mixture, clusters),
    "factor analysis": (factor_analysis, scored),
    "negative binomial": (negative_binomial, counts),
    "mixture of factor analysers": (analysers, lambda: clusters(spread=0.6)),
    "von Mises mixture": (von_mises_mixture, angles),
}
models = pytest.mark.parametrize(("model", "data"), MODELS.values(), ids=MODELS.keys())


def rising(trail: list[float]) -> bool:
    """Whether it never falls beyond rounding."""
    steps = np.diff(trail)
    return bool((steps > -1e-10 * max(1.0, abs(trail[0]))).all()) and trail[-1] > trail[0]


@models
def test_em_never_falls(model: Callable[[Tensor], None], data: Callable[[], Tensor]) -> None:
    found = conjugated(model, data())
    learned = found.learn(method="em", max_steps=15)
    assert rising(learned.log_evidence)
    assert_close(found.log_evidence().sum(), torch.tensor(learned.log_evidence[-1]))
    assert "joint" in learned.metric and str(learned).startswith("em: log evidence")


@models
def test_a_maximum_of_the_evidence_is_a_fixed_point_of_em(
    model: Callable[[Tensor], None], data: Callable[[], Tensor]
) -> None:
    """What gradients of the evidence find, EM and natural gradients leave where it is."""
    found = conjugated(model, data())
    found.learn(method="em", max_steps=2)
    best = found.learn(method="gradient", tol=1e-13).log_evidence[-1]
    for method in ("em", "natural"):
        after = found.learn(method=method, max_steps=2).log_evidence[-1]
        assert abs(after - best) < 1e-6, method


def test_damped_natural_gradients_find_the_maximum_of_em() -> None:
    ends = []
    for method, options in (("em", {}), ("natural", {"step_size": 0.7})):
        pyro.clear_param_store()
        x = clusters(spread=0.6)
        pyro.param("means", CENTRES + 0.5)
        learned = conjugated(gaussian_mixture, x).learn(method=method, tol=1e-6, **options)
        ends.append(learned.log_evidence[-1])
        assert learned.converged
    assert abs(ends[0] - ends[1]) < 0.02


def test_expected_statistics_are_the_gradient_of_the_evidence() -> None:
    """At the start of an M-step both have the same gradient (Fisher's identity)."""
    x = scored()
    found = conjugated(factor_analysis, x)
    leaf = pyro.get_param_store()._params["loadings"]
    (slope,) = torch.autograd.grad(found.log_evidence(x).sum(), leaf)
    with torch.no_grad():
        change = torch.randn_like(leaf)
        leaf += 1e-6 * change
        above = found.log_evidence(x).sum()
        leaf -= 2e-6 * change
        below = found.log_evidence(x).sum()
    assert_close((slope * change).sum(), (above - below) / 2e-6, rtol=1e-6, atol=1e-4)


def test_the_metric_of_the_evidence() -> None:
    """Of a Gaussian evidence N(u, 1 + s^2) it is known: 1 / v for u, 2 s^4 / v^2 for log s."""
    x = torch.randn(500)

    def model(x: Tensor) -> None:
        u = pyro.param("u", torch.tensor(0.3))
        s = pyro.param("s", torch.tensor(0.8), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(u + z, s), obs=x)

    setting = conjugated(model, x).setting()
    leaves = [pyro.get_param_store()._params[name] for name in ("u", "s")]
    fisher, count = fisher_of_evidence(setting, leaves)
    v = 1.0 + 0.8**2
    expected = len(x) * torch.diag(torch.tensor([1.0 / v, 2.0 * 0.8**4 / v**2]))
    assert count >= 500
    assert_close(fisher, expected, atol=0.2 * float(expected.max()), rtol=0.0)


@pytest.mark.parametrize("name", ["factor analysis", "negative binomial", "von Mises mixture"])
def test_natural_gradients_of_the_evidence_find_a_maximum(name: str) -> None:
    model, data = MODELS[name]
    found = conjugated(model, data())
    found.learn(max_steps=2)
    learned = found.learn(method="natural", metric="evidence", max_steps=25, tol=1e-9)
    assert rising(learned.log_evidence) and "data drawn" in learned.metric
    best = found.learn(method="gradient", max_steps=50).log_evidence[-1]
    assert learned.log_evidence[-1] > best - 0.1


@pytest.mark.parametrize("steps", [1, 4])
def test_each_step_of_a_mixture_is_scikit_learns(steps: int) -> None:
    x = clusters()
    conjugated(gaussian_mixture, x).learn(max_steps=steps)
    with pytest.warns(ConvergenceWarning):
        judge = scikit(x, max_iter=steps, tol=0.0)
    store = pyro.get_param_store()
    assert_close(store["means"].detach(), torch.from_numpy(judge.means_), atol=1e-9, rtol=0.0)
    assert_close(store["weights"].detach(), torch.from_numpy(judge.weights_), atol=1e-9, rtol=0.0)
    covariances = (store["roots"] @ store["roots"].mT).detach()
    assert_close(covariances, torch.from_numpy(judge.covariances_), atol=1e-9, rtol=0.0)


def test_a_converged_mixture_is_scikit_learns() -> None:
    x = clusters()
    learned = conjugated(gaussian_mixture, x).learn(tol=1e-12)
    judge = scikit(x, max_iter=5000, tol=1e-14)
    assert learned.converged
    assert abs(learned.log_evidence[-1] - judge.score(x.numpy()) * N) < 1e-6


def test_factor_analysis_is_scikit_learns() -> None:
    x = scored()
    found = conjugated(factor_analysis, x)
    found.learn(max_steps=3)
    found.learn(method="gradient", tol=1e-14)
    judge = FactorAnalysis(D, tol=1e-12, max_iter=20000, svd_method="lapack").fit(x.numpy())
    store = {name: value.detach() for name, value in pyro.get_param_store().items()}
    covariance = store["loadings"] @ store["loadings"].T + torch.diag(store["noise"] ** 2)
    assert_close(covariance, torch.from_numpy(judge.get_covariance()), atol=1e-6, rtol=0.0)
    assert_close(store["centre"], x.mean(0), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("method", ["natural", "gradient"])
def test_minibatches_come_near(method: str) -> None:
    x = scored()
    found = conjugated(factor_analysis, x)
    before = found.log_evidence().sum()
    learned = found.learn(method=method, batch_size=40, max_steps=40, **step_of(method))
    after = found.log_evidence(x).sum()
    pyro.clear_param_store()
    best = conjugated(factor_analysis, x).learn(method="gradient").log_evidence[-1]
    assert after > before and after > best - 0.25 * (best - before)
    assert "Adam" in learned.metric or "joint" in learned.metric


def step_of(method: str) -> dict[str, float]:
    return {"step_size": 0.1} if method == "gradient" else {}


def test_the_cost_of_an_m_step_does_not_grow_with_the_data() -> None:
    """Coefficients, and so the expected statistics, are those of one row."""
    few, many = (conjugated(factor_analysis, scored().repeat(r, 1)) for r in (1, 30))
    sizes = [[t.numel() for t in c.harmonium.coefficients()] for c in (few, many)]
    assert sizes[0] == sizes[1]


# --------------------------------------------------------------------------------- bad input


def test_an_empty_cluster_is_named() -> None:
    pyro.param("means", torch.tensor([[-3.0, 0.0], [3.0, 1.0], [900.0, 900.0]]))
    found = conjugated(gaussian_mixture, clusters())
    with pytest.raises(EmptyStateError, match="state 2 of 'k' has no data"):
        found.learn()


def test_a_cluster_on_one_datum_is_an_error() -> None:
    """Its variance goes to 0 and the evidence to infinity."""
    pyro.param("means", torch.tensor([[-3.0, 0.0], [3.0, 1.0], [60.0, 60.0]]))
    x = torch.cat([clusters(), torch.tensor([[60.0, 60.0]])])
    found = conjugated(gaussian_mixture, x)
    with pytest.raises(NonFiniteError, match="a scale has gone to 0"):
        found.learn()


def test_bad_requests_are_refused() -> None:
    x = clusters()
    found = conjugated(gaussian_mixture, x)
    with pytest.raises(ArgumentError, match="method='vb' is not one of"):
        found.learn(method="vb")
    with pytest.raises(ArgumentError, match='method="natural" on all data'):
        found.learn(metric="evidence")
    with pytest.raises(ArgumentError, match="EM takes all data"):
        found.learn(batch_size=10)
    with pytest.raises(ArgumentError, match="batch_size=1000"):
        found.learn(method="natural", batch_size=1000)

    def fixed(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ArgumentError, match=r"no pyro\.param to learn"):
        conjugated(fixed, x[:, 0]).learn()


@pytest.mark.parametrize(("method", "steps"), [("gradient", 1000), ("em", 40)])
def test_learning_from_far_from_the_origin(method: str, steps: int) -> None:
    """First steps that would shrink the noise to nothing, M-steps whose gradient has rounding."""
    torch.manual_seed(0)
    x = torch.randn(N, D) @ torch.randn(D, 5) + 0.3 * torch.randn(N, 5) + 7.0

    def far(x: Tensor) -> None:
        loadings = pyro.param("loadings", torch.linspace(-1.0, 1.0, 5 * D).reshape(5, D))
        centre = pyro.param("centre", torch.zeros(5))
        noise = pyro.param("noise", torch.ones(5), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings.T + centre, noise).to_event(1), obs=x)

    learned = conjugated(far, x).learn(method=method, max_steps=steps)
    saturated = dist.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0))
    bound = float(saturated.log_prob(x).sum())
    assert learned.converged or method == "em"
    assert bound - (1.0 if learned.converged else 100.0) < learned.log_evidence[-1] < bound

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Exact expectations: ridge regression, the Kalman filter, EM, variational messages, in NumPy."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.distributions import constraints
from pyro.infer.autoguide import init_to_value
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

STEPS = 100
Array = NDArray[np.float64]


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def far(left: Tensor, right: Any) -> float:
    """The largest difference."""
    return float(np.abs(left.detach().numpy() - right).max())


def digamma(value: Array) -> Array:
    found: Array = torch.digamma(torch.tensor(value)).numpy()
    return found


def test_ridge_regression() -> None:
    """A Gaussian prior and a Gaussian likelihood: one step at rho = 1."""
    X, decay = normal(0, 50, 4), 0.7
    y = X @ np.array([1.0, -1.0, 2.0, 0.0]) + normal(1, 50)

    def model(X: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(4), decay**-0.5).to_event(1))
        with pyro.plate("n", len(X)):
            pyro.sample("y", dist.Normal(X @ w, 1.0), obs=y)

    guide = AutoNatural(model)
    BLR(model, guide, step_size=1.0).step(torch.tensor(X), torch.tensor(y))
    precision = X.T @ X + decay * np.eye(4)
    assert far(guide.marginal("w").mean, np.linalg.solve(precision, X.T @ y)) < 1e-10
    assert far(guide.marginal("w").covariance_matrix, np.linalg.inv(precision)) < 1e-10


def test_kalman_filter() -> None:
    """Predict by the prior, correct by one step at rho = 1, time by time."""
    A = np.array([[1.0, 0.1], [-0.1, 0.95]])
    Q, H, R = 0.05 * np.eye(2), np.array([[1.0, 0.3]]), np.array([[0.4]])
    y = np.cumsum(normal(2, STEPS))[:, None] * 0.3
    mean, covariance = np.zeros(2), np.eye(2)
    to = torch.tensor

    def model(mean: Tensor, covariance: Tensor, y: Tensor) -> None:
        predicted = dist.MultivariateNormal(to(A) @ mean, to(A) @ covariance @ to(A).T + to(Q))
        z = pyro.sample("z", predicted)
        pyro.sample("y", dist.MultivariateNormal(to(H) @ z, to(R)), obs=y)

    guide = AutoNatural(model)
    blr = BLR(model, guide, step_size=1.0)
    own = to(mean), to(covariance)
    for now in y:
        blr.step(*own, to(now))
        law = guide.marginal("z")
        own = law.mean.detach(), law.covariance_matrix.detach()
        mean, covariance = A @ mean, A @ covariance @ A.T + Q
        gain = covariance @ H.T @ np.linalg.inv(H @ covariance @ H.T + R)
        mean = mean + gain @ (now - H @ mean)
        covariance = (np.eye(2) - gain @ H) @ covariance
        assert far(own[0], mean) < 1e-10
        assert far(own[1], covariance) < 1e-10


def test_em() -> None:
    """A point for the parameters of factor analysis: the E-step, then loadings, then noise."""
    K, D, N = 2, 5, 80
    y = normal(3, N, K) @ normal(4, K, D) + 0.5 * normal(5, N, D) + 1.0
    W, mu, psi = 0.5 * normal(6, D, K), np.zeros(D), np.ones(D)
    first = [torch.tensor(v) for v in (W, mu, psi)]

    def model(y: Tensor) -> None:
        W, mu = pyro.param("W", first[0]), pyro.param("mu", first[1])
        psi = pyro.param("psi", first[2], constraint=constraints.positive)
        with pyro.plate("n", N):
            z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z @ W.T + mu, psi.sqrt()).to_event(1), obs=y)

    blr = BLR(model, AutoNatural(model), params="em", step_size=1.0)
    for _ in range(STEPS):
        blr.step(torch.tensor(y))
        spread = np.linalg.inv(np.eye(K) + (W.T / psi) @ W)
        expected = (y - mu) / psi @ W @ spread
        design = np.column_stack([expected, np.ones(N)])
        second = design.T @ design
        second[:K, :K] += N * spread
        joint = np.linalg.solve(second, design.T @ y).T
        W, mu = joint[:, :K], joint[:, K]
        psi = ((y - design @ joint.T) ** 2).mean(0) + ((W @ spread) * W).sum(1)
        for name, value in (("W", W), ("mu", mu), ("psi", psi)):
            assert far(pyro.param(name), value) < 1e-10


def test_em_of_a_mixture() -> None:
    """A point for the parameters, the classes held in q: shares, then means, then variances."""
    K, D, N = 3, 2, 90
    rng = np.random.default_rng(12)
    y = 3 * normal(13, K, D)[rng.integers(K, size=N)] + normal(14, N, D)
    share, mu, variance = np.full(K, 1 / K), y[:K].copy(), np.ones((K, D))
    first = [torch.tensor(v) for v in (share, mu, variance)]

    def model(y: Tensor) -> None:
        share = pyro.param("share", first[0], constraint=constraints.simplex)
        mu = pyro.param("mu", first[1])
        variance = pyro.param("variance", first[2], constraint=constraints.positive)
        with pyro.plate("n", N):
            z = pyro.sample("z", dist.Categorical(share))
            pyro.sample("y", dist.Normal(mu[z], variance[z].sqrt()).to_event(1), obs=y)

    options: dict[str, Any] = {"params": "em", "discrete": "factorised", "step_size": 1.0}
    blr = BLR(model, AutoNatural(model), **options)
    for _ in range(STEPS):
        blr.step(torch.tensor(y))
        squares = (y[:, None] - mu) ** 2 / variance + np.log(variance)
        weight = np.exp(np.log(share) - 0.5 * squares.sum(-1))
        weight /= weight.sum(1, keepdims=True)
        count = weight.sum(0)
        share, mu = count / N, weight.T @ y / count[:, None]
        variance = np.einsum("nk,nkd->kd", weight, (y[:, None] - mu) ** 2) / count[:, None]
        for name, value in (("share", share), ("mu", mu), ("variance", variance)):
            assert far(pyro.param(name), value) < 1e-10


def test_stochastic_variational_inference() -> None:
    """Hoffman et al. 2013: global natural parameters by minibatches, local ones at their best."""
    N, K, D, M = 60, 3, 6, 10
    rng = np.random.default_rng(7)
    centres = rng.random((K, D))
    y = (rng.random((N, D)) < centres[rng.integers(K, size=N)]).astype(float)
    a, b = 1.0 + rng.random((K, D)), 1.0 + rng.random((K, D))
    alpha = np.array([1.0, 2.0, 3.0])
    rows = [rng.permutation(N)[:M] for _ in range(STEPS)]

    def model(y: Tensor, index: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.tensor(alpha)))
        p = pyro.sample("p", dist.Beta(torch.tensor(a), torch.tensor(b)).to_event(2))
        with pyro.plate("n", N, subsample=index) as ind:
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Bernoulli(p[z]).to_event(1), obs=y[ind])

    def rate(step: int) -> float:
        return float((step + 2.0) ** -0.7)

    guide = AutoNatural(model)
    blr = BLR(model, guide, step_size=rate)
    one, zero, share = a.copy(), b.copy(), alpha.copy()

    for step, index in enumerate(rows):
        blr.step(torch.tensor(y), torch.tensor(index))
        both = digamma(one + zero)
        batch, rho = y[index], rate(step)
        logits = digamma(share) + batch @ (digamma(one) - both).T
        logits += (1 - batch) @ (digamma(zero) - both).T
        weight = np.exp(logits - logits.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        share = (1 - rho) * share + rho * (alpha + N / M * weight.sum(0))
        one = (1 - rho) * one + rho * (a + N / M * weight.T @ batch)
        zero = (1 - rho) * zero + rho * (b + N / M * weight.T @ (1 - batch))
        law = guide.marginal("p")
        law = getattr(law, "base_dist", law)
        assert far(law.concentration1, one) < 1e-10
        assert far(law.concentration0, zero) < 1e-10
        assert far(guide.marginal("weights").concentration, share) < 1e-10


def test_stochastic_variational_inference_of_topics() -> None:
    """The same where rows hold proportions, which are at their optimum to all digits."""
    V, K, D, L, M = 6, 2, 9, 12, 3
    rng = np.random.default_rng(15)
    docs, eta, alpha = rng.integers(V, size=(D, L)), 0.4, 0.8
    share = 1.0 + 4 * rng.random((K, V))

    def model(docs: Tensor, index: Tensor) -> None:
        with pyro.plate("k", K):
            topics = pyro.sample("topics", dist.Dirichlet(torch.full((V,), eta)))
        with pyro.plate("d", D, subsample=index, dim=-1) as ind:
            theta = pyro.sample("theta", dist.Dirichlet(torch.full((K,), alpha)))
            with pyro.plate("w", L, dim=-2):
                z = pyro.sample("z", dist.Categorical(theta))
                pyro.sample("word", dist.Categorical(topics[z]), obs=docs[ind].T)

    guide = AutoNatural(model)
    guide.set_natural({"topics": dist.Dirichlet(torch.tensor(share))})
    blr = BLR(model, guide, step_size=lambda step: (step + 2.0) ** -0.7)
    for step in range(20):
        index = rng.permutation(D)[:M]
        blr.step(torch.tensor(docs), torch.tensor(index))
        log_word = digamma(share) - digamma(share.sum(1, keepdims=True))
        likelihood = np.exp(log_word[:, docs[index]]).transpose(1, 2, 0)  # documents, words, topics
        counts = np.full((M, K), L / K)
        for _ in range(5000):
            weight = likelihood * np.exp(digamma(alpha + counts))[:, None]
            weight /= weight.sum(-1, keepdims=True)
            before, counts = counts, weight.sum(1)
            if abs(counts - before).max() < 1e-14:
                break
        words = np.eye(V)[docs[index]]
        rho = (step + 2.0) ** -0.7
        message = eta + D / M * np.einsum("dlk,dlv->kv", weight, words)
        share = (1 - rho) * share + rho * message
        assert far(guide.marginal("topics").concentration, share) < 1e-10


def test_variational_message_passing() -> None:
    """Coordinate ascent with exact messages: regression weights one by one, and their noise."""
    X = normal(8, 40, 2) @ np.array([[1.0, 0.9], [0.0, 0.4]])
    y = X @ np.array([1.0, -2.0]) + 0.3 * normal(9, 40)

    def model(X: Tensor, y: Tensor) -> None:
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        u = pyro.sample("u", dist.Normal(torch.zeros(()), 3.0))
        v = pyro.sample("v", dist.Normal(torch.zeros(()), 3.0))
        with pyro.plate("n", len(X)):
            pyro.sample("y", dist.Normal(X[:, 0] * u + X[:, 1] * v, tau.rsqrt()), obs=y)

    start = init_to_value(values={"u": torch.tensor(0.0), "v": torch.tensor(0.0)})
    guide = AutoNatural(model, init_scale=0.5, init_loc_fn=start)
    blr = BLR(model, guide, blocks="site", step_size=1.0)
    shape, m, variance = 2.0 + 20, np.zeros(2), np.full(2, 0.25)
    order = None
    for _ in range(STEPS):
        blr.step(torch.tensor(X), torch.tensor(y))
        order = order or [b.name for b in guide.blocks]
        for name in order:
            if name == "tau":
                residual = ((y - X @ m) ** 2).sum() + (X**2).sum(0) @ variance
                tau = shape / (1.0 + 0.5 * residual)
                continue
            k = ("u", "v").index(name)
            rest = y - X[:, 1 - k] * m[1 - k]
            variance[k] = 1 / (1 / 9 + tau * (X[:, k] ** 2).sum())
            m[k] = variance[k] * tau * (X[:, k] @ rest)
        law = guide.marginal("tau")
        assert abs(float(law.mean) / tau - 1) < 1e-10
        for k, name in enumerate(("u", "v")):
            assert far(guide.marginal(name).mean, m[k]) < 1e-10
            assert far(guide.marginal(name).variance, variance[k]) < 1e-10


def test_non_conjugate_variational_message_passing() -> None:
    """Knowles & Minka 2011: a Poisson regression, node by node by natural gradients."""
    x = normal(10, 30)
    counts = np.random.default_rng(11).poisson(np.exp(0.5 + 0.4 * x)).astype(float)

    def model(x: Tensor, y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(torch.zeros(()), 2.0))
        b = pyro.sample("b", dist.Normal(torch.zeros(()), 2.0))
        with pyro.plate("n", len(x)):
            pyro.sample("y", dist.Poisson((a + b * x).exp()), obs=y)

    start = init_to_value(values={"a": torch.tensor(0.0), "b": torch.tensor(0.0)})
    guide = AutoNatural(model, init_loc_fn=start)
    blr = BLR(model, guide, blocks="site", step_size=1.0)
    m, variance = np.zeros(2), np.full(2, 0.01)
    design = np.column_stack([np.ones(30), x])
    for _ in range(STEPS):
        blr.step(torch.tensor(x), torch.tensor(counts))
        for k in range(2):
            rate = np.exp(design @ m + 0.5 * design**2 @ variance)
            gradient = design[:, k] @ (counts - rate) - m[k] / 4
            variance[k] = 1 / (1 / 4 + design[:, k] ** 2 @ rate)
            m[k] = m[k] + variance[k] * gradient
        for k, name in enumerate(("a", "b")):
            assert far(guide.marginal(name).mean, m[k]) < 1e-10
            assert far(guide.marginal(name).variance, variance[k]) < 1e-10

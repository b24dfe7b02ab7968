# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The independent chain oracles against enumeration, and against each other."""

import itertools

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from tests.oracles.dense_state_space import BERNOULLI, POISSON, cvi, posterior
from tests.oracles.forward_backward import forward_backward, silent_start
from tests.oracles.kalman import StateSpace, smooth
from tests.oracles.kalman import silent_start as missing_start


def random_chain(T, K, seed=0):
    make = np.random.default_rng(seed)
    logs = (make.dirichlet(np.ones(K)), make.dirichlet(np.ones(K), size=(T - 1, K)))
    return *map(np.log, logs), make.normal(size=(T, K))


def test_forward_backward_is_the_sum_over_all_paths():
    T, K = 5, 3
    initial, transition, likelihood = random_chain(T, K)
    marginals, pairs, total = np.zeros((T, K)), np.zeros((T - 1, K, K)), 0.0
    for path in itertools.product(range(K), repeat=T):
        moves = list(itertools.pairwise(path))
        log = initial[path[0]] + likelihood[range(T), path].sum()
        weight = np.exp(log + sum(transition[t][move] for t, move in enumerate(moves)))
        total += weight
        for t, state in enumerate(path):
            marginals[t, state] += weight
        for t, move in enumerate(moves):
            pairs[t][move] += weight
    result = forward_backward(initial, transition, likelihood)
    assert result.log_evidence == pytest.approx(np.log(total), abs=1e-13)
    np.testing.assert_allclose(result.marginals, marginals / total, atol=1e-14)
    np.testing.assert_allclose(result.pairs, pairs / total, atol=1e-14)


def test_forward_backward_of_a_long_chain_keeps_its_digits():
    result = forward_backward(*random_chain(5000, 4))
    np.testing.assert_allclose(result.marginals.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(result.pairs.sum(2), result.marginals[:-1], atol=1e-12)
    np.testing.assert_allclose(result.pairs.sum(1), result.marginals[1:], atol=1e-12)


def test_forward_backward_of_one_step_and_of_impossible_moves():
    one = forward_backward(np.log([0.25, 0.75]), np.zeros((2, 2)), np.log([[0.5, 0.1]]))
    assert one.log_evidence == pytest.approx(np.log(0.2))
    np.testing.assert_allclose(one.marginals, [[0.625, 0.375]])
    assert one.pairs.shape == (0, 2, 2)
    with np.errstate(divide="ignore"):
        stay = np.log(np.eye(2))
    result = forward_backward(np.log([0.5, 0.5]), stay, np.log([[0.2, 0.4], [0.5, 0.5]]))
    np.testing.assert_allclose(result.marginals, [[1 / 3, 2 / 3]] * 2)


def test_the_discrete_chain_of_pyro_starts_silently():
    initial, transition, likelihood = random_chain(7, 3)
    chain = dist.DiscreteHMM(
        torch.tensor(initial),
        torch.tensor(transition[0]),
        dist.Categorical(logits=torch.tensor(likelihood[:3].T)),
    )
    y = torch.tensor([0, 2, 1, 1, 0])
    emission = dist.Categorical(logits=torch.tensor(likelihood[:3].T)).logits.numpy()
    result = forward_backward(initial, transition[0], silent_start(emission.T[y.numpy()]))
    assert result.log_evidence == pytest.approx(float(chain.log_prob(y)), abs=1e-12)


def random_space(T, D, E, seed=0, varying=False):
    make = np.random.default_rng(seed)

    def cov(*shape):
        root = make.normal(size=shape)
        return root @ root.swapaxes(-1, -2) + 0.5 * np.eye(shape[-1])

    steps = (T - 1,) if varying else ()
    return StateSpace(
        make.normal(size=D),
        cov(D, D),
        make.normal(size=(*steps, D, D)) / 2,
        cov(*steps, D, D) / 2,
        make.normal(size=(E, D)),
        cov(E, E),
        make.normal(size=(T - 1, D)),
        make.normal(size=(T, E)),
    )


def data(model, T, seed=1, missing=()):
    make = np.random.default_rng(seed)
    y = make.normal(size=(T, len(model.emission))) * 2
    for place in missing:
        y[place] = np.nan
    return y


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize(
    "missing", [(), (0,), (3, (5, 1), 11), tuple(range(12))], ids=["none", "first", "some", "all"]
)
def test_the_kalman_smoother_is_the_dense_posterior(varying, missing):
    T, D = 12, 3
    model = random_space(T, D, 2, varying=varying)
    y = data(model, T, missing=missing)
    chain, dense = smooth(model, y), posterior(model, y)
    assert chain.log_evidence == pytest.approx(dense.log_evidence, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(chain.means, dense.mean, atol=1e-11)
    for t in range(T):
        np.testing.assert_allclose(chain.covs[t], dense.cov[t, :, t], atol=1e-11)
        if t < T - 1:
            np.testing.assert_allclose(chain.cross_covs[t], dense.cov[t, :, t + 1], atol=1e-11)


def test_a_chain_of_one_step_is_one_regression():
    model = random_space(1, 2, 2)
    y = data(model, 1)
    chain, dense = smooth(model, y), posterior(model, y)
    assert chain.cross_covs.shape == (0, 2, 2)
    np.testing.assert_allclose(chain.means, dense.mean, atol=1e-13)
    assert chain.log_evidence == pytest.approx(dense.log_evidence)


def test_the_gaussian_chain_of_pyro_starts_silently():
    T, D, E = 6, 3, 2
    model = random_space(T + 1, D, E)
    zero = np.zeros(())
    model = StateSpace(
        *(getattr(model, n) for n in ("initial_mean", "initial_cov", "transition")),
        *(getattr(model, n) for n in ("transition_cov", "emission", "emission_cov")),
        zero,
        zero,
    )
    t = torch.tensor
    normals = [
        dist.MultivariateNormal(t(mean), t(cov))
        for mean, cov in [
            (model.initial_mean, model.initial_cov),
            (np.zeros(D), model.transition_cov),
            (np.zeros(E), model.emission_cov),
        ]
    ]
    # Pyro multiplies rows from the left.
    chain = dist.GaussianHMM(
        normals[0], t(model.transition.T), normals[1], t(model.emission.T), normals[2], duration=T
    )
    y = data(model, T)
    result = smooth(model, missing_start(y))
    assert result.log_evidence == pytest.approx(float(chain.log_prob(t(y))), abs=1e-10)


def counts(model, T, seed=2):
    make = np.random.default_rng(seed)
    y = make.poisson(2.0, size=(T, len(model.emission))).astype(float)
    y[[0, 4]] = np.nan
    return y


def small_space(T, D=2, E=1):
    model = random_space(T, D, E)
    return StateSpace(
        model.initial_mean / 2,
        model.initial_cov / 4,
        model.transition / 2,
        model.transition_cov / 4,
        model.emission / 2,
        model.emission_cov,
        model.transition_offset / 4,
        model.emission_offset / 4,
    )


@pytest.mark.parametrize("likelihood", [POISSON, BERNOULLI], ids=["Poisson", "Bernoulli"])
def test_cvi_is_stationary_and_below_the_evidence(likelihood):
    T = 9
    model = small_space(T)
    y = counts(model, T)
    if likelihood is BERNOULLI:
        y = np.where(np.isnan(y), y, y > 1)
    result = cvi(model, y, likelihood)
    gradient = _numeric_gradient(model, y, likelihood, result)
    assert np.abs(gradient).max() < 1e-7
    make = np.random.default_rng(3)
    assert result.log_evidence < _evidence_by_draws(model, y, likelihood, make)


def _numeric_gradient(model, y, likelihood, result):
    """Central differences of the ELBO in each mean and along each axis of the covariance."""
    from tests.oracles import dense_state_space as dense

    T, D = result.mean.shape
    there = ~np.isnan(y.ravel())
    F, d = dense.predictors(model, T)
    sites = dense._Sites(*dense.prior(model, T), F[there], d[there], y.ravel()[there], likelihood)
    mean, cov = result.mean.ravel(), result.cov.reshape(T * D, T * D)
    root, h, found = np.linalg.cholesky(cov), 1e-4, []
    for i in range(T * D):
        shift = h * np.eye(T * D)[i]
        pair = [sites.elbo(mean + sign * root @ shift, cov) for sign in (1, -1)]
        found.append((pair[0] - pair[1]) / (2 * h))
        widened = [np.eye(T * D) + sign * np.outer(shift, shift) / h for sign in (1, -1)]
        pair = [sites.elbo(mean, root @ w @ root.T) for w in widened]
        found.append((pair[0] - pair[1]) / (2 * h))
    return np.array(found)


def _evidence_by_draws(model, y, likelihood, make, count=200_000):
    """log of the mean likelihood of draws of the prior, by the naive route."""
    from tests.oracles import dense_state_space as dense

    T = len(y)
    mean, cov = dense.prior(model, T)
    F, d = dense.predictors(model, T)
    z = mean + make.normal(size=(count, len(mean))) @ np.linalg.cholesky(cov).T
    logs = np.nansum(likelihood.log_prob(y.ravel(), z @ F.T + d), -1)
    weights = np.exp(logs - logs.max())
    error = weights.std() / weights.mean() / np.sqrt(count)
    assert error < 0.01
    return logs.max() + np.log(weights.mean()) + 5 * error


def test_cvi_of_a_poisson_has_the_closed_form_of_its_expectation():
    T = 6
    model = small_space(T)
    y = counts(model, T)
    result = cvi(model, y, POISSON)
    # At the optimum mean = prior + S F'(y - E exp f): E exp f = exp(m + v / 2).
    from tests.oracles import dense_state_space as dense

    mean, cov = dense.prior(model, T)
    F, d = dense.predictors(model, T)
    there = ~np.isnan(y.ravel())
    F, d, seen = F[there], d[there], y.ravel()[there]
    D = len(mean) // T
    q = result.cov.reshape(T * D, T * D)
    rate = np.exp(F @ result.mean.ravel() + d + np.einsum("ti,ij,tj->t", F, q, F) / 2)
    np.testing.assert_allclose(result.mean.ravel(), mean + cov @ F.T @ (seen - rate), atol=1e-11)
    precision = np.linalg.inv(cov) + (F.T * rate) @ F
    np.testing.assert_allclose(np.linalg.inv(q), precision, rtol=1e-9, atol=1e-9)

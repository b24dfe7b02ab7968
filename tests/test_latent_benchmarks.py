# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The peers of the latent variable benchmarks answer the same problems, from the same starts."""

from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks import gmm, hmm, lda, smoothing, topics
from benchmarks.discrete import DiscreteProblem, natural_of
from benchmarks.dynamax_peer import Dynamax
from benchmarks.rows import Settings
from tests.oracles import laws
from tests.oracles.emissions import DiagonalNormals, FullNormals, Words
from tests.oracles.forward_backward import forward_backward
from tests.oracles.kalman import StateSpace, smooth
from tests.oracles.variational_em import HiddenMarkov, Known, Mixture, Topics

needs_dynamax = pytest.mark.skipif(find_spec("dynamax") is None, reason="needs dynamax")


def n(tensor):
    return tensor.numpy()


def diagonal_of(start, K, D):
    mu, tau = start["mu"], start["tau"]
    ones = np.ones((K, D))
    return DiagonalNormals(
        laws.Normal(n(mu.loc).reshape(K, D), n(mu.scale).reshape(K, D) ** 2),
        laws.Gamma(n(tau.concentration).reshape(K, D), n(tau.rate).reshape(K, D)),
        laws.Normal(0 * ones, 100 * ones),
        laws.Gamma(ones, ones),
    )


def full_of(start, K, D):
    mu, L = start["mu"], start["L"]
    eyes = np.tile(np.eye(D), (K, 1, 1))
    return FullNormals(
        laws.MultivariateNormal(n(mu.loc), n(mu.covariance_matrix)),
        laws.Wishart(n(L.df), n(L.covariance_matrix)),
        laws.MultivariateNormal(np.zeros((K, D)), 100 * eyes),
        laws.Wishart(np.full(K, D + 1.0), eyes),
    )


def mixture(problem):
    y, K = problem.args
    emission = diagonal_of if "tau" in problem.start else full_of
    theta, prior = (
        laws.Dirichlet(n(problem.start["theta"].concentration)),
        laws.Dirichlet(np.ones(K)),
    )
    return Mixture(theta, prior, emission(problem.start, K, y.shape[1])), (n(y),)


def markov(problem):
    y, K = problem.args
    rows, prior = laws.Dirichlet(n(problem.start["rows"].concentration)), np.ones((K, K))
    first = Known(np.full(K, 1 / K))
    emission = diagonal_of(problem.start, K, 1)
    chain = HiddenMarkov(first, rows, None, laws.Dirichlet(prior), emission, silent=True)
    return chain, ([n(y)[:, None]],)


def allocation(problem):
    doc, words, sizes = problem.args
    documents, _, K, V = sizes
    theta, phi = (laws.Dirichlet(n(problem.start[name].concentration)) for name in ("theta", "phi"))
    priors = [
        laws.Dirichlet(np.full((documents, K), topics.TOPICS)),
        laws.Dirichlet(np.full((K, V), topics.WORDS)),
    ]
    return Topics(theta, priors[0], Words(phi, priors[1])), (n(doc), n(words))


SMALL = topics.Sizes(8, 5, 2, 6)
CASES = {
    "diagonal mixture": (gmm.diagonal(60, 2, 3), mixture),
    "full mixture": (gmm.full(60, 2, 3), mixture),
    "hidden Markov model": (hmm.problem(30, 3), markov),
    "topics": (topics.problem(SMALL), allocation),
}


@pytest.mark.parametrize("case", CASES)
def test_bayespy_goes_the_way_of_the_oracle(case: str) -> None:
    problem, make = CASES[case]
    oracle, args = make(problem)
    engine, nodes = problem.bayespy()
    for _ in range(4):
        problem.naturals_of(nodes)  # brings the discrete latents to their optimum
        assert float(engine.compute_lowerbound()) == pytest.approx(oracle.elbo(*args), rel=1e-12)
        engine.update(repeat=1, verbose=False, tol=None)
        oracle = oracle.sweep(*args)


@pytest.mark.parametrize("case", CASES)
def test_the_start_is_read_back_from_bayespy(case: str) -> None:
    problem: DiscreteProblem = CASES[case][0]
    found = problem.naturals_of(problem.bayespy()[1])
    for site, law in problem.start.items():
        for theirs, ours in zip(found[site], natural_of(law), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-12)


def test_stochastic_inference_by_hand_has_the_bound_of_the_oracle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topics, "SETTLED", 1e-13)
    problem = topics.problem(SMALL)
    oracle, args = allocation(problem)
    by_hand = topics.Hoffman(topics.draw(SMALL), SMALL)
    for _ in range(3):
        oracle = oracle.local_optimum(*args)
        bound = oracle.elbo(*args) / len(args[0])
        assert by_hand.bound_per_word() == pytest.approx(bound, abs=1e-8)
        # A step on all documents at rate one is a sweep from the local optimum.
        by_hand.step(torch.arange(SMALL.documents), 1.0)
        oracle = oracle.sweep(*args)


def test_batch_inference_by_hand_settles() -> None:
    by_hand = topics.Hoffman(topics.draw(SMALL), SMALL)
    by_hand.settle()
    bound = by_hand.bound_per_word()
    by_hand.settle()
    assert by_hand.bound_per_word() == pytest.approx(bound, rel=1e-5)


@pytest.mark.slow
@needs_dynamax
def test_dynamax_smooths_as_the_oracle() -> None:
    chain = smoothing.draw(20, 3, 2)
    parameters = chain.arrays()
    exact = smooth(StateSpace(**{k: v for k, v in parameters.items() if k != "y"}), parameters["y"])
    with Dynamax(1) as peer:
        for parallel in (False, True):
            elapsed, theirs = smoothing.by_dynamax(peer, chain, parallel)
            assert elapsed > 0
            np.testing.assert_allclose(theirs.means, exact.means, atol=1e-7)
            variances = np.diagonal(exact.covs, axis1=1, axis2=2)
            np.testing.assert_allclose(theirs.variances, variances, atol=1e-7)
            assert theirs.log_evidence == pytest.approx(exact.log_evidence, abs=1e-6)


@pytest.mark.slow
@needs_dynamax
def test_dynamax_fits_a_chain_that_the_oracle_agrees_on() -> None:
    y, means = hmm.data(200, 3)
    with Dynamax(1) as peer:
        iterations = hmm.iterations_of(peer, y, means)
        fitted = hmm.em(peer, y, means, iterations)
    assert 2 < iterations < hmm.MOST_ITERATIONS
    emission = -(((n(y)[:, None] - fitted["means"]) / fitted["sds"]) ** 2) / 2
    emission = emission - np.log(fitted["sds"]) - laws.LOG_2PI / 2
    exact = forward_backward(np.log(fitted["initial"]), np.log(fitted["transition"]), emission)
    assert float(fitted["log_likelihood"]) == pytest.approx(exact.log_evidence, abs=1e-9)
    np.testing.assert_allclose(fitted["marginals"], exact.marginals, atol=1e-9)


@pytest.mark.parametrize(
    "module",
    [
        gmm,
        lda,
        pytest.param(hmm, marks=needs_dynamax),
        pytest.param(smoothing, marks=needs_dynamax),
    ],
)
def test_both_sides_of_a_latent_variable_model_go_the_same_way(module: ModuleType) -> None:
    rows = list(module.run(Settings(tiny=True)))
    assert rows
    assert "MISS" not in [row.verdict for row in rows]

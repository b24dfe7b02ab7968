# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The variational Bayes oracles: their terms against draws, their sums against enumeration."""

import itertools
from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.special import gammaln, multigammaln
from scipy.stats import wishart

from tests.oracles import laws
from tests.oracles.emissions import Counts, DiagonalNormals, FullNormals, JointNormals, Words
from tests.oracles.variational_em import HiddenMarkov, Known, Mixture, Topics

K, D, V = 3, 2, 5
DRAWS = 100_000


def rng(seed=0):
    return np.random.default_rng(seed)


def matrices(make, *shape):
    root = make.normal(size=(*shape, D, D + 2))
    return root @ root.swapaxes(-1, -2) / D


def diagonal(make):
    normal = laws.Normal(make.normal(size=(K, D)), make.gamma(3.0, size=(K, D)))
    gamma = laws.Gamma(2 + make.gamma(3.0, size=(K, D)), make.gamma(3.0, size=(K, D)))
    return DiagonalNormals(
        normal,
        gamma,
        laws.Normal(np.full((K, D), 0.5), np.full((K, D), 4.0)),
        laws.Gamma(np.full((K, D), 2.0), np.full((K, D), 1.5)),
    )


def full(make):
    return FullNormals(
        laws.MultivariateNormal(make.normal(size=(K, D)), matrices(make, K)),
        laws.Wishart(D + 1 + make.gamma(3.0, size=K), matrices(make, K)),
        laws.MultivariateNormal(np.full((K, D), 0.5), matrices(make, K)),
        laws.Wishart(np.full(K, D + 1.5), matrices(make, K)),
    )


def joint(make):
    return JointNormals(
        laws.NormalWishart(
            make.normal(size=(K, D)),
            make.gamma(3.0, size=K),
            D + 1 + make.gamma(3.0, size=K),
            matrices(make, K),
        ),
        laws.NormalWishart(
            np.full((K, D), 0.5), np.full(K, 0.7), np.full(K, D + 1.5), matrices(make, K)
        ),
    )


def words(make):
    prior = laws.Dirichlet(np.full((K, V), 0.8))
    return Words(laws.Dirichlet(make.gamma(2.0, size=(K, V))), prior)


def counts(make):
    prior = laws.Gamma(np.full((K, D), 2.0), np.full((K, D), 1.5))
    gamma = laws.Gamma(2 + make.gamma(3.0, size=(K, D)), make.gamma(3.0, size=(K, D)))
    return Counts(gamma, prior)


EMISSIONS = {
    "diagonal": (diagonal, lambda make, N: make.normal(size=(N, D)) * 2),
    "full": (full, lambda make, N: make.normal(size=(N, D)) * 2),
    "joint": (joint, lambda make, N: make.normal(size=(N, D)) * 2),
    "words": (words, lambda make, N: make.integers(V, size=N)),
    "counts": (counts, lambda make, N: make.poisson(2.0, size=(N, D)).astype(float)),
}


@pytest.fixture(params=EMISSIONS)
def emitted(request):
    make, data = EMISSIONS[request.param]
    return make(rng()), data(rng(1), 7)


# The terms of the bound, against draws of q.


def t(array):
    return torch.as_tensor(np.array(array), dtype=torch.float64)


def pyro_laws(e):
    """(q, prior) of each independent part, and log p(y | parameters) by Pyro's densities."""
    if isinstance(e, DiagonalNormals):
        parts = [
            (
                dist.Normal(t(q.mean), t(q.variance).sqrt()),
                dist.Normal(t(p.mean), t(p.variance).sqrt()),
            )
            for q, p in [(e.mu, e.prior_mu)]
        ] + [(dist.Gamma(t(e.tau.shape), t(e.tau.rate)), dist.Gamma(*map(t, e.prior_tau)))]
        return parts, lambda mu, tau: dist.Normal(mu, tau.rsqrt()).to_event(1)
    if isinstance(e, FullNormals):
        normal, precision = (
            [make(t(a), t(b)) for a, b in pair]
            for make, pair in [
                (dist.MultivariateNormal, (e.mu, e.prior_mu)),
                (lambda n, S: dist.Wishart(n, covariance_matrix=S), (e.L, e.prior_L)),
            ]
        )
        return [tuple(normal), tuple(precision)], lambda mu, L: dist.MultivariateNormal(
            mu, precision_matrix=L
        )
    if isinstance(e, Words):
        parts = [(dist.Dirichlet(t(e.phi.concentration)), dist.Dirichlet(t(e.prior.concentration)))]
        return parts, dist.Categorical
    parts = [(dist.Gamma(*map(t, e.rate)), dist.Gamma(*map(t, e.prior)))]
    return parts, lambda rate: dist.Poisson(rate).to_event(1)


def wishart_draws(law):
    # torch's own sampler warns of singular draws that are none.
    drawn = [wishart(n, V).rvs(DRAWS, random_state=0) for n, V in zip(*law, strict=True)]
    return t(np.stack(drawn, 1))


def close_to_mean(draws, expected):
    """Within five standard errors."""
    error = draws.std(0) / DRAWS**0.5
    assert bool(((draws.mean(0) - t(expected)).abs() < 5 * error).all())


def test_the_terms_are_expectations_over_q(emitted):
    e, y = emitted
    torch.manual_seed(0)
    if isinstance(e, JointNormals):
        L_q, L_p = (dist.Wishart(t(n.df), covariance_matrix=t(n.scale)) for n in (e.law, e.prior))
        L = wishart_draws(e.law.precision)
        q, p = (
            dist.MultivariateNormal(t(n.mean), precision_matrix=t(n.kappa)[:, None, None] * L)
            for n in (e.law, e.prior)
        )
        drawn = (q.sample(), L)
        logs = p.log_prob(drawn[0]) + L_p.log_prob(L) - q.log_prob(drawn[0]) - L_q.log_prob(L)
        likelihood = dist.MultivariateNormal(drawn[0], precision_matrix=L)
    else:
        parts, emission = pyro_laws(e)
        drawn = [
            wishart_draws(e.L) if isinstance(q, dist.Wishart) else q.sample((DRAWS,))
            for q, _ in parts
        ]
        logs = [
            (p.log_prob(z) - q.log_prob(z)).reshape(DRAWS, -1).sum(-1)
            for z, (q, p) in zip(drawn, parts, strict=True)
        ]
        logs, likelihood = sum(logs), emission(*drawn)
    close_to_mean(logs.reshape(DRAWS, -1).sum(-1), e.minus_kl)
    values = torch.stack([likelihood.log_prob(row) for row in torch.as_tensor(y)], -2)
    close_to_mean(values, e.log_likelihood(y))


# The sums, against enumeration of every assignment.


def mixture(e):
    make = rng(2)
    prior = laws.Dirichlet(np.full(K, 1.2))
    return Mixture(laws.Dirichlet(make.gamma(2.0, size=K)), prior, e)


def test_the_mixture_bound_is_the_sum_over_all_assignments(emitted):
    e, y = emitted
    m, y = mixture(e), emitted[1][:5]
    logs = m.theta.mean_log + e.log_likelihood(y)
    total = -np.inf
    for z in itertools.product(range(K), repeat=len(y)):
        total = np.logaddexp(total, logs[range(len(y)), z].sum())
    bound = total + m.theta.minus_kl(m.prior) + e.minus_kl
    assert m.elbo(y) == pytest.approx(bound, abs=1e-11)


def test_the_updates_raise_the_bound_and_settle(emitted):
    e, y = emitted
    m = mixture(e)
    bounds = [m.elbo(y)]
    while len(bounds) < 3 or bounds[-1] - bounds[-2] > 1e-12:
        m = m.sweep(y)
        bounds.append(m.elbo(y))
        assert len(bounds) < 3000
    assert np.diff(bounds).min() > -1e-11
    # The last q is the best one: every neighbour is worse.
    for scale in (0.98, 1.02):
        other = replace(m, theta=laws.Dirichlet(m.theta.concentration * scale))
        assert other.elbo(y) < bounds[-1]


def test_the_joint_mixture_is_as_far_below_its_evidence_as_classes_can_be_renamed():
    """With conjugate priors the evidence is a sum of closed forms over all assignments; where the
    classes are far apart the bound is one of K! equal terms of it."""
    centres = 100.0 * np.arange(K)[:, None] * np.ones(D)
    y = np.repeat(centres, 2, 0) + 0.1 * rng(1).normal(size=(2 * K, D))
    prior = laws.NormalWishart(
        np.full((K, D), 100.0), np.full(K, 1e-4), np.full(K, D + 4.0), np.tile(np.eye(D), (K, 1, 1))
    )
    e = JointNormals(prior._replace(mean=centres, kappa=np.ones(K)), prior)
    m = mixture(e)
    for _ in range(50):
        m = m.sweep(y)
    total = -np.inf
    for z in itertools.product(range(K), repeat=len(y)):
        one_hot = np.eye(K)[list(z)]
        a, n = m.prior.concentration, one_hot.sum(0)
        log = gammaln(a.sum()) - gammaln((a + n).sum()) + (gammaln(a + n) - gammaln(a)).sum()
        post = e.updated(one_hot, y).law
        for k in range(K):
            log += log_normaliser(post, k) - log_normaliser(prior, k) - n[k] * D * laws.LOG_2PI / 2
        total = np.logaddexp(total, log)
    assert total - m.elbo(y) == pytest.approx(np.log(6), abs=1e-3)


def log_normaliser(law, k):
    det = np.linalg.slogdet(law.scale[k])[1]
    wishart = law.df[k] * (D * np.log(2) + det) / 2 + multigammaln(law.df[k] / 2, D)
    return wishart - D * np.log(law.kappa[k]) / 2


def test_one_class_with_a_joint_law_is_the_evidence():
    y = rng(1).normal(size=(6, D))
    e = joint(rng())
    one = JointNormals(
        laws.NormalWishart(*(p[:1] for p in e.law)), laws.NormalWishart(*(p[:1] for p in e.prior))
    )
    certain = laws.Dirichlet(np.ones(1))
    m = Mixture(certain, certain, one).sweep(y)
    post, prior = m.emission.law, one.prior
    evidence = log_normaliser(post, 0) - log_normaliser(prior, 0) - 6 * D * laws.LOG_2PI / 2
    assert m.elbo(y) == pytest.approx(evidence, abs=1e-12)


# Topics and chains.


def topics():
    make = rng(3)
    prior = laws.Dirichlet(np.full((2, K), 0.7))
    return Topics(laws.Dirichlet(make.gamma(2.0, size=(2, K))), prior, words(make))


DOC, WORD = np.array([0, 0, 1, 1, 1]), np.array([1, 4, 0, 0, 2])


def test_the_topic_bound_is_the_sum_over_all_assignments():
    m, total = topics(), -np.inf
    logs = m.theta.mean_log[DOC] + m.phi.phi.mean_log.T[WORD]
    for z in itertools.product(range(K), repeat=len(DOC)):
        total = np.logaddexp(total, logs[range(len(DOC)), z].sum())
    bound = total + m.theta.minus_kl(m.prior) + m.phi.minus_kl
    assert m.elbo(DOC, WORD) == pytest.approx(bound, abs=1e-12)


def test_topics_rise_and_the_local_optimum_is_one():
    m = topics()
    bounds = [m.elbo(DOC, WORD)]
    best = m.local_optimum(DOC, WORD)
    assert best.elbo(DOC, WORD) > bounds[0]
    moved = best.sweep(DOC, WORD)
    np.testing.assert_allclose(moved.theta.concentration, best.theta.concentration, rtol=1e-12)
    for _ in range(100):
        m = m.sweep(DOC, WORD)
        bounds.append(m.elbo(DOC, WORD))
    assert np.diff(bounds).min() > -1e-12


def chain(e, silent, known):
    make = rng(4)
    prior = laws.Dirichlet(np.full(K, 1.1))
    initial = (
        Known(make.dirichlet(np.ones(K))) if known else laws.Dirichlet(make.gamma(2.0, size=K))
    )
    rows = laws.Dirichlet(make.gamma(2.0, size=(K, K)))
    return HiddenMarkov(
        initial, rows, None if known else prior, laws.Dirichlet(np.full((K, K), 0.9)), e, silent
    )


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_the_chain_bound_is_the_sum_over_all_paths(emitted, silent, known):
    e, y = emitted
    m, y = chain(e, silent, known), emitted[1][:4]
    T, likelihood = len(y) + silent, e.log_likelihood(y)
    total = -np.inf
    for z in itertools.product(range(K), repeat=T):
        log = m.initial.mean_log[z[0]] + likelihood[range(len(y)), z[silent:]].sum()
        log += sum(m.rows.mean_log[move] for move in itertools.pairwise(z))
        total = np.logaddexp(total, log)
    bound = total + m.rows.minus_kl(m.prior_rows) + e.minus_kl
    if not known:
        bound += m.initial.minus_kl(m.prior_initial)
    assert m.elbo([y]) == pytest.approx(bound, abs=1e-11)


@pytest.mark.parametrize("silent", [False, True])
def test_chains_rise(emitted, silent):
    e, y = emitted
    m, sequences = chain(e, silent, known=False), [y, y[:1], y[2:5]]
    bounds = [m.elbo(sequences)]
    for _ in range(100):
        m = m.sweep(sequences)
        bounds.append(m.elbo(sequences))
    assert np.diff(bounds).min() > -1e-11


def test_a_missing_step_says_nothing(emitted):
    e, y = emitted
    gone = y.copy()
    gone[2] = -1 if y.dtype.kind == "i" else np.nan
    assert e.log_likelihood(gone)[2] == pytest.approx(np.zeros(K))
    weights = rng(5).dirichlet(np.ones(K), size=len(y))
    with_gap, without = (
        e.updated(weights, gone),
        e.updated(*(np.delete(a, 2, 0) for a in (weights, y))),
    )
    assert with_gap.minus_kl == pytest.approx(without.minus_kl, abs=1e-12)

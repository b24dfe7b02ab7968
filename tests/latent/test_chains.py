# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""One program for hidden Markov models and Kalman filters, against recursions written out."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pyro_blr.errors import GuideError, NotConjugatedError, ParameterError
from pyro_blr.latent import Chain, chain, conjugated

START = torch.tensor([0.5, 0.3, 0.2])
JUMP = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4]])
RATES = torch.tensor([0.5, 3.0, 9.0])
COUNTS = torch.tensor([0.0, 1.0, 4.0, 10.0, 8.0, 0.0, 2.0])

F = torch.tensor([[0.9, 0.2], [-0.1, 0.8]])
NOISE = torch.tensor([0.3, 0.5])
LOADINGS = torch.tensor([[1.0, 0.5], [0.0, 1.0], [-0.7, 0.4]])
SEEN = torch.tensor([0.4, 0.6, 0.5])


def jump() -> None:
    z = pyro.sample("z", dist.Categorical(START))
    pyro.sample("next", dist.Categorical(JUMP[z]))


def count(x: Tensor) -> None:
    z = pyro.sample("z", dist.Categorical(torch.ones(3)))
    pyro.sample("x", dist.Poisson(RATES[z]), obs=x)


def drift() -> None:
    z = pyro.sample("z", dist.MultivariateNormal(torch.tensor([1.0, -1.0]), 2.0 * torch.eye(2)))
    pyro.sample("next", dist.Normal(z @ F.T + 0.1, NOISE).to_event(1))


def look(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z @ LOADINGS.T, SEEN).to_event(1), obs=x)


def hmm(x: Tensor) -> Chain:
    return chain(conjugated(jump, observed="next"), conjugated(count, x), x)


def kalman(x: Tensor) -> Chain:
    return chain(conjugated(drift, observed="next"), conjugated(look, x), x)


def forward_backward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Filtered and smoothed probabilities, and the evidence, by sums of products."""
    likelihood = dist.Poisson(RATES).log_prob(x.nan_to_num().unsqueeze(-1)).exp()
    likelihood = torch.where(x.isnan().unsqueeze(-1), 1.0, likelihood)
    alphas, alpha = [], START * likelihood[0]
    for now in likelihood[1:]:
        alphas.append(alpha)
        alpha = alpha @ JUMP * now
    alphas.append(alpha)
    betas, beta = [], torch.ones(3)
    for now in reversed(likelihood):
        betas.append(beta)
        beta = JUMP @ (now * beta)
    forward, backward = torch.stack(alphas), torch.stack(betas[::-1])
    both = forward * backward
    filtered = forward / forward.sum(-1, keepdim=True)
    return filtered, both / both.sum(-1, keepdim=True), alphas[-1].sum().log()


def dense(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed means and covariances, and the evidence, from the Gaussian of all steps at once."""
    steps = len(x)
    means, cov = [torch.tensor([1.0, -1.0])], torch.zeros(steps, 2, steps, 2)
    cov[0, :, 0] = 2.0 * torch.eye(2)
    for t in range(1, steps):
        means.append(F @ means[-1] + 0.1)
        cov[t, :, :t] = torch.einsum("ij,jtk->itk", F, cov[t - 1, :, :t])
        cov[:t, :, t] = cov[t, :, :t].permute(1, 2, 0)
        cov[t, :, t] = F @ cov[t - 1, :, t - 1] @ F.T + torch.diag(NOISE**2)
    prior = cov.reshape(2 * steps, 2 * steps)
    big = torch.kron(torch.eye(steps), LOADINGS)
    seen = ~x.flatten().isnan()
    rows, noise = big[seen], torch.diag(SEEN.repeat(steps)[seen] ** 2)
    centre = torch.cat(means)
    marginal = dist.MultivariateNormal(rows @ centre, rows @ prior @ rows.T + noise)
    gain = prior @ rows.T @ torch.linalg.inv(marginal.covariance_matrix)
    mean = centre + gain @ (x.flatten()[seen] - rows @ centre)
    spread = (prior - gain @ rows @ prior).reshape(steps, 2, steps, 2)
    covs = torch.stack([spread[t, :, t] for t in range(steps)])
    return mean.reshape(steps, 2), covs, marginal.log_prob(x.flatten()[seen])


def series(steps: int) -> Tensor:
    return torch.randn(steps, 3) + torch.linspace(0.0, 2.0, steps).unsqueeze(-1)


@pytest.mark.parametrize("x", [COUNTS, COUNTS[:1], torch.tensor([1.0, torch.nan, 8.0, torch.nan])])
def test_hmm_equals_forward_backward(x: Tensor) -> None:
    found = hmm(x)
    filtered, smoothed, evidence = forward_backward(x)
    assert_close(found.filtered.probs, filtered, atol=1e-12, rtol=1e-10)
    assert_close(found.smoothed.probs, smoothed, atol=1e-12, rtol=1e-10)
    assert_close(found.log_evidence, evidence, atol=1e-10, rtol=0.0)


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_kalman_equals_the_dense_gaussian(steps: int) -> None:
    x = series(steps)
    x[steps // 2, 0] = torch.nan  # an element
    if steps > 2:
        x[steps // 3] = torch.nan  # a step
    found = kalman(x)
    mean, covariance, evidence = dense(x)
    assert_close(found.smoothed.mean, mean, atol=1e-9, rtol=1e-9)
    assert_close(found.smoothed.covariance_matrix, covariance, atol=1e-9, rtol=1e-9)
    assert_close(found.log_evidence, evidence, atol=1e-8, rtol=1e-10)
    # The last filtered law is the last smoothed one; the first is that of the first datum alone.
    last = kalman(x[: steps // 2 + 1]).smoothed.mean[-1]
    assert_close(found.filtered.mean[steps // 2], last, atol=1e-9, rtol=1e-9)


def test_nothing_seen_is_the_prior() -> None:
    found = kalman(torch.full((4, 3), torch.nan))
    assert_close(found.log_evidence, torch.tensor(0.0), atol=1e-10, rtol=0.0)
    assert_close(found.smoothed.mean, found.predicted.mean, atol=1e-9, rtol=0.0)


def test_a_batch_of_sequences_is_each_of_them() -> None:
    x = torch.stack([series(5), series(5)], 1)
    found = kalman(x)
    each = [kalman(x[:, i]) for i in range(2)]
    assert_close(found.log_evidence, torch.stack([e.log_evidence for e in each]))
    assert_close(found.smoothed.mean[:, 1], each[1].smoothed.mean)


def test_the_evidence_of_a_chain_has_a_gradient() -> None:
    """Dynamics can be learnt by the gradient of the exact evidence."""

    def scaled() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        a = pyro.param("a", torch.tensor(0.5))
        pyro.sample("next", dist.Normal(a * z, 0.3).to_event(1))

    x = series(6)
    transition, emission = conjugated(scaled, observed="next"), conjugated(look, x)
    leaf = pyro.get_param_store()._params["a"]
    value = chain(transition, emission, x).log_evidence
    (slope,) = torch.autograd.grad(value, leaf)
    with torch.no_grad():
        leaf += 1e-5
        above = chain(transition, emission, x).log_evidence
        leaf -= 2e-5
        below = chain(transition, emission, x).log_evidence
    assert_close(slope, (above - below) / 2e-5, rtol=1e-6, atol=1e-6)


def test_a_chain_that_leaves_its_family_is_refused() -> None:
    def growth() -> None:
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        pyro.sample("next", dist.Gamma(3.0, z))

    def arrivals(x: Tensor) -> None:
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Poisson(z), obs=x)

    with pytest.raises(NotConjugatedError, match="leaves its family"):
        chain(conjugated(growth, observed="next"), conjugated(arrivals, COUNTS), COUNTS)


def test_an_emission_that_is_not_conjugated_is_refused() -> None:
    def spikes(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Poisson((z @ LOADINGS.T).exp()).to_event(1), obs=x)

    x = torch.ones(4, 3)
    with pytest.raises(NotConjugatedError, match="a model of the chain is not conjugated"):
        chain(conjugated(drift, observed="next"), conjugated(spikes, x), x)


def test_transitions_of_other_shapes_are_refused() -> None:
    def two() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("next", dist.Normal(a + pyro.sample("b", dist.Normal(0.0, 1.0)), 1.0))

    with pytest.raises(GuideError, match="a transition has one latent"):
        chain(conjugated(two, observed="next"), conjugated(look, series(3)), series(3))


def test_latents_of_two_kinds_are_refused() -> None:
    with pytest.raises(GuideError, match="different kinds"):
        chain(conjugated(jump, observed="next"), conjugated(look, series(3)), series(3))


TRIANGLE = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]])


def test_moves_that_cannot_be_made_are_named() -> None:
    """A probability of 0 has no natural parameters; one of 1e-300 does, and says the same."""

    def onwards(least: float) -> None:
        z = pyro.sample("z", dist.Categorical(START))
        pyro.sample("next", dist.Categorical(TRIANGLE.clamp(min=least)[z]))

    emission = conjugated(count, COUNTS)
    with pytest.raises(ParameterError, match="probability of the transition"):
        chain(conjugated(onwards, 0.0, observed="next"), emission, COUNTS)
    found = chain(conjugated(onwards, 1e-300, observed="next"), emission, COUNTS)
    seen = dist.Poisson(RATES).log_prob(COUNTS[:, None])
    weight = START * seen[0].exp()
    for each in seen[1:]:
        weight = (weight @ TRIANGLE) * each.exp()
    assert_close(found.log_evidence, weight.sum().log(), rtol=1e-10, atol=1e-10)

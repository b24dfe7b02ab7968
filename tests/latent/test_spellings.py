# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Ways to write a model: of single values, with factors, scales, subsamples, odd families."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor
from torch.testing import assert_close

from pyro_blr.errors import ControlFlowError, NotConjugatedError, ShapeError
from pyro_blr.families import WishartDistribution
from pyro_blr.latent import conjugated

X = torch.tensor([0.3, -1.2, 0.8, 2.0, -0.4])


def exact(model: Any, *args: Any, **options: Any) -> Any:
    return conjugated(model, *args, exact=True, **options)


# ------------------------------------------------------------------------ of single values


@pytest.mark.parametrize("size", [1, 3])
def test_a_regression_with_a_matrix_times_a_vector(size: int) -> None:
    """``inputs @ w`` takes a single w: the model is run under vmap."""
    inputs, y = torch.randn(12, size), torch.randn(12)

    def model(y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(size), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(inputs @ w, 0.5), obs=y)

    found = exact(model, y)
    law = dist.MultivariateNormal(torch.zeros(12), inputs @ inputs.T + 0.25 * torch.eye(12))
    assert_close(found.log_evidence(), law.log_prob(y), atol=1e-9, rtol=1e-10)


def test_elements_counted_from_the_left_beside_a_discrete_latent() -> None:
    def model(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[0] + 2.0 * z[1] + k, scale), obs=x[0])
        pyro.sample("y", dist.Normal(z[0], scale), obs=x[1])

    found = exact(model, X)
    cov = torch.tensor([[6.0, 1.0], [1.0, 2.0]])
    each = [
        math.log(p) + dist.MultivariateNormal(torch.tensor([k, 0.0]), cov).log_prob(X[:2])
        for k, p in ((0.0, 0.3), (1.0, 0.7))
    ]
    assert_close(found.log_evidence().detach(), torch.stack(each).logsumexp(0))
    learned = found.learn(method="em", max_steps=5)
    assert learned.log_evidence[-1] > learned.log_evidence[0]


def test_single_values_and_vectorised_ones_give_the_same_near_misses() -> None:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", 5):
            pyro.sample("x", dist.Bernoulli(logits=torch.ones(5, 2) @ w), obs=x)

    with pytest.raises(NotConjugatedError, match="off by"):
        exact(model, torch.ones(5))


def test_what_can_be_run_in_neither_way_is_refused() -> None:
    def branch(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if z > 0.0:
            z = 2.0 * z
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[0])

    def crooked(x: Tensor) -> None:
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.reshape(5, 2).sum(-1), 1.0), obs=x)

    with pytest.raises(ControlFlowError, match=r"torch\.where"):
        conjugated(branch, X)
    with pytest.raises(ShapeError, match="from the right"):
        conjugated(crooked, X)


# ------------------------------------------------------------------------------ statements


def test_a_factor_is_a_part_of_the_likelihood() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", -0.5 * z**2)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    found = exact(model, X)
    law = dist.MultivariateNormal(torch.zeros(5), torch.eye(5) + 0.5)
    assert_close(found.log_evidence(), law.log_prob(X) - 0.5 * math.log(2.0), atol=1e-9, rtol=0.0)


def test_scales_multiply_messages() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Gamma(2.0, 3.0))
        with pyro.plate("data", len(x)), poutine.scale(scale=0.5):
            pyro.sample("x", dist.Exponential(z), obs=x)

    (shape, rate) = exact(model, X.abs()).posterior().blocks[0]
    assert_close((shape, rate), (torch.tensor(1.0 + 2.5), -3.0 - 0.5 * X.abs().sum()))


def test_a_subsampled_plate_scales_the_messages_to_what_it_shares() -> None:
    def shared(x: Tensor) -> None:
        z = pyro.sample("z", dist.Gamma(2.0, 3.0))
        with pyro.plate("data", 10, subsample=torch.arange(5)):
            pyro.sample("x", dist.Exponential(z), obs=x)

    def own(x: Tensor) -> None:
        with pyro.plate("data", 10, subsample=torch.arange(5)):
            z = pyro.sample("z", dist.Gamma(2.0, 3.0))
            pyro.sample("x", dist.Exponential(z), obs=x)

    (shape, rate) = exact(shared, X.abs()).posterior().blocks[0]
    assert_close((shape, rate), (torch.tensor(1.0 + 10.0), -3.0 - 2.0 * X.abs().sum()))
    (shape, rate) = exact(own, X.abs()).posterior().blocks[0]
    assert_close((shape, rate), (torch.full((5,), 2.0), -3.0 - X.abs()))


def test_a_markov_loop_is_a_table() -> None:
    """Few steps only: all paths are counted out. ``chain`` is for more."""
    jump, start = torch.tensor([[0.8, 0.2], [0.3, 0.7]]), torch.tensor([0.6, 0.4])

    def model(x: Tensor) -> None:
        for t in pyro.markov(range(len(x))):
            k = pyro.sample(f"k{t}", dist.Categorical(jump[k] if t else start))  # noqa: F821
            pyro.sample(f"x{t}", dist.Normal(2.0 * k, 1.0), obs=x[t])

    alpha = start
    for t, x in enumerate(X):
        alpha = alpha @ jump if t else alpha
        alpha = alpha * dist.Normal(torch.tensor([0.0, 2.0]), 1.0).log_prob(x).exp()
    found = exact(model, X)
    assert_close(found.log_evidence(), alpha.sum().log())
    assert_close(found.posterior()["k4"].probs, alpha / alpha.sum())
    assert found.posterior().table.shape == (2,) * 5


# -------------------------------------------------------------------------------- families


def test_variances_and_precision_matrices() -> None:
    def variance(x: Tensor) -> None:
        z = pyro.sample("z", dist.InverseGamma(3.0, 2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.2, z.sqrt()), obs=x)

    law = dist.MultivariateStudentT(6.0, torch.full((5,), 0.2), (2.0 / 3.0) ** 0.5 * torch.eye(5))
    assert_close(exact(variance, X).log_evidence(), law.log_prob(X), atol=1e-9, rtol=0.0)

    rows = torch.randn(4, 2)

    def precision(x: Tensor) -> None:
        z = pyro.sample("z", WishartDistribution(torch.tensor(4.0), torch.eye(2)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), precision_matrix=z), obs=x)

    found = exact(precision, rows)
    first, rest = found.log_evidence(rows[:1]), found.update(rows[:1]).log_evidence(rows[1:])
    assert_close(found.log_evidence(), first + rest, atol=1e-9, rtol=0.0)
    law = dist.MultivariateStudentT(3.0, torch.zeros(2), (1.0 / 3.0) ** 0.5 * torch.eye(2))
    assert_close(first, law.log_prob(rows[0]), atol=1e-9, rtol=0.0)


def test_independent_latents_of_two_families() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            rate = pyro.sample("rate", dist.Gamma(2.0, 3.0))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)
            pyro.sample("n", dist.Poisson(rate), obs=torch.ones(5))

    found = exact(model, X)
    expected = dist.Normal(0.0, 3.0**0.5).log_prob(X) + math.log(2.0 * 0.75**2 * 0.25)
    assert_close(found.log_evidence(), expected, atol=1e-10, rtol=0.0)
    assert len(found.r) == 2 and set(found.posterior()) == {"z", "rate"}


def test_a_matrix_of_weights() -> None:
    inputs, y = torch.randn(6, 2), torch.randn(6, 3)

    def model(y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2, 3]).to_event(2))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(inputs @ w, 0.5).to_event(1), obs=y)

    found = exact(model, y)
    law = dist.MultivariateNormal(torch.zeros(6), inputs @ inputs.T + 0.25 * torch.eye(6))
    assert_close(found.log_evidence(), law.log_prob(y.T).sum(), atol=1e-9, rtol=1e-10)
    assert found.posterior()["w"].mean.shape == (2, 3)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_numbers_far_from_the_origin_and_of_other_sizes(shift: float) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1e-3).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(1e3 * z.sum(-1) + shift, 1.0), obs=x)

    found = exact(model, X + shift)
    expected = dist.Normal(shift, 3.0**0.5).log_prob(X + shift)
    assert_close(found.log_evidence(), expected, atol=1e-9 + 1e-15 * shift**2, rtol=1e-10)


def test_float32_models_are_exact_to_their_rounding() -> None:
    x = X.float()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0, dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, torch.tensor(0.5, dtype=x.dtype)), obs=x)

    found = exact(model, x)
    expected = dist.Normal(0.0, 1.25**0.5).log_prob(X)
    assert_close(found.log_evidence(), expected, atol=1e-5, rtol=0.0)


def test_the_users_random_numbers_are_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    found = exact(lambda x: pyro.sample("x", dist.Normal(_scalar(), 1.0), obs=x), X)
    found.posterior()
    assert torch.equal(torch.rand(2), expected)


def _scalar() -> Tensor:
    return pyro.sample("z", dist.Normal(0.0, 1.0))


# --------------------------------------------------------------------------- probabilities of 0


@pytest.mark.parametrize(
    "law", [lambda z: dist.Bernoulli(0.4 * z), lambda z: dist.Binomial(1, 0.4 * z)]
)
def test_what_cannot_be_seen_where_nothing_is(law: Any) -> None:
    """Occupancy: detections at sites of which some are empty, and a visit that was not made."""
    y = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, torch.nan], [1.0, 1.0, 0.0]])

    def occupancy(y: Tensor) -> None:
        with pyro.plate("sites", len(y), dim=-2):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            with pyro.plate("visits", 3, dim=-1):
                pyro.sample("y", law(z), obs=y)

    there = torch.tensor([0.3 * 0.4 * 0.36, 0.3 * 0.36, 0.3 * 0.16 * 0.6])
    total = there + torch.tensor([0.0, 0.7, 0.0])
    found = exact(occupancy, y)
    assert_close(found.log_evidence().reshape(-1), total.log())
    assert_close(found.posterior()["z"].probs.reshape(-1), there / total)


def test_letters_that_a_state_does_not_have() -> None:
    table = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.4, 0.6]])

    def letters(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Categorical(table[z]), obs=x)

    x = torch.tensor([0, 1, 2, 1])
    found = exact(letters, x)
    assert_close(found.log_evidence(), (torch.tensor([0.3, 0.7]) @ table)[x].log())


@pytest.mark.parametrize("method", ["em", "gradient"])
def test_learning_what_is_seen_where_something_is(method: str) -> None:
    detections = torch.tensor([0.0, 0.0, 2.0, 0.0, 3.0, 1.0, 0.0, 2.0])

    def occupancy(y: Tensor) -> None:
        there = pyro.param("there", torch.tensor(0.5), constraint=constraints.unit_interval)
        seen = pyro.param("seen", torch.tensor(0.3), constraint=constraints.unit_interval)
        with pyro.plate("sites", len(y)):
            z = pyro.sample("z", dist.Bernoulli(there))
            pyro.sample("y", dist.Binomial(4, z * seen), obs=y)

    exact(occupancy, detections).learn(method=method, tol=1e-13)
    there, seen = pyro.param("there").detach(), pyro.param("seen").detach()
    # At the maximum the expected shares are the parameters: (1 - (1 - p)^4) there = 4 of 8.
    empty = there * (1 - seen) ** 4
    assert_close(empty + (1 - there), torch.tensor(0.5), rtol=0, atol=1e-5)
    assert_close(4 * there * seen, detections.mean(), rtol=0, atol=1e-5)

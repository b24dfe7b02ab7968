# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Missing data, recursive Bayes, conditioning, sampling: what can be done with the posterior."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.testing import assert_close

from pyro_blr.errors import (
    ArgumentError,
    DiscreteLatentError,
    GuideError,
    MemoryLimitError,
    NoLatentError,
    NonFiniteError,
    NotConjugatedError,
    ParameterError,
    SupportError,
)
from pyro_blr.families import Gamma, NormalGamma
from pyro_blr.latent import conjugated
from tests.latent import rows
from tests.latent.rows import AA, ALL, COUNTS, ROOT, SD, A, K, P, U, W, X, normal_evidence

GAPS = X.clone()
GAPS[0, 1] = GAPS[2, 0] = GAPS[2, 3] = torch.nan
GAPS[4] = torch.nan


def seen_evidence(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Of each row's entries that are there."""
    found = []
    for row in x:
        s = ~row.isnan()
        some = normal_evidence(row[s], mean[s], covariance[s][:, s]) if s.any() else torch.zeros(1)
        found.append(some)
    return torch.cat(found)


# ----------------------------------------------------------------------------- missing data


def test_missing_elements_are_left_out() -> None:
    found = conjugated(rows.factor_analysis, GAPS)
    expected = seen_evidence(GAPS, U, A @ A.T + torch.diag(SD**2))
    assert_close(found.log_evidence(GAPS), expected, atol=1e-10, rtol=1e-12)


def test_missing_entries_of_a_vector_are_summed_out() -> None:
    found = conjugated(rows.linear_gaussian, GAPS, exact=True)
    cov = torch.tensor([[4.0, 2.0], [2.0, 1.36]])
    mean = A @ torch.tensor([1.0, -0.5]) + U
    expected = seen_evidence(GAPS, mean, A @ cov @ A.T + ROOT @ ROOT.T)
    assert_close(found.log_evidence(GAPS), expected, atol=1e-10, rtol=1e-12)


def test_missing_entries_of_a_mixture_of_vectors() -> None:
    row = ALL["mixture of MultivariateNormal"]
    each = [W[k].log() + seen_evidence(GAPS, rows.UU[k], ROOT @ ROOT.T) for k in range(K)]
    found = conjugated(row.model, GAPS)
    assert_close(found.log_evidence(GAPS), torch.stack(each).logsumexp(0), atol=1e-10, rtol=1e-12)


@pytest.mark.parametrize("name", ["mixture of Gamma", "mixture of Poisson", "mixture of StudentT"])
def test_a_missing_datum_has_the_evidence_1(name: str) -> None:
    row = ALL[name]
    x = row.data[0].clone()
    x[2] = torch.nan
    found = conjugated(row.model, x)
    expected = row.evidence(row.data[0])
    expected[2] = 0.0
    assert_close(found.log_evidence(x), expected, atol=1e-10, rtol=0.0)
    assert_close(found.posterior(x)["k"].probs[2], W)


def test_masks_are_missing_data() -> None:
    mask = ~GAPS.isnan()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            law = dist.Normal(rows.scores() @ A.T + U, SD).mask(mask).to_event(1)
            pyro.sample("x", law, obs=x)

    full = torch.where(mask, X, 1e6)
    found = conjugated(model, full).log_evidence()
    assert_close(found, conjugated(rows.factor_analysis, GAPS).log_evidence())


def test_a_masked_plate_is_left_out() -> None:
    mask = torch.tensor([True, False, True, True, False, True, True])

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Gamma(2.0, 3.0))
        with pyro.plate("data", len(x)), poutine.mask(mask=mask):
            pyro.sample("x", dist.Poisson(z), obs=x)

    outside = torch.where(mask, COUNTS, -1.0)
    (log_part, rate) = conjugated(model, outside).posterior().blocks[0]
    assert_close((log_part, rate), (1.0 + COUNTS[mask].sum(), torch.tensor(-3.0 - 5.0)))


def test_all_data_missing_is_the_prior() -> None:
    x = torch.full((2, P), torch.nan)
    found = conjugated(rows.factor_analysis, x)
    assert_close(found.log_evidence(x), torch.zeros(2), atol=1e-12, rtol=0.0)
    assert_close(found.posterior(x)["z"].mean, torch.zeros(2, 2))
    with pytest.raises(ArgumentError, match="all data are missing"):
        found.learn()


# ------------------------------------------------------------- recursive Bayes and conditions


@pytest.mark.parametrize("name", ["Beta-Bernoulli", "Dirichlet-categorical"])
def test_updates_in_turn_are_one_update(name: str) -> None:
    row = ALL[name]
    (x,) = row.data
    whole = conjugated(row.model, x)
    first = whole.update(x[:3])
    assert_close(first.posterior(x[3:]).natural, whole.posterior(x).natural)
    chained = whole.log_evidence(x[:3]) + first.log_evidence(x[3:])
    assert_close(chained, whole.log_evidence(x))
    assert whole.replaced is None  # the first one is as it was


def test_an_update_of_a_mixture_keeps_each_datum_its_own() -> None:
    row = ALL["mixture of factor analysers"]
    found = conjugated(row.model, X)
    again = found.update(X).update(X)
    twice = found.posterior(X).log_weight + 2.0 * 0.0
    assert again.posterior(X).log_weight.shape == twice.shape
    # p(k, z) p(x | k, z)^3, by the evidence of three copies of each datum, as one of 3 P elements.

    def thrice(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(W))
            mean = (AA[k] @ rows.scores().unsqueeze(-1)).squeeze(-1) + rows.UU[k]
            for i in range(3):
                pyro.sample(f"x{i}", dist.Normal(mean, SD).to_event(1), obs=x)

    expected = conjugated(thrice, X).posterior(X)
    assert_close(again.posterior(X)["k"].probs, expected["k"].probs)
    assert_close(again.posterior(X)["z"].mean, expected["z"].mean)


def test_a_condition_makes_a_latent_data() -> None:
    row = ALL["mixture of factor analysers"]
    k = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    found = conjugated(row.model, X).condition({"k": k})
    each = [
        W[j].log() + normal_evidence(x, rows.UU[j], AA[j] @ AA[j].T + torch.diag(SD**2))
        for x, j in zip(X, k, strict=True)
    ]
    assert_close(found.log_evidence(), torch.cat(each), atol=1e-10, rtol=1e-12)
    with pytest.raises(ArgumentError, match="condition first"):
        found.update().condition({})


# -------------------------------------------------------------------------------- sampling


def test_samples_have_the_moments_of_the_model() -> None:
    found = conjugated(rows.of_one_datum, X)
    drawn = found.sample(20000)
    assert drawn["x"].shape == (20000, P) and drawn["z"].shape == (20000, 2)
    covariance = A @ A.T + torch.diag(SD**2)
    assert_close(drawn["x"].mean(0), U, atol=0.06, rtol=0.0)
    assert_close(drawn["x"].T.cov(), covariance, atol=0.25, rtol=0.05)


def test_samples_after_an_update_are_predictions() -> None:
    found = conjugated(rows.poisson_gamma, COUNTS).update()
    drawn = found.sample(20000)
    assert drawn["x"].shape == (20000, len(COUNTS))
    assert_close(drawn["z"].mean(0), (2.0 + COUNTS) / 4.0, atol=0.05, rtol=0.0)
    assert_close(drawn["x"].mean(0), (2.0 + COUNTS) / 4.0, atol=0.08, rtol=0.0)


def test_samples_of_a_table_follow_it() -> None:
    found = conjugated(rows.mixture_of_factor_analysers, X).update()
    drawn = found.sample(5000)
    freq = torch.stack([(drawn["k"] == k).double().mean(0) for k in range(K)], -1)
    assert_close(
        freq, found.posterior(torch.full_like(X, torch.nan))["k"].probs, atol=0.03, rtol=0.0
    )


# ---------------------------------------------------------------------------------- families


def test_a_family_can_be_named() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Exponential(2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(z), obs=x)

    with pytest.raises(NotConjugatedError, match="off by"):
        conjugated(model, COUNTS, exact=True)
    found = conjugated(model, COUNTS, exact=True, families={"z": Gamma})
    (a, b) = found.posterior().blocks[0]
    assert_close((a, b), (COUNTS.sum(), torch.tensor(-2.0 - len(COUNTS))), atol=1e-9, rtol=1e-9)


def test_one_family_for_two_latents() -> None:
    """The mean and the precision of a normal together, by Normal-gamma."""

    def model(x: Tensor) -> None:
        tau = pyro.sample("tau", dist.Gamma(3.0, 2.0))
        z = pyro.sample("z", dist.Normal(0.5, (2.0 * tau).rsqrt()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, tau.rsqrt()), obs=x)

    x = X[:, 0]
    found = conjugated(model, x, exact=True, families={("z", "tau"): NormalGamma})
    scale = 2.0 / 3.0 * (torch.eye(len(x)) + 0.5)
    law = dist.MultivariateStudentT(6.0, 0.5 * torch.ones(len(x)), torch.linalg.cholesky(scale))
    assert_close(found.log_evidence(), law.log_prob(x), atol=1e-9, rtol=1e-10)


def test_inputs_of_each_datum() -> None:
    """A regression for each group: coefficients differ from datum to datum."""
    inputs = torch.randn(4, 6, 2)
    x = torch.randn(4, 6)

    def model(x: Tensor) -> None:
        with pyro.plate("groups", 4, dim=-2):
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("rows", 6, dim=-1):
                pyro.sample("x", dist.Normal((inputs * w).sum(-1), 0.5), obs=x)

    found = conjugated(model, x, exact=True)
    law = dist.MultivariateNormal(torch.zeros(6), inputs @ inputs.mT + 0.25 * torch.eye(6))
    assert_close(found.log_evidence(), law.log_prob(x), atol=1e-10, rtol=1e-12)
    assert found.r[0].shape == (4, 2)


# --------------------------------------------------------------------------------- bad input


def refused(model: Any, x: Any, error: type[Exception], match: str, **options: Any) -> None:
    with pytest.raises(error, match=match):
        conjugated(model, x, **options).log_evidence(x)


def logistic(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Bernoulli(logits=z), obs=x)


def test_not_conjugated_is_refused_with_the_residual() -> None:
    x = torch.ones(4)
    found = conjugated(logistic, x)
    assert found.residual > 0.01 and not found.is_exact
    refused(logistic, x, NotConjugatedError, f"off by {found.residual:.1e} nats", exact=True)


def test_natural_parameters_that_are_not_linear_are_refused() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.sin(), 1.0), obs=x)

    refused(model, torch.ones(4), NotConjugatedError, "not linear", exact=True)


def test_bad_models_are_refused() -> None:
    x = torch.ones(4)

    def unobserved(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def no_latent(x: Tensor) -> None:
        with pyro.plate("data", 4):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def endless(x: Tensor) -> None:
        pyro.sample("x", dist.Normal(pyro.sample("k", dist.Poisson(2.0)), 1.0), obs=x)

    def many(x: Tensor) -> None:
        ks = [pyro.sample(f"k{i}", dist.Bernoulli(0.5)) for i in range(17)]
        pyro.sample("x", dist.Normal(sum(ks), 1.0), obs=x)

    def shared(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    refused(unobserved, x, GuideError, "no observed site")
    refused(unobserved, x, GuideError, "no site 'y'", observed="y")
    refused(no_latent, x, NoLatentError, "every sample site is observed")
    refused(endless, x, DiscreteLatentError, "'k' has no finite list")
    refused(many, x, MemoryLimitError, "131072 joint values")
    refused(shared, x, GuideError, "'mean' and 'z' are in different plates")


def test_arguments_outside_their_domain_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(8.0, 1.0))  # the first draws are positive
            scale = pyro.param("scale", torch.tensor(-1.0)) if z.dim() > 1 else 1.0
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    refused(model, torch.ones(4), ParameterError, "refuses its arguments")


def test_bad_data_are_refused() -> None:
    refused(rows.poisson_gamma, torch.tensor([1.0, -1.0]), SupportError, "site 'x'")
    refused(rows.poisson_gamma, torch.tensor([1.0, 0.5]), SupportError, "site 'x'")

    def box(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(W))
            pyro.sample("x", dist.Uniform(0.0, 1.0 + k), obs=x)

    refused(box, torch.tensor([0.5, 1.5]), SupportError, "outside the support at some value")
    bags = rows.BAGS.clone()
    bags[0, 0] = torch.nan
    refused(rows.dirichlet_multinomial, bags, NonFiniteError, "NaN in some entries")


def test_the_card_says_what_is_what() -> None:
    text = str(conjugated(rows.mixture_of_factor_analysers, X))
    for words in ("exact to rounding", "latent k: 3 states", "latent z: Multiv", "data x: Normal"):
        assert words in text
    assert "r: (" in text and "; c: [" in text

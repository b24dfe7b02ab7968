# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Factors of two jointly Gaussian scalars: value and gradient against fine quadrature."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_blr.lifting import quadrature as rules
from tests.checks import engine, factor_of
from tests.estimates import by_engine, engine_value_and_messages
from tests.oracles import quadrature
from tests.two_scalars import CASES, PAIR, Case, X, Y, tensor


def by_oracle(case: Case) -> list[Tensor]:
    """The ELBO and its derivative in every leaf."""
    leaves = [leaf for site in case.sites.values() for leaf in site.leaves]
    mean, covariance = case.joint()
    value, pulled = 0.0, torch.zeros(())
    for m, c, y in zip(mean, covariance, case.y, strict=True):

        def log_prob(f: np.ndarray, g: np.ndarray, y: Tensor = y) -> Tensor:
            return case.density(torch.as_tensor(f), torch.as_tensor(g)).log_prob(y)

        found = quadrature.joint_expectation(log_prob, m.detach(), c.detach())
        value += found.value
        pulled = pulled + torch.as_tensor(found.d_mean) @ m
        pulled = pulled + (torch.as_tensor(found.d_covariance) * c).sum()
    rest = torch.zeros(())
    for site in case.sites.values():
        prior: Any = torch.distributions.Normal(torch.zeros_like(site.leaves[0]), 1.0)
        if site.kind == "multivariate":
            size = len(site.leaves[0])
            prior = torch.distributions.MultivariateNormal(torch.zeros(size), torch.eye(size))
        rest = rest - torch.distributions.kl_divergence(site.distribution, prior).sum()
    return [value + rest.detach(), *torch.autograd.grad(pulled + rest, leaves)]


def engine_of(case: Case, blocks: str) -> Any:
    start = {name: site.detached for name, site in case.sites.items()}
    return engine(case.model, start, blocks=blocks, on_sampled="error")[0]


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_agree_with_fine_quadrature(name: str) -> None:
    case = CASES[name]
    blr = engine_of(case, "site")
    factor = factor_of(blr, "y")
    assert factor.tier == "quadrature"
    assert not factor.conjugate
    assert "two Gaussian scalars" in factor.reason
    ours = by_engine(blr, case.sites, 1)
    for what, a, b in zip(ours.names, ours.values, by_oracle(case), strict=True):
        assert float((a - b).abs().max()) < 1e-8 * max(1.0, float(b.abs().max())), what


@pytest.mark.parametrize("name", CASES)
def test_joint_blocks_that_start_apart_have_the_same_value(name: str) -> None:
    losses = [engine_of(CASES[name], blocks).evaluate_loss() for blocks in ("site", "auto")]
    assert abs(losses[0] - losses[1]) < 1e-8


def regression(left: Tensor, right: Tensor) -> Callable[[], None]:
    """Location and log scale are two linear predictors of one vector."""

    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(Y)):
            pyro.sample("y", dist.StudentT(4.0, left @ w, (right @ w).exp()), obs=Y)

    return model


def multiple(slopes: Tensor) -> Callable[[], None]:
    """The same, where the log scale is a multiple of the location."""

    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(Y)):
            f = X @ w
            pyro.sample("y", dist.StudentT(4.0, f, (slopes * f).exp()), obs=Y)

    return model


def assert_same(first: Callable[[], None], second: Callable[[], None]) -> None:
    values = []
    for model in (first, second):
        blr, _ = engine(model, {"w": PAIR.detached}, blocks="site", on_sampled="error")
        values.append(engine_value_and_messages(blr))
    (loss, messages), (other, others) = values
    assert abs(float(loss - other)) < 1e-8
    for a, b in zip(messages["w"], others["w"], strict=True):
        assert torch.isfinite(a).all()
        assert float((a - b).abs().max()) < 1e-7 * float(b.abs().max())


def test_rows_of_perfectly_correlated_predictors() -> None:
    """A multiple that the program does not show: the covariance of each row is singular."""
    slopes = tensor(2.0, -1.0, 0.3, 0.0, -0.5)
    joint, single = regression(X, slopes.unsqueeze(-1) * X), multiple(slopes)
    tiers = [factor_of(engine(m, {"w": PAIR.detached})[0], "y").reason for m in (joint, single)]
    assert ["two Gaussian" in reason for reason in tiers] == [True, False]
    assert_same(joint, single)


def test_rows_without_variance() -> None:
    """Where a row of covariates is 0 the density depends on the other predictor alone."""
    left, right = X.clone(), X.flip(0).clone()
    left[1], right[3] = 0.0, 0.0

    def apart() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        both = torch.tensor([0, 2, 4])
        scale = (right[both] @ w).exp()
        pyro.sample("y", dist.StudentT(4.0, left[both] @ w, scale).to_event(1), obs=Y[both])
        pyro.sample("y1", dist.StudentT(4.0, 0.0, (right[1] @ w).exp()), obs=Y[1])
        pyro.sample("y3", dist.StudentT(4.0, left[3] @ w, 1.0), obs=Y[3])

    assert_same(regression(left, right), apart)


def test_the_exact_tier_forced_through_quadrature() -> None:
    """``abs`` of a scale that is positive anyway leaves the algebra, and changes nothing."""

    def model(forced: bool) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        scale = z.exp().abs() if forced else z.exp()
        with pyro.plate("data", len(Y)):
            pyro.sample("y", dist.Normal(X @ w, scale), obs=Y)

    q = {"w": PAIR.detached, "z": dist.Normal(-0.2, 0.3)}
    blr, _ = engine(model, q, blocks="site", on_sampled="error")
    assert [factor_of(blr, "y", f).tier for f in (False, True)] == ["exact", "quadrature"]
    (loss, messages), (other, others) = (engine_value_and_messages(blr, f) for f in (False, True))
    assert abs(float(loss - other)) < 1e-9
    for name in ("w", "z"):
        for a, b in zip(messages[name], others[name], strict=True):
            assert float((a - b).abs().max()) < 1e-8 * float(a.abs().max())


# ------------------------------------------------------------------- responses of persons to items

PERSONS, ITEMS = 6, 4
ANSWERS = (torch.sin(torch.arange(24.0, dtype=torch.float64)) > -0.2).double().reshape(6, 4)


def responses(wide: bool) -> None:
    """The two-parameter logistic model, one row a response or one row a person."""
    with pyro.plate("items", ITEMS):
        a = pyro.sample("a", dist.LogNormal(0.0, 0.5))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("persons", PERSONS):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    if wide:
        with pyro.plate("rows", PERSONS, dim=-2), pyro.plate("columns", ITEMS, dim=-1):
            logits = a * (theta.unsqueeze(-1) - b)
            pyro.sample("y", dist.Bernoulli(logits=logits), obs=ANSWERS)
        return
    jj, ii = torch.meshgrid(torch.arange(PERSONS), torch.arange(ITEMS), indexing="ij")
    jj, ii = jj.reshape(-1), ii.reshape(-1)
    with pyro.plate("data", PERSONS * ITEMS):
        logits = a[ii] * (theta[jj] - b[ii])
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=ANSWERS.reshape(-1))


@pytest.mark.parametrize("blocks", ["site", "auto"])
def test_item_responses_in_long_and_wide_format(blocks: str) -> None:
    """Both converge, certified, to one ELBO; abilities and difficulties share a block."""
    losses = []
    for wide in (False, True):
        blr, _ = engine(responses, blocks=blocks, on_sampled="error")
        explanation = blr.explain(wide)
        assert explanation["y"].tier == "quadrature"
        assert (("b", "theta") in explanation.blocks) == (blocks == "auto")
        fit = blr.fit(wide, max_steps=200)
        assert fit.converged, fit.reason
        losses.append(blr.evaluate_loss(wide))
    assert abs(losses[0] - losses[1]) < 1e-4


# --------------------------------------------------------------------------------- sizes and dtypes


def scaled(y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(y.new_zeros(()), 1.0))
    z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(b, F.softplus(z)), obs=y)


def test_float32_has_the_value_of_float64() -> None:
    q = {"b": dist.Normal(0.3, 0.4), "z": dist.Normal(-0.2, 0.3)}
    losses = [engine(scaled, q)[0].evaluate_loss(y) for y in (Y, Y.float())]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_no_element() -> None:
    def model() -> None:
        b, z = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "bz")
        scale = F.softplus(z).expand(0)
        pyro.sample("y", dist.Normal(b, scale).to_event(1), obs=torch.zeros(0))

    blr, _ = engine(model, on_sampled="error")
    assert factor_of(blr, "y").tier == "quadrature"
    blr.fit()  # to the priors, which are the posteriors
    assert blr.evaluate_loss() == pytest.approx(0.0, abs=1e-8)


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")
def test_too_many_elements_are_sampled_and_say_so() -> None:
    count = rules.MAX_VALUES // 500
    factor = factor_of(engine(scaled)[0], "y", torch.zeros(count))
    assert factor.tier == "sampled"
    assert f"nodes or more for each of {count} elements" in factor.reason


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")
def test_three_scalars_are_sampled_and_say_so() -> None:
    def model() -> None:
        b, z, u = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "bzu")
        with pyro.plate("data", len(Y)):
            pyro.sample("y", dist.Normal(torch.tanh(b) * u, F.softplus(z)), obs=Y)

    factor = factor_of(engine(model)[0], "y")
    assert factor.tier == "sampled"
    assert "more than 2 Gaussian scalars" in factor.reason


def test_scalars_that_are_multiples_in_the_program_are_one() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(Y)):
            pyro.sample("y", dist.StudentT(4.0, 2 * z + 1, F.softplus(z - 3)), obs=Y)

    factor = factor_of(engine(model)[0], "y")
    assert factor.tier == "quadrature"
    assert "two Gaussian scalars" not in factor.reason


def test_scalars_that_become_wider_get_their_rule_anew() -> None:
    """From a narrow start to a wide posterior within one step: the ELBO is the fine rule's."""
    blr, _ = engine(scaled, {"b": dist.Normal(0.0, 1e-3), "z": dist.Normal(0.0, 1e-3)})
    for _ in range(3):
        blr.step(Y[:2])
    again = blr.evaluate_loss(Y[:2])
    fresh, _ = engine(scaled, {name: blr.guide.marginal(name) for name in ("b", "z")})
    assert abs(again - fresh.evaluate_loss(Y[:2])) < 1e-8

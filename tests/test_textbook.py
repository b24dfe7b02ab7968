# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""One step at step size 1, from any start, is Bayes' rule.

`natural_post = natural_prior + sum of messages` for every q, so that where a step begins must not
matter: the posterior of the textbook to 1e-10 (float64) and 1e-4 (float32), and the evidence.
"""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_blr.errors import ImproperPosteriorError
from tests.checks import (
    assert_same_distribution,
    bare,
    engine,
    gaussian_moments,
    in_own_family,
    is_gaussian,
    kl_divergence,
    random_like,
    with_masked_observations,
)
from tests.oracles.textbook import ALL, INDEPENDENT, JOINT, TEXTBOOK, Case, Problem

RTOL = {torch.float64: 1e-10, torch.float32: 1e-4}
every_case = pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
one_latent = pytest.mark.parametrize("case", INDEPENDENT, ids=lambda case: case.name)
every_dtype = pytest.mark.parametrize("dtype", RTOL, ids=["float64", "float32"])


def random_start(problem: Problem, seed: int) -> dict[str, Any]:
    return {site: random_like(q, seed) for site, q in problem.posterior.items()}


def natural_by_hand(distribution: Any) -> tuple[Tensor, ...]:
    """Natural parameters from their definitions, apart from the package's own."""
    base = bare(distribution)
    if is_gaussian(distribution):
        mean, cov = gaussian_moments(distribution)
        if cov.dim() == mean.dim():
            return mean / cov, -0.5 / cov
        precision = torch.linalg.inv(cov)
        return (precision @ mean.unsqueeze(-1)).squeeze(-1), -0.5 * precision
    if isinstance(base, torch.distributions.Gamma):
        return base.concentration - 1, -base.rate
    if isinstance(base, torch.distributions.Beta):
        return base.concentration1 - 1, base.concentration0 - 1
    if isinstance(base, dist.InverseGamma):
        return -base.concentration - 1, -base.rate
    if isinstance(base, torch.distributions.Wishart):
        size = base.covariance_matrix.shape[-1]
        return (base.df - size - 1) / 2, -0.5 * base.precision_matrix
    assert isinstance(base, torch.distributions.Dirichlet)
    return (base.concentration - 1,)


# -------------------------------------------------------------------------- one step is the answer


@every_dtype
@every_case
@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_one_step_from_any_start(case: Case, dtype: torch.dtype, seed: int) -> None:
    pyro.clear_param_store()
    problem = case.make(dtype=dtype, seed=seed % 5)
    blr, guide = engine(problem.model, random_start(problem, seed), step_size=1.0)
    blr.step(*problem.args)
    for site, posterior in problem.posterior.items():
        assert_same_distribution(guide.marginal(site), posterior, RTOL[dtype])


@every_dtype
@every_case
def test_one_step_of_the_default_engine(case: Case, dtype: torch.dtype) -> None:
    """The same without a word: the default start and `step_size="auto"`."""
    problem = case.make(dtype=dtype)
    blr, guide = engine(problem.model)
    blr.step(*problem.args)
    for site, posterior in problem.posterior.items():
        marginal = guide.marginal(site)
        assert marginal.mean.dtype == dtype
        assert_same_distribution(marginal, posterior, RTOL[dtype])


@pytest.mark.parametrize(
    ("case", "blocks"),
    [*((c, b) for c in INDEPENDENT for b in ("site", "auto")), *((c, "auto") for c in JOINT)],
    ids=lambda p: p if isinstance(p, str) else p.name,
)
def test_a_second_step_stays(case: Case, blocks: str) -> None:
    problem = case.make(seed=3)
    blr, guide = engine(problem.model, random_start(problem, 3), step_size=1.0, blocks=blocks)
    blr.step(*problem.args)
    blr.step(*problem.args)
    for site, posterior in problem.posterior.items():
        assert_same_distribution(guide.marginal(site), posterior, RTOL[torch.float64])


@pytest.mark.parametrize("how", ["keyword of the model", "a handler around it", "tensor"])
@every_dtype
@every_case
def test_all_observations_masked_gives_the_prior(case: Case, dtype: torch.dtype, how: str) -> None:
    problem = case.make(dtype=dtype)
    model, kwargs = problem.model, {}
    if how == "keyword of the model":
        kwargs = {"mask": False}
    else:
        mask = torch.zeros((), dtype=torch.bool) if how == "tensor" else False
        model = with_masked_observations(model, mask)
    blr, guide = engine(model, random_start(problem, 1), step_size=1.0)
    blr.step(*problem.args, **kwargs)
    for site, prior in problem.prior.items():
        assert_same_distribution(guide.marginal(site), prior, RTOL[dtype])
    assert abs(blr.evaluate_loss(*problem.args, **kwargs)) <= 10 * RTOL[dtype]


@every_case
def test_masking_the_prior_too_leaves_nothing(case: Case) -> None:
    """`poutine.mask(model, False)` makes every message 0: improper, or uniform on the simplex."""
    problem = case.make()
    model = poutine.mask(problem.model, mask=False)
    blr, guide = engine(model, random_start(problem, 1), step_size=1.0)
    q, *_ = problem.posterior.values()
    if isinstance(q, torch.distributions.Beta | torch.distributions.Dirichlet):
        blr.step(*problem.args)
        (site,) = problem.posterior
        assert all((natural == 0).all() for natural in natural_by_hand(guide.marginal(site)))
    else:
        with pytest.raises(ImproperPosteriorError):
            blr.step(*problem.args)


# ---------------------------------------------------------------------- the loss is the evidence


@every_dtype
@every_case
def test_loss_after_one_step_is_the_evidence(case: Case, dtype: torch.dtype) -> None:
    """For one block that is conjugate q is the posterior, where -ELBO = -log p(data)."""
    problem = case.make(dtype=dtype, seed=2)
    blr, _ = engine(problem.model, random_start(problem, 2), step_size=1.0)
    blr.step(*problem.args)
    tolerance = RTOL[dtype] * max(abs(problem.log_evidence), 1.0)
    assert abs(-blr.info.loss_after - problem.log_evidence) <= tolerance
    assert abs(-blr.evaluate_loss(*problem.args) - problem.log_evidence) <= tolerance


@every_case
def test_step_returns_the_loss_at_entry(case: Case) -> None:
    problem = case.make()
    blr, _ = engine(problem.model, random_start(problem, 4), step_size=1.0)
    before = blr.evaluate_loss(*problem.args)
    loss = blr.step(*problem.args)
    assert type(before) is float
    assert type(loss) is float
    assert loss == pytest.approx(before, rel=1e-12)
    assert blr.step(*problem.args) == pytest.approx(-problem.log_evidence, rel=1e-10)


@every_case
def test_loss_is_minus_the_elbo_as_pyro_estimates_it(case: Case) -> None:
    """Same sign and meaning as `SVI.evaluate_loss`: Pyro's own estimator with our guide."""
    problem = case.make(seed=1)
    # Near the posterior, so that the draws of Pyro's estimator have a finite variance.
    start = {site: in_own_family(q) for site, q in problem.prior.items()}
    blr, guide = engine(problem.model, start, step_size=0.5)
    blr.step(*problem.args)
    value = blr.evaluate_loss(*problem.args)
    draws = torch.tensor(
        [Trace_ELBO().loss(problem.model, guide, *problem.args) for _ in range(100)]
    )
    error = draws.std() / len(draws) ** 0.5
    assert abs(value - draws.mean()) < 5 * error
    assert value >= -problem.log_evidence  # a lower bound of the evidence


@one_latent
def test_loss_exceeds_the_evidence_by_the_kl(case: Case) -> None:
    """-ELBO(q) = -log p(data) + KL(q || posterior): exact at any q, an oracle without sampling."""
    problem = case.make()
    start = random_start(problem, 6)
    blr, _ = engine(problem.model, start)
    kl = sum(kl_divergence(start[site], q) for site, q in problem.posterior.items())
    expected = float(kl) - problem.log_evidence
    assert blr.evaluate_loss(*problem.args) == pytest.approx(expected, rel=1e-10)


# --------------------------------------------------------------------------- messages are sums


@pytest.mark.parametrize("step_size", [0.1, 0.5])
@one_latent
def test_shorter_steps_contract_geometrically(case: Case, step_size: float) -> None:
    """natural_t - natural_post = (1 - rho)^t (natural_0 - natural_post) in a conjugate model."""
    problem = case.make()
    start = random_start(problem, 7)
    blr, guide = engine(problem.model, start, step_size=step_size)
    for _ in range(3):
        blr.step(*problem.args)
    for site, posterior in problem.posterior.items():
        actual = natural_by_hand(guide.marginal(site))
        triples = zip(actual, natural_by_hand(start[site]), natural_by_hand(posterior), strict=True)
        for now, first, last in triples:
            expected = last + (1 - step_size) ** 3 * (first - last)
            assert ((now - expected).abs() <= 1e-9 * expected.abs().max()).all()


@one_latent
def test_messages_do_not_depend_on_q(case: Case) -> None:
    """In a conjugate model of one block the message sum is the posterior's natural parameters."""
    problem = case.make()
    for seed in range(3):
        blr, _ = engine(problem.model, random_start(problem, seed), blocks="site")
        messages = blr.messages(*problem.args)
        for site, posterior in problem.posterior.items():
            for m, natural in zip(messages[site], natural_by_hand(posterior), strict=True):
                assert ((m - natural).abs() <= 1e-10 * natural.abs().max()).all()


def _subsampled(X: Tensor, y: Tensor, rows: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y), subsample=rows) as index:
        pyro.sample("y", dist.Normal(X[index] @ w, 0.5), obs=y[index])
        pyro.sample("count", dist.Poisson(rate * X[index, 0].exp()), obs=y[index].abs().floor())


def _regression_data(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(rows, 3, generator=generator), torch.randn(rows, generator=generator)


def test_minibatch_messages_add_up() -> None:
    """The mean over equal disjoint batches is the full message, and each holds the whole prior."""
    X, y = _regression_data(24)
    blr, _ = engine(_subsampled, blocks="site")
    full = blr.messages(X, y, torch.arange(24))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    batches = [blr.messages(X, y, rows) for rows in order.reshape(4, 6)]
    losses = [blr.evaluate_loss(X, y, rows) for rows in order.reshape(4, 6)]
    assert not torch.allclose(batches[0]["w"][0], full["w"][0])  # a batch alone is not the whole
    for site in ("w", "rate"):
        for k, message in enumerate(full[site]):
            total = torch.stack([b[site][k] for b in batches]).mean(0)
            assert ((total - message).abs() <= 1e-12 * message.abs().max()).all()
    expected = blr.evaluate_loss(X, y, torch.arange(24))
    assert math.fsum(losses) / 4 == pytest.approx(expected, rel=1e-12)


def _masked(X: Tensor, y: Tensor, mask: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with pyro.plate("data", len(y)), poutine.mask(mask=mask):
        pyro.sample("y", dist.Normal(X @ w, 0.5), obs=y)


def test_a_datum_can_be_taken_out_again() -> None:
    """message(all) - message(one) + prior = message(all but one), to rounding."""
    X, y = _regression_data(10)
    blr, _ = engine(_masked, blocks="site")
    one = torch.arange(10) == 3
    everything, only, rest, none = (
        blr.messages(X, y, mask)["w"] for mask in (one | ~one, one, ~one, one & ~one)
    )
    for a, o, r, p in zip(everything, only, rest, none, strict=True):
        assert torch.allclose(a - o + p, r, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(a, r)


def test_local_latents_of_a_subsampled_plate() -> None:
    """The rows of the batch go to their optimum, whatever the global step; the others stay."""

    def model(y: Tensor, rows: Tensor) -> None:
        with pyro.plate("data", len(y), subsample=rows) as index:
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(u, 0.5), obs=y[index])

    _, y = _regression_data(8)
    start = dist.Normal(torch.linspace(-1.0, 1.0, 8), torch.full((8,), 0.3))
    for step_size in (1.0, 0.2, "auto"):
        blr, guide = engine(model, {"u": start}, step_size=step_size)
        rows = torch.tensor([6, 1, 3])
        blr.step(y, rows)
        found = guide.marginal("u")
        others = torch.tensor([0, 2, 4, 5, 7])
        assert torch.allclose(found.mean[rows], y[rows] * 4 / 5, rtol=1e-10)
        assert torch.allclose(found.variance[rows], torch.tensor(1 / 5), rtol=1e-10)
        assert torch.allclose(found.mean[others], start.mean[others], rtol=1e-13)


def test_fit_of_a_conjugate_model_is_one_sweep() -> None:
    problem = TEXTBOOK[0].make()
    blr, _ = engine(problem.model, random_start(problem, 8))
    fit = blr.fit(*problem.args, max_steps=20, tol=1e-9)
    assert fit.converged
    assert fit.steps <= 3
    assert -fit.losses[-1] == pytest.approx(problem.log_evidence, rel=1e-10)

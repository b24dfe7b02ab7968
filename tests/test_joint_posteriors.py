# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What a guide with joint blocks says of its posterior, and how it is saved and taken up again."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.infer import Predictive

from pyro_blr import BLR
from pyro_blr.arviz import to_arviz
from pyro_blr.errors import ArgumentError
from pyro_blr.guides import AutoNatural
from pyro_blr.guides.marginals import _numerical_quantile
from tests.checks import bare, engine, random_like
from tests.oracles.textbook import JOINT, Case
from tests.oracles.textbook_scales import InverseGammaVariance, WishartPrecision

CASES = (*JOINT, InverseGammaVariance(), WishartPrecision())
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32], ids=["float64", "float32"]
)
LEVELS = [1e-3, 0.025, 0.4, 0.5, 0.9, 0.999]


def quantiles_by_scipy(q: Any, level: float) -> Any:
    """The quantile of each element; None for a Wishart's entries, which have no formula."""
    base = bare(q)
    match base:
        case dist.MultivariateStudentT():
            scale = base.scale_tril.square().sum(-1).sqrt()
            return scipy.stats.t.ppf(level, base.df.unsqueeze(-1), base.loc, scale)
        case dist.StudentT():
            return scipy.stats.t.ppf(level, base.df, base.loc, base.scale)
        case torch.distributions.Gamma():
            return scipy.stats.gamma.ppf(level, base.concentration, scale=1 / base.rate)
        case dist.InverseGamma():
            return scipy.stats.invgamma.ppf(level, base.concentration, scale=base.rate)
    return None


@every_dtype
@every_case
def test_quantiles(case: Case, dtype: torch.dtype) -> None:
    problem = case.make(dtype=dtype)
    blr, guide = engine(problem.model)
    blr.step(*problem.args)
    found = guide.quantiles(LEVELS)
    for site, q in problem.posterior.items():
        assert found[site].dtype == dtype
        assert found[site].shape[1:] == q.batch_shape + q.event_shape
        for level, value in zip(LEVELS, found[site], strict=True):
            expected = quantiles_by_scipy(q, level)
            if expected is not None:
                rtol = 1e-6 if dtype == torch.float64 else 1e-4
                sd = q.variance.sqrt().numpy()
                assert (np.abs(value.numpy() - expected) <= rtol * (sd + np.abs(expected))).all()
    for site, median in guide.median().items():
        assert torch.equal(median, found[site][LEVELS.index(0.5)])


SHAPES = [0.3, 1.0, 4.0, 1e3, 1e7]


@pytest.mark.parametrize("shape", SHAPES)
def test_quantiles_of_laws_with_heavy_tails_and_of_narrow_ones(shape: float) -> None:
    a, b = torch.tensor(shape), torch.tensor(2.0)
    laws = {
        "gamma": (dist.Gamma(a, b), scipy.stats.gamma(shape, scale=0.5)),
        "inverse gamma": (dist.InverseGamma(a, b), scipy.stats.invgamma(shape, scale=2.0)),
        "beta": (dist.Beta(a, b), scipy.stats.beta(shape, 2.0)),
        "student": (dist.StudentT(a, 0.0, 1.0), scipy.stats.t(shape)),
    }
    for name, (law, oracle) in laws.items():
        for level in (1e-4, *LEVELS, 0.9999):
            value = float(_numerical_quantile(law, level))
            assert value == pytest.approx(oracle.ppf(level), rel=2e-6, abs=1e-12), (name, level)


@every_case
def test_draws_have_the_moments_of_the_marginals(case: Case) -> None:
    problem = case.make()
    blr, guide = engine(problem.model)
    blr.step(*problem.args)
    number = 20_000
    draws = guide.sample_posterior(number)
    for site, q in problem.posterior.items():
        assert draws[site].shape == (number, *q.batch_shape, *q.event_shape)
        deviation = draws[site] - q.mean
        for values, expected in ((deviation, 0.0), (deviation.square(), q.variance)):
            error = values.std(0) / number**0.5
            assert ((values.mean(0) - expected).abs() < 5 * error).all()


@every_case
def test_a_guide_can_be_called_and_predicts(case: Case) -> None:
    problem = case.make()
    blr, guide = engine(problem.model)
    blr.step(*problem.args)
    values = guide(*problem.args)
    posterior = guide.sample_posterior(4)
    for site, q in problem.posterior.items():
        assert values[site].shape == q.batch_shape + q.event_shape
    for site, value in posterior.items():
        assert torch.isfinite(value).all(), site
    if not any(isinstance(q, dist.Wishart) for q in problem.prior.values()):
        # (Predictive draws from the prior first; torch's Wishart warns of regular draws.)
        found = Predictive(problem.model, guide=guide, num_samples=4)(*problem.args)
        for site in problem.posterior:
            assert found[site].shape[0] == 4


@every_case
def test_arviz_has_the_log_density_of_dependent_sites(case: Case) -> None:
    """q is the posterior, so every draw has the evidence for its log weight."""
    problem = case.make()
    blr, _ = engine(problem.model)
    fit = blr.fit(*problem.args)
    assert fit.converged
    statistics = to_arviz(fit, *problem.args, num_samples=20)["sample_stats"]
    weights = (statistics["log_p"] - statistics["log_q"]).values
    np.testing.assert_allclose(weights, problem.log_evidence, rtol=1e-9)


@every_dtype
@every_case
def test_saved_parameters_are_taken_up_by_a_new_guide(
    case: Case, dtype: torch.dtype, tmp_path: Path
) -> None:
    problem = case.make(dtype=dtype)
    blr, _ = engine(problem.model)
    blr.step(*problem.args)
    file = str(tmp_path / "guide")
    pyro.get_param_store().save(file)
    pyro.clear_param_store()
    pyro.get_param_store().load(file)
    blr = BLR(problem.model, AutoNatural(problem.model))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    loss = blr.evaluate_loss(*problem.args)
    assert loss == pytest.approx(-problem.log_evidence, rel=tolerance)


def test_saved_parameters_of_merged_gaussians_are_taken_up_too() -> None:
    x, y = torch.linspace(-1.0, 1.0, 9), torch.linspace(2.0, 0.0, 9).exp()

    def model() -> None:
        a, b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
        with pyro.plate("data", 9):
            pyro.sample("y", dist.Normal(a + b * x, 1.0), obs=y)

    blr, _ = engine(model)
    blr.step()
    loss = blr.evaluate_loss()
    state = pickle.dumps(pyro.get_param_store().get_state())
    pyro.clear_param_store()
    pyro.get_param_store().set_state(pickle.loads(state))
    blr = BLR(model, AutoNatural(model))
    assert blr.evaluate_loss() == pytest.approx(loss, rel=1e-12)
    assert list(pyro.get_param_store()) == [
        "AutoNatural.natural.a+b.natural_0",
        "AutoNatural.natural.a+b.natural_1",
    ]


@every_case
def test_a_pickled_guide_keeps_its_posterior(case: Case) -> None:
    problem = case.make()
    blr, guide = engine(problem.model)
    blr.step(*problem.args)
    copy = pickle.loads(pickle.dumps(guide))
    for site in problem.posterior:
        assert torch.equal(copy.marginal(site).mean, guide.marginal(site).mean)
        assert torch.equal(copy.marginal(site).variance, guide.marginal(site).variance)


@every_case
def test_a_start_given_before_or_after_the_blocks_are_known_is_the_same(case: Case) -> None:
    problem = case.make()
    start = {site: random_like(q, 3) for site, q in problem.posterior.items()}
    blr, _ = engine(problem.model, start)
    before = blr.evaluate_loss(*problem.args)
    blr, guide = engine(problem.model)
    blr.step(*problem.args)
    guide.set_natural(start)
    assert blr.evaluate_loss(*problem.args) == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize("case", JOINT, ids=lambda case: case.name)
def test_the_start_of_one_site_of_a_joint_block_is_refused(case: Case) -> None:
    problem = case.make()
    blr, guide = engine(problem.model)
    blr.step(*problem.args)
    site, *_ = problem.posterior
    with pytest.raises(ArgumentError, match="Mend"):
        guide.set_natural({site: random_like(problem.posterior[site], 0)})

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A Gaussian shares a block with the scale of its covariance where, and only where, their joint
posterior is one law: then it is exact.
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_blr.families import NormalGamma
from tests.checks import assert_same_distribution, engine, random_like
from tests.oracles import coordinate_ascent
from tests.oracles.textbook import JOINT, Case
from tests.oracles.textbook_case import student_log_prob
from tests.oracles.textbook_joint import NormalGammaMean, NormalGammaPlate

pytestmark = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")
joint_case = pytest.mark.parametrize("case", JOINT, ids=lambda case: case.name)

Y = torch.tensor([0.3, 1.9, 1.1, 0.8, 2.4, 1.3, 0.2, 1.6])
ROWS = torch.stack([Y, Y.cos(), 2 * Y.sin()], -1)  # shape: (8, 3)


def families(blr: Any) -> dict[str, str]:
    return {block.name: block.family.name for block in blr.guide.blocks}


# ----------------------------------------------------------------------------- theorems of blocks


@joint_case
def test_the_message_is_the_posterior_whatever_q(case: Case) -> None:
    problem = case.make()
    found = []
    for seed in range(3):
        start = {site: random_like(q, seed) for site, q in problem.posterior.items()}
        blr, guide = engine(problem.model, start, step_size=1.0)
        (message,) = blr.messages(*problem.args).values()
        found.append(message)
        blr.step(*problem.args)
        (natural,) = guide.naturals().values()
        for m, n in zip(message, natural, strict=True):
            assert ((m - n).abs() <= 1e-12 * n.abs().max()).all()
    for other in found[1:]:
        for m, n in zip(other, found[0], strict=True):
            assert ((m - n).abs() <= 1e-9 * n.abs().max()).all()


def test_the_natural_parameters_are_those_of_the_textbook() -> None:
    problem = NormalGammaMean().make()
    law = NormalGammaMean.posterior_law(*problem.args)
    blr, guide = engine(problem.model, step_size=1.0)
    blr.step(*problem.args)
    (natural,) = guide.naturals().values()
    square = law.matrix[0, 0] * law.loc[0] ** 2
    expected = (
        law.shape - 1 + 0.5,
        -law.rate - square / 2,
        law.matrix[0] * law.loc,
        -law.matrix / 2,
    )
    for n, e in zip(natural, expected, strict=True):
        assert torch.allclose(n, e, rtol=1e-10)


@joint_case
def test_log_weights_of_draws_are_the_evidence(case: Case) -> None:
    """log p - log q is the same number at every draw if, and only if, q is the posterior."""
    problem = case.make(seed=1)
    blr, guide = engine(problem.model)
    blr.step(*problem.args)
    losses = [Trace_ELBO().loss(problem.model, guide, *problem.args) for _ in range(5)]
    assert losses == pytest.approx([-problem.log_evidence] * 5, rel=1e-9)


def test_weights_in_a_plate_are_joined_too() -> None:
    problem = NormalGammaPlate().make()
    blr, guide = engine(problem.model)
    blr.step(*problem.args)
    assert -blr.info.loss_after == pytest.approx(problem.log_evidence, rel=1e-10)
    for site, posterior in problem.posterior.items():
        assert_same_distribution(guide.marginal(site), posterior, 1e-10)


def test_every_gaussian_that_the_precision_scales_is_joined() -> None:
    """Two means that no term couples: given tau they are independent, without it they are not."""

    def model() -> None:
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.5))
        for name, data in (("a", Y), ("b", Y.sin())):
            mean = pyro.sample(name, dist.Normal(0.0, 2.0 * tau.rsqrt()))
            with pyro.plate(f"data {name}", len(data)):
                pyro.sample(f"y {name}", dist.Normal(mean, tau.rsqrt()), obs=data)

    blr, _ = engine(model)
    blr.step()
    assert families(blr) == {"a+b+tau": "NormalGamma"}
    unit = torch.block_diag(*[torch.eye(8) + 4.0] * 2)
    data = torch.cat([Y, Y.sin()])
    evidence = student_log_prob(data, torch.tensor(4.0), torch.zeros(16), 1.5 / 2.0 * unit)
    assert -blr.info.loss_after == pytest.approx(float(evidence), rel=1e-10)


# ----------------------------------------------------------------------------------- near misses


def _means(tau: Any) -> Any:
    return dist.Normal(1.0, (0.5 * tau).rsqrt())


def _normal(mean: Any, scale: Any, data: Tensor = Y) -> None:
    with pyro.plate("data", len(data)):
        pyro.sample("y", dist.Normal(mean, scale), obs=data)


def without_the_precision() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
    _normal(pyro.sample("mu", dist.Normal(0.0, 1.0)), tau.rsqrt())


def its_root_in_a_mean() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
    _normal(pyro.sample("mu", _means(tau)), tau.rsqrt())
    pyro.sample("x", dist.Normal(tau**0.5, 1.0), obs=torch.tensor(1.3))


def its_root_in_the_same_mean() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
    _normal(pyro.sample("mu", _means(tau)) + tau**0.5, tau.rsqrt())


def another_known_precision() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
    mu = pyro.sample("mu", _means(tau))
    _normal(mu, tau.rsqrt())
    pyro.sample("x", dist.Normal(mu, 1.0), obs=torch.tensor(1.3))


def another_latent_precision() -> None:
    tau, other = (pyro.sample(name, dist.Gamma(2.0, 3.0)) for name in ("tau", "other"))
    mu = pyro.sample("mu", _means(tau))
    _normal(mu, tau.rsqrt())
    with pyro.plate("more", 8):
        pyro.sample("x", dist.Normal(mu, other.rsqrt()), obs=Y + 0.1)


def the_wrong_power() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
    _normal(pyro.sample("mu", dist.Normal(1.0, (0.5 * tau) ** -1)), tau.rsqrt())


def the_wrong_power_everywhere() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
    _normal(pyro.sample("mu", dist.Normal(1.0, tau**-1)), tau**-1)


def a_quadrature_factor_of_the_mean() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
    mu = pyro.sample("mu", _means(tau))
    _normal(mu, tau.rsqrt())
    pyro.sample("x", dist.Bernoulli(logits=mu), obs=torch.tensor(1.0))


def an_exponential_of_the_mean() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
    mu = pyro.sample("mu", _means(tau))
    _normal(mu, tau.rsqrt())
    pyro.sample("x", dist.Poisson(mu.exp()), obs=torch.tensor(3.0))


def the_square_of_the_mean() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
    _normal(pyro.sample("mu", _means(tau)) ** 2, tau.rsqrt())


def a_latent_mean_of_the_mean() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
    centre = pyro.sample("centre", dist.Normal(0.0, 2.0))
    _normal(pyro.sample("mu", dist.Normal(centre, tau.rsqrt())), tau.rsqrt())


NEAR_MISSES = [
    without_the_precision,
    its_root_in_a_mean,
    its_root_in_the_same_mean,
    another_known_precision,
    another_latent_precision,
    the_wrong_power,
    the_wrong_power_everywhere,
    a_quadrature_factor_of_the_mean,
    an_exponential_of_the_mean,
    the_square_of_the_mean,
    a_latent_mean_of_the_mean,
]


@pytest.mark.parametrize("model", NEAR_MISSES)
def test_near_misses_are_not_joined_and_stay_right(model: Callable[[], None]) -> None:
    blr, guide = engine(model)
    assert blr.fit(max_steps=50).converged
    assert not any(block.is_joint for block in guide.blocks)
    loss = blr.evaluate_loss()
    draws = torch.tensor([Trace_ELBO().loss(model, guide) for _ in range(300)])
    assert abs(loss - draws.mean()) < 4.5 * draws.std() / len(draws) ** 0.5


def test_a_sampled_factor_of_the_mean_is_not_joined() -> None:
    def model() -> None:
        tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
        mu = pyro.sample("mu", _means(tau))
        _normal(mu, tau.rsqrt())
        pyro.sample("x", dist.Normal(torch.tanh(mu * tau + tau), 1.0), obs=torch.tensor(0.4))

    blr, guide = engine(model)
    blr.explain()
    assert not any(block.is_joint for block in guide.blocks)


@pytest.mark.parametrize("tau_elsewhere", ["its rate", "a Poisson", "a factor of the precision"])
def test_linear_uses_elsewhere_are_joined(tau_elsewhere: str) -> None:
    def model() -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0)) if tau_elsewhere == "its rate" else 3.0
        tau = pyro.sample("tau", dist.Gamma(2.0, rate))
        ratio = 0.5
        if tau_elsewhere == "a factor of the precision":
            ratio = pyro.sample("ratio", dist.Gamma(2.0, 2.0))
        mu = pyro.sample("mu", dist.Normal(1.0, (ratio * tau).rsqrt()))
        _normal(mu, tau.rsqrt())
        if tau_elsewhere == "a Poisson":
            pyro.sample("x", dist.Poisson(2.0 * tau), obs=torch.tensor(3.0))

    blr, guide = engine(model)
    assert blr.fit().converged
    assert any(isinstance(block.family, NormalGamma) for block in guide.blocks)
    draws = torch.tensor([Trace_ELBO().loss(model, guide) for _ in range(300)])
    error = draws.std() / len(draws) ** 0.5
    assert abs(blr.evaluate_loss() - draws.mean()) < 4.5 * error + 1e-9


def test_by_site_it_is_mean_field() -> None:
    def model() -> None:
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        _normal(pyro.sample("mu", dist.Normal(1.0, (0.5 * tau).rsqrt())), tau.rsqrt())

    blr, guide = engine(model, blocks="site")
    assert blr.fit(tol=1e-12).converged
    assert families(blr) == {"tau": "Gamma", "mu": "Normal"}
    by_hand = coordinate_ascent.normal_gamma(Y.numpy(), centre=1.0, ratio=0.5)
    assert -blr.evaluate_loss() == pytest.approx(by_hand.lower_bound, rel=1e-10)
    for site, moments in by_hand.posterior.items():
        assert float(guide.marginal(site).mean) == pytest.approx(moments["mean"], rel=1e-6)


# ------------------------------------------------------------------------------ subsampled plates


def _groups(data: Tensor, rows: Tensor) -> None:
    with pyro.plate("groups", data.shape[1], dim=-1, subsample=rows) as index:
        tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
        mu = pyro.sample("mu", _means(tau))
        with pyro.plate("data", len(data), dim=-2):
            pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=data[:, index])


def test_joint_laws_of_a_subsampled_plate_go_to_their_optimum() -> None:
    blr, guide = engine(_groups)
    blr.step(ROWS, torch.arange(3))
    full = {site: guide.marginal(site) for site in ("mu", "tau")}
    blr, guide = engine(_groups)
    blr.step(ROWS, torch.tensor([2]))
    blr.step(ROWS, torch.tensor([0, 1]))
    for site, q in full.items():
        assert_same_distribution(guide.marginal(site), q, 1e-10)


def _one_precision(data: Tensor, rows: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
    with pyro.plate("groups", data.shape[1], dim=-1, subsample=rows) as index:
        mu = pyro.sample("mu", _means(tau))
        with pyro.plate("data", len(data), dim=-2):
            pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=data[:, index])


def test_rows_of_a_subsample_do_not_lie_in_one_law_with_a_global_precision() -> None:
    blr, _ = engine(_one_precision)
    blr.step(ROWS, torch.tensor([0, 2]))
    assert families(blr) == {"tau": "Gamma", "mu": "Normal"}
    blr, _ = engine(_one_precision)
    blr.step(ROWS, torch.arange(3))
    assert families(blr) == {"mu+tau": "NormalGamma"}
    # Asked for a subsample only now, the rows leave the joint law, and move alone from here on.
    losses = [blr.evaluate_loss(ROWS, torch.tensor([g])) for g in range(3)]
    assert families(blr) == {"tau": "Gamma", "mu": "Normal"}
    assert sum(losses) / 3 == pytest.approx(blr.evaluate_loss(ROWS, torch.arange(3)), rel=1e-12)

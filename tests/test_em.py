# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""params="em" is EM: each step is that of the textbook's formulas, from the first on."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr import BLR, errors
from pyro_blr.guides import AutoNatural
from tests.parameter_models import (
    FACTOR_ANALYSIS,
    factor_data,
    factor_em,
    factor_loss,
    factor_start,
)

positive, simplex = constraints.positive, constraints.simplex


def em(model: Callable[..., Any], **options: Any) -> BLR:
    return BLR(model, AutoNatural(model), params="em", **options)


def close(name: str, expected: Tensor) -> None:
    torch.testing.assert_close(pyro.param(name).detach(), expected, rtol=1e-10, atol=1e-10)


# -------------------------------------------------------------------------------- factor analysis


@pytest.mark.parametrize("spelling", FACTOR_ANALYSIS)
def test_factor_analysis(spelling: str) -> None:
    y = factor_data()
    blr = em(FACTOR_ANALYSIS[spelling])
    parameters = factor_start()
    for _ in range(8):
        blr.step(y)
        parameters = factor_em(y, *parameters)
        for name, value in zip(("W", "mu", "psi"), parameters, strict=True):
            close(name, value)


def test_a_fit_certifies_the_maximum_likelihood() -> None:
    y = factor_data()
    blr = em(FACTOR_ANALYSIS["events"])
    fit = blr.fit(y, tol=1e-8)
    assert fit.converged
    assert "'W', 'mu', 'psi'" in fit.reason
    parameters = factor_start()
    for _ in range(4000):
        parameters = factor_em(y, *parameters)
    assert fit.losses[-1] == pytest.approx(float(factor_loss(y, *parameters)), abs=1e-6)
    assert fit.steps < 60  # EM alone takes thousands


# --------------------------------------------------------------------------------- Poisson offsets


def _counts(groups: int, rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    group = torch.arange(rows) % groups
    return group, torch.poisson(torch.full((rows,), 3.0), generator=generator)


def _rates_by_offset(b: Tensor, rate: Tensor) -> Tensor:
    return b.exp() * rate


def _rates_by_sum_of_logs(b: Tensor, rate: Tensor) -> Tensor:
    return (b + rate.log()).exp()


@pytest.mark.parametrize("spelling", [_rates_by_offset, _rates_by_sum_of_logs])
def test_poisson_offset_with_gamma_rates(spelling: Callable[[Tensor, Tensor], Tensor]) -> None:
    group, y = _counts(4, 30)

    def model() -> None:
        b = pyro.param("b", torch.tensor(0.3))
        with pyro.plate("g", 4):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.5))
        with pyro.plate("n", 30):
            pyro.sample("y", dist.Poisson(spelling(b, rate[group])), obs=y)

    blr = em(model)
    b = torch.tensor(0.3)
    totals = torch.zeros(4).index_add(0, group, y)
    sizes = torch.bincount(group, minlength=4)
    for _ in range(8):
        blr.step()
        mean = (2.0 + totals) / (1.5 + sizes * b.exp())
        b = (y.sum() / (sizes * mean).sum()).log()
        close("b", b)


def test_poisson_offset_with_gaussian_effects() -> None:
    """With q Gaussian the E-step is not closed; the M-step at the q that it found is."""
    group, y = _counts(4, 30)

    def model() -> None:
        b = pyro.param("b", torch.tensor(0.3))
        with pyro.plate("g", 4):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 30):
            pyro.sample("y", dist.Poisson((b + z[group]).exp()), obs=y)

    guide = AutoNatural(model)
    blr = BLR(model, guide, params="em")
    losses = []
    for _ in range(6):
        losses.append(blr.step())
        q = guide.marginal("z")
        mass = (q.loc + 0.5 * q.scale.square()).exp()[group]
        close("b", (y.sum() / mass.sum()).log())
    assert losses == sorted(losses, reverse=True)
    assert blr.explain()["y"].tier == "exact"


def test_poisson_regression_with_an_offset() -> None:
    """E exp(x'w) under a full Gaussian; the fit is the joint optimum over q and b."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(30, 3, generator=generator)
    y = torch.poisson(torch.full((30,), 3.0), generator=generator)

    def model() -> None:
        b = pyro.param("b", torch.tensor(0.3))
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with pyro.plate("n", 30):
            pyro.sample("y", dist.Poisson((b + X @ w).exp()), obs=y)

    guide = AutoNatural(model)
    blr = BLR(model, guide, params="em")

    def best_offset() -> Tensor:
        q = guide.marginal("w")
        variance = torch.einsum("nd,de,ne->n", X, q.covariance_matrix, X)
        return (y.sum() / (X @ q.loc + 0.5 * variance).exp().sum()).log()

    for _ in range(5):
        blr.step()
        close("b", best_offset())
    fit = blr.fit(tol=1e-9)
    assert fit.converged
    assert abs(best_offset() - pyro.param("b").detach()) < 1e-4
    assert blr.explain()["y"].tier == "exact"


# ---------------------------------------------------------------------- parameters in closed form


def test_a_prior_of_which_every_parameter_is_learned() -> None:
    """Empirical Bayes: u_g ~ N(m, s^2) and y ~ N(u_g, v); m, s and v by hand, per iteration."""
    group, y = _counts(5, 40)

    def model() -> None:
        m = pyro.param("m", torch.tensor(0.5))
        s = pyro.param("s", torch.tensor(0.8), constraint=positive)
        v = pyro.param("v", torch.tensor(2.0), constraint=positive)
        with pyro.plate("g", 5):
            u = pyro.sample("u", dist.Normal(m, s))
        with pyro.plate("n", 40):
            pyro.sample("y", dist.Normal(u[group], v.sqrt()), obs=y)

    blr = em(model)
    m, s, v = torch.tensor(0.5), torch.tensor(0.8), torch.tensor(2.0)
    totals, sizes = torch.zeros(5).index_add(0, group, y), torch.bincount(group, minlength=5)
    for _ in range(6):
        blr.step()
        variance = 1 / (s**-2 + sizes / v)
        mean = variance * (m * s**-2 + totals / v)
        m = mean.mean()
        s = ((mean - m).square() + variance).mean().sqrt()
        v = ((y - mean[group]).square() + variance[group]).mean()
        for name, value in (("m", m), ("s", s), ("v", v)):
            close(name, value)


def test_a_scale_that_multiplies_what_it_scales() -> None:
    """Not centred: y ~ N(s u_g, 1), u_g ~ N(0, 1), the maximum over s > 0 a regression on u."""
    group, y = _counts(5, 40)

    def model() -> None:
        s = pyro.param("s", torch.tensor(0.5), constraint=positive)
        with pyro.plate("g", 5):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 40):
            pyro.sample("y", dist.Normal(s * u[group], 1.0), obs=y)

    blr = em(model)
    s, sizes = torch.tensor(0.5), torch.bincount(group, minlength=5)
    totals = torch.zeros(5).index_add(0, group, y)
    for _ in range(6):
        blr.step()
        variance = 1 / (1 + sizes * s.square())
        mean = variance * s * totals
        s = (mean * totals).sum() / (sizes * (mean.square() + variance)).sum()
        close("s", s)
    assert blr.explain().parameters["s"].family == "ModifiedHalfNormal"
    assert blr.fit().converged


def test_a_scale_of_noise_and_signal() -> None:
    """y ~ N(s u, s): with log s, 1/s and 1/s^2; the root of the quadratic by hand."""
    _, y = _counts(2, 20)

    def model() -> None:
        u = pyro.sample("u", dist.Normal(1.0, 1.0))
        s = pyro.param("s", torch.tensor(0.5), constraint=positive)
        with pyro.plate("n", 20):
            pyro.sample("y", dist.Normal(s * u, s), obs=y)

    blr = em(model)
    s = torch.tensor(0.5)
    for _ in range(6):
        blr.step()
        mean = (1.0 + y.sum() / s) / 21
        # maximise -n log s - (y^2 / s^2 - 2 y E[u] / s) / 2 summed over y, in x = 1 / s
        a, b = y.square().sum(), y.sum() * mean
        s = 2 * a / (b + (b.square() + 4 * a * 20).sqrt())
        close("s", s)


def test_parameters_that_the_latents_do_not_touch_are_at_their_maximum_in_one_step() -> None:
    _, y = _counts(2, 24)
    classes = torch.arange(24) % 3
    heads = (y > 2).double()

    def model() -> None:
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        p = pyro.param("p", torch.tensor([0.2, 0.3, 0.5]), constraint=simplex)
        q = pyro.param("q", torch.tensor(0.2), constraint=constraints.unit_interval)
        r = pyro.param("r", torch.tensor(1.0), constraint=positive)
        scale = pyro.param("scale", torch.tensor(1.0), constraint=positive)
        t = pyro.param("t", torch.tensor(1.0), constraint=positive)
        with pyro.plate("n", 24):
            pyro.sample("class", dist.Categorical(p), obs=classes)
            pyro.sample("heads", dist.Bernoulli(q), obs=heads)
            pyro.sample("count", dist.Poisson(r), obs=y)
            pyro.sample("wait", dist.Gamma(2.0, t), obs=y + 0.5)
            pyro.sample("error", dist.Normal(0.0, scale), obs=y - 3.0)
            pyro.sample("link", dist.Normal(u, 1.0), obs=y)

    em(model).step()
    close("p", torch.full((3,), 1 / 3))
    close("q", heads.mean())
    close("r", y.mean())
    close("t", 2.0 / (y + 0.5).mean())
    close("scale", (y - 3.0).square().mean().sqrt())


def test_the_rate_of_a_gamma_prior() -> None:
    _, y = _counts(2, 20)

    def model() -> None:
        t = pyro.param("t", torch.tensor(2.0), constraint=positive)
        with pyro.plate("n", 20):
            rate = pyro.sample("rate", dist.Gamma(3.0, t))
            pyro.sample("y", dist.Poisson(rate), obs=y)

    blr = em(model)
    t = torch.tensor(2.0)
    for _ in range(6):
        blr.step()
        t = 3.0 / ((3.0 + y) / (t + 1)).mean()
        close("t", t)


def test_class_probabilities_by_group() -> None:
    """A table of simplexes, its rows picked by an index."""
    group = torch.arange(40) % 3
    classes = (torch.arange(40) // 2) % 4

    def model() -> None:
        pyro.sample("u", dist.Normal(0.0, 1.0))
        table = pyro.param("table", torch.full((3, 4), 0.25), constraint=simplex)
        with pyro.plate("n", 40):
            pyro.sample("class", dist.Categorical(table[group]), obs=classes)

    em(model).step()
    counts = torch.zeros(12).index_add(0, 4 * group + classes, torch.ones(40)).reshape(3, 4)
    close("table", counts / counts.sum(-1, keepdim=True))


def test_a_parameter_shared_by_sites_is_pooled() -> None:
    x, y = torch.linspace(0.0, 2.0, 10), torch.linspace(1.0, 5.0, 15)

    def model() -> None:
        pyro.sample("u", dist.Normal(0.0, 1.0))
        with pyro.plate("x_plate", 10):
            pyro.sample("x", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0), obs=x)
        with pyro.plate("y_plate", 15):
            pyro.sample("y", dist.Normal(2.0 * pyro.param("m"), 0.5), obs=y)

    em(model).step()
    close("m", (x.sum() + 8.0 * y.sum()) / (10 + 15 * 16))


def test_coefficients_are_maximised_together() -> None:
    """Least squares: coupled elements of one parameter, and an intercept with them."""
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(20, 3, generator=generator), torch.randn(20, generator=generator)

    def model() -> None:
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        w = pyro.param("w", torch.zeros(3))
        b = pyro.param("b", torch.tensor(0.0))
        with pyro.plate("n", 20):
            pyro.sample("y", dist.Normal(X @ w + b, 0.7), obs=y)
        pyro.sample("x", dist.Normal(u, 1.0), obs=torch.tensor(0.3))

    blr = em(model)
    blr.step()
    solution = torch.linalg.lstsq(torch.cat([X, torch.ones(20, 1)], 1), y).solution
    close("w", solution[:3])
    close("b", solution[3])
    assert blr.explain().parameters["w"].together == ("w", "b")


def test_bilinear_parameters_are_maximised_in_turn() -> None:
    y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

    def model() -> None:
        pyro.sample("u", dist.Normal(0.0, 1.0))
        a, b = pyro.param("a", torch.ones(6)), pyro.param("b", torch.ones(4))
        with pyro.plate("i", 6, dim=-2), pyro.plate("j", 4, dim=-1):
            pyro.sample("y", dist.Normal(a[:, None] * b, 1.0), obs=y)

    blr = em(model)
    a, b = torch.ones(6), torch.ones(4)
    for _ in range(4):
        blr.step()
        a = y @ b / (b @ b)
        b = a @ y / (a @ a)
        close("a", a)
        close("b", b)


# ------------------------------------------------------------------------------ what is left alone


def _with_extra(extra: Callable[[Tensor], None]) -> Callable[[], None]:
    def model() -> None:
        m = pyro.param("m", torch.tensor(0.0))
        u = pyro.sample("u", dist.Normal(m, 1.0))
        extra(u)
        pyro.sample("x", dist.Normal(u, 1.0), obs=torch.tensor(2.0))

    return model


def test_a_parameter_that_requires_no_gradient_is_left_alone() -> None:
    pyro.param("m", torch.tensor(0.25)).unconstrained().requires_grad_(False)
    blr = em(_with_extra(lambda u: None))
    assert blr.fit().converged
    close("m", torch.tensor(0.25))
    assert blr.explain().parameters["m"].update == "fixed"


def test_a_parameter_that_a_call_does_not_use_is_left_alone() -> None:
    def model(use: bool) -> None:
        a, b = pyro.param("a", torch.tensor(0.5)), pyro.param("b", torch.tensor(0.5))
        u = pyro.sample("u", dist.Normal(a, 1.0))
        pyro.sample("x", dist.Normal(u + (b if use else 0.0), 1.0), obs=torch.tensor(2.0))

    blr = em(model)
    blr.step(False)
    close("b", torch.tensor(0.5))
    assert float(pyro.param("a")) != 0.5
    blr.step(True)
    assert float(pyro.param("b")) != 0.5


def test_a_parameter_without_an_m_step_gets_the_default_optimiser() -> None:
    def shape(u: Tensor) -> None:
        a = pyro.param("a", torch.tensor(2.0), constraint=positive)
        pyro.sample("k", dist.Gamma(a, 1.0), obs=torch.tensor(3.0))

    blr = em(_with_extra(shape))
    blr.step()
    assert abs(float(pyro.param("a")) - 2.0) == pytest.approx(0.02, rel=0.1)  # Adam at 0.01 in log


def test_em_and_an_optimiser_share_the_parameters() -> None:
    def shape(u: Tensor) -> None:
        a = pyro.param("a", torch.tensor(2.0), constraint=positive)
        pyro.sample("k", dist.Gamma(a, 1.0), obs=torch.tensor(3.0))

    model = _with_extra(shape)
    blr = BLR(model, AutoNatural(model), pyro.optim.Adam({"lr": 0.05}), params="em")
    blr.step()
    close("m", torch.tensor(1.0))  # the mean of u given m = 0
    assert float(pyro.param("a")) != 2.0
    explained = blr.explain().parameters
    assert (explained["m"].update, explained["a"].update) == ("em", "optim")
    assert "lgamma" in explained["a"].reason
    assert "parameter m: em (mode of a Normal)" in str(blr.explain())
    for _ in range(300):
        blr.step()
    assert float(torch.digamma(pyro.param("a"))) == pytest.approx(math.log(3.0), abs=1e-3)


def test_the_parameters_of_a_module_are_the_optimisers() -> None:
    linear = torch.nn.Linear(1, 1)

    def module(u: Tensor) -> None:
        net = pyro.module("net", linear)
        pyro.sample("k", dist.Normal(net(u.reshape(1)), 1.0).to_event(1), obs=torch.ones(1))

    model = _with_extra(module)
    blr = BLR(model, AutoNatural(model), pyro.optim.Adam({"lr": 0.05}), params="em")
    before = linear.weight.detach().clone()
    blr.step()
    assert isinstance(linear.weight, torch.nn.Parameter)
    assert not torch.equal(linear.weight, before)
    explained = blr.explain().parameters
    assert explained["m"].update == "em"
    assert explained["net$$$weight"].update == "optim"


def test_a_maximum_at_the_edge_of_the_support_is_an_error() -> None:
    def model() -> None:
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        r = pyro.param("r", torch.tensor(1.0), constraint=positive)
        with pyro.plate("n", 3):
            pyro.sample("y", dist.Poisson(r), obs=torch.zeros(3))
        pyro.sample("x", dist.Normal(u, 1.0), obs=torch.tensor(2.0))

    blr = em(model)
    with pytest.raises(errors.ImproperPosteriorError, match=r"'r'.*Mend"):
        blr.step()
    close("r", torch.tensor(1.0))


def test_the_elbo_never_falls() -> None:
    group, y = _counts(5, 40)

    def model() -> None:
        m = pyro.param("m", torch.tensor(3.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        with pyro.plate("g", 5):
            u = pyro.sample("u", dist.Normal(m, 1.0))
        with pyro.plate("n", 40):
            pyro.sample("y", dist.Normal(u[group], tau.rsqrt()), obs=y)

    blr = em(model)
    losses = [blr.step() for _ in range(12)]
    assert all(b <= a + 1e-11 * abs(a) for a, b in itertools.pairwise(losses))
    assert losses[-1] < losses[0]

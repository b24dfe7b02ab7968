# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The options of the rule: temperature, momentum, and natural-gradient steps of parameters."""

import itertools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

positive = constraints.positive
Y = torch.linspace(-1.0, 3.0, 12)
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def fitted(model: Callable[..., Any], site: str, **options: Any) -> Any:
    """The posterior of a site."""
    pyro.clear_param_store()
    guide = AutoNatural(model)
    assert BLR(model, guide, **options).fit().converged
    return guide.marginal(site)


# ------------------------------------------------------------------------------------ temperature


def test_a_temperature_of_two_halves_the_precision_of_the_data() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.5, 2.0))
        with pyro.plate("n", 12):
            pyro.sample("y", dist.Normal(z, 0.7), obs=Y)

    q = fitted(model, "z", temperature=2.0)
    precision = 2.0**-2 + 12 * 0.7**-2 / 2
    mean = (0.5 * 2.0**-2 + Y.sum() * 0.7**-2 / 2) / precision
    torch.testing.assert_close(q.loc, mean, **EXACT)
    torch.testing.assert_close(q.scale, torch.tensor(precision**-0.5), **EXACT)


def _quadrature(z: Tensor) -> None:
    with pyro.plate("n", 12):
        pyro.sample("y", dist.Bernoulli(logits=z + Y), obs=(Y > 0).double())


def _factor(z: Tensor) -> None:
    pyro.factor("y", dist.StudentT(3.0, z, 1.0).log_prob(Y).sum())


def _scaled(z: Tensor) -> None:
    with poutine.scale(scale=3.0), pyro.plate("n", 12):
        pyro.sample("y", dist.Poisson(z.exp()), obs=(Y + 2).round())


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")
@pytest.mark.parametrize("likelihood", [_quadrature, _factor, _scaled])
def test_a_temperature_scales_what_is_observed_and_no_prior(
    likelihood: Callable[[Tensor], None],
) -> None:
    def plain() -> None:
        likelihood(pyro.sample("z", dist.Normal(0.5, 2.0)))

    def tempered() -> None:
        z = pyro.sample("z", dist.Normal(0.5, 2.0))
        with poutine.scale(scale=1 / 3.0):
            likelihood(z)

    losses = []
    for model, temperature in ((plain, 3.0), (tempered, 1.0)):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        blr = BLR(model, AutoNatural(model), temperature=temperature)
        losses.append([blr.step() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_check_every_knows_the_temperature() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.5, 2.0))
        with pyro.plate("n", 12):
            pyro.sample("y", dist.Normal(z, 0.7), obs=Y)

    blr = BLR(model, AutoNatural(model), temperature=2.0, check_every=1)
    blr.step()


# --------------------------------------------------------------------------------------- momentum


def _coupled(x: Tensor) -> Callable[[], None]:
    """A line whose slope and intercept are strongly coupled: x is far from 0."""

    def model() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 10.0))
        b = pyro.sample("b", dist.Normal(0.0, 10.0))
        with pyro.plate("n", 12):
            pyro.sample("y", dist.Normal(a + b * x, 0.5), obs=Y)

    return model


def _steps_to(model: Callable[[], None], optimum: float, **options: Any) -> tuple[int, list[float]]:
    pyro.clear_param_store()
    blr = BLR(model, AutoNatural(model), blocks="site", **options)
    losses = []
    for step in range(2000):
        losses.append(blr.step())
        if losses[-1] < optimum + 1e-6:
            return step, losses
    raise AssertionError(f"{losses[-1] - optimum} nats above the optimum")


def test_momentum_needs_fewer_steps_to_the_same_point_and_never_falls() -> None:
    x = torch.linspace(3.0, 5.0, 12)
    model = _coupled(x)
    pyro.clear_param_store()
    reference = BLR(model, AutoNatural(model), blocks="site").fit(tol=1e-10, max_steps=3000)
    assert reference.converged
    optimum = reference.losses[-1]
    plain, _ = _steps_to(model, optimum)
    fast, losses = _steps_to(model, optimum, momentum=0.7)
    assert fast < plain / 2
    assert all(b <= a + 1e-10 * abs(a) for a, b in itertools.pairwise(losses))


def test_momentum_leaves_the_fixed_point_where_it_is() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.5, 2.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        with pyro.plate("n", 12):
            pyro.sample("y", dist.Normal(z, tau.rsqrt()), obs=Y)

    plain, moved = fitted(model, "tau"), fitted(model, "tau", momentum=0.5)
    torch.testing.assert_close(moved.rate, plain.rate, rtol=1e-6, atol=0)


@pytest.mark.parametrize("step_size", ["auto", 0.9, 1.0])
def test_momentum_never_leaves_the_cone(step_size: Any) -> None:
    """From a narrow start the first step lowers a precision a thousandfold: more would be < 0."""

    def model() -> None:
        with pyro.plate("k", 3):
            z = pyro.sample("z", dist.Normal(0.0, 50.0))
            tau = pyro.sample("tau", dist.Gamma(0.1, 0.1))
            pyro.sample("y", dist.Normal(z, tau.rsqrt()), obs=torch.tensor([0.0, 1.0, 30.0]))

    guide = AutoNatural(model, init_scale=1e-3)
    blr = BLR(model, guide, momentum=0.95, step_size=step_size)
    departures = 0
    for _ in range(30):
        blr.step()
        departures += blr.info.safety.halvings + blr.info.safety.refused
        for block, natural in guide.naturals().items():
            assert block.family.in_domain(natural).all()
    assert departures > 0


# ------------------------------------------------------------------------- natural steps of params


def _bernoulli(y: Tensor) -> None:
    u = pyro.sample("u", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(u, 1.0), obs=torch.tensor(1.0))
    p = pyro.param("p", torch.tensor(0.3), constraint=constraints.unit_interval)
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


def _poisson(y: Tensor) -> None:
    u = pyro.sample("u", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(u, 1.0), obs=torch.tensor(1.0))
    p = pyro.param("p", torch.tensor(0.3), constraint=positive)
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Poisson(p), obs=y)


def _variance(y: Tensor) -> None:
    u = pyro.sample("u", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(u, 1.0), obs=torch.tensor(1.0))
    p = pyro.param("p", torch.tensor(0.3), constraint=positive)
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(0.0, p.sqrt()), obs=y)


def _location(y: Tensor) -> None:
    u = pyro.sample("u", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(u, 1.0), obs=torch.tensor(1.0))
    p = pyro.param("p", torch.tensor(0.3))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(p, 2.0), obs=y)


COUNTS = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
MEANS: dict[Callable[[Tensor], None], Tensor] = {
    _bernoulli: COUNTS.mean(),
    _poisson: COUNTS.mean(),
    _variance: COUNTS.square().mean(),
    _location: COUNTS.mean(),
}


@pytest.mark.parametrize("model", MEANS)
def test_a_natural_step_is_one_of_its_size_in_the_mean_parameter(
    model: Callable[[Tensor], None],
) -> None:
    """theta <- (1 - rho) theta + rho E[S], Kunstner et al., for families whose mean it is."""
    blr = BLR(model, AutoNatural(model), params="natural", step_size=0.3)
    p = torch.tensor(0.3)
    for _ in range(5):
        blr.step(COUNTS)
        p = 0.7 * p + 0.3 * MEANS[model]
        torch.testing.assert_close(pyro.param("p").detach(), p, **EXACT)


def test_a_natural_step_of_simplex_and_of_coefficients() -> None:
    X = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    y, classes = X @ torch.tensor([1.0, -1.0]) + 0.3, torch.arange(20) % 3
    start = torch.tensor([0.2, 0.3, 0.5])

    def model() -> None:
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        w = pyro.param("w", torch.zeros(2))
        p = pyro.param("p", start, constraint=constraints.simplex)
        with pyro.plate("n", 20):
            pyro.sample("y", dist.Normal(X @ w, 0.7), obs=y)
            pyro.sample("class", dist.Categorical(p), obs=classes)
        pyro.sample("x", dist.Normal(u, 1.0), obs=torch.tensor(0.3))

    BLR(model, AutoNatural(model), params="natural", step_size=0.25).step()
    shares = torch.bincount(classes) / 20
    torch.testing.assert_close(pyro.param("p").detach(), 0.75 * start + 0.25 * shares, **EXACT)
    solution = torch.linalg.lstsq(X, y.unsqueeze(-1)).solution[:, 0]
    torch.testing.assert_close(pyro.param("w").detach(), 0.25 * solution, **EXACT)


def test_at_step_size_one_natural_is_em() -> None:
    losses = []
    for params in ("em", "natural"):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)

        def model() -> None:
            s = pyro.param("s", torch.tensor(0.8), constraint=positive)
            with pyro.plate("n", 12):
                u = pyro.sample("u", dist.Normal(pyro.param("m", torch.tensor(0.5)), s))
                pyro.sample("y", dist.Normal(u, 0.5), obs=Y)

        blr = BLR(model, AutoNatural(model), params=params)
        losses.append([blr.step() for _ in range(5)])
    assert losses[0] == losses[1]


def test_minibatches_reach_the_maximum_of_all_data() -> None:
    """Online EM: local latents in a subsampled plate, a message averaged over the steps."""
    generator = torch.Generator().manual_seed(2)
    y = torch.randn(200, generator=generator) * 1.5 + 2.0

    def model(y: Tensor) -> None:
        m = pyro.param("m", torch.tensor(0.0))
        v = pyro.param("v", torch.tensor(4.0), constraint=positive)
        with pyro.plate("n", 200, subsample_size=40) as index:
            u = pyro.sample("u", dist.Normal(m, 1.0))
            pyro.sample("y", dist.Normal(u, v.sqrt()), obs=y[index])

    blr = BLR(model, AutoNatural(model), params="natural")
    tail = []
    for step in range(400):
        blr.step(y)
        if step >= 300:
            tail.append((float(pyro.param("m")), float(pyro.param("v"))))
    m, v = torch.tensor(tail).mean(0)
    assert float(m) == pytest.approx(float(y.mean()), abs=0.05)
    assert float(v) == pytest.approx(float(y.var(unbiased=False)) - 1.0, abs=0.2)


def test_rows_of_a_parameter_in_a_subsampled_plate() -> None:
    """Only the rows of the batch move, and they move to their own maximum."""
    y = torch.linspace(0.0, 5.0, 6)

    def model(index: Tensor) -> None:
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(u, 1.0), obs=torch.tensor(1.0))
        with pyro.plate("n", 6, subsample=index):
            m = pyro.param("m", torch.full((6,), -1.0), event_dim=0)
            pyro.sample("y", dist.Normal(m, 1.0), obs=y[index])

    blr = BLR(model, AutoNatural(model), params="em")
    blr.step(torch.tensor([4, 1]))
    expected = torch.tensor([-1.0, y[1], -1.0, -1.0, y[4], -1.0])
    torch.testing.assert_close(pyro.param("m").detach(), expected, **EXACT)


def test_a_parameter_that_was_set_by_hand_begins_a_new_average() -> None:
    blr = BLR(_location, AutoNatural(_location), params="natural", step_size=0.3)
    blr.step(COUNTS)
    pyro.get_param_store()["p"] = torch.tensor(7.0)
    blr.step(COUNTS)
    expected = 0.7 * 7.0 + 0.3 * COUNTS.mean()
    torch.testing.assert_close(pyro.param("p").detach(), expected, **EXACT)


# ------------------------------------------------------------------- parameters without an M-step


def _shape(y: Tensor) -> None:
    """A Gamma's shape has no M-step in closed form (lgamma); its rate has."""
    u = pyro.sample("u", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(u, 1.0), obs=torch.tensor(1.0))
    a = pyro.param("a", torch.tensor(1.5), constraint=positive)
    b = pyro.param("b", torch.tensor(1.0), constraint=positive)
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Gamma(a, b), obs=y)


def test_newton_steps_reach_the_maximum_likelihood_of_a_shape() -> None:
    y = torch.distributions.Gamma(3.0, 2.0).sample((50,))
    blr = BLR(_shape, AutoNatural(_shape), params="natural")
    losses = [blr.step(y) for _ in range(200)]
    assert all(b <= a + 1e-11 * abs(a) for a, b in itertools.pairwise(losses))
    a, b = pyro.param("a").detach(), pyro.param("b").detach()
    torch.testing.assert_close(a / b, y.mean(), rtol=1e-8, atol=0)
    score = torch.digamma(a) - b.log() - y.log().mean()
    assert abs(score) < 1e-7
    explained = blr.explain(y).parameters
    assert (explained["a"].update, explained["b"].family) == ("natural", "Gamma")
    assert "Newton" in explained["a"].reason


def test_one_newton_step_is_that_of_the_information_by_hand() -> None:
    """In the unconstrained coordinate log a, where L is not quadratic."""

    def model(y: Tensor) -> None:
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(u, 1.0), obs=torch.tensor(1.0))
        a = pyro.param("a", torch.tensor(2.0), constraint=positive)
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Gamma(a, 1.5), obs=y)

    y = torch.tensor([0.7, 1.9, 2.2, 1.1])
    BLR(model, AutoNatural(model), params="natural").step(y)
    a = torch.tensor(2.0)
    score = 4 * torch.log(torch.tensor(1.5)) + y.log().sum() - 4 * torch.digamma(a)
    gradient = a * score
    information = -(a * score - 4 * a.square() * torch.polygamma(1, a))
    expected = (a.log() + gradient / information).exp()
    torch.testing.assert_close(pyro.param("a").detach(), expected, **EXACT)


def test_newton_and_a_fit_that_does_not_certify_it() -> None:
    y = torch.distributions.Gamma(3.0, 2.0).sample((50,))
    fit = BLR(_shape, AutoNatural(_shape), params="natural").fit(y, max_steps=5)
    assert not fit.converged
    assert "['a']" in fit.reason


def test_a_weight_in_a_predictor_is_moved_by_newton() -> None:
    """A logistic regression with a fixed effect: quadrature over the random one."""
    x = torch.linspace(-2.0, 2.0, 24)
    group = torch.arange(24) % 4
    y = ((x + torch.sin(7.0 * x)) > 0.1).double()

    def model() -> None:
        w = pyro.param("w", torch.tensor(0.0))
        with pyro.plate("g", 4):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 24):
            pyro.sample("y", dist.Bernoulli(logits=u[group] + w * x), obs=y)

    blr = BLR(model, AutoNatural(model), params="natural")
    losses = [blr.step() for _ in range(30)]
    assert all(b <= a + 1e-11 * abs(a) for a, b in itertools.pairwise(losses))
    assert losses[-2] - losses[-1] < 1e-9
    w = pyro.param("w").detach()
    for other in (w - 1e-3, w + 1e-3):
        pyro.get_param_store()["w"] = other
        assert blr.evaluate_loss() > losses[-1]

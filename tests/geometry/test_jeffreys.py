# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Jeffreys' prior: two samplers against each other and against laws that are known."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet
from torch.testing import assert_close

from pyro_blr.geometry import ParameterDraws, jeffreys_walk, jeffreys_weighted
from pyro_blr.geometry.jeffreys import _theta
from tests.geometry.models import independent, naive_bayes

LOW, HIGH = torch.zeros(5), torch.ones(5)


@cache
def walked() -> ParameterDraws:
    torch.manual_seed(1)
    return jeffreys_walk(naive_bayes(), LOW, HIGH, chains=250, draws=20, thin=8, warm_up=80)


@cache
def weighed() -> ParameterDraws:
    torch.manual_seed(2)
    return jeffreys_weighted(naive_bayes(), LOW, HIGH, draws=20_000)


SAMPLERS = {"walk": walked, "weighted": weighed}


def test_the_density_is_that_of_the_formula() -> None:
    """sqrt(det G) of naive Bayes, and 1 / sqrt(p (1 - p)) of each value alone."""
    theta = torch.rand(10, 5)
    x, rest = theta[:, 0], theta[:, 1:]
    expected = (x * (1 - x)).sqrt() / (rest * (1 - rest)).sqrt().prod(-1)
    assert_close(naive_bayes().at(theta).log_jeffreys(), expected.log())
    theta = torch.rand(10, 3)
    expected = -0.5 * (theta * (1 - theta)).log().sum(-1)
    assert_close(independent().at(theta).log_jeffreys(), expected)
    assert bool((independent().at(theta).log_jeffreys("visible") == -torch.inf).all())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_have_the_moments_of_the_prior(sampler: str) -> None:
    """x is Beta(3/2, 3/2) and each of the others Beta(1/2, 1/2): within four standard errors."""
    draws = SAMPLERS[sampler]()
    laws = [
        Beta(torch.tensor(1.5), torch.tensor(1.5)),
        *[Beta(torch.tensor(0.5), torch.tensor(0.5))] * 4,
    ]
    for place, law in enumerate(laws):
        value = draws.theta[..., place]
        for function, expected in (
            (value, law.mean),
            ((value - 0.5).square(), law.variance),
            ((value < 0.1).double(), law_below(law, 0.1)),
        ):
            mean, error = draws.mean(function)
            assert 0.0 < error < 0.02
            assert abs(mean - float(expected)) < 4.0 * error
    assert draws.how


def law_below(law: Beta, bound: float) -> Tensor:
    """P(value < bound) by fine quadrature in the angle."""
    angle = (torch.arange(100_000) + 0.5) / 100_000 * torch.pi / 2
    value = angle.sin().square()
    weight = (law.log_prob(value).exp() * (2 * angle).sin()) * torch.pi / 2 / 100_000
    return weight[value < bound].sum()


def test_weights_count_as_many_draws_as_they_are_worth() -> None:
    draws = weighed()
    assert float(draws.weight.sum()) == pytest.approx(1.0)
    assert 5000 < draws.effective < 20_000
    assert walked().effective == pytest.approx(5000)


def test_of_one_chain_the_error_is_not_known() -> None:
    box = torch.zeros(5), torch.ones(5)
    draws = jeffreys_walk(naive_bayes(), *box, chains=1, draws=3, warm_up=2)
    assert draws.mean(torch.tensor([[1.0, 2.0, 6.0]])) == (pytest.approx(3.0), torch.inf)


def test_no_draw_is_on_the_boundary() -> None:
    """Rounding would put one there now and then."""
    angle = torch.tensor([[0.5 * torch.pi] * 5, [0.5 * torch.pi - 1e-9] * 5, [1e-9] * 5])
    theta = _theta(angle, LOW, HIGH)
    assert bool(((theta > 0.0) & (theta < 1.0)).all())
    assert bool(naive_bayes().at(theta).log_jeffreys().isfinite().all())


def test_a_part_of_the_box() -> None:
    low, high = torch.full((5,), 0.2), torch.tensor([0.3, 0.5, 0.6, 0.7, 0.8])
    for draws in (
        jeffreys_walk(naive_bayes(), low, high, chains=20, draws=5, warm_up=20),
        jeffreys_weighted(naive_bayes(), low, high, draws=100),
    ):
        assert bool(((draws.theta >= low) & (draws.theta <= high)).all())


def mean_cosines(
    theta: Tensor, mean: Callable[[Tensor], tuple[float, float]]
) -> list[tuple[float, float]]:
    """Of naive Bayes, with targets from Jeffreys' prior of all laws."""
    targets = Dirichlet(torch.full((8,), 0.5)).sample(theta.shape[:-1]).unflatten(-1, (2, 2, 2))
    return [mean(c) for c in naive_bayes().at(theta).fields(targets).cosines]


def test_mean_cosines_of_two_samplers_and_of_exact_draws() -> None:
    exact = torch.cat(
        [
            Beta(torch.tensor(1.5), torch.tensor(1.5)).sample((20_000, 1)),
            Beta(torch.tensor(0.5), torch.tensor(0.5)).sample((20_000, 4)),
        ],
        -1,
    ).clamp(1e-12, 1.0 - 1e-12)
    found = mean_cosines(exact, lambda c: (float(c.mean()), float(c.std()) / 20_000**0.5))
    for sampler in SAMPLERS.values():
        draws = sampler()
        for (mean, error), (own, other) in zip(
            mean_cosines(draws.theta, draws.mean), found, strict=True
        ):
            assert abs(mean - own) < 4.0 * (error**2 + other**2) ** 0.5
            assert abs(mean - own) < 0.015 and error < 0.006

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The trapezoidal rule in one and two scalars: closed forms, degenerate laws, refusals."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_blr.lifting import quadrature
from pyro_blr.lifting.quadrature import Integrand, Rule, calibrate
from pyro_blr.lifting.scalars import Scalars
from tests.two_scalars import tensor

Y = 0.7


def log_normal_scale(f: Tensor, g: Tensor) -> Tensor:
    """log Normal(Y; f, exp(g)), whose expectation is closed."""
    return -0.5 * (Y - f).square() * (-2 * g).exp() - g - 0.5 * math.log(2 * math.pi)


def tilted(m: Tensor, v: Tensor, c: Tensor) -> Tensor:
    """E of it: under the density tilted by exp(-2 g), f has mean m1 - 2 c and variance v1."""
    mass = (-2 * m[1] + 2 * v[1]).exp()
    squares = (Y - m[0] + 2 * c).square() + v[0]
    return -0.5 * mass * squares - m[1] - 0.5 * math.log(2 * math.pi)


def law(mean: list[float], variance: list[float], covariance: float) -> tuple[Tensor, ...]:
    leaves = (tensor(*mean), tensor(*variance), torch.tensor(covariance, dtype=torch.float64))
    return tuple(leaf.requires_grad_() for leaf in leaves)


def scalars_of(m: Tensor, v: Tensor, c: Tensor | None) -> Scalars:
    return Scalars(tuple(m.unbind()), tuple(v.unbind()), c)


@pytest.mark.parametrize("sds", [(0.5, 0.3), (2.0, 0.1), (0.01, 0.7)])
@pytest.mark.parametrize("correlation", [0.0, 0.6, -0.99, 0.999999])
def test_a_tilted_gaussian_has_a_closed_form(sds: tuple[float, float], correlation: float) -> None:
    """Value, gradient and second derivatives in means, variances and covariance."""
    covariance = correlation * sds[0] * sds[1]
    leaves = law([0.3, -0.4], [s**2 for s in sds], covariance)
    integrand = Integrand(log_normal_scale, 1)
    found = calibrate(integrand, scalars_of(*leaves))
    assert not found.refusal
    ours, truth = integrand.expectation(scalars_of(*leaves), found.rule), tilted(*leaves)
    assert abs(float(ours - truth)) < 1e-8
    first = torch.autograd.grad(ours, leaves, create_graph=True)
    expected = torch.autograd.grad(truth, leaves, create_graph=True)
    for a, b in zip(first, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-8)
    if abs(correlation) > 0.9999:
        return  # the root of a residual variance r loses 1 / r of the rounding at each derivative
    curved = torch.autograd.grad(sum(g.sum() for g in first), leaves)
    bent = torch.autograd.grad(sum(g.sum() for g in expected), leaves)
    for a, b in zip(curved, bent, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-5)


def test_without_a_covariance_the_two_are_independent() -> None:
    m, v, c = law([0.3, -0.4], [0.25, 0.09], 0.0)
    integrand, rule = Integrand(log_normal_scale, 1), Rule((4, 4), 9.0)
    apart = integrand.expectation(scalars_of(m, v, None), rule)
    assert torch.equal(apart, integrand.expectation(scalars_of(m, v, c), rule))


@pytest.mark.parametrize("slope", [2.0, -0.3])
def test_perfectly_correlated_scalars_are_one(slope: float) -> None:
    """g = slope f + 1: the covariance is singular, and derivatives along f's law are those of f."""
    mean, variance = law([0.3], [0.25], 0.0)[:2]
    pair = Scalars((mean, slope * mean + 1), (variance, slope**2 * variance), slope * variance)
    two = Integrand(lambda f, g: torch.sin(f) * torch.tanh(g), 1)
    one = Integrand(lambda f: torch.sin(f) * torch.tanh(slope * f + 1), 1)
    ours = two.expectation(pair, calibrate(two, pair).rule)
    single = Scalars((mean,), (variance,))
    truth = one.expectation(single, calibrate(one, single).rule)
    assert abs(float(ours - truth)) < 1e-10
    for a, b in zip(
        torch.autograd.grad(ours, (mean, variance)),
        torch.autograd.grad(truth, (mean, variance)),
        strict=True,
    ):
        assert float((a - b).abs()) < 1e-9


@pytest.mark.parametrize("still", [0, 1])
def test_a_scalar_without_variance_is_its_mean(still: int) -> None:
    variance = [0.25, 0.25]
    variance[still] = 0.0
    m, v, c = law([0.3, -0.4], variance, 0.0)
    integrand = Integrand(log_normal_scale, 1)
    pair = scalars_of(m, v, c)
    value = integrand.expectation(pair, calibrate(integrand, pair).rule)
    assert abs(float(value - tilted(m, v, c))) < 1e-8
    slopes = torch.autograd.grad(value, (m, v, c))
    assert all(bool(torch.isfinite(s).all()) for s in slopes)
    assert torch.allclose(slopes[0], torch.autograd.grad(tilted(m, v, c), m)[0], atol=1e-8)


def narrow(f: Tensor, g: Tensor) -> Tensor:
    return torch.distributions.StudentT(4.0, f, 0.03 * g.exp()).log_prob(torch.tensor(0.5))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_narrow_likelihood_refines_its_own_scalar(swapped: bool) -> None:
    m, v, _ = law([0.3, -0.4], [1.0, 0.04], 0.0)
    order = [1, 0] if swapped else [0, 1]
    pair = scalars_of(m[order], v[order], None)
    integrand = Integrand((lambda g, f: narrow(f, g)) if swapped else narrow, 1)
    found = calibrate(integrand, pair)
    assert not found.refusal
    wide, fine = (found.rule.levels[order.index(i)] for i in (1, 0))
    assert fine >= wide + 2 * quadrature.OCTAVE
    finer = Rule(tuple(level + 2 for level in found.rule.levels), 15.0)
    value, truth = (integrand.expectation(pair, r) for r in (found.rule, finer))
    assert abs(float(value - truth)) < 1e-9


def test_nodes_lie_within_the_ball_and_weigh_one() -> None:
    nodes, weights = Rule((0, 4), 9.0).nodes(torch.float64, torch.device("cpu"))
    squares = nodes.square().sum(-1)
    assert float(squares.max()) <= 81.0
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-14)
    # Mass and fourth moments of the normal law, to the tail's exp(-R^2 / 2) and the grid's error.
    assert float((weights * squares.square()).sum()) == pytest.approx(8.0, abs=1e-5)
    assert abs(len(nodes) / Rule((0, 4), 9.0).size - 1) < 0.02


def test_a_growing_function_is_followed_outwards() -> None:
    """E exp(s f) has its mass around t = s: within the smallest ball for s = 2, not for s = 8."""
    for slope, width in ((2.0, 9.0), (8.0, 15.0), (20.0, 27.0)):
        m, v, _ = law([-slope, 0.0], [1.0, 1.0], 0.0)
        integrand = Integrand(lambda f, g, s=slope: (s * (f - s / 2 + s)).exp() * (1 + g), 1)
        pair = scalars_of(m, v, None)
        found = calibrate(integrand, pair, tolerance=1e-8)
        assert found.rule.half_width == width
        assert float(integrand.expectation(pair, found.rule)) == pytest.approx(1.0, abs=1e-8)


REFUSED: dict[str, tuple[Callable[..., Tensor], str]] = {
    "a kink": (lambda f, g: (f - 0.1 * g).abs(), "kink"),
    "a jump": (lambda f, g: torch.sign(f) * g, "kink|disagrees"),
    "too fast a growth": (lambda f, g: (f**2).exp() * g, "disagrees|grows|nodes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_rule_is_refused(case: str) -> None:
    function, words = REFUSED[case]
    m, v, _ = law([0.05, -0.4], [1.0, 1.0], 0.0)
    found = calibrate(Integrand(function, 1), scalars_of(m, v, None))
    assert found.refusal
    assert any(word in found.refusal for word in words.split("|")), found.refusal


def test_too_many_values_are_refused_before_they_are_evaluated() -> None:
    def only_on_spheres(f: Tensor, g: Tensor) -> Tensor:
        assert len(f) <= len(quadrature.HALF_WIDTHS) * quadrature.DIRECTIONS
        return f * g

    m, v, _ = law([0.0, 0.0], [1.0, 1.0], 0.0)
    elements = quadrature.MAX_VALUES // 100
    found = calibrate(Integrand(only_on_spheres, elements), scalars_of(m, v, None))
    assert str(elements) in found.refusal
    assert "nodes" in found.refusal


def test_no_element_has_no_expectation() -> None:
    empty = torch.zeros(0)
    pair = Scalars((empty, empty), (empty, empty), empty)
    integrand = Integrand(log_normal_scale, 0)
    found = calibrate(integrand, pair)
    assert not found.refusal
    assert integrand.expectation(pair, found.rule).shape == (0,)


def test_wider_scalars_get_finer_rules_of_the_same_resolution() -> None:
    rule = Rule((4, 8), 9.0)
    before = ((1.0, 0.0), (0.5, 2.0))
    assert rule.at_spreads(before, before) == rule
    assert rule.at_spreads(before, ((0.5, 0.0), (0.1, 1.0))) == rule
    twice = rule.at_spreads(before, ((2.0, 0.0), (1.0, 4.0)))
    assert twice.levels == (4 + quadrature.OCTAVE, 8 + quadrature.OCTAVE)
    # What the second scalar gains from the first one's t is resolved as finely as its own.
    turned = rule.at_spreads(before, ((1.0, 0.0), (2.0, 0.1)))
    h = turned.steps
    assert h[0] * 2.0 <= rule.steps[1] * 2.0
    assert h[1] == rule.steps[1]

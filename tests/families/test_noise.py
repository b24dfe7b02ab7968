# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Draws at given noise: their law, their derivatives, and that they do not jump."""

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor
from torch.autograd import grad

from pyro_blr import families
from pyro_blr.families import gamma_quantile
from tests.families.contract import ROWS, Row

SHAPES = (1e-3, 0.03, 0.3, 0.999, 1.0, 1.001, 2.5, 30.0, 1e3, 9.99e3, 1.001e4, 1e7)
NOISE = torch.linspace(-6.2, 6.2, 63, dtype=torch.float64)
WITH_NOISE = [r for r in ROWS if r.family.noise_shape(r.random()) is not None]
every_row = pytest.mark.parametrize("row", WITH_NOISE, ids=lambda row: row.family.name)


def noise(row: Row, natural: tuple[Tensor, ...], number: int, seed: int = 3) -> Tensor:
    shape = row.family.noise_shape(natural)
    assert shape is not None
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((number, *shape), generator=generator, dtype=torch.float64)


def test_every_law_of_a_latent_that_is_no_gaussian_has_draws_at_given_noise() -> None:
    assert {row.family.name for row in WITH_NOISE} == {
        *("Gamma", "InverseGamma", "Beta", "Dirichlet", "Wishart"),
        *("NormalGamma", "NormalInverseGamma", "NormalWishart"),
    }


@pytest.mark.parametrize("shape", SHAPES[:-1])  # at 1e7 scipy's own inverse has lost its digits
def test_quantile_against_scipy(shape: float) -> None:
    """Catches a wrong tail, a start that Newton's method does not come back from, a bad switch."""
    a = torch.full_like(NOISE, shape)
    ours = gamma_quantile.log_gamma_at(NOISE, a).numpy()
    e = NOISE.numpy()
    with np.errstate(divide="ignore", under="ignore"):
        lower = np.log(special.gammaincinv(shape, special.ndtr(e)))
        upper = np.log(special.gammainccinv(shape, special.ndtr(-e)))
    exact = np.where(e < 0, lower, upper)
    # Below 1e-290 the oracle's own number is gone.
    known = np.isfinite(exact) & (exact > -660)
    assert known.sum() > 25
    np.testing.assert_allclose(ours[known], exact[known], rtol=3e-10, atol=3e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_quantile_slope_is_the_difference_quotient_at_fixed_levels(shape: float) -> None:
    """Catches a derivative of the density in the place of the distribution function's."""
    a = torch.full_like(NOISE, shape).requires_grad_()
    (slope,) = grad(gamma_quantile.log_gamma_at(NOISE, a).sum(), a)
    h = 1e-4 * min(shape, math.sqrt(shape))
    up, down = (gamma_quantile.log_gamma_at(NOISE, a.detach() + s) for s in (h, -h))
    # Of the quotient: its truncation (1e-8) and the rounding of log x over h.
    rounding = 4e-16 * (up.abs() + 10) / h
    quotient = (up - down) / (2 * h)
    assert bool(((slope - quotient).abs() <= 2e-7 * slope.abs() + 10 * rounding).all())


def test_quantile_in_float32_is_that_of_float64() -> None:
    a = torch.tensor(SHAPES, dtype=torch.float32).unsqueeze(-1)
    narrow = gamma_quantile.log_gamma_at(NOISE.float(), a)
    wide = gamma_quantile.log_gamma_at(NOISE.float().double(), a.double())
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-6, atol=1e-6)


@every_row
def test_law_and_fisher_matrix(row: Row) -> None:
    """z-test of E[T] and d E[<v, T>] = F v. Catches a draw of another law, or one whose derivative
    leaves out how the level moves with a parameter."""
    family, number = row.family, 20_000
    natural = row.random()
    one = tuple(n.clone().requires_grad_() for n in natural)
    each = tuple(n.expand(number, *n.shape).clone().requires_grad_() for n in natural)
    shape = family.noise_shape(natural)
    assert shape is not None
    generator = torch.Generator().manual_seed(3)
    e = torch.randn((number, *shape), generator=generator, dtype=torch.float64)
    statistics = family.sufficient_statistics(family.at_noise(each, e), each)
    expected = family.mean_params(one)
    vector = family.symmetrize(
        tuple(torch.randn(m.shape, generator=generator, dtype=m.dtype) for m in expected)
    )
    slopes = family.symmetrize(grad(family.inner(statistics, vector).sum(), each))
    fisher = family.symmetrize(grad(family.inner(expected, vector).sum(), one))
    for found, truth in [
        *zip(statistics, expected, strict=True),
        *zip(slopes, fisher, strict=True),
    ]:
        error = found.detach().std(0) / math.sqrt(number)
        assert bool(((found.mean(0) - truth).abs() < 5 * error + 1e-12).all())


@every_row
def test_draws_are_smooth_along_a_path(row: Row) -> None:
    """Catches a rejection sampler under a fixed random state: there the draw jumps somewhere on the
    way, by as much as it varies, however short the steps are."""
    family = row.family
    start, end = row.random(seed=1), row.random(seed=2)
    e = noise(row, start, 10)
    steps = 120

    def at(share: float) -> Tensor:
        path = tuple((1 - share) * a + share * b for a, b in zip(start, end, strict=True))
        return family.at_noise(path, e)

    draws = torch.stack([at(i / steps) for i in range(steps + 1)])
    first = draws.diff(dim=0)
    bends = first.diff(dim=0).abs()
    # Of a smooth path neighbouring steps are nearly the same; a jump is a bend of its own size.
    scale = first.abs().amax(0)
    assert bool((bends.amax(0) <= 0.2 * scale + 1e-12).all())


@every_row
def test_gradient_is_the_difference_quotient_at_fixed_noise(row: Row) -> None:
    family, natural = row.family, row.random()
    e = noise(row, natural, 5)
    generator = torch.Generator().manual_seed(9)
    direction = family.symmetrize(
        tuple(torch.randn(n.shape, generator=generator, dtype=n.dtype) for n in natural)
    )
    leaves = tuple(n.clone().requires_grad_() for n in natural)
    draws = family.at_noise(leaves, e)
    weights = torch.randn(draws.shape, generator=generator, dtype=draws.dtype)
    slope = sum(
        (g * d).sum() for g, d in zip(grad((weights * draws).sum(), leaves), direction, strict=True)
    )
    h = 1e-5

    def value(s: float) -> Tensor:
        moved = tuple(n + s * d for n, d in zip(natural, direction, strict=True))
        return (weights * family.at_noise(moved, e)).sum()

    quotient = (value(h) - value(-h)) / (2 * h)
    torch.testing.assert_close(slope, quotient, rtol=1e-6, atol=1e-6)


@every_row
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_shapes_and_batch_elements(row: Row, batch: tuple[int, ...]) -> None:
    family, natural = row.family, row.random(batch)
    e = noise(row, natural, 4)
    draws = family.at_noise(natural, e)
    assert draws.shape == family.rsample(natural, (4,)).shape
    if batch:
        place = tuple(b - 1 for b in batch)
        one = family.at_noise(family.index(natural, place), e[(slice(None), *place)])
        torch.testing.assert_close(draws[(slice(None), *place)], one)


def test_a_family_without_such_draws_says_so() -> None:
    row = next(r for r in ROWS if r.family.name == "VonMises")
    assert row.family.noise_shape(row.random()) is None
    with pytest.raises(NotImplementedError, match="no draws at given noise"):
        row.family.at_noise(row.random(), torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("shape", [0.05, 0.9, 3.0, 200.0, 2e4])
def test_the_quantile_of_a_gamma_bends_as_its_slope_says(shape: float) -> None:
    """The second derivative, which curvature on draws needs, is that of differences."""
    noise = torch.tensor([-2.5, -0.3, 0.0, 1.1, 3.0])

    def slope(value: Tensor) -> Tensor:
        found: Tensor = torch.autograd.grad(
            gamma_quantile.log_gamma_at(noise, value).sum(), value, create_graph=True
        )[0]
        return found

    at = torch.full((5,), shape, requires_grad=True)
    (bend,) = torch.autograd.grad(slope(at).sum(), at)
    step = 1e-4 * (shape**0.5 if shape > 1 else shape)
    ahead, behind = (slope(at.detach().add(s).requires_grad_()) for s in (step, -step))
    torch.testing.assert_close(bend, (ahead - behind) / (2 * step), rtol=1e-4, atol=0)


@pytest.mark.parametrize("law", ["Beta", "Dirichlet", "Gamma"])
def test_curvature_on_draws_is_symmetric(law: str) -> None:
    """A draw's second derivative in its parameters, and with another block's, is not left out."""
    natural = torch.tensor([4.0, 6.0, 2.0], requires_grad=True)
    noise = torch.tensor([[0.3, -0.7, 1.0], [-1.2, 0.4, 0.1]])
    other = torch.tensor(0.7, requires_grad=True)
    if law == "Dirichlet":
        drawn = families.Dirichlet().at_noise((natural,), noise)[..., 0]
    elif law == "Beta":
        drawn = families.Beta().at_noise((natural[0], natural[1]), noise[:, :2])
    else:
        drawn = families.Gamma().at_noise((natural[0], -natural[1]), noise[:, 0])
    loss = (drawn * other).exp().sum()
    first = torch.autograd.grad(loss, (natural, other), create_graph=True)
    across = torch.autograd.grad(first[0][0], other, retain_graph=True)[0]
    back = torch.autograd.grad(first[1], natural)[0][0]
    torch.testing.assert_close(across, back, rtol=1e-10, atol=0)
    assert across.abs() > 1e-3

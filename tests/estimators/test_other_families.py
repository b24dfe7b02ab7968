# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Messages to Gammas, Betas and Dirichlets along their draws, against quadrature."""

import itertools
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_blr import families
from pyro_blr.energy.draws import Draws
from tests.checks import engine, factor_of
from tests.estimates import Estimates, Site, assert_agree, by_engine

pytestmark = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")

REPEATS = 40
ONES = torch.ones(3, dtype=torch.float64)
#: The prior, the family, q, and the law of the number that the factor is a function of.
LAWS: dict[str, tuple[Callable[[], object], object, tuple[object, ...], Callable[..., object]]] = {
    "gamma": (
        lambda: dist.Gamma(2.0 * ONES[0], 1.0),
        families.Gamma,
        (3.0, 2.5),
        lambda a, b: stats.gamma(a, scale=1 / b),
    ),
    "beta": (
        lambda: dist.Beta(2.0 * ONES[0], 1.5),
        families.Beta,
        (1.4, 2.2),
        lambda a, b: stats.beta(a, b),
    ),
    "dirichlet": (
        lambda: dist.Dirichlet(2.0 * ONES),
        families.Dirichlet,
        ([1.2, 0.7, 2.5],),
        lambda a: stats.beta(a[0], a[1] + a[2]),
    ),
}


def function(z: object, sin: Callable[..., object], exp: Callable[..., object]) -> object:
    return sin(3 * z) + exp(-z) * z  # type: ignore[operator]


def expected(law: object, leaves: tuple[np.ndarray, ...]) -> float:
    frozen = law(*leaves)  # type: ignore[operator]
    ends = frozen.ppf([0.0, 0.5, 1.0 - 1e-15])
    total = 0.0
    for low, high in itertools.pairwise(ends):
        total += integrate.quad(
            lambda z: function(z, np.sin, np.exp) * frozen.pdf(z),
            *(low, high),
            epsabs=1e-12,
            limit=400,
        )[0]
    return total


def by_quadrature(kind: str, site: Site) -> Estimates:
    """-KL in closed form, E[f] by quadrature, and its derivatives as difference quotients."""
    prior, _, _, law = LAWS[kind]
    kl = kl_divergence(site.distribution, prior())
    slopes = list(torch.autograd.grad(-kl, site.leaves))
    plain = tuple(x.detach().numpy() for x in site.leaves)
    for i, leaf in enumerate(plain):
        for place in np.ndindex(leaf.shape):
            values = []
            for h in (1e-4, -1e-4):
                moved = [x.copy() for x in plain]
                moved[i][place] += h
                values.append(expected(law, tuple(moved)))
            slopes[i][place] += (values[0] - values[1]) / 2e-4
    value = torch.tensor(expected(law, plain)) - kl.detach()
    names = ["ELBO"] + [f"leaf {i}" for i in range(len(slopes))]
    values_ = [value, *slopes]
    return Estimates(names, values_, [torch.zeros_like(v) for v in values_])


@pytest.mark.parametrize("count", [1, 2, 7, 64])
@pytest.mark.parametrize("kind", LAWS)
def test_messages_along_draws(kind: str, count: int) -> None:
    """Catches draws that are detached from q, a message in other coordinates, an entropy that is
    counted in the factor, and levels that are no uniform numbers."""
    prior, family, leaves, _ = LAWS[kind]

    def model() -> None:
        z = pyro.sample("z", prior())
        first = z[0] if kind == "dirichlet" else z
        pyro.factor("f", function(first, torch.sin, torch.exp))

    site = Site(kind, *leaves)
    pyro.set_rng_seed(count)
    blr, _ = engine(model, {"z": site.detached}, families={"z": family}, num_draws=count)
    assert "along its draws" in factor_of(blr, "f").reason
    assert_agree(by_engine(blr, {"z": site}, REPEATS), by_quadrature(kind, site), 5.5)


def test_a_function_that_vmap_cannot_take_is_run_draw_by_draw() -> None:
    """Catches a loop in another order, and one that drops outputs."""
    draws = Draws({}, 5, seed=0)
    values = {"a": torch.arange(5.0), "b": torch.arange(10.0).reshape(5, 2)}
    given = [torch.arange(5.0) * 2]

    def plain(v: dict[str, Tensor], more: list[Tensor]) -> tuple[Tensor, Tensor]:
        return v["a"] + v["b"].sum() + more[0], v["b"] * 2

    def branching(v: dict[str, Tensor], more: list[Tensor]) -> tuple[Tensor, Tensor]:
        assert float(v["a"]) >= 0  # vmap has no number here
        return plain(v, more)

    expected = draws.mapped(plain, values, given)
    looped = draws.mapped(branching, values, given)
    for a, b in zip(expected, looped, strict=True):
        torch.testing.assert_close(a, b)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A draw stays the same draw: models that use a latent symbolically and through unknown functions.

If a block is drawn in one argument of a factor and symbolic in another, it would count as two
independent variables. Random small models put this to the test: value and gradient of the ELBO
agree with plain Monte Carlo of the real model.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_blr import families
from tests.checks import engine, tiers
from tests.estimates import Site, assert_agree, by_engine, by_monte_carlo
from tests.random_models import LABELS, Spec, X, Y, specs

pytestmark = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")

PARTICLES, REPEATS = 4, 16
# Student t with 15 degrees of freedom is beyond 6.5 once in 1e5 times; there are some 300 z-scores.
BOUND = 6.5
PRIOR_FAMILIES = {"gamma": families.Gamma, "beta": families.Beta}


def check(
    model: Callable[[], None], sites: dict[str, Site], blocks: str = "site", draws: int = 10_000
) -> None:
    start = {name: site.detached for name, site in sites.items()}
    named = {n: PRIOR_FAMILIES[s.kind] for n, s in sites.items() if s.kind in PRIOR_FAMILIES}
    loss = Trace_ELBO(num_particles=PARTICLES)
    blr, _ = engine(model, start, families=named, blocks=blocks, loss=loss)
    noisy = "sampled" in tiers(blr).values()
    ours = by_engine(blr, sites, REPEATS if noisy else 2)
    assert_agree(ours, by_monte_carlo(model, sites, num_draws=draws), BOUND)


MIXES = [
    ("normal", "normal"),
    ("normal", "gamma"),
    ("beta", "normal"),
    ("gamma", "gamma"),
    ("multivariate", "gamma"),
    ("normal", "multivariate"),
    ("normal", "beta", "gamma"),
    ("multivariate", "normal", "gamma", "beta"),
]


@pytest.mark.parametrize("kinds", MIXES, ids="-".join)
@settings(max_examples=3, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_random_models_agree_with_monte_carlo(kinds: tuple[str, ...], data: st.DataObject) -> None:
    spec: Spec = data.draw(specs(kinds))
    check(spec.model, {latent.name: latent.site() for latent in spec.latents})


# ----------------------------------------------------- the shapes of the trap, one by one, by name


def _z() -> Tensor:
    return pyro.sample("z", dist.Normal(0.0, 1.0))


def symbolic_loc_and_drawn_scale() -> None:
    z = _z()
    pyro.sample("x", dist.Normal(z, F.softplus(z) + 0.3), obs=torch.tensor(2.5))


def drawn_loc_and_symbolic_scale() -> None:
    t = pyro.sample("t", dist.Gamma(2.0, 1.0))
    pyro.sample("x", dist.Normal(torch.sin(t), t.rsqrt()), obs=torch.tensor(2.5))


def drawn_latent_in_the_prior_of_another() -> None:
    z = _z()
    x = pyro.sample("x", dist.Normal(z, F.softplus(z) + 0.3))
    pyro.sample("y", dist.Normal(x * z, 0.5), obs=torch.tensor(1.5))


def symbolic_in_one_site_and_drawn_in_another() -> None:
    z = _z()
    pyro.sample("x", dist.Normal(z, 0.5), obs=torch.tensor(1.0))
    pyro.sample("y", dist.Normal(torch.sin(z), 0.5), obs=torch.tensor(0.2))


def product_of_a_draw_and_a_symbol() -> None:
    z = _z()
    pyro.sample("y", dist.Normal(z * torch.cosh(z), 0.7), obs=torch.tensor(1.2))


def one_draw_shared_by_a_plate() -> None:
    z = _z()
    shared = torch.atan(z)
    with pyro.plate("data", 3):
        pyro.sample("y", dist.Normal(shared * X + z, F.softplus(z)), obs=Y)


def two_unknown_functions_of_one_latent() -> None:
    z = _z()
    pyro.sample("y", dist.Normal(torch.sin(z) * torch.atan(z), 0.4), obs=torch.tensor(0.9))


def slice_drawn_and_slice_symbolic() -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    # The two elements are correlated under q: a draw of w[0] is a draw of the block.
    pyro.sample("y", dist.Normal(w[1], F.softplus(w[0]) + 0.2), obs=torch.tensor(1.5))


def through_a_deterministic_site() -> None:
    z = _z()
    s = pyro.deterministic("s", F.softplus(z) + 0.3)
    pyro.sample("x", dist.Normal(z, s), obs=torch.tensor(2.5))


def in_a_factor_statement() -> None:
    z = _z()
    pyro.factor("extra", -((z - torch.sin(z)) ** 2) + z)


def quadrature_argument_and_drawn_argument() -> None:
    z = _z()
    with pyro.plate("data", 3):
        logits = z * X + torch.sin(z)
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=LABELS)


def exponential_loc_and_scale() -> None:
    z = _z()
    pyro.sample("x", dist.Normal(z, torch.exp(z)), obs=torch.tensor(1.5))


Z, W, T = Site("normal", 0.3, 0.6), None, Site("gamma", 8.0, 5.0)
W = Site("multivariate", [0.3, -0.4], [[0.6, 0.0], [0.5, 0.3]])
TRAPS: dict[Callable[[], None], dict[str, Site]] = {
    symbolic_loc_and_drawn_scale: {"z": Z},
    drawn_loc_and_symbolic_scale: {"t": T},
    drawn_latent_in_the_prior_of_another: {"z": Z, "x": Site("normal", -0.2, 0.5)},
    symbolic_in_one_site_and_drawn_in_another: {"z": Z},
    product_of_a_draw_and_a_symbol: {"z": Z},
    one_draw_shared_by_a_plate: {"z": Z},
    two_unknown_functions_of_one_latent: {"z": Z},
    slice_drawn_and_slice_symbolic: {"w": W},
    through_a_deterministic_site: {"z": Z},
    in_a_factor_statement: {"z": Z},
    quadrature_argument_and_drawn_argument: {"z": Z},
    exponential_loc_and_scale: {"z": Z},
}


@pytest.mark.parametrize("model", TRAPS, ids=lambda model: model.__name__)
def test_trap(model: Callable[[], None]) -> None:
    check(model, TRAPS[model], draws=20_000)


def test_the_trap_would_be_seen() -> None:
    """Two independent copies of z give a value that the z-test of this file tells apart."""

    def independent() -> None:
        z = _z()
        copy = pyro.sample("copy", dist.Normal(0.0, 1.0).mask(False))
        pyro.sample("x", dist.Normal(z, F.softplus(copy) + 0.3), obs=torch.tensor(2.5))

    truth = by_monte_carlo(symbolic_loc_and_drawn_scale, {"z": Z}, num_draws=40_000)
    wrong = by_monte_carlo(
        independent, {"z": Z, "copy": Site("normal", 0.3, 0.6)}, num_draws=40_000
    )
    entropy = float(Z.detached.entropy())  # counted twice by the copy
    difference = float(wrong.values[0] - entropy - truth.values[0])
    assert abs(difference) > 20 * float(torch.hypot(truth.errors[0], wrong.errors[0]))


def test_a_factor_without_a_draw_stays_exact() -> None:
    """A draw is of a factor, not of the latent: the prior and the other site keep their tiers."""
    blr, _ = engine(symbolic_in_one_site_and_drawn_in_another, {"z": Z.detached}, blocks="site")
    found = tiers(blr)
    assert found["z"] == "exact"
    assert found["x"] == "exact"
    assert found["y"] in ("quadrature", "sampled")


@pytest.mark.parametrize("model", [slice_drawn_and_slice_symbolic, one_draw_shared_by_a_plate])
def test_trap_under_automatic_blocks(model: Callable[[], None]) -> None:
    check(model, TRAPS[model], blocks="auto")


def test_same_seed_same_draws() -> None:
    values = []
    for _ in range(2):
        pyro.set_rng_seed(5)
        blr, _ = engine(two_unknown_functions_of_one_latent, {"z": Z.detached}, blocks="site")
        values.append([blr.evaluate_loss(), blr.step(), blr.step()])
    assert values[0] == values[1]

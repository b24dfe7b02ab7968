# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Every kind of guide of the parameters, with discrete latents that none of them holds."""

import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import infer_discrete
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

from pyro_blr import BLR
from pyro_blr.guides import (
    AutoNatural,
    AutoNaturalLowRankMultivariateNormal,
    AutoNaturalMultivariateNormal,
    AutoNaturalNormal,
)
from tests.discrete.models import apart, weights

pytestmark = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")

CENTRES = (-6.0, 0.0, 6.0)
Y = apart(0, 45)
VALUES = {"mu": torch.tensor([-3.0, 0.5, 2.0]), "theta": torch.ones(3) / 3}


def mixture(y: torch.Tensor) -> None:
    theta = weights(3, 2.0)
    with pyro.plate("k", 3):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


HIDDEN: Any = poutine.block(mixture, hide=["z"])


def start(site: Any) -> torch.Tensor:
    return VALUES[site["name"]]


def known_weights(y: torch.Tensor) -> None:
    with pyro.plate("k", 3):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.ones(3)))
        pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def by_hand(y: torch.Tensor) -> None:
    loc = pyro.param("loc", VALUES["mu"].clone())
    scale = pyro.param("scale", torch.ones(3), constraint=constraints.positive)
    with pyro.plate("k", 3):
        pyro.sample("mu", dist.Normal(loc, scale))


GUIDES = {
    "AutoNatural": (mixture, lambda: AutoNatural(mixture, init_loc_fn=start)),
    "AutoNatural, hidden": (mixture, lambda: AutoNatural(HIDDEN, init_loc_fn=start)),
    "AutoNaturalNormal": (mixture, lambda: AutoNaturalNormal(mixture, init_loc_fn=start)),
    "AutoNaturalMultivariateNormal": (
        mixture,
        lambda: AutoNaturalMultivariateNormal(mixture, init_loc_fn=start),
    ),
    "AutoNaturalLowRankMultivariateNormal": (
        mixture,
        lambda: AutoNaturalLowRankMultivariateNormal(mixture, init_loc_fn=start, rank=2),
    ),
    "AutoNormal": (mixture, lambda: AutoNormal(HIDDEN, init_loc_fn=start)),
    "AutoMultivariateNormal": (mixture, lambda: AutoMultivariateNormal(HIDDEN, init_loc_fn=start)),
    "AutoDelta": (mixture, lambda: AutoDelta(HIDDEN, init_loc_fn=start)),
    "by hand": (known_weights, lambda: by_hand),
}


@pytest.mark.parametrize(("model", "make"), GUIDES.values(), ids=GUIDES)
def test_any_guide_of_the_parameters_finds_the_clusters(model: Any, make: Any) -> None:
    guide = make()
    blr = BLR(model, guide)
    losses = [blr.step(Y) for _ in range(12)]
    assert losses[-1] < losses[0]
    drawn = poutine.trace(guide).get_trace(Y).nodes["mu"]["value"]
    assert drawn.sort().values.tolist() == pytest.approx(CENTRES, abs=1.5)


def test_assignments_are_drawn_by_pyro_with_the_fitted_guide() -> None:
    guide = AutoNatural(mixture)
    blr = BLR(mixture, guide)
    for _ in range(10):
        blr.step(Y)
    best = blr.discrete_marginals(Y)["z"].probs.argmax(-1)
    fitted = poutine.replay(mixture, trace=poutine.trace(guide).get_trace(Y))
    decoded = infer_discrete(fitted, first_available_dim=-2, temperature=0)
    z = poutine.trace(decoded).get_trace(Y).nodes["z"]["value"]
    assert torch.equal(z, best)
    # Three clusters of 15.
    assert torch.bincount(best).tolist() == [15, 15, 15]


def test_predictions_and_draws_need_no_discrete_site_in_the_guide() -> None:
    from pyro.infer import Predictive

    guide = AutoNatural(mixture)
    blr = BLR(mixture, guide)
    blr.fit(Y)
    drawn = Predictive(mixture, guide=guide, num_samples=20)(Y)
    assert drawn["z"].shape == (20, 45)
    assert drawn["mu"].shape == (20, 3)

    def unobserved(y: torch.Tensor) -> None:
        with poutine.uncondition():
            mixture(y)

    fresh = Predictive(unobserved, guide=guide, num_samples=50)(Y)
    assert fresh["y"].shape == (50, 45)
    assert fresh["y"].std().item() == pytest.approx(Y.std().item(), rel=0.2)


# ---------------------------------------------------------------------------- pyro.param and EM


def with_parameters(y: torch.Tensor) -> None:
    """Weights and means are parameters; the precision has a prior."""
    theta = pyro.param("theta", torch.tensor([0.2, 0.3, 0.5]), constraint=constraints.simplex)
    mu = pyro.param("mu", VALUES["mu"].clone())
    tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], tau.rsqrt()), obs=y)


def test_em_maximises_the_parameters_of_a_mixture() -> None:
    blr = BLR(with_parameters, AutoNatural(with_parameters), params="em")
    losses = [blr.step(Y) for _ in range(25)]
    assert max(b - a for a, b in itertools.pairwise(losses)) < 1e-9
    explained = blr.explain(Y)
    assert {p.update for p in explained.parameters.values()} == {"em"}
    weights_of = blr.discrete_marginals(Y)["z"].probs
    theta, mu = pyro.param("theta").detach(), pyro.param("mu").detach()
    torch.testing.assert_close(theta, weights_of.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(mu, weights_of.T @ Y / weights_of.sum(0), atol=1e-5, rtol=0)
    assert mu.sort().values.tolist() == pytest.approx(CENTRES, abs=0.8)


@pytest.mark.parametrize("params", ["optim", "natural"])
def test_other_rules_move_the_parameters_of_a_mixture(params: str) -> None:
    optim = pyro.optim.Adam({"lr": 0.1})
    blr = BLR(with_parameters, AutoNatural(with_parameters), optim, params=params)
    losses = [blr.step(Y) for _ in range(60)]
    assert losses[-1] < losses[0] - 5
    assert pyro.param("mu").detach().sort().values.tolist() == pytest.approx(CENTRES, abs=1.0)

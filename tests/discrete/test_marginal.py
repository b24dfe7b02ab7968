# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""``discrete="marginal"``: the sum inside the expectation, as in Pyro's TraceEnum_ELBO."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam

from pyro_blr import BLR
from pyro_blr.errors import ArgumentError
from tests.checks import engine
from tests.discrete import models
from tests.discrete.models import SMALL, apart, weights
from tests.discrete.sums import random_start

pytestmark = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")

#: Models of which Pyro can enumerate all at once, with the depth of their plates.
MARGINAL = {
    "full normals": 1,
    "topics": 1,
    "chains": 1,
    "nested classes": 2,
    "occupancy": 2,
    "parallel choices": 1,
    "local latents": 1,
}


#: Of q by Pyro, one run of the model each.
DRAWS = 60


def mean_and_error(values: list[float]) -> tuple[float, float]:
    stacked = torch.tensor(values)
    return stacked.mean().item(), stacked.std().item() / math.sqrt(len(values))


@pytest.mark.parametrize("name", MARGINAL)
def test_the_bound_is_that_of_pyro(name: str) -> None:
    small, depth = SMALL[name], MARGINAL[name]
    q = random_start(small.model, small.args)
    ours = []
    for seed in range(4):
        pyro.set_rng_seed(seed)
        blr, guide = engine(small.model, q, blocks="site", discrete="marginal", num_draws=64)
        ours.append(-blr.evaluate_loss(*small.args))
    plain = TraceEnum_ELBO(max_plate_nesting=depth)
    enumerated = config_enumerate(small.model)
    theirs = [-plain.loss(enumerated, guide, *small.args) for _ in range(DRAWS)]
    (mine, error), (pyros, other) = mean_and_error(ours), mean_and_error(theirs)
    assert abs(mine - pyros) < 4.5 * math.hypot(error, other) + 1e-9
    tighter, _ = engine(small.model, q, blocks="site")
    assert mine + 4 * error > -tighter.evaluate_loss(*small.args)


def test_the_two_bounds_are_one_where_q_is_a_point() -> None:
    small = SMALL["local latents"]
    q = {
        "theta": dist.Dirichlet(torch.tensor([3e9, 7e9])),
        "mu": dist.Normal(torch.tensor([-1.0, 2.0]), 1e-5),
        "x": dist.Normal(torch.tensor([0.5, -0.5, 0.1]), 1e-5),
    }
    losses = []
    for how in ("mean_field", "marginal"):
        blr, _ = engine(small.model, q, discrete=how, blocks="site", num_draws=16)
        losses.append(blr.evaluate_loss(*small.args))
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_the_loss_of_pyro_selects_it() -> None:
    small = SMALL["words"]
    for loss, how in ((None, "mean_field"), (TraceEnum_ELBO(), "marginal")):
        blr, _ = engine(small.model, loss=loss)
        assert blr.discrete == how
        explained = blr.explain(*small.args)["z"]
        assert (explained.tier == "sampled") == (how == "marginal")
        assert how in explained.reason
    blr, _ = engine(small.model, loss=TraceEnum_ELBO(), discrete="mean_field")
    assert blr.explain(*small.args)["z"].tier == "exact"
    with pytest.raises(ArgumentError, match=r"Mend: "):
        engine(small.model, discrete="both")


def mixture(y: torch.Tensor) -> None:
    theta = weights(2, 2.0)
    with pyro.plate("k", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


Y = apart(1, 30, classes=2, distance=2.5)


def test_its_optimum_is_that_of_svi_or_better() -> None:
    start = {
        "theta": dist.Dirichlet(torch.tensor([3.0, 3.0])),
        "mu": dist.Normal(torch.tensor([-1.0, 1.0]), 0.5),
    }
    blr, guide = engine(mixture, start, discrete="marginal", num_draws=64)
    losses = [blr.step(Y) for _ in range(20)]
    assert abs(losses[-1] - losses[-5]) < 0.02
    enumerated = config_enumerate(mixture)
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    ours, error = mean_and_error([-loss.loss(enumerated, guide, Y) for _ in range(DRAWS)])
    pyro.clear_param_store()
    values = {"theta": torch.tensor([0.5, 0.5]), "mu": torch.tensor([-1.0, 1.0])}
    hidden: Any = pyro.poutine.block(mixture, hide=["z"])
    theirs = AutoNormal(hidden, init_loc_fn=lambda site: values[site["name"]])
    svi = SVI(enumerated, theirs, Adam({"lr": 0.05}), loss)
    for _ in range(150):
        svi.step(Y)
    pyros, other = mean_and_error([-loss.loss(enumerated, theirs, Y) for _ in range(DRAWS)])
    assert ours > pyros - 4 * math.hypot(error, other)
    # And it is above the bound of mean_field at its own optimum.
    looser, _ = engine(mixture, start)
    looser.fit(Y)
    assert ours > -looser.evaluate_loss(Y) - 4 * error


@pytest.mark.parametrize("name", ["chains", "parallel choices"])
def test_marginals_are_those_of_pyro(name: str) -> None:
    """The mean over draws of q of the posterior at each."""
    small, depth = SMALL[name], MARGINAL[name]
    q = random_start(small.model, small.args)
    blr, guide = engine(small.model, q, blocks="site", discrete="marginal", num_draws=100)
    found = blr.discrete_marginals(*small.args)
    loss = TraceEnum_ELBO(max_plate_nesting=depth)
    enumerated = config_enumerate(small.model)
    draws: dict[str, list[torch.Tensor]] = {name: [] for name in small.discrete}
    for _ in range(DRAWS):
        laws = loss.compute_marginals(enumerated, guide, *small.args)
        for site, law in laws.items():
            draws[site].append(_probs(law))
    for site, values in draws.items():
        stacked = torch.stack(values)
        error = stacked.std(0) / math.sqrt(len(values))
        ours = _probs(found[site])
        assert type(found[site]) is type(laws[site])
        assert ours.shape == stacked.shape[1:]
        assert bool(((ours - stacked.mean(0)).abs() < 5 * error + 0.02).all())


def _probs(law: Any) -> torch.Tensor:
    if isinstance(law, dist.Bernoulli):
        return torch.stack([1 - law.probs, law.probs], -1)
    probs: torch.Tensor = law.probs
    return probs


def test_a_sampled_part_makes_a_sum_marginal_and_says_so() -> None:
    def jumping(y: torch.Tensor) -> None:
        theta = weights(2)
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Categorical(theta))
            mean = torch.sin(w[0] * w[1]) * (1.0 + z) + torch.cosh(w[2])
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    blr, _ = engine(jumping)
    with pytest.warns(UserWarning, match="'z' .*summed out at each draw"):
        blr.step(models.randn(0, 5))
    explained = blr.explain(models.randn(0, 5))["z"]
    assert explained.tier == "sampled"
    assert "since a part is sampled" in explained.reason
    assert "'y'" in explained.reason
    strict = BLR(jumping, blr.guide, on_sampled="error")
    with pytest.raises(Exception, match=r"'z'[\s\S]*Mend: "):
        strict.step(models.randn(0, 5))


def test_unknown_weights_are_certified_at_draws() -> None:
    def known_means(y: torch.Tensor) -> None:
        theta = weights(2, 2.0)
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Categorical(theta))
            pyro.sample("y", dist.Normal(torch.tensor([-1.2, 1.2])[z], 1.0), obs=y)

    start = {"theta": dist.Dirichlet(torch.tensor([3.0, 3.0]))}
    blr, _ = engine(known_means, start, discrete="marginal")
    assert blr.fit(Y, max_steps=15).converged

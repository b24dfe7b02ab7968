# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Saving, pickling, reports and exports of fits with discrete latents."""

import copy
import inspect
import io
import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_blr import BLR, errors, to_arviz
from pyro_blr.guides import AutoNatural
from pyro_blr.state import OPTIONS
from tests.discrete import models
from tests.discrete.hand_made import CASES
from tests.discrete.models import apart, mixture, weights

Y = apart(0, 30)


def minibatches(y: torch.Tensor) -> None:
    theta = weights(3)
    with pyro.plate("k", 3):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("n", len(y), subsample_size=10) as index:
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y[index])


RUNS = {
    "mean_field": (mixture, {}),
    "marginal": (mixture, {"discrete": "marginal", "on_sampled": "ignore", "num_draws": 16}),
    "minibatches": (minibatches, {}),
    "chain": (models.discrete_hmm, {}),
}


def data_of(model: Any) -> torch.Tensor:
    return apart(1, 12, 1) if model is models.discrete_hmm else Y


@pytest.mark.parametrize(("model", "keywords"), RUNS.values(), ids=RUNS)
def test_a_saved_fit_goes_on_bit_for_bit(model: Any, keywords: Any) -> None:
    y = data_of(model)
    pyro.set_rng_seed(1)
    blr = BLR(model, AutoNatural(model), **keywords)
    for _ in range(3):
        blr.step(y)
    saved = io.BytesIO()
    torch.save({"blr": blr.state_dict(), "guide": blr.guide.state_dict()}, saved)
    pyro.set_rng_seed(2)
    expected = [blr.step(y) for _ in range(3)]
    pyro.clear_param_store()
    saved.seek(0)
    loaded = torch.load(saved, weights_only=True)
    again = BLR(model, AutoNatural(model), **keywords)
    again.guide.load_state_dict(loaded["guide"])
    again.load_state_dict(loaded["blr"])
    pyro.set_rng_seed(2)
    assert [again.step(y) for _ in range(3)] == expected


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
@pytest.mark.parametrize("name", ["mean_field", "marginal"])
def test_a_copy_of_a_fit_goes_on_bit_for_bit(copied: Any, name: str) -> None:
    model, keywords = RUNS[name]
    blr = BLR(model, AutoNatural(model), **keywords)
    for _ in range(3):
        blr.step(Y)
    other = copied(blr)
    found = []
    for one in (blr, other):
        pyro.set_rng_seed(5)
        losses = [one.step(Y) for _ in range(3)]
        found.append((losses, one.discrete_marginals(Y)["z"].probs))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_every_option_is_copied() -> None:
    options = set(inspect.signature(BLR.__init__).parameters) - {"self", "model", "guide", "optim"}
    of_several_processes = {"process_group"}
    assert options - {"loss"} - of_several_processes == set(OPTIONS)


def test_the_check_against_a_fresh_trace_holds() -> None:
    blr = BLR(mixture, AutoNatural(mixture), check_every=1)
    for _ in range(4):
        blr.step(Y)


@pytest.mark.parametrize("name", ["topics", "chain", "DiscreteHMM"])
def test_explain_names_every_site_and_the_bound(name: str) -> None:
    case = CASES[name]
    blr = BLR(case.model, AutoNatural(case.model))
    blr.step(*case.args)
    explained = blr.explain(*case.args)
    trace = pyro.poutine.trace(case.model).get_trace(*case.args)
    named = {f.site for f in explained.factors}
    sites = {
        n
        for n, s in trace.nodes.items()
        if s["type"] == "sample" and "_Subsample" not in str(s["fn"])
    }
    assert sites - named == set()
    assert "mean_field" in str(explained)
    assert "summed out" in str(explained)


def test_exports_sum_the_discrete_latents_out() -> None:
    blr = BLR(mixture, AutoNatural(mixture))
    fit = blr.fit(Y, max_steps=3)
    tree = to_arviz(fit, Y, num_samples=20)
    assert tree["log_likelihood"]["y"].shape == (1, 20, len(Y))
    assert set(tree["posterior"].data_vars) == {"theta", "mu"}


def test_draws_of_the_posterior_and_densities_of_the_guide() -> None:
    guide = AutoNatural(mixture)
    blr = BLR(mixture, guide)
    blr.fit(Y)
    assert set(guide.sample_posterior(5)) == {"theta", "mu"}
    assert set(guide.median(Y)) == {"theta", "mu"}
    with pytest.raises(errors.BLRError, match="'z'"):
        guide.marginal("z")

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Which factors of a model are a part's own, and which all parts share."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_blr import errors
from pyro_blr.energy.builder import EnergyBuilder
from pyro_blr.energy.parts import Split, split
from pyro_blr.guides import AutoNatural


def split_of(model, *args, plates=()) -> Split:
    """The split of a model's factors; they are all of its factors."""
    guide = AutoNatural(model)
    builder = EnergyBuilder(model)
    guide.set_up(args, {}, builder)
    traced = builder.trace(args, {}, guide.latents)
    found = split(traced, plates)
    energy = builder.build(traced, guide.latents, guide.layout)
    assert found.own | found.shared == {f.name for f in energy.factors}
    assert not found.own & found.shared
    return found


def regression(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ w, tau**-0.5), obs=y)


def mixture(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)


def scores(y):
    with pyro.plate("features", y.shape[1], dim=-1):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y), dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("columns", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(z * w, 1.0), obs=y)


def in_a_loop(y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    for i in pyro.plate("data", len(y)):
        pyro.sample(f"y_{i}", dist.Normal(w, 1.0), obs=y[i])


def one_switch(y):
    z = pyro.sample("z", dist.Bernoulli(0.5))
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(w * z, 1.0), obs=y)


def no_plate(y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(w, 1.0).expand([len(y)]).to_event(1), obs=y)


Y = torch.tensor([0.5, -1.0, 2.0])


def test_priors_are_shared_and_data_are_a_parts_own():
    found = split_of(regression, torch.ones(3, 2), Y)
    assert found == Split(
        frozenset({"data"}), frozenset({"w", "tau"}), frozenset({"y"}), frozenset()
    )


def test_discrete_latents_in_the_plate_are_joined_with_its_data():
    found = split_of(mixture, Y)
    assert (found.shared, found.own, found.local) == ({"weights", "loc"}, {"z"}, {"z"})


def test_loops_over_a_plate_are_parts_too():
    assert split_of(in_a_loop, Y).own == {"y_0", "y_1", "y_2"}


def test_a_plate_is_named_where_several_hold_latents():
    y = torch.ones(3, 2)
    with pytest.raises(errors.ArgumentError, match=r"'columns', 'data'.*latent 'z'.*sharded="):
        split_of(scores, y)
    assert split_of(scores, y, plates=["data"]).local == {"z"}
    with pytest.raises(errors.ArgumentError, match="no plate 'rows'; it has"):
        split_of(scores, y, plates=["rows"])
    with pytest.raises(errors.ArgumentError, match="no observed site is in the plates"):
        split_of(scores, y, plates=["features"])


def test_a_sum_over_a_shared_latent_is_no_sum_over_parts():
    with pytest.raises(errors.DiscreteLatentError, match=r"\['z'\].*no sum over parts"):
        split_of(one_switch, Y)


def test_data_in_no_plate_are_refused():
    with pytest.raises(errors.ArgumentError, match="in no plate"):
        split_of(no_plate, Y)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A state that is not of this model is refused: what differs is named, and how to mend it."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_blr import BLR
from pyro_blr.errors import CheckpointError, GuideError
from pyro_blr.guides import AutoNatural

Y = torch.linspace(-1.0, 2.0, 6)


def model() -> None:
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    v = pyro.param("v", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("data", 6):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("y", dist.Normal(z, v.sqrt()), obs=Y)


def other_site() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 6):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=Y)


def other_size() -> None:
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 5):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=Y[:5])


def other_family() -> None:
    m = pyro.sample("m", dist.Gamma(1.0, 1.0))
    with pyro.plate("data", 6):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, m.rsqrt()), obs=Y)


def other_parameter() -> None:
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("data", 6):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("y", dist.Normal(z, s.sqrt()), obs=Y)


def other_parameter_shape() -> None:
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    v = pyro.param("v", torch.ones(6), constraint=constraints.positive)
    with pyro.plate("data", 6):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("y", dist.Normal(z, v.sqrt()), obs=Y)


def adam() -> Any:
    return pyro.optim.Adam({"lr": 0.1})


def engine(model: Callable[[], None], optim: Any = None) -> BLR:
    pyro.clear_param_store()
    return BLR(model, AutoNatural(model), optim or adam())


def saved() -> dict[str, Any]:
    blr = engine(model)
    blr.step()
    return blr.state_dict()


OTHERS = {
    other_site: ("'m' was saved", "'mu' was not saved"),
    other_size: ("'z'", r"\[6\]", r"\[5\]"),
    other_family: ("'m'", "Normal", "Gamma"),
    other_parameter: ("'v'", "'s'"),
    other_parameter_shape: ("'v'", r"\(\)", r"\(6,\)"),
}


@pytest.mark.parametrize("other", OTHERS, ids=lambda m: m.__name__)
def test_another_model(other: Callable[[], None]) -> None:
    state = saved()
    blr = engine(other)
    blr.load_state_dict(state)
    for _ in range(2):  # it stays refused
        with pytest.raises(CheckpointError, match=r".*".join(OTHERS[other]) + ".*Mend:"):
            blr.step()


@pytest.mark.parametrize("other", list(OTHERS)[:3], ids=lambda m: m.__name__)
def test_another_model_after_the_first_step(other: Callable[[], None]) -> None:
    state = saved()
    blr = engine(other)
    blr.step()
    before = blr.guide.median()
    with pytest.raises(CheckpointError, match=r".*".join(OTHERS[other]) + ".*Mend:"):
        blr.load_state_dict(state)
    assert all(torch.equal(v, before[n]) for n, v in blr.guide.median().items())
    assert blr.num_steps == 1
    blr.step()


@pytest.mark.parametrize(
    "key",
    ["version", "engine", "guide", "parameters", "averages", "step_sizes", "momentum", "random"],
)
def test_a_missing_key(key: str) -> None:
    state = saved()
    del state[key]
    blr = engine(model)
    with pytest.raises(CheckpointError, match=f"{key}.*Mend:"):
        blr.load_state_dict(state)
    blr.step()


@pytest.mark.parametrize("wrong", [{}, None, [1], "state"])
def test_something_else(wrong: Any) -> None:
    with pytest.raises(CheckpointError, match="Mend:"):
        engine(model).load_state_dict(wrong)


def test_the_state_of_the_guide_alone() -> None:
    state = saved()
    with pytest.raises(CheckpointError, match=r"lacks.*Mend:"):
        engine(model).load_state_dict(state["guide"])
    del state["guide"]["blocks"]
    with pytest.raises(CheckpointError, match=r"blocks.*Mend:"):
        engine(model).load_state_dict(state)


def test_a_later_version() -> None:
    state = saved() | {"version": 99}
    with pytest.raises(CheckpointError, match=r"99.*Mend:"):
        engine(model).load_state_dict(state)


def test_no_optimiser() -> None:
    state = saved()
    pyro.clear_param_store()
    blr = BLR(model, AutoNatural(model))
    blr.load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"'v'.*Mend:"):
        blr.step()


def test_another_optimiser() -> None:
    state = saved()
    blr = engine(model, pyro.optim.SGD({"lr": 0.1}))
    blr.load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"'v'.*SGD.*Mend:"):
        blr.step()


def test_a_param_store_of_another_model() -> None:
    saved()
    state = pyro.get_param_store().get_state()
    blr = engine(other_site)
    pyro.get_param_store().set_state(
        {k: {n: _copied(v) for n, v in part.items()} for k, part in state.items()}
    )
    with pytest.raises(CheckpointError, match=r"AutoNatural.natural.m.*Mend:"):
        blr.step()


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def test_a_state_before_the_first_call() -> None:
    with pytest.raises(GuideError, match=r"not seen the model.*Mend:"):
        engine(model).state_dict()


def test_a_state_that_waits_is_a_state() -> None:
    state = saved()
    blr = engine(model)
    blr.load_state_dict(state)
    assert blr.state_dict()["guide"]["latents"] == state["guide"]["latents"]
    assert blr.state_dict()["parameters"]["values"].keys() == {"v"}
    with pytest.raises(GuideError, match="Mend:"):
        blr.guide.marginal("m")

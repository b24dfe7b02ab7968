# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Copies, pickles, and Pyro's own files: the original stays whole, the copy goes on as it would."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch

from pyro_blr import BLR
from pyro_blr.errors import GuideError
from pyro_blr.guides import AutoNatural, NaturalGuide
from tests.state.runs import RUNS, Module, Run, assert_same, everything, on_disk

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}
FUNCTIONS = [r for r in RUNS if r.model is not Module and not callable(r.options.get("step_size"))]
every_copy = pytest.mark.parametrize("make_copy", COPIES.values(), ids=list(COPIES))
GUIDES = [r for r in FUNCTIONS if r.guide is not AutoNatural]
some_runs = pytest.mark.parametrize(
    "run", [r for r in FUNCTIONS if r in GUIDES or r in FUNCTIONS[::2]], ids=lambda run: run.name
)
Copy = Callable[[Any], Any]


def named(name: str) -> Run:
    (run,) = [r for r in RUNS if r.name == name]
    return run


@every_copy
@some_runs
def test_a_copy_goes_on_as_the_original(run: Run, make_copy: Copy) -> None:
    pyro.set_rng_seed(3)
    blr = run.start()
    run.go_on(blr, range(3))
    copied = make_copy(blr)
    random = torch.get_rng_state()
    losses = run.go_on(blr, range(3, 5))
    reached = everything(blr)
    assert copied.num_steps == 3
    torch.set_rng_state(random)
    assert run.go_on(copied, range(3, 5)) == losses
    assert_same(everything(copied), reached)


@every_copy
@some_runs
def test_making_a_copy_touches_nothing(run: Run, make_copy: Copy) -> None:
    pyro.set_rng_seed(3)
    expected = run.go_on(run.start(), range(4))
    pyro.set_rng_seed(3)
    blr = run.start()
    losses = []
    for i in range(4):
        losses += run.go_on(blr, range(i, i + 1))
        make_copy(blr)
        if isinstance(blr.guide, NaturalGuide):  # Pyro's own lose their model
            make_copy(blr.guide)
    assert losses == expected


@pytest.mark.parametrize("name", ["quadrature", "momentum", "SGD with momentum, module"])
def test_under_module_local_parameters_a_copy_moves_alone(name: str) -> None:
    run = named(name)
    with pyro.settings.context(module_local_params=True):
        blr = run.start()
        run.go_on(blr, range(2))
        copied = copy.deepcopy(blr)
        before = everything(blr)
        losses = run.go_on(copied, range(2, 5))
        assert_same(everything(blr), before)
        assert run.go_on(blr, range(2, 5)) == losses


def test_a_copy_that_was_never_used_can_be_saved() -> None:
    run = named("EM and Adam")
    blr = run.start()
    run.go_on(blr, range(2))
    state = blr.state_dict()
    assert str(copy.deepcopy(blr).state_dict()) == str(state)


@every_copy
@pytest.mark.parametrize("run", [named("quadrature"), *GUIDES], ids=lambda run: run.name)
def test_a_copy_before_the_first_call(run: Run, make_copy: Copy) -> None:
    pyro.set_rng_seed(1)
    expected = run.go_on(run.start(), range(2))
    blr = run.start()
    for other in (make_copy(blr), blr):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        assert run.go_on(other, range(2)) == expected


def test_the_original_of_a_copy_has_its_model() -> None:
    run = named("Pyro's AutoLaplaceApproximation")
    blr = run.start()
    run.go_on(blr, range(4))
    for other in (copy.deepcopy(blr), pickle.loads(pickle.dumps(blr)), blr):
        run.go_on(other, range(4, 5))
        loc, _ = other.guide.laplace_approximation()._loc_scale()
        torch.testing.assert_close(loc, blr.guide.loc.detach())


@every_copy
def test_a_copied_guide_and_its_original_sample(make_copy: Copy) -> None:
    run = named("rows that are given")
    blr = run.start()
    run.go_on(blr, range(2))
    copied = make_copy(blr.guide)
    index = torch.tensor([3, 1])
    assert copied(index)["z"].shape == blr.guide(index)["z"].shape
    assert copied.median()["a"] == blr.guide.median()["a"]
    assert callable(blr.guide.model)


@pytest.mark.parametrize("name", ["conjugate, joint", "shared covariance", "one Gaussian"])
def test_the_file_of_a_param_store(name: str, tmp_path: Path) -> None:
    run = named(name)
    blr = run.start()
    run.go_on(blr, range(2))
    pyro.get_param_store().save(tmp_path / "store")
    reached = everything(blr)
    (loss, _), *_ = run.go_on(blr, range(2, 3))
    blr = run.start()
    pyro.get_param_store().load(tmp_path / "store")
    blr.evaluate_loss()
    assert_same(everything(blr), reached)
    assert run.go_on(blr, range(2, 3))[0][0] == loss


@pytest.mark.parametrize("local", [False, True])
def test_a_guide_as_a_module(local: bool) -> None:
    """``state_dict`` of the guide alone is loaded by a new guide, before or after its first use."""
    run = named("conjugate, joint")
    with pyro.settings.context(module_local_params=local):
        blr = run.start()
        run.go_on(blr, range(2))
        saved, reached = on_disk(blr.guide.state_dict()), everything(blr)
        blr = run.start()
        blr.guide.load_state_dict(saved)
        blr.evaluate_loss()
        assert_same(everything(blr), reached)
        blr = run.start()
        blr.evaluate_loss()
        blr.guide.load_state_dict(saved)
        assert_same(everything(blr), reached)


def test_an_engine_from_a_pickle_serves_a_new_process() -> None:
    run = named("EM and Adam")
    blr = run.start()
    run.go_on(blr, range(2))
    pickled = pickle.dumps(blr)
    losses, reached = run.go_on(blr, range(2, 4)), everything(blr)
    pyro.clear_param_store()
    blr = pickle.loads(pickled)
    assert isinstance(blr, BLR)
    assert run.go_on(blr, range(2, 4)) == losses
    assert_same(everything(blr), reached)


def test_a_guide_without_its_model_does_not_guess_rows() -> None:
    def model(index: torch.Tensor) -> None:
        named("rows that are given").model()(index)

    guide = AutoNatural(model)
    guide(torch.tensor([3, 1]))
    copied = pickle.loads(pickle.dumps(guide))
    with pytest.raises(GuideError, match=r"without its model.*Mend:"):
        copied(torch.tensor([3, 1]))
    BLR(model, copied)
    assert copied(torch.tensor([3, 1]))["z"].shape == (2,)

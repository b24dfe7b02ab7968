# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped and resumed is the run that was not stopped, bit for bit."""

import random

import pyro
import pytest
import torch

from tests.state.runs import RUNS, Run, assert_same, everything, on_disk

STEPS = 8
every_run = pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
both_stores = pytest.mark.parametrize("local", [False, True], ids=["global store", "module-local"])


@both_stores
@every_run
def test_resumed_is_not_stopped(run: Run, local: bool) -> None:
    stops = (random.Random(run.name).randrange(1, 6), 6)
    with pyro.settings.context(module_local_params=local):
        pyro.set_rng_seed(3)
        blr = run.start()
        states, losses = {}, []
        for i in range(STEPS):
            losses += run.go_on(blr, range(i, i + 1))
            if i + 1 in stops:
                states[i + 1] = on_disk(blr.state_dict())
        reached = everything(blr)
        for stop, state in states.items():
            pyro.set_rng_seed(99)
            blr = run.start()
            blr.load_state_dict(state)
            assert run.go_on(blr, range(stop, STEPS)) == losses[stop:]
            assert_same(everything(blr), reached)


@pytest.mark.parametrize("run", RUNS[::3], ids=lambda run: run.name)
def test_loaded_after_the_first_steps(run: Run) -> None:
    """An engine that has gone elsewhere comes back."""
    pyro.set_rng_seed(3)
    blr = run.start()
    run.go_on(blr, range(3))
    state = on_disk(blr.state_dict())
    losses = run.go_on(blr, range(3, 6))
    reached = everything(blr)
    blr.load_state_dict(state)
    assert blr.num_steps == 3
    assert run.go_on(blr, range(3, 6)) == losses
    assert_same(everything(blr), reached)


def test_the_generator_goes_on_only_if_asked() -> None:
    (run,) = [r for r in RUNS if r.name == "rows that are drawn"]
    blr = run.start()
    run.go_on(blr, range(2))
    state = on_disk(blr.state_dict())
    losses = run.go_on(blr, range(2, 4))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    blr.load_state_dict(state, with_random=False)
    assert torch.equal(torch.rand(3), expected)
    assert run.go_on(blr, range(2, 4)) != losses


def test_resuming_draws_no_random_numbers() -> None:
    """What a user draws between loading and the first step is what he would have drawn."""
    (run,) = [r for r in RUNS if r.name == "online EM"]
    blr = run.start()
    run.go_on(blr, range(2))
    state = on_disk(blr.state_dict())
    first = torch.rand(2)
    losses = run.go_on(blr, range(2, 4))
    after = torch.rand(2)
    blr = run.start()
    blr.load_state_dict(state)
    assert torch.equal(torch.rand(2), first)
    assert run.go_on(blr, range(2, 4)) == losses
    assert torch.equal(torch.rand(2), after)


def test_a_state_is_a_copy() -> None:
    (run,) = [r for r in RUNS if r.name == "EM and Adam"]
    blr = run.start()
    run.go_on(blr, range(2))
    state = blr.state_dict()
    kept = on_disk(state)
    run.go_on(blr, range(2, 4))
    blr = run.start()
    blr.load_state_dict(state)
    run.go_on(blr, range(2, 4))
    assert str(state) == str(kept)

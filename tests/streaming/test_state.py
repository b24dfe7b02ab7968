# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A stream goes on where it stopped: saved, copied, interrupted; and it is not what fit knows."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pyro_blr import BLR
from pyro_blr.errors import GuideError, NonFiniteError
from pyro_blr.guides import AutoNatural
from tests.streaming.models import (
    binary,
    data,
    difference,
    engine,
    fitted,
    is_as_before,
    naturals,
    schools,
    streamed,
)

CASE = data()["regression"]
PARTS = [slice(0, 3), slice(3, 6)]
LAST = CASE.rows(slice(6, 8))


def saved(blr: BLR) -> Any:
    """The state of an engine, through a file."""
    file = io.BytesIO()
    torch.save(blr.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumed(blr: BLR) -> BLR:
    new = engine(CASE.model)
    new.load_state_dict(saved(blr))
    return new


def schools_resumed(blr: BLR) -> BLR:
    new = engine(schools)
    new.load_state_dict(saved(blr))
    return new


def with_guide(blr: BLR) -> BLR:
    return BLR(CASE.model, pickle.loads(pickle.dumps(blr.guide)))


def with_parameters(blr: BLR) -> BLR:
    guide = AutoNatural(CASE.model)
    guide.load_state_dict(blr.guide.state_dict())
    return BLR(CASE.model, guide)


def with_the_same_guide(blr: BLR) -> BLR:
    return BLR(CASE.model, blr.guide)


def pickled(blr: BLR) -> BLR:
    loaded: BLR = pickle.loads(pickle.dumps(blr))
    return loaded


COPIES = [resumed, pickled, copy.deepcopy, with_guide, with_parameters, with_the_same_guide]


@pytest.mark.parametrize("again", COPIES, ids=lambda f: f.__name__)
def test_a_stream_goes_on(again: Callable[[BLR], BLR]) -> None:
    going_on = again(streamed(CASE, PARTS))
    going_on.update(*LAST)
    assert difference(going_on, fitted(CASE)) < 1e-12
    going_on.forget(*CASE.rows(slice(3, 6)))
    assert difference(going_on, fitted(CASE, [0, 1, 2, 6, 7])) < 1e-12


@pytest.mark.parametrize("again", COPIES[:3], ids=lambda f: f.__name__)
def test_forgetting_and_merging_are_the_first_calls(again: Callable[[BLR], BLR]) -> None:
    blr = again(streamed(CASE, PARTS))
    blr.forget(*CASE.rows(slice(0, 3)))
    assert difference(blr, fitted(CASE, slice(3, 6))) < 1e-12
    blr = again(streamed(CASE, PARTS))
    blr.merge(saved(fitted(CASE, slice(6, 8))), *LAST)
    assert difference(blr, fitted(CASE)) < 1e-12


@pytest.mark.parametrize("again", COPIES[:3], ids=lambda f: f.__name__)
def test_what_was_added_is_taken_back_in_a_first_call(again: Callable[[BLR], BLR]) -> None:
    blr = engine(CASE.model)
    done = [blr.update(*CASE.rows(index)) for index in PARTS]
    new = again(blr)
    if not new.guide.is_set_up:
        with pytest.raises(GuideError, match=r"not seen the model since.*Mend: .*done, \*args"):
            new.forget(done[0])
    new.forget(done[0], *LAST)
    assert difference(new, fitted(CASE, PARTS[1])) < 1e-12


@pytest.mark.parametrize("again", [schools_resumed, copy.deepcopy], ids=lambda f: f.__name__)
def test_a_stream_whose_data_have_latents_goes_on_with_other_sizes(
    again: Callable[[BLR], BLR],
) -> None:
    y = torch.tensor([1.0, 2.5, 0.5, 3.0, 2.0, 4.0], dtype=torch.float64)
    everything = engine(schools)
    everything.fit(y)
    blr = engine(schools)
    blr.update(y[:3])
    new = again(blr)
    with pytest.raises(NonFiniteError):
        new.update(y[3:5] * torch.nan)
    new.update(y[3:5])  # as before the error
    new = again(new)
    new.update(y[5:])
    ours, theirs = (b.guide.marginal("mu") for b in (new, everything))
    assert torch.allclose(ours.mean, theirs.mean, rtol=1e-12)
    assert torch.allclose(ours.variance, theirs.variance, rtol=1e-12)
    again(blr).forget(y[:3])
    states = [again(new).state_dict()]
    alone = engine(schools)
    alone.update(y[:1])
    alone.merge(states)
    everything.update(y[:1])
    assert torch.allclose(
        alone.guide.marginal("mu").mean, everything.guide.marginal("mu").mean, rtol=1e-12
    )


def test_an_engine_without_data_merges_the_states_of_others() -> None:
    states = [saved(fitted(CASE, index)) for index in (*PARTS, slice(6, 8))]
    blr = engine(CASE.model)
    assert blr.merge(states, *LAST).is_exact
    assert difference(blr, fitted(CASE)) < 1e-12
    blr.forget(*LAST)
    assert difference(blr, fitted(CASE, slice(0, 6))) < 1e-12


def test_a_merge_is_taken_back() -> None:
    blr = fitted(CASE, slice(0, 3))
    done = blr.merge(fitted(CASE, slice(3, 8)))
    blr.forget(done)
    assert difference(blr, fitted(CASE, slice(0, 3))) < 1e-12


def test_fit_knows_nothing_of_earlier_calls() -> None:
    blr = streamed(CASE, PARTS)
    alone = fitted(CASE, slice(6, 8))
    blr.fit(*LAST)
    assert difference(blr, alone) < 1e-12
    assert blr.evaluate_loss(*LAST) == pytest.approx(alone.evaluate_loss(*LAST), rel=1e-12)
    # And it is the prior of what is added next.
    blr.update(*CASE.rows(slice(0, 6)))
    assert difference(blr, fitted(CASE)) < 1e-12


def test_a_start_is_no_posterior() -> None:
    guide = AutoNatural(CASE.model)
    guide.set_natural({"b": torch.distributions.Normal(5.0, 0.1)})
    blr = BLR(CASE.model, guide)
    blr.update(*CASE.data)
    assert difference(blr, fitted(CASE)) < 1e-12


class Stopped(BaseException):
    """As an interrupt from the keyboard."""


def test_an_interrupt_leaves_q_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    case = binary()
    blr = engine(case.model)
    blr.update(*case.rows(slice(0, 40)))
    before, steps = naturals(blr), blr.num_steps
    taken = BLR.set_state

    def interrupted(self: Any, *args: Any) -> None:
        taken(self, *args)
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(BLR, "set_state", interrupted)
        blr.update(*case.rows(slice(40, 80)))
    assert is_as_before(blr, before)
    assert blr.num_steps == steps
    blr.update(*case.rows(slice(40, 80)))
    # Of a guide that held nothing, it leaves no posterior.
    new = engine(case.model)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(BLR, "set_state", interrupted)
        new.update(*case.data)
    new.update(*case.data)
    assert new.evaluate_loss(*case.data) == pytest.approx(
        fitted(case).evaluate_loss(*case.data), abs=1e-5
    )


def test_fitting_and_stepping_after_an_update_go_on_as_usual() -> None:
    case = binary()
    blr = engine(case.model)
    for index in (slice(0, 40), slice(40, 80)):
        blr.update(*case.rows(index))
    assert blr.fit(*case.data).converged
    assert difference(blr, fitted(case)) < 1e-2
    blr.update(*case.rows(slice(0, 5)))
    blr.average()  # which knows nothing of another q's steps
    blr.step(*case.data)

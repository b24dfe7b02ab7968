# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Two processes, each with its own rows, are one process with all of them."""

import re
import signal

import pyro
import pytest
import torch

from .launch import start, together
from .models import EXAMPLES, LOCAL
from .scenarios import close, naturals, rows, run, started

#: Conjugate ones come first; the others search, or are at draws of q.
EXACT = ("regression", "hierarchy", "mixture", "poisson", "maximised", "learnt")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return together("everything", tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module")
def found(both):
    return [f["examples"] for f in both]


@pytest.mark.parametrize("name", EXAMPLES)
def test_two_processes_are_one(found, name):
    one = run(name, rows(0, 1))
    two = found[0][name]
    tolerance = 1e-12 if name in EXACT else 1e-7 if name == "logistic" else 1e-6
    assert two["losses"] == pytest.approx(one["losses"], rel=tolerance)
    for what in ("steps", "messages", "fit"):
        close(two[what], one[what], tolerance)
    assert two["converged"] == one["converged"]
    assert two["gap"] == pytest.approx(one["gap"], rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("name", LOCAL)
def test_latents_of_the_rows_stay_on_their_process(found, name):
    """Each process brings its own to their optimum, so the way there is another one."""
    # Those of one row are in no block with what all share.
    one = run(name, rows(0, 1), blocks="site" if name == "dispersed" else "auto")
    assert found[0][name]["converged"]
    assert found[0][name]["loss"] == pytest.approx(one["loss"], abs=2e-6)


@pytest.mark.parametrize("name", {**EXAMPLES, **LOCAL})
def test_processes_stay_the_same_bit_for_bit(found, name):
    first, second = (f[name] for f in found)
    assert first["losses"] == second["losses"]
    assert first["gap"] == second["gap"]
    for what in ("steps", "messages", "fit"):
        assert first[what].keys() == second[what].keys()
        for block, tensors in first[what].items():
            assert all(map(torch.equal, tensors, second[what][block]))


# What goes wrong


@pytest.fixture(scope="module")
def mistakes(both):
    return [f["mistakes"] for f in both]


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        ("nan", "NonFiniteError", "process 1.*'y'.*NaN"),
        ("nan at once", "NonFiniteError", "process 1.*'y'.*NaN"),
        ("nan in a part", "NonFiniteError", "process 1.*in part 1 of the data.*'y'"),
        ("no rows", "SubsampleError", "process 1.*'data' has no elements"),
        ("overflow", "NonFiniteError", "process 1.*'y' is NaN or infinite"),
    ],
)
def test_an_error_of_one_process_is_that_of_all(mistakes, what, kind, words):
    first, second = (f[what] for f in mistakes)
    assert re.match(f"{kind}: no process goes on, since of 2 failed {words}", first), first
    assert second.startswith(f"{kind}: ")


def test_a_mistake_in_the_program_of_one_is_told_to_all(mistakes):
    assert mistakes[1]["mistake"] == "KeyError: 'a mistake in the model'"
    assert re.match("ProcessError: .*process 1: KeyError: 'a mistake", mistakes[0]["mistake"])


@pytest.mark.parametrize(
    "what",
    ["other model", "other call", "other state", "other option", "unlike data", "other features"],
)
def test_processes_at_different_places_say_so(mistakes, what):
    for found in mistakes:
        assert re.match("ProcessError: the processes are not at the same place", found[what]), found


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("subsample", "SubsampleError"),
        ("drawn", "GuideError"),
        ("low rank", "GuideError"),
        ("improper", "ImproperPosteriorError"),
    ],
)
def test_what_is_no_sum_over_parts_is_refused_by_all(mistakes, what, kind):
    for found in mistakes:
        assert re.match(f"{kind}: (?!no process).*Mend: ", found[what]), found[what]


def test_a_step_that_chance_spoils_on_one_is_skipped_by_all(mistakes):
    skipped = [eval(f["skipped"]) for f in mistakes]
    assert skipped[0] == skipped[1]
    assert skipped[0][0] == sum(skipped[0][1]) == 1


def test_what_one_process_cannot_answer_is_refused(mistakes):
    for text in eval(mistakes[0]["refused"]):
        assert re.match("ArgumentError: .*processes.*Mend: ", text), text


def test_a_run_of_two_is_resumed_bit_for_bit(mistakes):
    assert [f["resumed"] for f in mistakes] == ["True", "True"]


def test_a_prior_that_the_processes_do_not_share_is_refused(mistakes):
    for found in mistakes:
        assert re.match("ProcessError: factor 'w'.*differs.*own rows", found["prior of the rows"])


def test_a_pass_that_one_could_not_end_goes_on(mistakes):
    (told, as_before), (own, too) = (eval(f["goes on"]) for f in mistakes)
    assert own == "the disk is gone" and "process 1: OSError: the disk is gone" in told
    assert as_before and too


def test_rows_that_hold_latents_beside_discrete_ones(mistakes):
    """The start is found on the first process, and -ELBO never rises."""
    assert [f["topics"] for f in mistakes] == ["True", "True"]


def test_the_same_frozen_features_are_no_mistake(mistakes):
    assert float(mistakes[0]["features"]) == float(mistakes[1]["features"])


def test_mistakes_leave_the_group_as_it_was(mistakes):
    assert float(mistakes[0]["good"]) == float(mistakes[1]["good"])


def test_a_killed_process_is_an_error_and_the_run_goes_on_from_its_state(tmp_path):
    processes = start("killed", tmp_path)
    texts = [p.communicate(timeout=120)[1] for p in processes]
    assert processes[1].returncode == -signal.SIGKILL
    assert processes[0].returncode == 0, texts[0]
    found = torch.load(tmp_path / "found-0.pt")
    assert re.match("process 0 of 2 lost the others: .*load_state_dict", found["error"])
    assert found["again"].startswith("ProcessError: process 0 of 2 lost the others")
    # The state is the posterior: one process with all rows goes on where two have ended.
    example = EXAMPLES["softmax"]
    blr = started(example)
    blr.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    blr.step(*example.rows)
    pyro.set_rng_seed(3)
    other = started(example)
    for _ in range(3):
        other.step(*example.rows)
    assert blr.num_steps == other.num_steps == 3
    close(naturals(blr), naturals(other), 1e-6)

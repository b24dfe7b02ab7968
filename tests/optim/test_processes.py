# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Several processes: one posterior, equal to the last bit on all ranks, and the papers' steps."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pyro_blr.errors import ChangedRanksWarning
from pyro_blr.optim import IVON
from tests.optim import bad_ranks, ranks
from tests.optim.nets import batch, net
from tests.optim.team import Team
from tests.optim.test_reference import Line, data_gradients, reference
from tests.oracles.weight_posteriors import Reference

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo",
)

LINE = {"lr": 0.05, "ess": 100.0, "hessian_init": 0.3, "betas": (0.9, 0.99)}
SQUARES = {**LINE, "hessian": "squared_gradient", "batch_size": 12.0}
GAUSS_NEWTON = {"lr": 0.1, "ess": 12.0, "hessian_init": 0.3, "betas": (0.9, 0.99), "damping": 0.02}


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    pair = Team(2, tmp_path_factory.mktemp("pair"))
    yield pair
    pair.end()


def all_equal(first: Any, second: Any) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


# --------------------------------------------------------------------- each rank with a copy


@pytest.mark.parametrize(
    ("kind", "how", "draws", "steps"),
    [
        ("IVON", "alone", 1, 30),
        ("IVON", "ddp", 2, 10),
        ("IVON", "micro-batches", 2, 10),
        ("IVON", "uneven", 2, 10),
        ("squares", "ddp", 1, 10),
        ("VOGN", "ddp", 2, 10),
        ("VOGN", "uneven", 1, 10),
        ("IVON", "empty", 2, 5),
        ("VOGN", "empty", 1, 5),
    ],
)
def test_draws_of_two_ranks_are_the_papers(
    team: Team, kind: str, how: str, draws: int, steps: int
) -> None:
    """Steps against NumPy, whatever averages the gradients before the optimiser does."""
    options: Any = {"IVON": LINE, "squares": SQUARES, "VOGN": GAUSS_NEWTON}[kind]
    name = "VOGN" if kind == "VOGN" else "IVON"
    first, second = team.run(ranks.run_line, name, options, steps, how, draws)
    assert all_equal(first, second)

    hessian = {"IVON": "price", "squares": "squared_gradient", "VOGN": "mean_square"}[kind]
    oracle = reference(options, hessian, Line().w)
    rows = [own for own in ranks.SUMMED.get(how, ranks.ROWS) if own.stop > own.start]
    gradients = [gradient_of(own, kind) for own in rows for _ in range(draws)]
    weights = [float(own.stop - own.start) for own in rows for _ in range(draws)]
    for step in range(steps):
        noises = [ranks.noise(r, step, d) for r in range(len(rows)) for d in range(draws)]
        oracle.step(gradients, noises, weights)
    assert first[0] == pytest.approx(oracle.mean, rel=1e-11, abs=1e-12)
    assert first[1] == pytest.approx(oracle.h, rel=1e-11, abs=1e-12)
    assert first[2] == pytest.approx(oracle.g, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize(("draws", "wraps"), [(1, False), (2, True)])
def test_ranks_have_masks_of_their_own(team: Team, draws: int, wraps: bool) -> None:
    """A step is the mean of mask times gradient, rank by rank and draw by draw."""
    steps = 6
    first, second = team.run(ranks.run_masked, steps, draws, wraps)
    assert all_equal(first[2], second[2])
    assert not all_equal(first[1], second[1])
    (w,) = first[0]
    for step in range(steps):
        moved = [
            mask * data_gradients(mask * w)[rows].mean(0)
            for masks, rows in zip((first[1], second[1]), ranks.ROWS, strict=True)
            for mask in masks[step * draws : (step + 1) * draws]
        ]
        w = w - 0.05 * np.mean(moved, 0)
        assert first[2][step] == pytest.approx(w, rel=1e-11, abs=1e-12)


def gradient_of(rows: slice, kind: str) -> Callable[[Any], Any]:
    if kind == "VOGN":
        return lambda w: data_gradients(w)[rows]
    return lambda w: data_gradients(w)[rows].mean(0)


def test_ranks_have_noise_of_their_own(team: Team) -> None:
    noises = [ranks.noise(r, s, d) for r in range(3) for s in range(3) for d in range(3)]
    assert len({n.tobytes() for n in noises}) == 27


def test_layers_that_some_ranks_do_not_use(team: Team) -> None:
    (steps, first), (_, second) = team.run(ranks.unused)
    assert steps == [3, 3, 3, 3, 0, 0]
    assert all_equal(first, second)


@pytest.mark.parametrize("kind", ["IVON", "VOGN"])
def test_a_run_that_one_rank_saved_is_resumed_by_all(team: Team, kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "saved")
    team.run(ranks.trained_net, path, 0, 3, True, False, kind)
    whole = team.run(ranks.trained_net, path, 0, 6, False, False, kind)
    resumed = team.run(ranks.trained_net, path, 3, 3, False, True, kind)
    for (a, _), (b, said) in zip(whole, resumed, strict=True):
        assert all_equal(a, b)
        assert not said
    assert all_equal(whole[0][0], whole[1][0])


def test_on_another_number_of_ranks_the_posterior_goes_on(team: Team, tmp_path: Path) -> None:
    path = tmp_path / "saved"
    (expected, _), _ = team.run(ranks.trained_net, str(path), 0, 3, True, False)
    saved = torch.load(path, weights_only=True)
    module = net(seed=8)
    optimizer = IVON(module.parameters(), lr=0.1, ess=1.0)
    module.load_state_dict(saved["net"])
    with pytest.warns(ChangedRanksWarning, match="saved on 2 ranks, and this IVON is on 1"):
        optimizer.load_state_dict(saved["optimizer"])
    assert all_equal(ranks.state(optimizer), expected)
    ranks.take_step(module, optimizer, 0, 3)
    torch.save({"net": module.state_dict(), "optimizer": optimizer.state_dict()}, path)
    (first, said), (second, _) = team.run(ranks.trained_net, str(path), 4, 2, False, True)
    assert all_equal(first, second)
    assert "saved on 1 ranks, and this IVON is on 2" in said[0]


def test_a_rank_that_stops_is_an_error_of_the_others(tmp_path: Path) -> None:
    pair = Team(2, tmp_path)
    try:
        (name, text, same), none = pair.run(ranks.killed)
    finally:
        pair.end()
    assert none is None
    assert name == "ProcessError"
    assert "one of them was killed" in text
    assert "load_state_dict" in text
    assert same


@pytest.mark.parametrize("how", ["alone", "scaler", "sharded"])
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_by_all(team: Team, how: str) -> None:
    (skipped, first), (also, second) = team.run(bad_ranks.one_bad_rank, how)
    assert skipped == also == [0, 0, 1, 1]
    assert all_equal(first, second)


def test_groups_that_cannot_be_are_named_on_every_rank(team: Team) -> None:
    for found in team.run(bad_ranks.of_groups):
        assert "process_group = 0 is none" in found["no group"]
        assert "the ranks have different parameters: 4 of 44 numbers" in found["different nets"]
        assert "in other shapes or dtypes" in found["other dtypes"]
        assert "Mend: leave process_group out" in found["a group of parts"]
        assert "Mend: IVON" in found["parts of VOGN"]
        assert "Mend: predict" in found["draws of parts"]


def test_different_steps_are_named_on_every_rank(team: Team) -> None:
    for found in team.run(bad_ranks.of_steps):
        assert "CheckpointError: the ranks are not at the same step" in found["another step"]
        assert "ProcessError: the ranks have different options" in found["other rates"]
        assert "freeze different parameters" in found["other weights"]


def test_draws_that_make_no_step_are_named_on_every_rank(team: Team) -> None:
    for found in team.run(bad_ranks.of_draws):
        assert "cannot be copied or pickled" in found["a copy"]
        assert "StepOrderError: the weights of the draws" in found["no weight"]
        assert "ArgumentError: GradScaler.unscale_" in found["unscaled"]


def test_an_optimiser_without_a_group_is_warned_of_the_other_ranks(team: Team) -> None:
    for said in team.run(bad_ranks.alone):
        assert len(said) == 1
        assert "Mend: process_group=torch.distributed.group.WORLD" in said[0]


@pytest.mark.parametrize(
    ("what", "name", "said"),
    [
        ("draw", "StepOrderError", "step without a draw"),
        ("rate", "ArgumentError", "IVON: lr = nan cannot be used"),
    ],
)
def test_a_mistake_of_one_rank_is_an_error_of_all(
    team: Team, what: str, name: str, said: str
) -> None:
    first, second = team.run(bad_ranks.one_mistake, what)
    assert first[0] == second[0] == name
    assert f"since of 2 failed process 1: {name}: {said}" in first[1]
    assert "Mend" in second[1]
    assert first[2] and second[2]


def test_gradients_that_were_set_by_hand(team: Team) -> None:
    for (said,) in team.run(bad_ranks.with_gradients_by_hand):
        assert "StepOrderError: there are gradients that no backward pass" in said


# --------------------------------------------------------------------- each rank with a part


@pytest.mark.parametrize(
    ("shape", "draws", "hessian"),
    [
        ((2,), 1, {"hessian": "squared_gradient", "batch_size": 20.0}),
        ((2,), 2, {}),
        ((2, 1), 1, {}),
    ],
)
def test_sharded_weights_take_the_papers_steps(
    team: Team, shape: tuple[int, ...], draws: int, hessian: Any
) -> None:
    """On the whole batch, at draws of which each rank has a part."""
    steps = 5
    (drawn, first), (also, second) = team.run(ranks.run_sharded, shape, steps, draws, hessian)
    assert all_equal(first, second)
    assert all(map(all_equal, drawn, also))

    module, (x, y) = net(), batch(20)
    oracle = Reference(
        mean=flat(p.detach().numpy() for p in module.parameters()),
        **{"lr": 0.3, "ess": 20.0, "h0": 0.3, "b1": 0.9, "b2": 0.9, "decay": 1e-4},  # type: ignore[arg-type]
        hessian=hessian.get("hessian", "price"),
        batch_size=20.0,
    )

    def gradient(weights: Any) -> Any:
        torch.nn.utils.vector_to_parameters(torch.from_numpy(weights), module.parameters())
        module.zero_grad()
        F.cross_entropy(module(x), y).backward()
        return flat(p.grad.numpy() for p in module.parameters() if p.grad is not None)

    points = [flat(d) for d in drawn]
    noises = []
    for step in range(steps):
        own = [(z - oracle.mean) / oracle.sd for z in points[draws * step :][:draws]]
        oracle.step(gradient, own)
        noises += own
    assert flat(first) == pytest.approx(np.concatenate([oracle.mean, oracle.h]), rel=1e-9)
    spread = np.concatenate(noises)
    assert abs(spread.mean()) < 4 / len(spread) ** 0.5
    assert abs(spread.std() - 1) < 4 / (2 * len(spread)) ** 0.5
    assert len(np.unique(spread.round(12))) == len(spread)  # no two parts with the same noise


def flat(tensors: Any) -> Any:
    return np.concatenate([np.ravel(t) for t in tensors])


def test_sharded_predictions_are_of_their_own_draws(team: Team) -> None:
    first, second = team.run(ranks.sharded_predictions)
    assert all_equal(first, second)
    before, values, after, mean, weight = first
    assert np.array_equal(before, after)
    assert not any(np.allclose(values[i], v) for i in range(3) for v in (before, values[i - 1]))
    assert np.allclose(mean, weight, rtol=1e-12)


def test_sharded_weights_in_bfloat16(team: Team) -> None:
    (losses, dtype), other = team.run(ranks.run_rounded_sharded)
    assert dtype == "torch.float32"
    assert losses == other[0]
    assert losses[-1] < losses[0]


def test_a_sharded_run_is_resumed_bit_for_bit(team: Team, tmp_path: Path) -> None:
    path = str(tmp_path / "saved")
    team.run(ranks.trained_sharded, path, 0, 3, False)
    resumed = team.run(ranks.trained_sharded, path, 3, 3, True)
    whole = team.run(ranks.trained_sharded, path, 0, 6, False)
    assert all(map(all_equal, whole, resumed))


def test_a_distributed_checkpoint_goes_to_another_mesh(team: Team, tmp_path: Path) -> None:
    path = str(tmp_path / "saved")
    (expected, steps), _ = team.run(ranks.through_a_distributed_checkpoint, path, (2,), False)
    assert steps == [3] * 4
    for shape in ((2,), (2, 1)):
        for found in team.run(ranks.through_a_distributed_checkpoint, path, shape, True):
            assert all_equal(found[0], expected)
            assert found[1] == steps


def test_the_parts_of_another_mesh_are_refused(team: Team) -> None:
    for (said,) in team.run(ranks.saved_on_another_mesh):
        assert "CheckpointError" in said
        assert "torch.distributed.checkpoint" in said

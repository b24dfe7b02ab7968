# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A run that is saved and resumed is the run that was not: bit for bit."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_blr.errors import CheckpointError, StepOrderError
from pyro_blr.optim import IVON, VOGN, predict
from tests.optim.nets import batch, copies, net

OPTIONS = {"lr": 0.2, "ess": 20.0, "hessian_init": 0.3, "betas": (0.9, 0.95)}


def make(kind: Any, dtype: torch.dtype, seed: int = 3) -> tuple[nn.Module, Any]:
    module = net(dtype=dtype)
    first, last = list(module.children())[::2]
    groups = [
        {"params": list(first.parameters())},
        {"params": list(last.parameters()), "lr": 0.01, "clip_radius": 0.5},
    ]
    return module, kind(groups, seed=seed, **OPTIONS)


def run(module: nn.Module, optimizer: Any, steps: int, draws: int = 1) -> None:
    x, y = batch()
    dtype = next(module.parameters()).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(draws):
            with optimizer.sampled_params():
                if isinstance(optimizer, VOGN):
                    optimizer.backward(module, F.cross_entropy, x.to(dtype), y)
                else:
                    F.cross_entropy(module(x.to(dtype)), y).backward()
        optimizer.step()


def everything(module: nn.Module, optimizer: Any) -> list[torch.Tensor]:
    states = [s for p in module.parameters() for s in optimizer.state[p].values()]
    return copies(module.parameters()) + [torch.as_tensor(s) for s in states]


kinds = pytest.mark.parametrize("kind", [IVON, VOGN])
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])


@kinds
@dtypes
@pytest.mark.parametrize("draws", [1, 2])
def test_a_resumed_run_is_the_same_bit_for_bit(
    kind: Any, dtype: torch.dtype, draws: int, tmp_path: Path
) -> None:
    module, optimizer = make(kind, dtype)
    run(module, optimizer, 4, draws)
    torch.save({"net": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "s")
    run(module, optimizer, 5, draws)

    other, resumed = make(kind, dtype, seed=99)
    run(other, resumed, 2)  # whatever it was before
    saved = torch.load(tmp_path / "s", weights_only=True)
    other.load_state_dict(saved["net"])
    resumed.load_state_dict(saved["optimizer"])
    run(other, resumed, 5, draws)
    assert all(map(torch.equal, everything(module, optimizer), everything(other, resumed)))
    assert resumed.state[next(other.parameters())]["step"] == 9


def test_a_prediction_does_not_change_the_run() -> None:
    found = []
    for predicts in (False, True):
        module, optimizer = make(IVON, torch.float64)
        for _ in range(3):
            run(module, optimizer, 1)
            if predicts:
                predict(optimizer, lambda module=module: module(batch()[0]), num_draws=3)
        found.append(everything(module, optimizer))
    assert all(map(torch.equal, *found))


def test_loading_shares_no_memory() -> None:
    module, optimizer = make(IVON, torch.float64)
    run(module, optimizer, 2)
    other, loaded = make(IVON, torch.float64)
    loaded.load_state_dict(optimizer.state_dict())
    before = everything(module, optimizer)
    run(other, loaded, 2)
    assert all(map(torch.equal, before, everything(module, optimizer)))


def test_options_of_groups_and_skipped_steps_are_resumed() -> None:
    module, optimizer = make(IVON, torch.float64)
    run(module, optimizer, 1)
    optimizer.param_groups[1]["lr"] = 0.007
    optimizer._skipped.total = 3
    _, other = make(IVON, torch.float64)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[1]["lr"] == 0.007
    assert other.param_groups[0]["betas"] == (0.9, 0.95)
    assert other.skipped == 3


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@kinds
def test_copies_go_on_alike(kind: Any, how: str) -> None:
    module, optimizer = make(kind, torch.float64)
    run(module, optimizer, 3)
    pair = (module, optimizer)
    other, twin = (
        copy.deepcopy(pair) if how == "deepcopy" else pickle.load(io.BytesIO(pickle.dumps(pair)))
    )
    run(module, optimizer, 3)
    run(other, twin, 3)
    assert all(map(torch.equal, everything(module, optimizer), everything(other, twin)))


@pytest.mark.host("a run is resumed on the CPU")
def test_a_run_on_other_devices_is_resumed_where_they_are_missing() -> None:
    module, optimizer = make(IVON, torch.float64)
    run(module, optimizer, 1)
    saved = optimizer.state_dict()
    saved["noise"]["generators"]["cuda:7"] = torch.zeros(16, dtype=torch.uint8)
    optimizer.load_state_dict(saved)
    run(module, optimizer, 1)
    assert set(optimizer.state_dict()["noise"]["generators"]) == {"cpu", "cuda:7"}


def test_a_seed_and_torchs_own_make_runs_repeatable() -> None:
    found = []
    for seed in (3, 3, None, None):
        torch.manual_seed(11)
        w = nn.Parameter(torch.zeros(5))
        optimizer = IVON([w], lr=0.1, ess=10.0, seed=seed)
        with optimizer.sampled_params():
            found.append(w.detach().clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])
    assert not torch.equal(found[0], found[2])


def test_a_scheduler_drives_the_step_size() -> None:
    module, optimizer = make(IVON, torch.float64)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        run(module, optimizer, 1)
        scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.025, 0.00125])


# --------------------------------------------------------------------------------- bad states


def test_the_state_of_another_optimiser_is_refused() -> None:
    module, optimizer = make(IVON, torch.float64)
    adam = torch.optim.AdamW(module.parameters())
    with pytest.raises(CheckpointError, match=r"not the state of an IVON: \['noise', 'skipped'\]"):
        optimizer.load_state_dict(adam.state_dict())


def test_a_state_of_another_dtype_or_shape_is_refused() -> None:
    module, optimizer = make(IVON, torch.float64)
    run(module, optimizer, 1)
    with pytest.raises(CheckpointError, match=r"has \['hessian', 'momentum', 'step'\], where IVON"):
        make(IVON, torch.bfloat16)[1].load_state_dict(optimizer.state_dict())
    with pytest.raises(CheckpointError, match="float64"):
        make(IVON, torch.float32)[1].load_state_dict(optimizer.state_dict())
    wide = net(hidden=9)
    first, last = list(wide.children())[::2]
    other = IVON([{"params": list(m.parameters())} for m in (first, last)], **OPTIONS)  # type: ignore[arg-type]
    before = everything(wide, other)
    with pytest.raises(CheckpointError, match=r"has shape \(7, 3\).*the parameter \(9, 3\)"):
        other.load_state_dict(optimizer.state_dict())
    assert all(map(torch.equal, before, everything(wide, other)))


def test_other_groups_are_refused_by_torch() -> None:
    module, optimizer = make(IVON, torch.float64)
    other = IVON(module.parameters(), lr=0.1, ess=20.0)
    with pytest.raises(ValueError, match="parameter groups"):
        other.load_state_dict(optimizer.state_dict())


def test_no_state_is_saved_at_a_draw() -> None:
    _, optimizer = make(IVON, torch.float64)
    with (
        optimizer.sampled_params(),
        pytest.raises(StepOrderError, match="after the `with` block"),
    ):
        optimizer.state_dict()

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Nets, options and calls that are less usual: they work as the usual ones do, or say why not."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_blr.errors import (
    ArgumentError,
    CheckpointError,
    RunningStatisticsWarning,
    SkippedStepWarning,
    StepOrderError,
)
from pyro_blr.nn import WeightPosterior
from pyro_blr.optim import IVON, VOGN, posterior, predict, sample_posterior
from tests import simulated
from tests.optim.nets import batch, copies, net, train

both = pytest.mark.parametrize("kind", [IVON, VOGN])


def trained(steps: int = 2, **options: Any) -> tuple[nn.Module, IVON]:
    module, (x, y) = net(), batch()
    optimizer = IVON(module.parameters(), **{"lr": 0.1, "ess": 20.0, **options})
    train(optimizer, lambda: F.cross_entropy(module(x), y), steps)
    return module, optimizer


# ---------------------------------------------------------------------------------- parameters


def test_a_lazy_layer_is_told_to_be_called_first_and_then_trains() -> None:
    module, (x, _) = nn.LazyLinear(2), batch()
    optimizer = IVON(module.parameters(), lr=0.1, ess=20.0)
    with pytest.raises(ArgumentError, match=r"lazy layer.*Mend: call"), optimizer.sampled_params():
        pass
    module(x)
    train(optimizer, lambda: module(x).square().mean(), 2)
    assert predict(optimizer, lambda: module(x), 3).shape == (3, 20, 2)


def test_no_memory_for_a_state_leaves_no_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = IVON([w], lr=0.1, ess=20.0)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "full_like", fail)
    with pytest.raises(MemoryError), optimizer.sampled_params():
        pass
    monkeypatch.undo()
    train(optimizer, lambda: w.square().sum(), 1)
    assert optimizer.state[w]["step"] == 1


@both
def test_a_parameter_that_is_there_twice(kind: Any) -> None:
    tied = nn.Linear(3, 3)
    parts = [*tied.parameters(), tied.weight]
    with pytest.raises(ArgumentError, match="there twice"):
        kind(parts, lr=0.1, ess=20.0)
    optimizer = kind(nn.Linear(2, 2).parameters(), lr=0.1, ess=20.0)
    with pytest.raises(ArgumentError, match="there twice"):
        optimizer.add_param_group({"params": parts})
    assert len(optimizer.param_groups) == 1


@both
def test_a_module_in_a_group(kind: Any) -> None:
    optimizer = kind(nn.Linear(2, 2).parameters(), lr=0.1, ess=20.0)
    with pytest.raises(ArgumentError, match=r'not a module.*"params": net.parameters\(\)'):
        optimizer.add_param_group({"params": nn.Linear(2, 2)})


def tied_net() -> nn.Module:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.outer.weight = self.inner.weight

        def forward(self, x: torch.Tensor) -> Any:
            return self.outer(self.inner(x))

    return Tied()


def recurrent_net() -> nn.Module:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.outer = nn.GRU(5, 4, batch_first=True), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> Any:
            return self.outer(self.cell(F.one_hot(x, 5).double()[:, None])[0][:, -1])

    return Recurrent()


def normed_net() -> nn.Module:
    first = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))
    return nn.Sequential(nn.Embedding(5, 4, padding_idx=0), first)


RECURRENT = pytest.param(recurrent_net, marks=simulated.lacks("fused GRU"), id="recurrent_net")


@pytest.mark.parametrize("make", [tied_net, RECURRENT, normed_net])
def test_nets_whose_weights_are_used_in_other_ways(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module, x = make(), torch.arange(10) % 5
    optimizer = IVON(module.parameters(), lr=0.3, ess=200.0, betas=(0.9, 0.999))
    losses = train(optimizer, lambda: F.cross_entropy(module(x), x), 60)
    assert losses[-1] < 0.7 * losses[0]
    drawn = sample_posterior(optimizer, module, 2)
    assert drawn.keys() == dict(module.named_parameters()).keys()
    one = {name: values[0] for name, values in drawn.items()}
    assert torch.func.functional_call(module, one, (x,)).shape == (10, 5)


def test_weights_that_are_frozen_for_a_while() -> None:
    module, (x, y) = net(), batch()
    optimizer = IVON(module.parameters(), lr=0.1, ess=20.0)
    steps = []
    for is_free in (True, False, True):
        module[0].requires_grad_(is_free)
        before = module[0].weight.detach().clone()
        train(optimizer, lambda: F.cross_entropy(module(x), y), 2)
        assert torch.equal(before, module[0].weight) == (not is_free)
        steps.append([optimizer.state[p]["step"] for p in module.parameters()])
    assert steps == [[2, 2, 2, 2], [2, 2, 4, 4], [4, 4, 6, 6]]
    optimizer.load_state_dict(optimizer.state_dict())
    train(optimizer, lambda: F.cross_entropy(module(x), y), 1)


def test_a_norm_without_weights_of_its_own_warns_as_well() -> None:
    for norm in (nn.BatchNorm1d(3, affine=False), nn.InstanceNorm1d(3, track_running_stats=True)):
        module = nn.Sequential(nn.Linear(3, 3), nn.Sequential(norm))
        optimizer = IVON(module.parameters(), lr=0.1, ess=20.0)
        with pytest.warns(RunningStatisticsWarning), optimizer.sampled_params(train=False):
            pass
    other = IVON(nn.Linear(3, 3).parameters(), lr=0.1, ess=20.0)
    with other.sampled_params(train=False):  # beside none
        pass
    assert module.training


# ------------------------------------------------------------------------------------- options


def test_numbers_of_numpy_are_numbers_and_reach_no_checkpoint() -> None:
    options = {"lr": np.float32(0.1), "ess": np.int64(20), "weight_decay": np.float64(1e-3)}
    betas = (np.float64(0.9), np.float32(0.99))
    module, optimizer = trained(**options, betas=betas, draws=np.int64(2), seed=np.int64(3))
    assert predict(optimizer, lambda: module(batch()[0]), np.int64(2)).shape[0] == 2
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    assert type(optimizer.param_groups[0]["ess"]) is int
    with pytest.raises(ArgumentError, match="ess = True"):
        IVON(module.parameters(), lr=0.1, ess=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ess": -1.0}, "ess = -1.0 cannot be used"),
        ({"betas": (0.9, 1.5)}, "betas = "),
        ({"hessian": "squared_gradient"}, "batch_size=64"),
    ],
)
def test_options_that_are_set_while_training_are_checked(
    options: dict[str, Any], message: str
) -> None:
    module, optimizer = trained()
    before = copies(module.parameters())
    optimizer.param_groups[0].update(options)
    with pytest.raises(ArgumentError, match=message), optimizer.sampled_params():
        pass
    assert all(map(torch.equal, before, copies(module.parameters())))


SCHEDULES: list[Callable[[Any], Any]] = [
    lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 3),
    lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 10),  # sets betas as well
    lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1),
    lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: np.float64(0.9) ** step),
    lambda o: torch.optim.swa_utils.SWALR(o, 0.05),
]


@pytest.mark.parametrize("make", SCHEDULES)
def test_schedules(make: Callable[[Any], Any]) -> None:
    module, optimizer = trained()
    (x, y), schedule = batch(), make(optimizer)
    for _ in range(7):
        train(optimizer, lambda: F.cross_entropy(module(x), y), 1)
        schedule.step()
    assert all(bool(p.isfinite().all()) for p in module.parameters())


@pytest.mark.parametrize("options", [{}, {"hessian": "squared_gradient", "batch_size": 2}])
def test_a_gradient_whose_square_is_infinite_is_skipped(options: dict[str, Any]) -> None:
    w = nn.Parameter(torch.ones(2, dtype=torch.float32))
    optimizer = IVON([w], lr=0.1, ess=20.0, betas=(0.9, 0.9), **options)
    with optimizer.sampled_params():
        (w * 1e25).sum().backward()
    with pytest.warns(SkippedStepWarning):
        optimizer.step()
    assert optimizer.skipped == 1
    assert torch.equal(w, torch.ones_like(w))
    assert bool(optimizer.state[w]["hessian"].isfinite().all())


def test_many_gradients_whose_sum_of_squares_is_infinite_are_taken() -> None:
    w = nn.Parameter(torch.ones(100, dtype=torch.float32))
    optimizer = IVON([w], lr=0.0, ess=20.0, seed=0)
    with optimizer.sampled_params():
        (w * 1.5e19).sum().backward()
    optimizer.step()
    assert optimizer.skipped == 0


# ----------------------------------------------------------------- reading while at a draw


READS: list[Callable[[nn.Module, IVON], Any]] = [
    lambda module, optimizer: posterior(optimizer, next(module.parameters())),
    lambda module, optimizer: sample_posterior(optimizer, module, 2),
    lambda module, optimizer: WeightPosterior.of(optimizer, module),
    lambda module, optimizer: copy.deepcopy((module, optimizer)),
    lambda module, optimizer: pickle.dumps(optimizer),
    lambda module, optimizer: optimizer.state_dict(),
]


@pytest.mark.parametrize("read", READS)
def test_means_are_not_read_at_a_draw(read: Callable[[nn.Module, IVON], Any]) -> None:
    module, optimizer = trained()
    read(module, optimizer)
    with (
        pytest.raises(StepOrderError, match=r"within sampled_params.*after the .with. block"),
        optimizer.sampled_params(train=False),
    ):
        read(module, optimizer)


def test_a_prediction_that_returns_weights_has_the_draws() -> None:
    module, optimizer = trained()
    weight = module[0].weight
    own = predict(optimizer, lambda: weight, 5)
    q = WeightPosterior.of(optimizer, module)
    for values in (own, q.predict(module, lambda: weight.view(-1), 5)):
        assert bool((values.std(0) > 0).all())
        assert not values.requires_grad


@pytest.mark.parametrize("value", [{"logits": torch.ones(2)}, (torch.ones(2),), 1.0])
def test_a_prediction_without_a_tensor(value: Any) -> None:
    module, optimizer = trained()
    before = copies(module.parameters())
    with pytest.raises(ArgumentError, match=r"returns a \w+.*Mend: one tensor"):
        predict(optimizer, lambda: value, 2)
    assert all(map(torch.equal, before, copies(module.parameters())))


# ------------------------------------------------------------------------------- other states


def test_the_state_of_the_other_class() -> None:
    module, optimizer = trained()
    other = VOGN(module.parameters(), lr=0.1, ess=20.0)
    with pytest.raises(CheckpointError, match=r"no \['damping'\].*same class"):
        other.load_state_dict(optimizer.state_dict())
    with pytest.raises(CheckpointError, match=r"no \['batch_size', 'hessian'\].*same class"):
        optimizer.load_state_dict(other.state_dict())
    train(optimizer, lambda: F.cross_entropy(module(batch()[0]), batch()[1]), 1)


def test_groups_in_another_order_are_known_by_names() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))

    def make(*order: int) -> IVON:
        groups = [
            {"params": [(f"{i}.{n}", p) for n, p in module[i].named_parameters()]} for i in order
        ]
        return IVON(groups, lr=0.1, ess=20.0)

    optimizer = make(0, 1)
    if "param_names" not in optimizer.param_groups[0]:
        pytest.skip("before torch 2.6 groups have no names")
    train(optimizer, lambda: module(torch.ones(1, 3)).sum(), 1)
    make(0, 1).load_state_dict(optimizer.state_dict())
    with pytest.raises(CheckpointError, match=r"matched by their places.*same order"):
        make(1, 0).load_state_dict(optimizer.state_dict())


def test_hooks_may_change_what_is_loaded_and_see_what_was() -> None:
    module, optimizer = trained()
    weight, seen = module[0].weight, []

    def double(_: Any, held: Any) -> Any:
        states = {n: {**s, "hessian": 2 * s["hessian"]} for n, s in held["state"].items()}
        return {**held, "state": states}

    before = optimizer.state[weight]["hessian"].clone()
    optimizer.register_load_state_dict_pre_hook(double)
    optimizer.register_load_state_dict_post_hook(
        lambda o: seen.append(o.state[weight]["hessian"].clone())
    )
    optimizer.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(optimizer.state[weight]["hessian"], 2 * before)
    torch.testing.assert_close(seen[0], 2 * before)

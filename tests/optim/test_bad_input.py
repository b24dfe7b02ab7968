# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What cannot be used says so, with the mend; what can be used after all is."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_blr.errors import (
    ArgumentError,
    DeviceError,
    RunningStatisticsWarning,
    StepOrderError,
)
from pyro_blr.optim import IVON, VOGN
from tests import simulated
from tests.optim.nets import batch, copies, net, quadratic, train

HERE = torch.get_default_device().type


def ivon(w: Any, **options: Any) -> IVON:
    return IVON([w] if isinstance(w, nn.Parameter) else w, **{"lr": 0.1, "ess": 20.0, **options})


# ------------------------------------------------------------------------------ wrong arguments

OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"lr": -1.0}, "lr = -1.0 .*a number >= 0"),
    ({"lr": math.nan}, "lr = nan"),
    ({"lr": torch.tensor(0.1)}, "lr = tensor"),
    ({"ess": 0}, "ess = 0 .*the number of data"),
    ({"ess": math.inf}, "ess = inf"),
    ({"betas": (0.9, 1.0)}, "a pair of numbers in"),
    ({"betas": 0.9}, "a pair of numbers in"),
    ({"hessian_init": -0.1}, "hessian_init = -0.1"),
    ({"hessian_init": 0.0, "weight_decay": 0.0}, "no standard deviation"),
    ({"weight_decay": -1e-3}, "weight_decay = -0.001"),
    ({"hessian": "fisher"}, '"price" or "squared_gradient"'),
    ({"hessian": "squared_gradient"}, "batch_size=64"),
    ({"hessian": "squared_gradient", "batch_size": 0}, "batch_size = 0"),
    ({"clip_radius": 0.0}, "clip_radius = 0.0"),
    ({"draws": 0}, "draws = 0"),
    ({"draws": 1.5}, "draws = 1.5"),
    ({"seed": "a"}, "seed = 'a'"),
    ({"seed": 1.5}, "seed = 1.5"),
    ({"seed": 2**70}, "seed = 118"),
    ({"debias": "no"}, "debias = 'no'"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ivon(nn.Parameter(torch.zeros(3)), **options)


@pytest.mark.parametrize("lr", [math.nan, math.inf, "0.1"])
def test_a_rate_that_is_set_while_training_is_finite(lr: Any) -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = ivon(w)
    train(optimizer, lambda: quadratic(w), 1)
    before = w.detach().clone()
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(ArgumentError, match=f"lr = {lr!r} cannot be used.*are finite"):
        train(optimizer, lambda: quadratic(w), 1)
    assert torch.equal(w, before)


def test_an_option_of_a_group_is_checked_and_the_group_left_out() -> None:
    optimizer = ivon(nn.Parameter(torch.zeros(3)))
    with pytest.raises(ArgumentError, match="ess = -1"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "ess": -1.0})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("kind", [IVON, VOGN])
@pytest.mark.parametrize("parameters", [[], nn.ReLU().parameters(), nn.Sequential().parameters()])
def test_a_module_without_parameters(kind: Any, parameters: Any) -> None:
    with pytest.raises(ArgumentError, match=r"got no parameters.*net.parameters\(\)"):
        kind(parameters, lr=0.1, ess=20.0)


def test_a_module_in_the_place_of_parameters() -> None:
    with pytest.raises(ArgumentError, match=r"not a module. Mend: IVON\(net.parameters\(\)"):
        ivon(net())


def test_complex_weights() -> None:
    with pytest.raises(ArgumentError, match="complex"):
        ivon(nn.Parameter(torch.zeros(2, dtype=torch.complex64)))


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, None])
def test_the_weight_of_a_draw_is_positive(weight: Any) -> None:
    with (
        pytest.raises(ArgumentError, match="weight = "),
        ivon(nn.Parameter(torch.zeros(2))).sampled_params(weight=weight),
    ):
        pass
    module, (x, y) = net(), batch()
    optimizer = VOGN(module.parameters(), lr=0.1, ess=20.0)
    with pytest.raises(ArgumentError, match="weight = "), optimizer.sampled_params():
        optimizer.backward(module, F.cross_entropy, x, y, weight=weight)


@pytest.mark.parametrize("weight", [np.float32(0.5), np.int64(2)])
def test_the_weight_of_a_draw_may_be_numpys(weight: Any) -> None:
    found = []
    for given in (weight, weight.item()):
        w = nn.Parameter(torch.ones(3))
        train(ivon(w, seed=0), lambda w=w: quadratic(w), 2, weight=given)
        found.append(w.detach())
    assert torch.equal(*found)


# --------------------------------------------------------------------------- the order of calls


def test_a_step_without_a_draw() -> None:
    module, (x, y) = net(), batch()
    optimizer = ivon(module.parameters())
    F.cross_entropy(module(x), y).backward()
    with pytest.raises(StepOrderError, match=r"step without a draw. Mend: .with optimizer"):
        optimizer.step()
    train(optimizer, lambda: F.cross_entropy(module(x), y), 1)
    with pytest.raises(StepOrderError, match="step without a draw"):
        optimizer.step()


def test_a_draw_for_a_prediction_is_none_for_a_step() -> None:
    w = nn.Parameter(torch.zeros(3))
    optimizer = ivon(w)
    with optimizer.sampled_params(train=False):
        quadratic(w).backward()
    with pytest.raises(StepOrderError, match="step without a draw"):
        optimizer.step()


def test_zero_grad_between_the_draw_and_the_step() -> None:
    w = nn.Parameter(torch.zeros(3))
    optimizer = ivon(w)
    with optimizer.sampled_params():
        quadratic(w).backward()
    optimizer.zero_grad()
    with pytest.raises(StepOrderError, match="zero_grad came after the draw"):
        optimizer.step()


def test_a_draw_without_a_gradient() -> None:
    w = nn.Parameter(torch.zeros(3))
    optimizer = ivon(w)
    with optimizer.sampled_params():
        quadratic(w)
    with pytest.raises(StepOrderError, match="no parameter has one"):
        optimizer.step()


@pytest.mark.parametrize("train", [True, False])
def test_a_draw_within_a_draw(train: bool) -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = ivon(w)
    with (
        pytest.raises(StepOrderError, match="end the first"),
        optimizer.sampled_params(),
        optimizer.sampled_params(train),
    ):
        pass
    assert torch.equal(w, torch.ones(3))


def test_a_step_within_a_draw() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = ivon(w)
    with pytest.raises(StepOrderError, match=r"after the .with. block"), optimizer.sampled_params():
        quadratic(w).backward()
        optimizer.step()
    assert torch.equal(w, torch.ones(3))


def test_a_group_within_a_draw() -> None:
    optimizer = ivon(nn.Parameter(torch.ones(3)))
    with pytest.raises(StepOrderError, match="add_param_group"), optimizer.sampled_params():
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


def test_a_closure_that_draws_itself() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = ivon(w)

    def closure() -> None:
        with optimizer.sampled_params():
            quadratic(w).backward()

    with pytest.raises(StepOrderError, match="leave sampled_params out of the closure"):
        optimizer.step(closure)
    with optimizer.sampled_params():
        quadratic(w).backward()
    with pytest.raises(StepOrderError, match="takes its own draws"):
        optimizer.step(closure)


def test_a_closure_whose_losses_have_no_mean() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = ivon(w)

    def closure() -> dict[str, float]:
        quadratic(w).backward()
        return {"loss": 1.0}

    with pytest.raises(ArgumentError, match=r"returns a dict.*Mend: return the loss"):
        optimizer.step(closure)
    assert torch.equal(w, torch.ones(3))


# ------------------------------------------------------------------ parameters without gradients


def test_parameters_without_gradients_stay_where_they_are() -> None:
    used, unused, frozen = (nn.Parameter(torch.ones(3)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = ivon([used, unused, frozen])
    with optimizer.sampled_params():
        assert torch.equal(frozen, torch.ones(3))  # no draw of what has no gradient
        (quadratic(used) + frozen.sum()).backward()
    optimizer.step()
    assert not torch.equal(used, torch.ones(3))
    assert torch.equal(unused, torch.ones(3))
    assert frozen not in optimizer.state
    # One that takes part later has its own count of steps.
    train(optimizer, lambda: quadratic(used) + quadratic(unused), 1)
    assert [optimizer.state[p]["step"] for p in (used, unused)] == [2, 1]


def test_a_parameter_that_has_been_frozen_stays_in_spite_of_an_old_gradient() -> None:
    used, frozen = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = ivon([used, frozen])
    with optimizer.sampled_params():
        (quadratic(used) + quadratic(frozen)).backward()
    optimizer.step()
    frozen.requires_grad_(False)
    before = frozen.detach().clone()
    with optimizer.sampled_params():
        quadratic(used).backward()
    optimizer.step()
    assert torch.equal(before, frozen)


def test_a_parameter_that_is_frozen_between_two_draws_keeps_its_product() -> None:
    used, frozen = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = ivon([used, frozen], betas=(0.9, 0.5), weight_decay=0.0, hessian_init=1.0)
    with optimizer.sampled_params():
        drawn = frozen.detach().clone()
        (quadratic(used) + quadratic(frozen)).backward()
    frozen.requires_grad_(False)
    with optimizer.sampled_params():
        quadratic(used).backward()
    assert frozen.grad is not None
    estimate = 20.0 * (drawn - 1.0) * frozen.grad / 2  # nothing from the second draw
    optimizer.step()
    expected = 1.0 - 0.5 * (1.0 - estimate) + 0.125 * (1.0 - estimate).square()
    torch.testing.assert_close(optimizer.state[frozen]["hessian"], expected)


def test_all_parameters_frozen() -> None:
    module = net().requires_grad_(False)
    optimizer = ivon(module.parameters())
    with (
        pytest.raises(StepOrderError, match=r"nothing to draw. Mend: net.requires_grad_"),
        optimizer.sampled_params(),
    ):
        pass


@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_parameters_of_any_shape(shape: tuple[int, ...]) -> None:
    w, other = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(2))
    train(ivon([w, other]), lambda: (w.sum() + other.sum()).square(), 2)
    assert w.shape == shape


# --------------------------------------------------------------------------- devices and dtypes


def test_parameters_of_several_dtypes_train_together() -> None:
    ws = [nn.Parameter(torch.ones(3, dtype=d)) for d in (torch.float64, torch.bfloat16)]
    ws += [nn.Parameter(torch.ones(3, dtype=torch.float32))]
    optimizer = ivon(ws, ess=1e6)
    train(optimizer, lambda: sum(quadratic(w.double()) for w in ws), 20)  # type: ignore[arg-type,return-value]
    assert all(bool((w < 1.0).all()) for w in ws)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dtype_that_changes_after_the_first_draw(dtype: torch.dtype) -> None:
    module, (x, y) = net(), batch()
    optimizer = ivon(module.parameters())
    train(optimizer, lambda: F.cross_entropy(module(x), y), 1)
    module.to(dtype)
    with (
        pytest.raises(DeviceError, match=rf"float64 on {HERE}.*: it was moved after"),
        optimizer.sampled_params(),
    ):
        pass


def test_a_device_that_changes_after_the_first_draw() -> None:
    module, (x, y) = net(), batch()
    optimizer = ivon(module.parameters())
    train(optimizer, lambda: F.cross_entropy(module(x), y), 1)
    # To torch a tensor on meta is one on another device; a module cannot be moved there in place.
    for state in optimizer.state.values():
        state["hessian"] = state["hessian"].to("meta")
    with (
        pytest.raises(DeviceError, match=rf"on {HERE}(:0)?, has a state .* on meta.*Mend: net.to"),
        optimizer.sampled_params(),
    ):
        pass


@simulated.lacks("sparse tensors")
def test_sparse_gradients() -> None:
    module = nn.Embedding(5, 2, sparse=True)
    optimizer = ivon(module.parameters())
    with pytest.raises(ArgumentError, match="sparse=False"):
        train(optimizer, lambda: module(torch.tensor([1, 2])).sum(), 1)


# ------------------------------------------------------------------------------------- BatchNorm


def draw_through(module: nn.Module) -> None:
    optimizer = ivon(module.parameters())
    with optimizer.sampled_params():
        module(torch.randn(8, 3)).square().sum().backward()
    optimizer.step()


def test_batch_norm_under_sampling_is_warned_of_with_the_reason() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    with pytest.warns(RunningStatisticsWarning, match="running mean.*drawn.*GroupNorm") as found:
        draw_through(module)
    assert len(found) == 1
    assert found[0].filename == __file__


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3).eval()),
        *(nn.GroupNorm(1, 3), nn.LayerNorm(3)),
    ],
)
def test_layers_without_running_statistics_are_not_warned_of(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_through(nn.Sequential(nn.Linear(3, 3), layer))


def test_batch_norm_is_seen_once_it_trains() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    optimizer = ivon([{"params": [p]} for p in module.parameters()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with optimizer.sampled_params():
            module(torch.randn(8, 3))
    module.train()
    with pytest.warns(RunningStatisticsWarning), optimizer.sampled_params(train=False):
        module(torch.randn(8, 3))


def test_batch_norm_of_another_optimiser_is_not_warned_of() -> None:
    other = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    module, (x, y) = net(), batch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(ivon(module.parameters()), lambda: F.cross_entropy(module(x), y), 2)
    assert other[1].training


def test_no_hook_is_put_on_modules() -> None:
    """torch compiles a module again where a global hook comes or goes."""
    optimizer = ivon(net().parameters())
    with optimizer.sampled_params():
        assert not nn.modules.module._has_any_global_hook()


def test_a_warning_that_is_an_error_leaves_the_means() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = copies(module.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RunningStatisticsWarning):
            draw_through(module)
    assert all(map(torch.equal, before, copies(module.parameters())))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""GaussianBLR and BinaryBLR beyond the traces of tests/recoveries: state, draws, bad options."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_blr.errors import ArgumentError, CheckpointError, NonFiniteError
from pyro_blr.families import SignBernoulliDistribution
from pyro_blr.nn import WeightPosterior
from pyro_blr.optim import IVON, VOGN, BinaryBLR, GaussianBLR, posterior, predict, sample_posterior
from tests.optim.nets import batch, copies, net

ROOT: dict[str, Any] = {
    **{"at": "mean", "hessian": "squared_gradient", "batch_size": 20, "power": 0.5},
    **{"hessian_init": 0.0, "damping": 1e-8, "debias_hessian": True},
}
MASKED: dict[str, Any] = {"at": "masked", "hessian": "fixed", "hessian_init": 1.0, "mask_dim": 0}
MAKERS: dict[str, Any] = {
    "root": lambda p: GaussianBLR(p, 0.01, **ROOT, seed=3),
    "vadam": lambda p: GaussianBLR(p, 0.01, ess=20.0, **{**ROOT, "at": "draw", "hessian_init": 0.3},
                                   seed=3),
    "masked": lambda p: GaussianBLR(p, 0.1, **MASKED, seed=3),
    "relaxed": lambda p: BinaryBLR(p, 0.01, ess=20.0, momentum=0.9, seed=3),
    "mode": lambda p: BinaryBLR(p, 0.1, ess=1.0, at="mode", entropy=False, seed=3),
}  # fmt: skip
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def run(module: nn.Module, optimizer: Any, steps: int, draws: int = 1) -> None:
    x, y = batch()
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(draws):
            with optimizer.sampled_params():
                F.cross_entropy(module(x.to(next(module.parameters()).dtype)), y).backward()
        optimizer.step()


@every
@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_resumed_run_is_the_same_bit_for_bit(make: Any, draws: int, dtype: torch.dtype) -> None:
    module = net(dtype=dtype)
    optimizer = make(module.parameters())
    run(module, optimizer, 3, draws)
    other = net(seed=9, dtype=dtype)
    other.load_state_dict(copy.deepcopy(module.state_dict()))
    resumed = make(other.parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin, copied = copy.deepcopy((module, optimizer))
    for m, o in ((module, optimizer), (other, resumed), (twin, copied)):
        run(m, o, 3, draws)
    for loaded in (other, twin):
        assert all(map(torch.equal, copies(module.parameters()), copies(loaded.parameters())))


@every
def test_weights_come_back_to_the_last_bit(make: Any) -> None:
    module = net()
    optimizer = make(module.parameters())
    run(module, optimizer, 2)
    before = copies(module.parameters())
    for train in (True, False):
        with pytest.raises(RuntimeError, match="the user's"), optimizer.sampled_params(train):
            raise RuntimeError("the user's")
        assert all(map(torch.equal, before, copies(module.parameters())))


@every
def test_closures_and_blocks_take_the_same_step(make: Any) -> None:
    """Also of several draws: gradients are averaged with the factor of each."""
    x, y = batch()
    ends = []
    for by_closure in (True, False):
        module = net(dtype=torch.float64)
        optimizer = make(module.parameters())
        optimizer.draws_per_closure = 3
        if by_closure:

            def closure(module: nn.Module = module, optimizer: Any = optimizer) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(module(x.double()), y)
                loss.backward()
                return loss

            for _ in range(2):
                optimizer.step(closure)
        else:
            run(module, optimizer, 2, 3)
        ends.append(copies(module.parameters()))
    for one, two in zip(*ends, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


def test_masked_draws_predict_as_they_train() -> None:
    """Without the number of data a draw that does not count is where gradients are taken."""
    module, (x, _) = net(), batch()
    optimizer = GaussianBLR(module.parameters(), 0.1, **MASKED)
    run(module, optimizer, 2)
    assert predict(optimizer, lambda: module(x), 8).std(0).max() > 0
    delta = GaussianBLR(net().parameters(), 0.01, **ROOT)
    assert predict(delta, lambda: module(x), 2).std(0).max() == 0


def test_masks_in_bfloat16() -> None:
    module = net(dtype=torch.bfloat16)
    optimizer = GaussianBLR(module.parameters(), 0.1, **{**MASKED, "mask_dim": None})
    first = module[0].weight
    with optimizer.sampled_params():
        mask = (first != 0).float()
        module(batch()[0].bfloat16()).square().sum().backward()
    assert 0 < mask.mean() < 1
    gradient = first.grad.float()
    before = optimizer.state[first]["mean"].clone()
    optimizer.step()
    moved = before - 0.1 * mask * gradient
    torch.testing.assert_close(optimizer.state[first]["mean"], moved)


def test_the_posterior_of_signs() -> None:
    module = net()
    optimizer = BinaryBLR(module.parameters(), 0.01, ess=20.0)
    run(module, optimizer, 5)
    weight = module[0].weight
    law = posterior(optimizer, weight)
    assert isinstance(law.base_dist, SignBernoulliDistribution)
    torch.testing.assert_close(law.mean, weight.detach())
    drawn = sample_posterior(optimizer, module, 400)["0.weight"]
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert (drawn.mean(0) - weight).abs().max() < 5 / math.sqrt(400)
    outputs = predict(optimizer, lambda: weight.detach().clone(), 400)
    assert set(outputs.unique().tolist()) == {-1.0, 1.0}
    assert (outputs.mean(0) - weight).abs().max() < 5 / math.sqrt(400)
    with pytest.raises(ArgumentError, match=r"holds Gaussians.*Mend: pyro_blr.optim.posterior"):
        WeightPosterior.of(optimizer, module)


def test_signs_far_out_stay_finite() -> None:
    """Where tanh is 1 to all digits the slope of a relaxed draw is still a number."""
    weight = nn.Parameter(torch.tensor([-300.0, -30.0, 0.0, 30.0, 300.0]))
    optimizer = BinaryBLR([weight], 1e-3, ess=10.0, tau=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        with optimizer.sampled_params():
            weight.square().sum().backward()
        optimizer.step()
    assert optimizer.state[weight]["natural"].isfinite().all()


def test_where_the_hessian_is_0_q_has_no_width() -> None:
    """Before a first step, and of a weight that no datum moves; weights stay where they were."""
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = GaussianBLR([w], 0.1, ess=5.0, **ROOT)

    def step() -> None:
        optimizer.zero_grad()
        with optimizer.sampled_params():
            w[0].square().backward()
        optimizer.step()

    for _ in range(2):
        before = w.detach().clone()
        with pytest.raises(ArgumentError, match=r"no width there\. Mend: weight_decay"):
            predict(optimizer, lambda: w)
        assert torch.equal(w, before)
        step()
    with pytest.raises(ArgumentError, match="no width there"):
        posterior(optimizer, w)
    optimizer.param_groups[0]["weight_decay"] = 1.0
    assert torch.isfinite(predict(optimizer, lambda: w)).all()


def test_no_width_without_the_number_of_data() -> None:
    module = net()
    optimizer = GaussianBLR(module.parameters(), 0.01, **ROOT)
    run(module, optimizer, 1)
    with pytest.raises(ArgumentError, match=r"not told the number of data.*Mend: ess=len"):
        posterior(optimizer, module[0].weight)
    with pytest.raises(ArgumentError, match=r"not told the number of data.*Mend: ess=len"):
        WeightPosterior.of(optimizer, module)


GAUSSIAN: list[tuple[dict[str, Any], str]] = [
    ({}, "ess = None .*the number of data"),
    ({"ess": 0}, "ess = 0"),
    ({"ess": 1.0, "at": "mode"}, "for weights of -1 and 1"),
    ({"ess": 1.0, "at": "there"}, "at = 'there'"),
    ({"at": "mean"}, 'hessian="price" cannot be had'),
    ({"at": "masked", "hessian": "per_example"}, "the mask of its own"),
    ({"at": "mean", "hessian": "squared_gradient"}, "batch_size=64"),
    ({"at": "mean", "hessian": "fixed", "debias_hessian": True}, "no running mean from 0"),
    ({"ess": 1.0, "retraction": "yes"}, "retraction = 'yes'"),
    ({"at": "mean", "hessian": "fixed", "hessian_init": 0.0}, "a step may divide by 0"),
    ({"ess": 1.0, "power": 0.0}, "power = 0.0"),
    ({"at": "masked", "hessian": "fixed", "keep": 0.0}, "keep = 0.0"),
    ({"at": "masked", "hessian": "fixed", "keep": 1.5}, "keep = 1.5"),
    ({"at": "masked", "hessian": "fixed", "mask_dim": 0.5}, "mask_dim = 0.5"),
]
BINARY: list[tuple[dict[str, Any], str]] = [
    ({"tau": 0.0}, "tau = 0.0"),
    ({"prior": math.inf}, "prior = inf"),
    ({"momentum": 1.0}, "momentum = 1.0"),
    ({"at": "mean"}, "at = 'mean' cannot be used"),
    ({"ess": None}, "ess = None .*Mend: give a number > 0"),
    ({"lr": -1.0}, "lr = -1.0"),
    ({"lr": 2.0}, r"1 - lr = -1, .*Mend: lr at most 1"),
    ({"lr": 100.0}, r"1 - lr = -99, .*Mend: lr at most 1"),
]


@pytest.mark.parametrize(("options", "message"), GAUSSIAN)
def test_options_of_a_gaussian_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        GaussianBLR([nn.Parameter(torch.zeros(3))], **{"lr": 0.1, **options})


@pytest.mark.parametrize(("options", "message"), BINARY)
def test_options_of_signs_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        BinaryBLR([nn.Parameter(torch.zeros(3))], **{"lr": 0.1, "ess": 5.0, **options})


def test_without_the_entropy_signs_have_any_rate() -> None:
    BinaryBLR([nn.Parameter(torch.zeros(3))], 100.0, 1.0, at="mode", entropy=False)


def test_a_rate_that_became_too_large_is_refused_before_a_draw() -> None:
    module = net()
    optimizer = BinaryBLR(module.parameters(), 0.1, 5.0)
    run(module, optimizer, 1)
    optimizer.param_groups[0]["lr"] = 3.0
    with pytest.raises(ArgumentError, match="lr = 3"):
        run(module, optimizer, 1)


@pytest.mark.parametrize("options", [{"tau": 50.0}, {"at": "mode", "ess": 1e38}])
def test_a_step_of_signs_out_of_the_finite_numbers_is_refused(options: dict[str, Any]) -> None:
    weights = nn.Parameter(torch.full((3,), 300.0, dtype=torch.float32))
    optimizer = BinaryBLR([weights], **{"lr": 0.1, "ess": 5.0, "momentum": 0.9, **options})
    before = optimizer.state_dict()
    for _ in range(2):
        with optimizer.sampled_params():
            (100 * weights.sum()).backward()
        with pytest.raises(NonFiniteError, match=r"lr = 0.1 .*nothing was moved. Mend"):
            optimizer.step()
        optimizer.zero_grad()
    state = optimizer.state[weights]
    assert state["step"] == 0 and bool((state["natural"] == 300).all())
    assert bool((state["momentum"] == 0).all())
    assert before["param_groups"] == optimizer.state_dict()["param_groups"]


def test_a_refused_step_of_one_group_moves_no_other() -> None:
    start = torch.full((3,), 0.5, dtype=torch.float32)
    first, second = nn.Parameter(start), nn.Parameter(start.clone())
    groups = [{"params": [first]}, {"params": [second], "ess": 1e38}]
    optimizer = BinaryBLR(groups, 0.1, 5.0, momentum=0.9)
    with optimizer.sampled_params():
        (first.sum() + 1e5 * second.sum()).backward()
    before = [first.clone(), second.clone()]
    with pytest.raises(NonFiniteError, match="nothing was moved"):
        optimizer.step()
    assert all(map(torch.equal, before, [first, second]))
    for state in optimizer.state.values():
        assert state["step"] == 0 and bool((state["natural"] == 0.5).all())
        assert bool((state["momentum"] == 0).all())


def test_signs_have_no_options_of_a_gaussian() -> None:
    optimizer = BinaryBLR([nn.Parameter(torch.zeros(3))], 0.1, 5.0)
    with pytest.raises(ArgumentError, match=r"\['hessian_init'\] are options of a Gaussian.*Mend"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "hessian_init": 1.0})
    assert len(optimizer.param_groups) == 1


def test_squares_of_one_step_alone_are_refused() -> None:
    """A unit that is off has gradients of 0, and the precision would be 0 with them."""
    weights = [nn.Parameter(torch.zeros(3))]
    last: dict[str, Any] = {"betas": (0.0, 0.0), "ess": 5.0}
    squares: dict[str, Any] = {**last, "hessian": "squared_gradient", "batch_size": 4}
    for at, hessian in (("draw", squares), ("mean", squares), ("mean", {"hessian": "per_example"})):
        with pytest.raises(ArgumentError, match=r"last squares alone.*Mend: betas="):
            GaussianBLR(weights, 0.1, at=at, retraction=False, **{**last, **hessian})
    with pytest.raises(ArgumentError, match=r"last squares alone.*Mend: betas="):
        VOGN(weights, 0.1, betas=(0.9, 0.0), ess=5.0, weight_decay=0.0)
    GaussianBLR(weights, 0.1, **squares, weight_decay=1e-3)
    GaussianBLR(weights, 0.1, **squares, retraction=True)
    GaussianBLR(weights, 0.1, **squares, at="mean", damping=1e-8)
    GaussianBLR(weights, 0.1, **last, hessian="fixed")


@pytest.mark.parametrize("hessian", ["per_example", "fixed"])
def test_ivon_has_its_own_hessians_alone(hessian: str) -> None:
    with pytest.raises(ArgumentError, match="Mend: GaussianBLR"):
        IVON([nn.Parameter(torch.zeros(3))], 0.1, 5.0, hessian=hessian)
    with pytest.raises(ArgumentError, match="ess"):
        VOGN([nn.Parameter(torch.zeros(3))], 0.1, None)  # type: ignore[arg-type]


def test_signs_are_beside_wide_weights() -> None:
    with pytest.raises(ArgumentError, match=r"torch.bfloat16.*Mend: net.float"):
        BinaryBLR(net(dtype=torch.bfloat16).parameters(), 0.1, 5.0)


def test_a_state_of_another_law_is_refused() -> None:
    module = net()
    optimizer = BinaryBLR(module.parameters(), 0.1, 5.0)
    run(module, optimizer, 1)
    with pytest.raises(CheckpointError, match="state of the same class"):
        IVON(module.parameters(), 0.1, 5.0).load_state_dict(optimizer.state_dict())

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""VOGN takes each datum for itself, and says where that cannot be."""

from collections import UserDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_blr.errors import (
    ArgumentError,
    BLRError,
    SkippedStepWarning,
    StepOrderError,
)
from pyro_blr.optim import VOGN
from tests import simulated
from tests.optim.nets import batch, copies, net


def vogn_on(module: nn.Module, run: Callable[[VOGN], Any]) -> None:
    optimizer = VOGN(module.parameters(), lr=0.1, ess=20.0)
    with optimizer.sampled_params():
        run(optimizer)
    optimizer.step()


def test_vogn_needs_the_gradient_of_each_datum() -> None:
    module, (x, y) = net(), batch()
    with pytest.raises(StepOrderError, match=r"optimizer.backward\(net, loss, x, y\)"):
        vogn_on(module, lambda o: F.cross_entropy(module(x), y).backward())


def test_vogns_backward_outside_a_draw() -> None:
    module, (x, y) = net(), batch()
    optimizer = VOGN(module.parameters(), lr=0.1, ess=20.0)
    with pytest.raises(StepOrderError, match="outside sampled_params"):
        optimizer.backward(module, F.cross_entropy, x, y)


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.RunningStatisticsWarning")
@pytest.mark.parametrize("tracks", [True, False])
def test_vogn_through_batch_norm(tracks: bool) -> None:
    norm = nn.BatchNorm1d(3, track_running_stats=tracks)
    module, (x, y) = nn.Sequential(nn.Linear(3, 3), norm, nn.Linear(3, 2)), batch()
    with pytest.raises(ArgumentError, match=r"one by one.*GroupNorm"):
        vogn_on(module, lambda o: o.backward(module, F.cross_entropy, x, y))


def test_vogn_through_batch_norm_of_known_statistics() -> None:
    norm = nn.BatchNorm1d(3).eval()
    module, (x, y) = nn.Sequential(nn.Linear(3, 3), norm, nn.Linear(3, 2)), batch()
    vogn_on(module, lambda o: o.backward(module, F.cross_entropy, x, y))
    assert all(p.grad is not None for p in module.parameters())


def test_vogn_on_another_module_or_no_rows() -> None:
    module, (x, y) = net(), batch()
    with pytest.raises(ArgumentError, match="has no parameter of this optimiser"):
        vogn_on(module, lambda o: o.backward(net(), F.cross_entropy, x, y))
    with pytest.raises(ArgumentError, match="got no rows"):
        vogn_on(module, lambda o: o.backward(module, F.cross_entropy, x[:0], y[:0]))


def test_an_error_in_the_users_own_loss_stays_what_it_is() -> None:
    module, (x, y) = net(), batch()
    with pytest.raises(RuntimeError) as found:
        vogn_on(module, lambda o: o.backward(module, F.cross_entropy, x[:, :2], y))
    assert not isinstance(found.value, BLRError)


def test_an_error_in_the_users_own_words_stays_what_it_is() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("cannot transform the targets")

    module, (x, y) = net(), batch()
    with pytest.raises(RuntimeError, match=r"^cannot transform the targets$"):
        vogn_on(module, lambda o: o.backward(module, loss, x, y))


def test_a_layer_that_updates_a_buffer_has_no_gradient_of_one_datum() -> None:
    class Counting(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            self.seen += 1
            return super().forward(inputs)

    module, (x, y) = Counting(3, 2), batch()
    module.register_buffer("seen", torch.zeros(()))
    with pytest.raises(ArgumentError, match=r"one by one.*update buffers"):
        vogn_on(module, lambda o: o.backward(module, F.cross_entropy, x, y))
    assert not module.seen


def test_vogn_with_frozen_layers_dropout_and_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4).requires_grad_(False), nn.Linear(4, 2)
            self.dropout = nn.Dropout(0.5)

        def forward(self, a: Any, b: Any) -> Any:
            return self.last(self.dropout(self.first(a) + self.first(b)).tanh())

    module, (x, y) = Two(), batch()
    before = copies(module.parameters())
    vogn_on(module, lambda o: o.backward(module, F.cross_entropy, (x, 2 * x), y, chunk_size=7))
    moved = [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]
    assert moved == [False, False, True, True]


# Inputs and losses of other forms


class Named(nn.Module):
    """Takes two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, shift: Any = None) -> Any:
        return self.layer(x if shift is None else x + shift)


@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("form", ["tuple", "list", "mapping", "user", "constant", "tree"])
def test_arguments_come_in_every_form(form: str, chunk_size: int | None) -> None:
    torch.manual_seed(0)
    module, (x, y) = Named(), batch()
    shift: Any = torch.tensor(0.5) if form == "constant" else torch.randn(20, 3)
    optimizer = VOGN(module.parameters(), lr=0.1, ess=20.0)
    given: Any = {"x": x, "shift": shift}
    if form in ("tuple", "list"):
        given = (tuple if form == "tuple" else list)(given.values())
    if form == "user":
        given = UserDict(given)  # as a tokenizer returns it
    loss: Any = F.cross_entropy
    target: Any = y
    if form == "tree":
        target = {"y": y, "rate": 1.0}
        loss = lambda output, target: F.cross_entropy(output, target["y"])  # noqa: E731
    with optimizer.sampled_params():
        value = optimizer.backward(module, loss, given, target, chunk_size=chunk_size)
        expected = F.cross_entropy(module(x, shift), y)
        (gradient,) = torch.autograd.grad(expected, module.layer.weight)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(module.layer.weight.grad, gradient)


def test_weights_of_classes_are_of_a_sum() -> None:
    module, (x, y) = net(), batch()
    weights = torch.tensor([1.0, 9.0])
    optimizer = VOGN(module.parameters(), lr=0.1, ess=20.0)
    for reduction in ("sum", "none"):
        with optimizer.sampled_params():
            value = optimizer.backward(
                module, lambda o, t, r=reduction: F.cross_entropy(o, t, weights, reduction=r), x, y
            )
            expected = F.cross_entropy(module(x), y, weights, reduction="sum") / len(x)
        torch.testing.assert_close(value, expected.detach())


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        (torch.zeros(7).long(), {}, r"have \[7, 20\] rows.*batch_first"),
        (torch.zeros(0).long(), {}, "got no rows"),
        (torch.zeros(20).long(), {"chunk_size": 0}, "chunk_size = 0"),
        (torch.zeros(20).long(), {"chunk_size": 2.5}, "chunk_size = 2.5"),
    ],
)
def test_data_that_are_not_alike(targets: Tensor, options: Any, message: str) -> None:
    module, (x, _) = net(), batch()
    optimizer = VOGN(module.parameters(), lr=0.1, ess=20.0)
    with pytest.raises(ArgumentError, match=message), optimizer.sampled_params():
        optimizer.backward(module, F.cross_entropy, x, targets, **options)


def test_inputs_without_rows() -> None:
    module, (_, y) = net(), batch()
    optimizer = VOGN(module.parameters(), lr=0.1, ess=20.0)
    for given in ({}, [1.0], object()):
        with pytest.raises(ArgumentError, match="got no rows"), optimizer.sampled_params():
            optimizer.backward(module, F.cross_entropy, given, y)


def test_a_loss_that_is_no_number() -> None:
    module, (x, y) = net(), batch()
    optimizer = VOGN(module.parameters(), lr=0.1, ess=20.0)
    for loss in (lambda output, _: output, lambda output, _: 1.0):
        with pytest.raises(ArgumentError, match="one number is asked"), optimizer.sampled_params():
            optimizer.backward(module, loss, x, y)  # type: ignore[arg-type]


# Layers that vmap has no rule for


class Recurrent(nn.Module):
    """Classes of the last state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.last = layer, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.layer(x)[0][:, -1])


def looks(output: Tensor, target: Tensor) -> Tensor:
    """A loss that looks at its values."""
    assert bool(output.isfinite().all())
    return F.cross_entropy(output, target)


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize(
    ("layer", "loss"),
    [
        pytest.param(
            lambda: nn.LSTM(3, 4, batch_first=True),
            F.cross_entropy,
            marks=simulated.lacks("fused LSTM"),
        ),
        pytest.param(
            lambda: nn.GRU(3, 4, batch_first=True),
            F.cross_entropy,
            marks=simulated.lacks("fused GRU"),
        ),
        (lambda: nn.RNN(3, 4, batch_first=True), F.cross_entropy),
        (lambda: nn.Linear(3, 4), looks),
    ],
)
def test_layers_without_a_rule_are_taken_datum_by_datum(
    layer: Callable[[], nn.Module], loss: Any, chunk_size: int | None
) -> None:
    torch.manual_seed(0)
    is_plain = isinstance(layer(), nn.Linear)
    module: nn.Module = nn.Sequential(layer(), nn.Linear(4, 2)) if is_plain else Recurrent(layer())
    x, y = torch.randn(5, 3) if is_plain else torch.randn(5, 6, 3), torch.arange(5) % 2
    optimizer = VOGN(module.parameters(), lr=0.1, ess=20.0, betas=(0.0, 0.0))
    own = list(module.parameters())
    with optimizer.sampled_params():
        optimizer.backward(module, loss, x, y, chunk_size=chunk_size)
        rows = [
            torch.autograd.grad(F.cross_entropy(module(x[i : i + 1]), y[i : i + 1]), own)
            for i in range(5)
        ]
    optimizer.step()
    for parameter, *gradients in zip(own, *rows, strict=True):
        stacked = torch.stack(gradients)
        torch.testing.assert_close(parameter.grad, stacked.mean(0))
        hessian = optimizer.state[parameter]["hessian"]
        torch.testing.assert_close(hessian, stacked.square().mean(0))


@simulated.lacks("sparse tensors")
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_sparse_gradients_of_a_datum_are_refused() -> None:
    module = nn.Sequential(nn.Embedding(5, 2, sparse=True), nn.Flatten())
    x, y = torch.tensor([[0], [3]]), torch.tensor([0, 1])
    with pytest.raises(ArgumentError, match=r"'0.weight' is sparse.*sparse=False"):
        vogn_on(module, lambda o: o.backward(module, F.cross_entropy, x, y))


def test_a_sum_of_squares_that_is_infinite_is_skipped() -> None:
    w = nn.Linear(1, 1, bias=False)
    optimizer = VOGN(w.parameters(), lr=0.1, ess=20.0)
    far = torch.tensor([[1e200], [-1e200]])  # whose gradients cancel, and their squares do not
    with optimizer.sampled_params():
        optimizer.backward(w, lambda output, _: output.sum(), far, torch.zeros(2))
    with pytest.warns(SkippedStepWarning, match="1 in a row"):
        optimizer.step()
    assert optimizer.state[w.weight]["hessian"].item() == pytest.approx(0.1)


class Twice(nn.Module):
    """Applies one layer twice, which has a name for each."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.Linear(3, 3)
        self.first, self.second, self.last = inner, inner, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.last(inner)  # type: ignore[no-any-return]


def test_a_layer_of_two_names_keeps_its_weights() -> None:
    torch.manual_seed(0)
    module, (x, y) = Twice(), batch()
    weight = module.first.weight
    optimizer = VOGN(module.parameters(), lr=0.1, ess=20.0, hessian_init=0.5, betas=(0.9, 0.5))
    with optimizer.sampled_params():
        each = [F.cross_entropy(module(x[i : i + 1]), y[i : i + 1]) for i in range(len(x))]
        rows = torch.stack([torch.autograd.grad(loss, weight)[0] for loss in each])
        optimizer.backward(module, F.cross_entropy, x, y)
        assert module.second.weight is weight
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, rows.mean(0))
    optimizer.step()
    expected = 0.25 + 0.5 * rows.square().mean(0)
    torch.testing.assert_close(optimizer.state[weight]["hessian"], expected)

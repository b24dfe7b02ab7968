# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Constants are folded once; whatever may change must never be answered from the fold.

The oracle of every case is the same: an engine made afresh for what the model is now.
"""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

from pyro_blr.errors import PlateSizeError
from tests.checks import engine
from tests.folding import START, assert_follows, fresh, normal, randn, warm

# -------------------------------------------------------------------------------- the arguments


def test_other_tensors_of_the_same_shape() -> None:
    x, y = randn(0, 20), randn(1, 20)
    blr, before = warm(normal, x, y)
    assert_follows(blr, normal, before, x, randn(2, 20))
    assert_follows(blr, normal, before, randn(3, 20), y)
    assert blr.evaluate_loss(x, y) == pytest.approx(before, rel=1e-12)


def test_a_tensor_at_the_address_of_a_dead_one() -> None:
    """Identity alone is no key: memory and ids are used again at once."""
    blr, _ = engine(normal, START, blocks="site")
    losses = []
    for seed in range(8):
        x, y = randn(seed, 20), randn(seed + 50, 20)
        losses.append(blr.evaluate_loss(x, y))
        assert losses[-1] == pytest.approx(fresh(normal, x, y), rel=1e-12)
        del x, y
    assert len(set(losses)) == 8


def test_a_view_of_other_rows() -> None:
    x, y = randn(0, 40), randn(1, 40)
    blr, before = warm(normal, x[:20], y[:20])
    assert_follows(blr, normal, before, x[20:], y[20:])


def test_tensor_changed_in_place() -> None:
    x, y = randn(0, 20), randn(1, 20)
    blr, before = warm(normal, x, y)
    y.add_(1.0)
    before = assert_follows(blr, normal, before, x, y)
    x[3] = 7.0
    before = assert_follows(blr, normal, before, x, y)
    y.copy_(randn(9, 20))
    assert_follows(blr, normal, before, x, y)


def test_base_of_a_view_changed_in_place() -> None:
    table = randn(0, 20, 2)
    x, y = table[:, 0], table[:, 1]
    blr, before = warm(normal, x, y)
    table.mul_(2.0)
    assert_follows(blr, normal, before, x, y)


def test_keyword_that_changes() -> None:
    x, y = randn(0, 20), randn(1, 20)
    blr, before = warm(normal, x, y, offset=0.0)
    before = assert_follows(blr, normal, before, x, y, offset=1.5)
    before = assert_follows(blr, normal, before, x, y, offset=torch.tensor(0.5))
    assert_follows(blr, normal, before, x, y)


def test_python_numbers_are_compared_by_value_and_type() -> None:
    def model(x: Tensor, y: Tensor, form: Any) -> None:
        offset = {True: 1.0, "one": 2.0, None: 3.0}.get(form, 4.0)
        offset = 5.0 if type(form) is float else offset
        normal(x, y, offset=offset)

    x, y = randn(0, 20), randn(1, 20)
    blr, _ = engine(model, START, blocks="site")
    for form in (True, 1.0, "one", None, (1, 2), True):
        expected = fresh(model, x, y, form)
        assert blr.evaluate_loss(x, y, form) == pytest.approx(expected, rel=1e-12)


def test_containers_of_data() -> None:
    def model(data: dict[str, list[Tensor]]) -> None:
        normal(data["x"][0], data["y"][0])

    data = {"x": [randn(0, 20)], "y": [randn(1, 20)]}
    blr, before = warm(model, data)
    data["y"][0] = randn(2, 20)
    before = assert_follows(blr, model, before, data)
    data["y"][0].add_(1.0)
    assert_follows(blr, model, before, data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_other_dtype(dtype: torch.dtype) -> None:
    x, y = randn(0, 20), 3 * randn(1, 20)
    blr, before = warm(normal, x, y)
    cast = y.to(dtype).to(torch.float64 if dtype is torch.int64 else dtype)
    value = blr.evaluate_loss(x.to(cast.dtype), cast)
    assert value == pytest.approx(fresh(normal, x.to(cast.dtype), cast), rel=1e-5)
    assert blr.evaluate_loss(x, y) == pytest.approx(before, rel=1e-12)


def test_short_last_minibatch_and_test_data_of_another_size() -> None:
    """Only a plate that holds a stored latent may not change its size."""
    x, y = randn(0, 50), randn(1, 50)

    def model(x: Tensor, y: Tensor) -> None:
        with poutine.scale(scale=50 / len(y)):
            normal(x, y)

    blr, _ = engine(model, START, blocks="site")
    for rows in (slice(0, 20), slice(20, 40), slice(40, 50), slice(0, 20), slice(0, 1)):
        expected = fresh(model, x[rows], y[rows])
        assert blr.evaluate_loss(x[rows], y[rows]) == pytest.approx(expected, rel=1e-12)
        blr_loss = blr.step(x[rows], y[rows])
        assert np.isfinite(blr_loss)
        blr.guide.set_natural(START)


def test_stored_plate_that_changes_its_size_is_an_error() -> None:
    def model(y: Tensor) -> None:
        with pyro.plate("groups", len(y)):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(u, 1.0), obs=y)

    blr, _ = engine(model)
    blr.step(randn(0, 6))
    with pytest.raises(PlateSizeError, match=r"groups"):
        blr.step(randn(0, 5))
    assert np.isfinite(blr.step(randn(1, 6)))


# ----------------------------------------------------------------------- what the model closes over


def test_closure_variable_bound_anew() -> None:
    x, y = randn(0, 20), randn(1, 20)

    def model() -> None:
        normal(x, y)

    blr, before = warm(model)
    y = randn(2, 20)
    before = assert_follows(blr, model, before)
    x = 2 * x
    assert_follows(blr, model, before)


GLOBAL_Y = randn(3, 20)


def _global_model() -> None:
    normal(torch.ones(20), GLOBAL_Y)


def test_global_bound_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    blr, before = warm(_global_model)
    monkeypatch.setitem(globals(), "GLOBAL_Y", randn(4, 20))
    assert_follows(blr, _global_model, before)


def test_closure_tensor_changed_in_place() -> None:
    x, y = randn(0, 20), randn(1, 20)

    def model() -> None:
        normal(x, y)

    blr, before = warm(model)
    y.sub_(0.7)
    assert_follows(blr, model, before)


def test_python_number_of_the_closure() -> None:
    x, y, offset = randn(0, 20), randn(1, 20), 0.0

    def model() -> None:
        normal(x, y, offset=offset)

    blr, before = warm(model)
    offset = 2.0
    assert_follows(blr, model, before)


def test_attribute_of_a_model_object() -> None:
    class Holder:
        def __init__(self) -> None:
            self.y = randn(1, 20)

        def __call__(self, x: Tensor) -> None:
            normal(x, self.y)

    holder, x = Holder(), randn(0, 20)
    blr, before = warm(holder, x)
    holder.y = randn(2, 20)
    before = assert_follows(blr, holder, before, x)
    holder.y.mul_(3.0)
    assert_follows(blr, holder, before, x)


def test_mutable_settings_of_the_model() -> None:
    settings = {"offset": 0.0, "rows": [0, 1, 2]}
    x, y = randn(0, 20), randn(1, 20)

    def model() -> None:
        normal(x[settings["rows"]], y[settings["rows"]], offset=settings["offset"])

    blr, before = warm(model)
    settings["offset"] = 1.0
    before = assert_follows(blr, model, before)
    settings["rows"].append(3)
    assert_follows(blr, model, before)


# --------------------------------------------------------------------------------- Python branches


def test_branch_on_an_argument() -> None:
    def model(x: Tensor, y: Tensor, robust: bool) -> None:
        if robust:
            normal(x, y.clamp(-1, 1))
        else:
            normal(x, y)

    x, y = randn(0, 20), randn(1, 20)
    blr, before = warm(model, x, y, False)
    assert_follows(blr, model, before, x, y, True)
    assert blr.evaluate_loss(x, y, False) == pytest.approx(before, rel=1e-12)


def test_branch_on_the_data() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        normal(x, y, offset=1.0 if y.sum() > 0 else -1.0)

    x, y = randn(0, 20), randn(1, 20).abs()
    blr, before = warm(model, x, y)
    y.neg_()
    assert_follows(blr, model, before, x, y)


def test_training_flag_of_a_module() -> None:
    class Model(PyroModule):
        def forward(self, x: Tensor, y: Tensor) -> None:
            normal(x, y, offset=0.0 if self.training else 1.0)

    module, x, y = Model(), randn(0, 20), randn(1, 20)
    blr, before = warm(module, x, y)
    module.eval()
    assert_follows(blr, module, before, x, y)
    module.train()
    assert blr.evaluate_loss(x, y) == pytest.approx(before, rel=1e-12)


def test_training_flag_of_a_child() -> None:
    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.child = PyroModule[torch.nn.Dropout](0.0)

        def forward(self, x: Tensor, y: Tensor) -> None:
            normal(x, y, offset=0.0 if self.child.training else 1.0)

    module, x, y = Model(), randn(0, 20), randn(1, 20)
    blr, before = warm(module, x, y)
    module.child.eval()
    assert_follows(blr, module, before, x, y)


def test_old_content_in_another_tensor_after_a_change_in_place() -> None:
    """Small constants are recognised by content: what was made of them must not follow a change."""
    x, y = randn(0, 20), randn(1, 20)
    clean = x.clone(), y.clone()
    blr, before = warm(normal, x, y)
    x.mul_(3.0)
    y.add_(1.0)
    assert_follows(blr, normal, before, x, y)
    assert blr.evaluate_loss(*clean) == pytest.approx(before, rel=1e-12)

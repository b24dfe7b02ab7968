# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Natural guides of one name in one process: each keeps its own posterior."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro.nn.module import PyroModule

from pyro_blr import BLR
from pyro_blr.errors import CheckpointError
from pyro_blr.guides import (
    AutoNatural,
    AutoNaturalLowRankMultivariateNormal,
    AutoNaturalMultivariateNormal,
    AutoNaturalNormal,
)
from tests.state.runs import X, Y, assert_same, everything
from tests.state.test_first_use import both_stores, regression, weights_alone

KINDS = [
    AutoNatural,
    AutoNaturalNormal,
    AutoNaturalMultivariateNormal,
    AutoNaturalLowRankMultivariateNormal,
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def fitted(kind: Callable[[Any], Any], model: Any) -> BLR:
    pyro.set_rng_seed(2)
    blr = BLR(model, kind(model), on_sampled="ignore")
    for _ in range(4):
        blr.step(X, Y)
    return blr


def naturals(blr: BLR) -> dict[str, torch.Tensor]:
    held = blr.guide.naturals()
    return {f"{b.name} {k}": t.detach().clone() for b, n in held.items() for k, t in enumerate(n)}


@both_stores
@every_kind
def test_a_second_guide_leaves_the_first_alone(kind: Callable[[Any], Any], local: bool) -> None:
    with pyro.settings.context(module_local_params=local):
        first = fitted(kind, regression)
        reached, median, loss = naturals(first), first.guide.median(), first.evaluate_loss(X, Y)
        second = fitted(kind, weights_alone)
        own = naturals(second)
        assert_same(naturals(first), reached)
        assert_same(first.guide.median(), median)
        assert first.evaluate_loss(X, Y) == loss
        assert set(first.guide(X)) == {"w", "s"}
        first.step(X, Y)
        assert_same(naturals(second), own)
        third = fitted(kind, regression)
        assert_same(naturals(third), reached)


def test_two_guides_of_one_model_take_turns() -> None:
    """Steps of one are those that it takes alone, whoever steps in between."""
    alone = fitted(AutoNatural, regression)
    expected = [alone.step(X, Y) for _ in range(3)]
    left, right = fitted(AutoNatural, regression), fitted(AutoNatural, regression)
    found = []
    for _ in range(3):
        found.append((left.step(X, Y), right.step(X, Y)))
    assert found == [(x, x) for x in expected]


def test_a_copy_of_a_guide_has_its_own_values() -> None:
    blr = fitted(AutoNatural, regression)
    copied = copy.deepcopy(blr.guide)
    reached = copied.median()
    blr.step(X, 3 * Y)
    assert not torch.equal(blr.guide.median()["w"], reached["w"])
    assert_same(copied.median(), reached)


def test_the_store_mirrors_the_guide_that_was_used_last() -> None:
    first = fitted(AutoNatural, regression)
    fitted(AutoNatural, weights_alone)
    first.evaluate_loss(X, Y)
    store = pyro.get_param_store()
    held = first.guide.naturals()
    stored = [v for n, v in store.named_parameters() if n.startswith("AutoNatural.natural.")]
    leaves = [t for natural in held.values() for t in natural]
    assert all(any(torch.equal(t, v) for v in stored) for t in leaves)


def test_pyros_svi_moves_the_guide_that_it_was_given() -> None:
    first = fitted(AutoNatural, regression)
    fitted(AutoNatural, regression)
    before = naturals(first)
    svi = pyro.infer.SVI(
        regression, first.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO()
    )
    svi.step(X, Y)
    after = naturals(first)
    assert all(not torch.equal(after[n], before[n]) for n in before)


def test_a_store_that_is_loaded_later(tmp_path: Path) -> None:
    """What was loaded from a file is where the guide goes on, after its first use too."""
    blr = fitted(AutoNatural, regression)
    reached = everything(blr)
    pyro.get_param_store().save(tmp_path / "store")
    blr.step(X, 3 * Y)
    pyro.get_param_store().load(tmp_path / "store")
    assert_same(everything(blr), reached)
    blr.step(X, 3 * Y)
    assert not torch.equal(next(iter(naturals(blr).values())), next(iter(reached.values())))


def test_a_store_of_other_shapes_that_is_loaded_later(tmp_path: Path) -> None:
    blr = fitted(AutoNatural, regression)
    pyro.get_param_store().save(tmp_path / "store")
    pyro.clear_param_store()
    blr = fitted(AutoNatural, weights_alone)
    reached = naturals(blr)
    pyro.get_param_store().load(tmp_path / "store")
    store = pyro.get_param_store()
    (name, *_) = [n for n in store if n in dict(blr.guide.named_parameters())] or [""]
    for wrong in [n for n in store if n.startswith("AutoNatural.natural.")]:
        store[wrong] = torch.ones(2, 2)
    with pytest.raises(CheckpointError, match=r"AutoNatural\.natural\..*Mend:"):
        blr.evaluate_loss(X, Y)
    pyro.clear_param_store()
    assert_same(naturals(blr), reached)
    assert not name


def test_a_step_reads_leaves_and_a_handler_of_parameters_sees_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Attributes of a Pyro module are slow; what looks at ``pyro.param`` is told nevertheless."""
    blr = fitted(AutoNatural, regression)
    asked: list[str] = []
    of_pyro = PyroModule.__getattr__

    def counted(module: PyroModule, name: str) -> Any:
        asked.append(name)
        return of_pyro(module, name)

    monkeypatch.setattr(PyroModule, "__getattr__", counted)
    blr.step(X, Y)
    assert not [name for name in asked if name.startswith("natural_")]
    with pyro.poutine.trace(param_only=True) as seen:
        blr.guide.naturals()
    assert [name for name in seen.trace.nodes if "natural_0" in name]

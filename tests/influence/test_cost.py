# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""One pass over all data, and a part of their messages at a time."""

import math
import time
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr.errors import MemoryLimitError
from pyro_blr.influence import influence, parts, removal
from tests.checks import engine
from tests.influence.models import MODELS, Example, normals
from tests.oracles.textbook import ALL


def regression(X: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(X.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, 1.0), obs=y)


def test_a_hundred_thousand_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds (on one core, shared), and no more than a few MB of messages at once."""
    X = normals(0, 100_000, 10)
    y = X.sum(-1) + normals(1, 100_000)
    blr, _ = engine(regression)
    blr.step(X, y)
    largest = 0
    plain = parts.messages_of

    def watched(*args: object) -> object:
        nonlocal largest
        found = plain(*args)  # type: ignore[arg-type]
        largest = max(largest, sum(t.numel() for m in found.values() for t in m))
        return found

    monkeypatch.setattr(parts, "messages_of", watched)
    start = time.perf_counter()
    loo = blr.influence(X, y).loo
    assert time.perf_counter() - start < 15
    assert largest <= removal.PIECE
    covariance = torch.linalg.inv(torch.eye(10) + X.mT @ X)
    mean = covariance @ (X.mT @ y)
    leverage = ((X @ covariance) * X).sum(-1)
    error = (y - X @ mean) / (1 - leverage)
    expected = dist.Normal(0.0, (1 / (1 - leverage)).sqrt()).log_prob(error)
    assert torch.allclose(loo, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("example", [MODELS[0], MODELS[3], MODELS[6]], ids=lambda e: e.__name__)
def test_parts_do_not_matter(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    model, args = example()
    blr, _ = engine(model)
    blr.fit(*args, tol=1e-9)
    whole = blr.influence(*args)
    expected = whole.loo, whole.scores, whole.messages
    monkeypatch.setattr(removal, "PIECE", 1)  # one datum a part
    single = blr.influence(*args)
    assert torch.allclose(single.loo, expected[0], atol=1e-9)
    assert torch.allclose(single.scores, expected[1], atol=1e-9)
    for name, message in single.messages.items():
        assert all(map(torch.allclose, message, expected[2][name]))
    some = single.messages_of([2, 0])
    for name, message in some.items():
        pairs = zip(message, expected[2][name], strict=True)
        assert all(torch.allclose(m, every[[2, 0]]) for m, every in pairs)


def test_messages_that_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ALL[10].make()
    blr, _ = engine(problem.model)
    blr.step(*problem.args)
    monkeypatch.setattr(influence, "MOST_NUMBERS", 100)
    data = blr.influence(*problem.args)
    with pytest.raises(MemoryLimitError, match=r"messages_of\(index\)"):
        _ = data.messages
    assert data.messages_of(slice(0, 2))["w"][0].shape == (2, 4)


def test_many_numbers_hold_the_other_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many numbers of q nothing is solved; what is left out is of second order."""
    model, args = MODELS[0]()
    blr, _ = engine(model)
    blr.fit(*args, tol=1e-9)
    expected = blr.influence(*args)
    monkeypatch.setattr(influence, "MAX_NUMBERS", 2)
    found = blr.influence(*args)
    assert "held" in found.how
    assert (found.loo - expected.loo).abs().max() < 0.05


def test_the_engine_is_left_as_it_is() -> None:
    model, args = MODELS[2]()
    blr, guide = engine(model)
    blr.fit(*args)
    before = {b.name: tuple(t.clone() for t in n) for b, n in guide.naturals().items()}
    steps, state = blr.num_steps, torch.get_rng_state()
    data = blr.influence(*args)
    _ = data.loo, data.on(lambda z: z["tau"]), data.prior(), str(data), repr(data)
    data.without(2).fit()
    assert blr.num_steps == steps
    for b, natural in guide.naturals().items():
        assert all(torch.equal(x, y) for x, y in zip(natural, before[b.name], strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("example", [MODELS[1], MODELS[2]], ids=lambda e: e.__name__)
def test_where_gradients_are_off(example: Example, mode: Any) -> None:
    model, args = example()
    blr, _ = engine(model)
    blr.fit(*args, tol=1e-9)
    data = blr.influence(*args)
    expected = data.loo, data.on(lambda z: next(iter(z.values()))), data.without(1).loss
    with mode():
        data = blr.influence(*args)
        found = data.loo, data.on(lambda z: next(iter(z.values()))), data.without(1).loss
        assert data.prior()
    assert torch.allclose(found[0], expected[0], atol=1e-9)
    assert torch.allclose(found[1], expected[1], atol=1e-9)
    assert found[2] == pytest.approx(expected[2], abs=1e-9)


def test_data_that_are_not_solved_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, args = MODELS[0]()
    blr, _ = engine(model)
    blr.fit(*args)
    monkeypatch.setattr(removal, "PASSES", 1)
    monkeypatch.setattr(removal, "CLOSE", 0.0)
    data = blr.influence(*args)
    assert data.unsettled == []  # few enough to be refitted without
    monkeypatch.setattr(removal, "REFITS", 1)
    data = blr.influence(*args)
    assert data.unsettled
    assert set(data.unsettled) <= set(data.ranked(len(data.unsettled)).tolist())
    assert "unsettled" in str(data)
    assert "not solved are NaN" in data.how
    assert math.isnan(data.elpd)
    is_open = torch.zeros(len(data), dtype=torch.bool)
    is_open[data.unsettled] = True
    for found in (data.loo, data.scores, data.on(lambda z: z["w"][0])):
        assert torch.equal(found.isnan(), is_open)

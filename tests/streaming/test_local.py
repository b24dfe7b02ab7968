# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Latents of the data's own are new with each batch; what all data share is kept."""

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_blr.energy.merging
from pyro_blr import BLR
from pyro_blr.errors import ArgumentError, PlateSizeError
from pyro_blr.guides import AutoNaturalMultivariateNormal
from pyro_blr.lifting.arrow_blocks import ArrowBlock
from tests.streaming.models import (
    data,
    difference,
    engine,
    is_as_before,
    masked_outputs,
    naturals,
    schools,
    schools_of_unknown_spread,
)

Y = torch.randn(12, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 2


def apart(left: BLR, right: BLR) -> float:
    """How far the laws of the mean that all data share are from each other."""
    ours, theirs = (b.guide.marginal("mu") for b in (left, right))
    return max(
        float((ours.mean - theirs.mean).abs()), float((ours.variance / theirs.variance - 1).abs())
    )


def fit(model: Callable[..., Any], y: Tensor) -> BLR:
    blr = engine(model)
    blr.fit(y)
    return blr


@pytest.mark.parametrize("ends", [(4, 8), (1, 3), (9, 10)], ids=str)
def test_batches_of_any_size_equal_a_fit(ends: tuple[int, int]) -> None:
    parts = Y.tensor_split(ends)
    blr = engine(schools)
    done = [blr.update(y) for y in parts]
    assert all(d.is_exact for d in done)
    everything = fit(schools, Y)
    assert apart(blr, everything) < 1e-12
    last = everything.guide.marginal("theta").mean[-len(parts[2]) :]
    assert torch.allclose(blr.guide.marginal("theta").mean, last, rtol=1e-12)
    rest = fit(schools, torch.cat([parts[0], parts[2]]))
    again = blr.forget(parts[1])
    assert apart(blr, rest) < 1e-12
    blr.forget(again)
    assert apart(blr, everything) < 1e-12
    blr.forget(done[1])
    assert apart(blr, rest) < 1e-12
    merged = fit(schools, parts[0])
    merged.merge([fit(schools, y) for y in parts[1:]])
    assert apart(merged, everything) < 1e-12


def test_losses_add_up_where_data_have_latents() -> None:
    blr = engine(schools)
    losses = [blr.update(y).loss for y in Y.tensor_split((5, 6))]
    assert sum(losses) == pytest.approx(fit(schools, Y).evaluate_loss(Y), rel=1e-12)


def arrow(model: Callable[..., Any]) -> BLR:
    return BLR(model, AutoNaturalMultivariateNormal(model, structure="arrow"))


def test_groups_of_an_arrow_head() -> None:
    case = data(count=12)["group_effects"]
    blr, everything, rest = (arrow(case.model) for _ in range(3))
    for index in (slice(0, 5), slice(5, 12)):
        assert blr.update(*case.rows(index)).is_exact
    everything.fit(*case.data)
    assert [type(b) for b in blr.view.blocks] == [ArrowBlock]
    assert difference(blr, everything) < 1e-12
    blr.forget(*case.rows(slice(0, 5)))
    rest.fit(*case.rows(slice(5, 12)))
    assert difference(blr, rest) < 1e-12


@pytest.mark.parametrize("ends", [(4, 8), (2, 5)], ids=str)
def test_an_arrow_head_whose_groups_are_the_data(ends: tuple[int, int]) -> None:
    parts = Y.tensor_split(ends)
    blr, everything, merged, rest = (arrow(schools) for _ in range(4))
    assert all([blr.update(y).is_exact for y in parts])
    everything.fit(Y)
    assert apart(blr, everything) < 1e-12
    blr.forget(parts[0])
    rest.fit(torch.cat(parts[1:]))
    assert apart(blr, rest) < 1e-12
    merged.fit(parts[2])
    merged.merge(rest_of(parts[:2]))
    assert apart(merged, everything) < 1e-12


def rest_of(parts: Any) -> list[Any]:
    fits = [arrow(schools) for _ in parts]
    for blr, y in zip(fits, parts, strict=True):
        blr.fit(y)
    return [b.guide.state() for b in fits]


def test_a_block_that_falls_apart_and_comes_together_again(monkeypatch: Any) -> None:
    # Beyond the size of a dense matrix the mean is a block of its own.
    monkeypatch.setattr(pyro_blr.energy.merging, "MAX_BLOCK_SIZE", 6)
    blr = engine(schools)
    parts = Y[:5], torch.cat([Y, Y, Y]), Y[5:9]
    sites = []
    for y in parts:
        blr.update(y)
        sites.append(sorted(b.name for b in blr.view.blocks))
    assert sites == [["mu+theta"], ["mu", "theta"], ["mu+theta"]]
    everything = fit(schools, torch.cat(parts))
    assert apart(blr, everything) < 0.2  # the second batch is mean-field


def test_latents_that_all_data_share_keep_their_size() -> None:
    def model(g: Tensor, y: Tensor, count: int) -> None:
        with pyro.plate("groups", count):
            a = pyro.sample("a", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(a[g], 0.5), obs=y)

    blr = engine(model)
    g = torch.tensor([0, 1, 2, 0])
    blr.update(g, Y[:4], 3)
    before = naturals(blr)
    with pytest.raises(PlateSizeError, match="groups"):
        blr.update(g, Y[4:8], 4)
    assert is_as_before(blr, before)
    blr.update(g, Y[4:8], 3)
    everything = engine(model)
    everything.fit(torch.cat([g, g]), Y[:8], 3)
    assert difference(blr, everything) < 1e-12


def test_rows_that_share_a_covariance_until_a_batch_tells_them_apart() -> None:
    X, y = data()["many_outputs"].data
    mask = torch.ones(8, 2, dtype=torch.bool)
    mask[5:, 0] = torch.tensor([True, False, False])
    blr, everything, rest = engine(masked_outputs), engine(masked_outputs), engine(masked_outputs)
    everything.fit(X, y, mask)
    rest.fit(X[5:], y[5:], mask[5:])
    blr.update(X[:5], y[:5], True, plate="data")
    assert [b.row_dims for b in blr.view.blocks] == [1]
    first = BLR(masked_outputs, copy.deepcopy(blr.guide))
    assert blr.update(X[5:], y[5:], mask[5:], plate="data").is_exact
    assert [b.row_dims for b in blr.view.blocks] == [0]
    assert difference(blr, everything) < 1e-12
    first.merge(rest, X, y, mask, plate="data")
    assert difference(first, everything) < 1e-12
    blr.forget(X[:5], y[:5], True, plate="data")
    assert difference(blr, rest) < 1e-12


def test_what_belongs_to_the_data_has_to_be_said_where_plates_are_nested() -> None:
    X, y = data()["many_outputs"].data
    with pytest.raises(ArgumentError, match=r"latent 'w' in .*plate='data'"):
        engine(masked_outputs).update(X, y, True)


def test_unknown_spread_of_latents_of_the_data() -> None:
    blr = engine(schools_of_unknown_spread)
    for y in Y.tensor_split((4, 9)):
        done = blr.update(y)
        assert done.converged
        assert not done.is_exact
    ours, theirs = blr.guide.marginal("mu"), fit(schools_of_unknown_spread, Y).guide.marginal("mu")
    assert float((ours.mean - theirs.mean).abs() / theirs.stddev) < 0.2
    before = blr.guide.marginal("tau").mean
    blr.forget(blr.update(Y[:3]))
    assert torch.allclose(blr.guide.marginal("tau").mean, before, rtol=1e-12)
    parts = [fit(schools_of_unknown_spread, y) for y in Y.tensor_split((4, 9))]
    merged = parts[0].merge(parts[1:])
    assert not merged.is_exact
    ours = parts[0].guide.marginal("mu")
    assert float((ours.mean - theirs.mean).abs() / theirs.stddev) < 0.2

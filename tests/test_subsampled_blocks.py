# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Blocks of q under subsampled plates: rows that a step does not see must not move with others.

So no block may couple elements across a subsampled plate, whatever the full model would merge.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from tests.checks import engine

ROWS = 20
Y = 1.0 + torch.randn(ROWS, generator=torch.Generator().manual_seed(3))
Model = Callable[[Tensor | None], None]


def common_mean(subsample: Tensor | None) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("n", ROWS, subsample=subsample) as i:
        z = pyro.sample("z", dist.Normal(a, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=Y[i])


def common_precision(subsample: Tensor | None) -> None:
    tau = pyro.sample("tau", dist.Gamma(3.0, 2.0))
    with pyro.plate("n", ROWS, subsample=subsample) as i:
        z = pyro.sample("z", dist.Normal(0.0, tau.rsqrt()))
        pyro.sample("y", dist.Normal(z, tau.rsqrt()), obs=Y[i])


def sum_over_the_plate(subsample: Tensor | None) -> None:
    with pyro.plate("n", ROWS, subsample=subsample) as i:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=Y[i])
    pyro.factor("total", -0.01 * z.sum() ** 2)


MERGED = {common_mean: ["a+z"], common_precision: ["z+tau"], sum_over_the_plate: ["z"]}
every_model = pytest.mark.parametrize("model", MERGED, ids=lambda m: m.__name__)


@every_model
def test_rows_of_a_subsample_share_no_block(model: Model) -> None:
    blr, guide = engine(model)
    rows = torch.tensor([2, 5, 7])
    blr.step(rows)
    block = guide.layout["z"]
    assert len(block.sites) == 1
    assert block.batch_shape == (ROWS,)
    before = guide.marginal("z")
    blr.step(torch.tensor([1, 3, 7]))
    after = guide.marginal("z")
    moved = ~torch.isclose(after.loc, before.loc) | ~torch.isclose(after.scale, before.scale)
    assert set(moved.nonzero().flatten().tolist()) <= {1, 3, 7}


@every_model
def test_a_merged_guide_comes_apart_when_its_plate_is_subsampled(model: Model) -> None:
    blr, guide = engine(model)
    blr.fit(None)
    assert [b.name for b in guide.blocks] == MERGED[model]
    mean = guide.median()["z"]
    blr.evaluate_loss(torch.tensor([2, 5, 7]))
    assert guide.layout["z"].batch_shape == (ROWS,)
    torch.testing.assert_close(guide.median()["z"], mean)


def test_the_notes_say_why_they_stay_apart() -> None:
    blr, _ = engine(common_mean)
    text = str(blr.explain(torch.tensor([2, 5, 7])))
    assert "across the plate 'n', which is subsampled" in text


def test_a_matrix_of_latents_starts_at_a_normal() -> None:
    """Its family's event is one vector, whatever the shape of the site."""

    def model() -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
        pyro.factor("f", m.sum())

    start = dist.Normal(torch.arange(6.0).reshape(2, 3), 0.5).to_event(2)
    blr, guide = engine(model, {"m": start})
    blr.evaluate_loss()
    torch.testing.assert_close(guide.median()["m"], torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("rows", [None, torch.arange(8)], ids=["all", "some"])
def test_rows_come_as_near_their_optimum_whatever_a_constant_adds(rows: Tensor | None) -> None:
    """The constant that another spelling or other units of the data add to the log density."""
    y = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(4)) ** 3

    def model(constant: float) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 10.0))
        pyro.factor("constant", torch.tensor(constant))
        with pyro.plate("n", ROWS, subsample=rows, dim=-2) as i:
            a = pyro.sample("a", dist.Normal(m, 1.0))
            tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
            with pyro.plate("c", 6, dim=-1):
                pyro.sample("y", dist.Normal(a, tau.rsqrt()), obs=y[i])

    found = []
    for constant in (0.0, 1e6):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        blr, guide = engine(model)
        for _ in range(3):
            blr.step(constant)
        found.append(guide.marginal("m").loc)
    assert float(found[0] - found[1]) == pytest.approx(0.0, abs=1e-9)

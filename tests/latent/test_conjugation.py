# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Conjugated models: the residual of the equation, the evidence, the posterior."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.testing import assert_close

from pyro_blr.errors import NotConjugatedError
from pyro_blr.latent import Conjugated, conjugated
from pyro_blr.latent.probe import Recorder
from tests.latent.rows import ALL, Row

rows = pytest.mark.parametrize("row", ALL.values(), ids=ALL.keys())


@rows
def test_every_row_is_exact(row: Row) -> None:
    found = conjugated(row.model, *row.data, exact=True)
    assert found.residual < 1e-12 and found.residuals.linearity < 1e-12
    assert found.residuals.points in (1, 1000)  # one is all there is without continuous latents
    assert found.verdict.startswith("exact")


@rows
def test_the_evidence_is_exact(row: Row) -> None:
    found = conjugated(row.model, *row.data)
    expected = row.evidence(*row.data)
    assert_close(found.log_evidence(*row.data), expected.squeeze(), atol=1e-10, rtol=1e-12)


@rows
def test_evidence_is_joint_over_posterior(row: Row) -> None:
    """log p(x) = log p(x, z) - log p(z | x), at any z."""
    found = conjugated(row.model, *row.data)
    posterior = found.posterior()
    assert set(posterior) == set(row.latents)
    for _ in range(3):
        z = posterior.sample()
        joint = log_joint(found, z)
        # Pyro's own density of a von Mises is right to 1e-7.
        atol = 1e-7 if row is ALL["mixture of von Mises"] else 1e-9
        assert_close(joint - posterior.log_prob(z), found.log_evidence(), atol=atol, rtol=1e-10)


def log_joint(found: Conjugated, values: Mapping[str, Tensor]) -> Tensor:
    """log p(x, z) of each datum by the model's own densities."""
    setting = found.setting()
    call = replace(setting.census.call, model=poutine.condition(found.model, values))
    depth, own = setting.layout.depth, setting.layout.own
    total = torch.zeros(())
    for site in call.run(Recorder()).sites.values():
        value = site.fn.log_prob(site.value)
        value = value.reshape((1,) * (depth - value.dim()) + value.shape)
        shared = [d for d in range(-depth, 0) if d not in own]
        total = total + (value.sum(shared) if shared else value)
    return total


def population(count: int) -> Any:
    preferred = 2.0 * math.pi * torch.arange(count) / count

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.VonMises(0.0, 1e-3))
        rates = torch.exp(math.log(10.0) * torch.cos(z.unsqueeze(-1) - preferred))
        pyro.sample("x", dist.Poisson(rates).to_event(1), obs=x)

    return model


@pytest.mark.parametrize(("count", "size"), [(8, 1.5e-3), (12, 3e-7), (20, 1e-13)])
def test_population_codes_say_how_far_they_are(count: int, size: float) -> None:
    x = torch.ones(3, count)
    found = conjugated(population(count), x)
    assert size / 5.0 < found.residual < 1.5 * size
    assert found.is_exact == (count == 20)
    if count != 20:
        with pytest.raises(NotConjugatedError, match="off by"):
            conjugated(population(count), x, exact=True)

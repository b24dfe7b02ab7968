# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Conjugated models: the residual of the equation, the evidence, the posterior."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from pyro_blr.errors import NotConjugatedError
from pyro_blr.latent import Conjugated, conjugated
from pyro_blr.latent.probe import Recorder
from tests.latent import rows as rows_of
from tests.latent.rows import ALL, COUNTS, SD, A, B, P, Row, U, X

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


def test_the_parameters_are_those_of_the_table() -> None:
    """In the packing of the families, in which the last class is the reference."""
    precision = torch.diag(SD**-2.0)
    found = conjugated(rows_of.factor_analysis, X)
    assert_close(found.r, (A.T @ precision @ U, 0.5 * A.T @ precision @ A))
    level = 0.5 * U @ precision @ U - 0.5 * precision.logdet() + 0.5 * P * math.log(2 * math.pi)
    assert_close(found.c, level)
    found = conjugated(rows_of.poisson_gamma, COUNTS)
    assert_close(found.r, (torch.tensor(0.0), torch.tensor(1.0)), atol=1e-13, rtol=0.0)
    found = conjugated(rows_of.normal_precision, X[:, 0])
    assert_close(found.r, (torch.tensor(-0.5), torch.tensor(0.4**2 / 2.0)))
    found = conjugated(rows_of.beta_bernoulli, torch.ones(4))
    assert_close(found.r, (torch.tensor(0.0), torch.tensor(-4.0)), atol=1e-12, rtol=0.0)
    found = conjugated(rows_of.dirichlet_categorical, torch.ones(1).long())
    assert_close(found.r[0], torch.tensor([0.0, 0.0, 0.0, -1.0]), atol=1e-12, rtol=0.0)
    found = conjugated(ALL["mixture of Poisson"].model, COUNTS)
    assert_close((found.r, found.c), (B - B[0], B))


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


@pytest.mark.parametrize(("count", "error"), [(8, 5e-3), (12, 1e-6), (20, 1e-10)])
def test_the_evidence_of_population_codes_is_as_good_as_the_residual(
    count: int, error: float
) -> None:
    x = torch.from_numpy(np.random.default_rng(0).poisson(2.0, (3, count)).astype(float))
    angle = 2.0 * math.pi * (torch.arange(400) + 0.5) / 400 - math.pi
    log_prior = torch.from_numpy(stats.vonmises(1e-3).logpdf(angle.numpy()))
    preferred = 2.0 * math.pi * torch.arange(count) / count
    rates = torch.exp(math.log(10.0) * torch.cos(angle.unsqueeze(-1) - preferred))
    joint = log_prior + dist.Poisson(rates).log_prob(x.unsqueeze(1)).sum(-1)
    expected = joint.logsumexp(-1) + math.log(2.0 * math.pi / 400)
    found = conjugated(population(count), x)
    assert_close(found.log_evidence(), expected, atol=error, rtol=0.0)


def test_a_population_without_one_neuron_is_not_conjugated() -> None:
    """Only the sum of all rates is flat, and the verdict knows which are there."""
    x = torch.ones(3, 20)
    found = conjugated(population(20), x, exact=True)
    x[1, 4] = torch.nan
    with pytest.raises(NotConjugatedError, match="elements of the data 'x' are missing"):
        found.posterior(x)
    with pytest.raises(NotConjugatedError, match="off by"):
        conjugated(population(20), x, exact=True)


@pytest.mark.parametrize(("count", "size"), [(8, 1.5e-3), (12, 3e-7), (20, 1e-13)])
def test_population_codes_say_how_far_they_are(count: int, size: float) -> None:
    x = torch.ones(3, count)
    found = conjugated(population(count), x)
    assert size / 5.0 < found.residual < 1.5 * size
    assert found.is_exact == (count == 20)
    if count != 20:
        with pytest.raises(NotConjugatedError, match="off by"):
            conjugated(population(count), x, exact=True)

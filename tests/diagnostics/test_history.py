# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A fit remembers what it knew of the distance to the optimum, step by step."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural, AutoNaturalNormal


def logistic(X, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=X @ w), obs=y)


def data():
    X = torch.randn(40, 2)
    return X, (X[:, 0] + torch.randn(40) > 0).double()


@pytest.mark.parametrize("guide", [AutoNatural, AutoNaturalNormal, AutoDelta])
def test_an_entry_for_each_step(guide):
    fit = BLR(logistic, guide(logistic)).fit(*data())
    assert fit.converged
    assert len(fit.gaps) == len(fit.residuals) == len(fit.losses) == fit.steps
    assert fit.gaps[-1] == fit.gap and fit.residuals[-1] == fit.residual


def test_the_residual_falls_and_the_gap_is_known_in_the_end():
    fit = BLR(logistic, AutoNatural(logistic)).fit(*data())
    assert fit.residuals[0] > 100 * fit.residuals[-1]
    assert fit.gaps[0] == math.inf and fit.gaps[-1] <= 1e-6


def test_a_skipped_step_has_an_entry_too():
    calls = 0

    def model(y):
        nonlocal calls
        calls += 1
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        noise = math.nan if calls == 8 else 0.0
        pyro.sample("y", dist.Normal(z.sin() * 2 + noise, 1.0), obs=y)

    with pytest.warns(UserWarning):
        fit = BLR(model, AutoNatural(model)).fit(torch.tensor(0.7), max_steps=12)
    assert fit.blr.skipped == 1
    assert len(fit.gaps) == len(fit.residuals) == len(fit.losses) == fit.steps

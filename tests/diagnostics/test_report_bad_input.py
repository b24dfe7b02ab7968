# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Fits, calls and data of which there is no report: each error says what to do."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta

from pyro_blr import BLR, errors
from pyro_blr.diagnostics import report, site_khat
from pyro_blr.guides import AutoNatural
from tests.diagnostics.models import CONJUGATE, fitted, scaled, svi, wave


def test_a_point_has_no_weights():
    args = wave(scaled)
    with pytest.raises(errors.GuideError, match="no density"):
        report(svi(scaled, AutoDelta(scaled), args, 3), *args)


@pytest.mark.parametrize("num_samples", [10, 99.5, True, -1])
def test_a_number_of_draws_that_cannot_be(num_samples):
    args = wave(scaled)
    with pytest.raises(errors.ArgumentError, match="Mend: report"):
        report(fitted(scaled, *args), *args, num_samples=num_samples)


def test_no_fit():
    with pytest.raises(errors.ArgumentError, match=r"report needs what blr\.fit"):
        report(3)


@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")
def test_draws_that_are_not_finite():
    def guide(y):
        pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(math.inf)), 1.0))

    def model(y):
        pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    with pytest.raises(errors.NonFiniteError, match=r"'z'.*Mend"):
        report(SVI(model, guide, pyro.optim.Adam({}), Trace_ELBO()), torch.tensor(0.0))


def test_a_minibatch():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 100, subsample_size=10) as rows:
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[rows])

    y = torch.linspace(-1.0, 1.0, 100)
    fit = BLR(model, AutoNatural(model)).fit(y, max_steps=3)
    with pytest.raises(errors.PlateSizeError, match="call report with all of the data"):
        report(fit, y)


def test_arguments_that_are_forgotten_or_unknown():
    args = wave(scaled)
    fit = fitted(scaled, *args)
    for call in (report, site_khat):
        with pytest.raises(errors.ArgumentError, match=r"missing.*'X'.*Mend: .*\(fit, X, y\)"):
            call(fit)
        with pytest.raises(errors.ArgumentError, match=r"'bogus'.*Mend: .*num_samples"):
            call(fit, *args, bogus=1)


def test_data_that_are_not_finite():
    X, y = wave(scaled)
    fit = fitted(scaled, X, y)

    def held(data):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 2):
            pyro.sample("y", dist.Normal(z, 1.0), obs=torch.as_tensor(data["y"]))

    nested = fitted(held, {"y": [1.0, 2.0]})
    for bad in ([1.0, math.nan], np.array([1.0, math.nan]), torch.tensor([1.0, math.inf])):
        with pytest.raises(errors.NonFiniteError, match=r"argument 1 .*Mend"):
            report(nested, {"y": bad})
    for call in (report, site_khat):
        with pytest.raises(errors.NonFiniteError, match=r"argument 2 .*NaN.*Mend"):
            call(fit, X, torch.cat([torch.tensor([math.nan]), y[1:]]))


def test_no_such_site():
    model, data = CONJUGATE["normal_mean"]
    found = report(fitted(model, *data()), *data(), num_samples=100)
    with pytest.raises(errors.ArgumentError, match=r"no site 'w'.*Mend: use one of \['z'\]"):
        found["w"]

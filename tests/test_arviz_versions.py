# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What must hold under each version of ArviZ: CI runs it under 0.23 and under 1.x too."""

from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_blr import BLR, to_arviz
from pyro_blr.arviz import loo
from pyro_blr.guides import AutoNatural
from tests.arviz_functions import installed, round_trip, table

# Raised inside ArviZ, by what it is built on.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
    pytest.mark.filterwarnings("ignore:(?s).*ArviZ.*:FutureWarning"),
]

Y = torch.tensor([1.2, -0.4, 0.9, 2.1, 0.3])


def model(y):
    z = pyro.sample("z", dist.Normal(0.0, 2.0))
    with pyro.plate("person", len(y)):
        pyro.sample("y", dist.Normal(z, 0.7), obs=y)


def fitted(times=1.0):
    """A fit whose q is so many times narrower than the posterior."""
    blr = BLR(model, AutoNatural(model)).fit(Y).blr
    law = blr.guide.marginal("z")
    blr.guide.set_natural({"z": dist.Normal(law.mean, law.stddev / times)})
    return blr


def exact():
    """Leave-one-out log densities in closed form."""
    precision = 0.25 + 4 / 0.49
    mean = (Y.sum() - Y) / 0.49 / precision
    return dist.Normal(mean, (0.49 + 1 / precision) ** 0.5).log_prob(Y).numpy()


def is_old():
    """Whether the only ArviZ is one before 1.0."""
    try:
        version("arviz-base")
    except PackageNotFoundError:
        return True
    return False


def pointwise(found):
    """The values by datum, which ArviZ has renamed."""
    return found.loo_i.values if is_old() else found.elpd_i.values


def test_the_container_is_that_of_the_version():
    kind = type(to_arviz(fitted(), Y, num_samples=5)).__name__
    assert kind == ("InferenceData" if is_old() else "DataTree")


@pytest.mark.parametrize("times", [0.5, 1.0])
def test_loo_is_the_closed_form(times):
    # Weights of the other sign would be off by some tenths where q is too wide.
    found = loo(to_arviz(fitted(times), Y, num_samples=4000, seed=0))
    np.testing.assert_allclose(pointwise(found), exact(), atol=0.1)
    assert float(found.pareto_k.max()) < 0.7


def test_loo_of_a_narrow_guide_says_so():
    with pytest.warns(UserWarning, match="Pareto"):
        found = loo(to_arviz(fitted(5.0), Y, num_samples=1000, seed=0))
    assert float(found.pareto_k.min()) > 0.7


def test_a_file_holds_what_was_written():
    round_trip(to_arviz(fitted(), Y, num_samples=20))


def test_functions_run():
    text, failed = table(["conjugate", "SVI AutoDelta"])
    assert failed == []
    assert installed()[0] in text
    assert "| netCDF round trip | 2 of 2 |" in text

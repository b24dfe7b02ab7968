# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A minibatch that does not fit its plate is refused by one typed error, whatever the guide."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.errors import SubsampleError
from pyro_blr.guides import AutoNatural

pytestmark = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")

FULL = 20
X = torch.linspace(-1.0, 1.0, FULL)


def model(x: Tensor, index: Any, inside: bool = False) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", FULL, subsample=index) as rows:
        x = X[rows] if inside else x
        pyro.sample("y", dist.Normal(w * x, 1.0), obs=x)


def by_size(x: Tensor, index: Any, inside: bool = False) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", FULL, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(w * x, 1.0), obs=x)


def whole(x: Tensor, index: Any, inside: bool = False) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(w * x, 1.0), obs=x)


def written(x: Tensor, index: Any, inside: bool = False) -> None:
    loc = pyro.param("loc", torch.tensor(0.0))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
    pyro.sample("w", dist.Normal(loc, scale))


def drawn(x: Tensor, index: Any, inside: bool = False) -> None:
    noise = pyro.sample("noise", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
    pyro.sample("w", dist.Normal(pyro.param("loc", torch.tensor(0.0)) + noise, 1.0))


GUIDES = {
    "AutoNatural": AutoNatural,
    "AutoNormal": AutoNormal,
    "AutoMultivariateNormal": AutoMultivariateNormal,
    "AutoDelta": AutoDelta,
    "written": lambda model: written,
    "drawn": lambda model: drawn,
}

LONG = torch.zeros(FULL + 5)
WRONG: dict[str, tuple[Any, Tensor, Any, bool, str]] = {
    "empty": (model, X[:0], torch.arange(0), False, "without rows"),
    "empty list": (model, X[:0], [], False, "without rows"),
    "empty by size": (by_size, X[:0], None, False, "without rows"),
    "no elements": (whole, X[:0], None, False, "no elements"),
    "too large": (model, LONG, torch.arange(FULL + 5), False, "larger than its plate"),
    "too large by size": (by_size, LONG, None, False, "larger than its plate"),
    "beyond": (model, X[:2], torch.tensor([0, FULL]), False, "outside 0"),
    "beyond, indexed inside": (model, X[:2], torch.tensor([0, FULL]), True, "outside 0"),
    "negative": (model, X[:2], torch.tensor([0, -1]), False, "outside 0"),
}


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_a_plate_is_named(case: str, guide: str, is_first: bool) -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    function, x, index, inside, says = WRONG[case]
    blr = BLR(function, GUIDES[guide](function), step_size=0.1)
    if not is_first:
        blr.step(X, torch.arange(FULL))
    with pytest.raises(SubsampleError, match=rf"plate 'data'[^$]*{says}[^$]*Mend"):
        blr.step(x, index, inside)
    blr.step(X, torch.arange(FULL))  # the engine goes on


def test_a_plate_without_elements_is_no_minibatch() -> None:
    """Only where a subsample is empty is there talk of minibatches."""
    said = {}
    for case in ("empty", "no elements"):
        function, x, index, inside, _ = WRONG[case]
        with pytest.raises(SubsampleError) as error:
            BLR(function, AutoNatural(function)).step(x, index, inside)
        said[case] = str(error.value)
    assert "an empty minibatch" in said["empty"] and f"of size {FULL}" in said["empty"]
    assert "minibatch" not in said["no elements"] and "size is 0" in said["no elements"]


def test_an_error_of_the_model_itself_stays_as_it_is() -> None:
    def broken(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(0.0, 1.0))
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        BLR(broken, AutoNatural(broken)).step(X)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Priors in plain numbers are on the CPU: their latents go to the data, and nothing else moves."""

import pyro
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural
from tests.fake_device import WITH_GRADIENTS, fake_device, fakes
from tests.plain_models import MODELS, data

#: Torch has no fake kernel for draws of a Dirichlet or a Beta.
NO_FAKE_DRAW = ("mixture", "hidden")


def places(blr: BLR) -> set[str]:
    return {t.device.type for n in blr.guide.naturals().values() for t in n}


@pytest.mark.parametrize("name", [n for n in MODELS if n not in NO_FAKE_DRAW])
def test_on_a_device_without_values(name, monkeypatch):
    """Nothing is copied to the host and no devices are mixed, first step or later."""
    with fake_device(monkeypatch), torch.device("cpu"):
        blr = BLR(MODELS[name], AutoNatural(MODELS[name]), on_sampled="ignore")
        given = fakes(data(), WITH_GRADIENTS)
        for _ in range(2):
            blr.step(*given)
        assert places(blr) == {WITH_GRADIENTS}
        with pyro.validation_enabled(False):
            values = blr.guide(*given).values()
        assert {t.device.type for t in values} == {WITH_GRADIENTS}


@pytest.mark.parametrize("name", MODELS)
def test_the_posterior_is_that_of_the_host(name, device):
    """On every device of the machine, with torch's default device the CPU."""
    found: list[dict[str, Tensor]] = []
    for where in ("cpu", device):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        with torch.device("cpu"):
            given = data(where)
            blr = BLR(MODELS[name], AutoNatural(MODELS[name]), on_sampled="ignore")
            for _ in range(5):
                blr.step(*given)
            assert places(blr) == {torch.device(where).type}
            found.append({k: v.cpu() for k, v in blr.guide.median(*given).items()})
    for site, expected in found[0].items():
        torch.testing.assert_close(found[1][site], expected, rtol=1e-9, atol=1e-9)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Priors in plain numbers are on the CPU: their latents go to the data, and nothing else moves."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR, diagnostics, errors, to_arviz
from pyro_blr.guides import AutoNatural
from pyro_blr.latent import conjugated
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
def test_the_posterior_is_that_of_the_host(name, accelerator):
    """With torch's default device the CPU."""
    found: list[dict[str, Tensor]] = []
    for where in ("cpu", accelerator):
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


def on_the_host(call: Any) -> Any:
    """What a call gives with torch's default device the CPU."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with torch.device("cpu"):
        return call()


def fit_of(name: str, given: tuple[Tensor, ...]) -> Any:
    return BLR(MODELS[name], AutoNatural(MODELS[name]), on_sampled="ignore").fit(
        *given, max_steps=30
    )


@pytest.mark.parametrize("name", ["vector", "mixture"])
def test_draws_for_arviz_and_diagnostics_are_of_the_same_model(name, device):
    given = data(device)
    fit = on_the_host(lambda: fit_of(name, given))
    tree = on_the_host(lambda: to_arviz(fit, *given, num_samples=20, seed=0))
    assert tree.log_likelihood["y"].shape == (1, 20, 20)
    report = on_the_host(lambda: diagnostics.report(fit, *given, num_samples=200))
    assert report.weighed.log_p.device.type == "cpu"


def test_influence_follows_the_data(device):
    found = []
    for where in ("cpu", device):
        given = data(where)
        fit = on_the_host(lambda given=given: fit_of("vector", given))
        influence = on_the_host(lambda given=given, fit=fit: fit.blr.influence(*given))
        assert influence.loo.device.type == torch.device(where).type
        found.append(influence.loo.cpu())
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-8)


def test_an_exact_posterior_follows_the_data(device):
    def model(x: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    counts = [(data(where)[1].abs() * 2).floor() for where in ("cpu", device)]
    here, there = (on_the_host(lambda x=x: conjugated(model, x).log_evidence(x)) for x in counts)
    assert there.device.type == torch.device(device).type
    torch.testing.assert_close(there.cpu(), here.cpu())


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (
            "Expected all tensors to be on the same device, but found at least two, cuda:0",
            "devices",
        ),
        ("indices should be either on cpu or on the same device as the indexed tensor", "devices"),
        ("Tensor for argument #2 'mat2' is on CPU, but expected it to be on GPU", "devices"),
        ("addmv input tensors must have the same dtype, but got Float and Double", "dtypes"),
        ("expected scalar type Float but found Double", "dtypes"),
    ],
)
def test_a_mix_in_the_model_is_named_with_its_mend(words, kind):
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        if y is not None:
            raise RuntimeError(words)
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    with pytest.raises(errors.DeviceError, match=rf"mixes {kind} after site 'mu'.*Mend"):
        BLR(model, AutoNatural(model)).step(torch.ones(3))


def test_other_errors_of_the_model_stay_as_they_are():
    def model(y: Tensor) -> None:
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side") as caught:
        BLR(model, AutoNatural(model)).step(torch.ones(3))
    assert not isinstance(caught.value, errors.BLRError)


def test_a_model_that_keeps_a_part_on_the_host_is_left_alone(device):
    """Its latents with dims meet tensors of the CPU, and their product is moved by the model."""
    X, y = data(device)
    here = X.cpu()

    def model(y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        pyro.sample("s", dist.Normal((here @ w).sum(), 1.0), obs=y.sum().cpu())

    blr = BLR(model, AutoNatural(model))
    on_the_host(lambda: blr.step(y))
    assert places(blr) == {"cpu"}

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Each dtype of data under each default: the right posterior in the latents' own, or an error."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR, diagnostics, errors, to_arviz
from pyro_blr.guides import AutoNatural
from pyro_blr.latent import conjugated
from tests.device_models import gamma_noise
from tests.plain_models import MODELS, data

FLOATS = (torch.float32, torch.float64)
MIXED = [(d, x) for d in FLOATS for x in (torch.float32, torch.float64) if d != x]


def fit_of(name: str, given: tuple[Tensor, ...]) -> BLR:
    pyro.clear_param_store()
    blr = BLR(MODELS[name], AutoNatural(MODELS[name]), on_sampled="ignore")
    for _ in range(10):
        blr.step(*given)
    return blr


@pytest.mark.parametrize(("default", "dtype"), MIXED, ids=str)
@pytest.mark.parametrize("name", ["line", "logistic", "groups", "local"])
def test_data_of_another_dtype_than_the_default(name, default, dtype):
    """Plain numbers, and so latents, have the default dtype; the posterior is the right one."""
    known = fit_of(name, data()).guide.quantiles([0.16, 0.5, 0.84], *data())
    torch.set_default_dtype(default)
    given = data(dtype=dtype)
    found = fit_of(name, given).guide.quantiles([0.16, 0.5, 0.84], *given)
    for site, value in found.items():
        assert value.dtype == default
        torch.testing.assert_close(value.double(), known[site], rtol=2e-4, atol=2e-4)
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize(("default", "dtype"), MIXED, ids=str)
def test_a_product_of_two_dtypes_is_named_with_its_mend(default, dtype):
    torch.set_default_dtype(default)
    with pytest.raises(errors.DeviceError, match=r"mixes dtypes after site .*Mend"):
        fit_of("vector", data(dtype=dtype))
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_latents_in_half_precision_are_refused(dtype):
    X, y = data(dtype=dtype)
    with pytest.raises(errors.DeviceError, match=r"latent 'w' is of torch.*16.*Mend.*float\(\)"):
        BLR(gamma_noise, AutoNatural(gamma_noise)).step(X, y)


@pytest.mark.parametrize("default", FLOATS, ids=str)
def test_a_model_in_float32_stays_in_float32(default):
    """Natural parameters and messages are float64 by design; what a user sees is the model's."""
    torch.set_default_dtype(default)
    X, y = data(dtype=torch.float32)
    blr = BLR(gamma_noise, AutoNatural(gamma_noise))
    fit = blr.fit(X, y)
    assert fit.converged
    assert {f.tier for f in blr.explain(X, y).factors} == {"exact"}
    seen = [*blr.guide(X, y).values(), *blr.guide.median(X, y).values()]
    seen += [blr.guide.marginal(s).sample() for s in blr.guide.latents]
    assert {t.dtype for t in seen} == {torch.float32}
    tree = to_arviz(fit, X, y, num_samples=10, seed=0)
    assert {str(v.dtype) for v in tree.posterior.data_vars.values()} == {"float32"}
    assert diagnostics.report(fit, X, y, num_samples=200).khat < 0.7
    influence = blr.influence(X, y)
    assert bool(influence.loo.isfinite().all())
    torch.set_default_dtype(torch.float64)
    X, y = data()
    wide = BLR(gamma_noise, AutoNatural(gamma_noise))
    wide.fit(X, y)
    known = wide.influence(X, y).loo
    torch.testing.assert_close(influence.loo.double(), known, rtol=1e-4, atol=1e-4)


def test_exact_posteriors_are_float64_whatever_the_data_are():
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), x.new_ones(())))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    _, y = data(dtype=torch.float32)
    posterior = conjugated(model, y).posterior(y)["mu"]
    assert posterior.loc.dtype == torch.float64
    torch.testing.assert_close(posterior.loc, y.double().sum() / (1 + len(y)))

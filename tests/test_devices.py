# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""On every device of this machine, in both dtypes: the posterior, and where its tensors are.

On a machine without an accelerator the devices are the CPU alone; tests/test_fake_devices.py runs
whole steps on tensors that behave as if on another one.
"""

import math
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.families import MultivariateNormal
from pyro_blr.guides import AutoNatural
from pyro_blr.lifting import quadrature
from pyro_blr.lifting.block_moments import moments_of
from pyro_blr.lifting.blocks import Block, Placement
from pyro_blr.lifting.expectation import compile_plan
from pyro_blr.lifting.scalars import Scalars
from pyro_blr.lifting.segments import sorted_segment_sum
from pyro_blr.lifting.tensor import LiftedTensor
from pyro_blr.lifting.terms import LatentSite
from tests.device_models import cases, moved
from tests.fake_device import forget_tables

CASES = cases()
#: A fit whose gap is below TOL nats has its means within sqrt(2 TOL) standard deviations.
TOL = 1e-12
#: In standard deviations of the posterior and its distance from 0; float32 has seven digits.
TOLERANCES = {torch.float64: math.sqrt(2 * TOL), torch.float32: 1e-4}
DETERMINISTIC = [n for n, c in CASES.items() if c.tier != "sampled" and n != "minibatch"]

by_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


def fitted(name: str, device: torch.device, dtype: torch.dtype) -> tuple[BLR, tuple[Tensor, ...]]:
    """A converged engine on a model whose data are on a device and in a dtype."""
    pyro.clear_param_store()
    case = CASES[name]
    data = moved(case.data, device, dtype)
    blr = BLR(case.model, AutoNatural(case.model), on_sampled="error")
    fit = blr.fit(*data, max_steps=200, tol=TOL)
    assert fit.converged, fit.reason
    return blr, data


def summary(blr: BLR, data: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Each site's quantiles at minus one, zero and one standard deviation. # shape: (3, *site)"""
    return blr.guide.quantiles([0.15865525, 0.5, 0.84134475], *data)


def places(tensors: list[Tensor]) -> set[Any]:
    return {(t.device.type, t.dtype) for t in tensors}


@by_dtype
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_posterior_is_the_same_on_every_device(name, device, dtype):
    reference, cpu_data = fitted(name, torch.device("cpu"), torch.float64)
    expected, loss = summary(reference, cpu_data), reference.evaluate_loss(*cpu_data)
    blr, data = fitted(name, device, dtype)
    assert blr.evaluate_loss(*data) == pytest.approx(loss, rel=TOLERANCES[dtype])
    for site, got in summary(blr, data).items():
        known = expected[site]
        scale = known[2] - known[0] + known[1].abs()
        error = ((got.double().cpu() - known).abs() / scale).max()
        assert error <= TOLERANCES[dtype], f"{site}: {error:.1e}"


@by_dtype
@pytest.mark.parametrize("name", CASES)
def test_what_a_user_sees_is_where_and_what_the_model_is(name, device, dtype):
    case = CASES[name]
    data = moved(case.data, device, dtype)
    blr = BLR(case.model, AutoNatural(case.model), on_sampled="ignore")
    assert isinstance(blr.step(*data), float)
    guide = blr.guide
    seen = [guide.marginal(site).sample() for site in guide.latents]
    seen += [*guide.median(*data).values(), *summary(blr, data).values()]
    seen += list(guide(*data).values())
    assert places(seen) == {(device.type, dtype)}
    # Natural parameters keep float64 whatever the model's dtype is, on the model's device.
    held = [t for n in guide.naturals().values() for t in n]
    held += [t for m in blr.messages(*data).values() for t in m]
    assert places(held) == {(device.type, torch.float64)}


@by_dtype
def test_explain_names_the_same_tiers_on_every_device(device, dtype):
    for case in CASES.values():
        pyro.clear_param_store()
        blr = BLR(case.model, AutoNatural(case.model), on_sampled="ignore")
        tiers = {f.site: f.tier for f in blr.explain(*moved(case.data, device, dtype)).factors}
        assert tiers["k" if "k" in tiers else "y"] == case.tier


def test_sums_over_segments_are_those_of_the_host(device):
    """The sorted sums are for accelerators; they are held to the host's on the host too."""
    index = torch.randint(0, 7, (1000,))
    index[index == 3] = 4  # an empty segment inside, and two at the end
    for shape in ((1000,), (1000, 3), (1000, 2, 2)):
        values = torch.randn(shape)
        expected = torch.zeros(9, *shape[1:]).index_add(0, index, values)
        sums = [sorted_segment_sum(values.to(device), index.to(device), 9) for _ in range(2)]
        torch.testing.assert_close(sums[0].cpu(), expected.cpu(), rtol=1e-12, atol=1e-12)
        assert torch.equal(sums[0], sums[1])


def test_torchs_default_device_does_not_reach_a_model_on_the_host():
    """Tables and numbers made at a trace are kept, whatever torch's default device was then."""
    forget_tables()
    w = LatentSite("w", (6,), 1, True)
    family = MultivariateNormal()
    block = Block("w", family, (w,), (), 6, {"w": Placement(())})
    mean = torch.randn(6)
    natural = family.natural((mean, torch.eye(6) + mean.outer(mean)))
    moments = {block: moments_of(block, natural)}

    def rearranged(v: Tensor) -> Tensor:
        pieces = [v.reshape(2, 3).T.reshape(-1)[[0, 3, 4]], v.cumsum(0).flip(0), v.roll(2, 0)]
        return torch.cat([*pieces, (v[1:] - v[:-1]).sum().reshape(1), 2.0 * v[:2]])

    with torch.device("meta"):
        lifted = LiftedTensor.of_site(w, torch.float64, torch.device("cpu"))
        plans = [compile_plan(f(lifted).poly, {"w": block}) for f in (rearranged, torch.sum)]
        one = torch.ones_like(mean)
        pair = Scalars((mean, mean), (one, one), 0.5 * one)
        integrand = quadrature.Integrand(torch.mul, 6)
        rule = quadrature.calibrate(integrand, pair).rule
        values = [plan.evaluate(moments)[0].detach() for plan in plans]
        product = integrand.expectation(pair, rule)
    torch.testing.assert_close(values, [rearranged(mean), mean.sum()])
    torch.testing.assert_close(product, mean.square() + 0.5)
    forget_tables()

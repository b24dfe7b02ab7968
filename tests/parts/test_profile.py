# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Latents of a part's own rows, at their optimum given what all parts share."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_blr import BLR, errors
from pyro_blr.energy.parts import split
from pyro_blr.engine import detached
from pyro_blr.guides import AutoNatural, AutoNaturalMultivariateNormal
from pyro_blr.part_checks import local_blocks
from pyro_blr.profile_objective import ProfileObjective
from pyro_blr.steps.taken import residual

from .models import LOCAL
from .scenarios import started


def profile(example) -> tuple[ProfileObjective, BLR]:
    """The objective of all rows as a function of what parts would share, after some steps."""
    pyro.set_rng_seed(3)
    blr = started(example, blocks="site")
    for _ in range(6):
        blr.step(*example.rows)
    part = blr._objective(example.rows, {})
    found = split(part.energy.traced, blr.sharded)
    naturals = detached(blr.guide.naturals())
    return ProfileObjective(part, local_blocks(part.energy, found), naturals), blr


def second_order(objective, naturals, direction):
    """The gradient of -ELBO, and the Hessian times a direction, by block."""
    leaves = {b: tuple(t.clone().requires_grad_() for t in n) for b, n in naturals.items()}
    flat = [t for n in leaves.values() for t in n]
    gradient = torch.autograd.grad(objective.negative_elbo(leaves), flat, create_graph=True)
    product = torch.autograd.grad(gradient, flat, [t for n in direction.values() for t in n])
    return [g.detach() for g in gradient], list(product)


def direction_at(naturals):
    generator = torch.Generator().manual_seed(5)
    return {
        b: tuple(
            b.family.symmetrize(
                tuple(t.abs().mean() * torch.randn(t.shape, generator=generator) for t in n)
            )
        )
        for b, n in naturals.items()
    }


@pytest.mark.parametrize("name", LOCAL)
def test_local_latents_are_at_their_optimum_and_derivatives_are_those_there(name):
    whole, blr = profile(LOCAL[name])
    naturals = whole.moved(detached(blr.guide.naturals()))
    full = whole.full(naturals)
    local = {b: full[b] for b in whole.local}
    assert residual(local, whole.local_messages(naturals)) < 1e-12
    direction = direction_at(naturals)
    _, product = second_order(whole, naturals, direction)
    size = 1e-4

    def gradient(times):
        moved = {
            b: tuple(t + times * size * d for t, d in zip(n, direction[b], strict=True))
            for b, n in naturals.items()
        }
        return second_order(whole, moved, direction)[0]

    for own, up, down in zip(product, gradient(1), gradient(-1), strict=True):
        difference = (up - down) / (2 * size)
        torch.testing.assert_close(own, difference, rtol=1e-3, atol=1e-3 * float(own.abs().max()))


def outside(y):
    """A factor outside of the plate that depends on the latents in it."""
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)
    pyro.sample("total", dist.Normal(z.sum(), 1.0), obs=torch.tensor(0.0))


def drawn(y):
    """A factor at draws beside local latents."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("three", dist.Normal(w.prod() + w.norm(), 1.0), obs=torch.tensor(0.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "guide", "words"),
    [
        (outside, AutoNatural, "factor 'total' is outside of the plates"),
        (drawn, AutoNatural, r"the factors \['three'\] are at draws"),
        (LOCAL["dispersed"].model, AutoNaturalMultivariateNormal, "couples latents of the plates"),
    ],
)
def test_what_no_part_sees_alone_is_refused(model, guide, words):
    rows = (torch.ones(4),) if model is not LOCAL["dispersed"].model else (torch.ones(4, 3),) * 2
    rows = (rows[0], torch.ones(4)) if len(rows) == 2 else rows
    blr = BLR(model, guide(model), on_sampled="ignore")
    energy = blr._objective(rows, {}).energy
    with pytest.raises(errors.GuideError, match=f"{words}.*Mend"):
        local_blocks(energy, split(energy.traced))

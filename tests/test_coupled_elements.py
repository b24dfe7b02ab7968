# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Mean-field guides of correlated posteriors: short steps with a long way to go.

Of a Gaussian posterior of precision P the best mean-field mean is the posterior's own, and a mean d
away from it is ``d'Pd / 2`` nats short.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNaturalNormal

KINDS = [AutoNormal, AutoDiagonalNormal, AutoNaturalNormal]
CENTRE = torch.tensor([3.0, -2.0])


def correlated(r: float, sampled: bool) -> tuple[Any, Tensor, Tensor]:
    """A model, its precision and its mean.

    :param sampled: whether there is also a factor at draws, which says next to nothing.
    """
    covariance = torch.tensor([[1.0, r], [r, 1.0]])

    def model() -> None:
        z = pyro.sample("z", dist.MultivariateNormal(CENTRE, covariance))
        if sampled:
            pyro.sample("o", dist.Normal(z.norm(), 1e4), obs=torch.tensor(0.0))

    return model, torch.linalg.inv(covariance), CENTRE


def regression(sampled: bool) -> tuple[Any, Tensor, Tensor]:
    """A covariate that is not centred."""
    generator = torch.Generator().manual_seed(0)
    x = 20.0 + torch.randn(100, generator=generator)
    design = torch.stack([torch.ones(100), x], 1)
    y = 1.0 + 0.5 * x + 0.3 * torch.randn(100, generator=generator)

    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 10.0).to_event(1))
        with pyro.plate("data", 100):
            pyro.sample("y", dist.Normal(design @ w, 0.3), obs=y)
        if sampled:
            pyro.sample("o", dist.Normal(w.norm(), 1e4), obs=torch.tensor(0.0))

    precision = design.T @ design / 0.09 + torch.eye(2) / 100
    return model, precision, torch.linalg.solve(precision, design.T @ y / 0.09)


CASES = {
    "0.99": lambda sampled: correlated(0.99, sampled),
    "0.999": lambda sampled: correlated(0.999, sampled),
    "0.9999": lambda sampled: correlated(0.9999, sampled),
    "regression": regression,
}


def shortfall(guide: Any, precision: Tensor, mean: Tensor) -> float:
    """Nats that the guide's mean costs."""
    (centre,) = guide.median().values()
    away = centre.detach() - mean
    return float(0.5 * away @ precision @ away)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_exact_models_take_few_steps(case: str, kind: Any) -> None:
    model, precision, mean = CASES[case](False)
    guide = kind(model)
    fit = BLR(model, guide).fit()
    assert fit.converged
    assert fit.steps <= 40
    assert shortfall(guide, precision, mean) <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_converged_on_draws_is_the_truth(case: str, kind: Any) -> None:
    model, precision, mean = CASES[case](True)
    guide = kind(model)
    fit = BLR(model, guide, on_sampled="ignore").fit()
    assert fit.converged
    assert fit.steps <= 60
    assert shortfall(guide, precision, mean) <= 0.01


def test_kinks_on_few_draws_are_left() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        scale = torch.diag(z.sigmoid())
        covariance = scale @ scale.T + torch.eye(3)
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(3), covariance), obs=torch.ones(3))
        far = torch.stack([z[0], z[1] * z[2].tanh()]).norm()
        pyro.sample("x", dist.Normal(far, 1.0), obs=torch.tensor(2.0))
        pyro.factor("f", -z.cumsum(0)[2].relu())

    guide = AutoNaturalNormal(model)
    fit = BLR(model, guide, on_sampled="ignore").fit(max_steps=300)
    assert fit.converged
    guide()


@pytest.mark.parametrize("steps", [400])
def test_precisions_stay_symmetric(steps: int) -> None:
    from pyro_blr.guides import AutoNatural

    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.factor("f", -(z[0] * z[1]).tanh() - z.exp().sum())

    guide = AutoNatural(model)
    blr = BLR(model, guide, on_sampled="ignore", step_size=0.3, num_draws=4)
    for _ in range(steps):
        blr.step()
    (natural,) = guide.naturals().values()
    assert torch.equal(natural[1], natural[1].mT)
    guide()

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Each use of a distribution is on its tier, and its expectation is that of the real model."""

import ast
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_blr.lifting.densities import registered
from tests.checks import engine, expected_log_joint, factor_of, tiers
from tests.densities.uses import FAMILIES, PRIORS, SCOPE, USES, Q, Use
from tests.oracles import monte_carlo

pytestmark = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")
PARTICLES, REPEATS, DRAWS = 20, 10, 20_000
#: Their own code writes in place or reads values, which vmap cannot: they are drawn one by one.
ONE_BY_ONE = {"Multinomial": 500, "OrderedLogistic": 500}


def names_in(law: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(law)) if isinstance(node, ast.Name)}


def latents_of(use: Use) -> list[str]:
    return [use.of] if use.of else [name for name in PRIORS if name in names_in(use.law)]


def model_of(use: Use) -> Callable[[], None]:
    def model() -> None:
        if use.of:
            pyro.sample(use.of, eval(use.law, SCOPE))
            return
        values = {n: pyro.sample(n, eval(PRIORS[n], SCOPE)) for n in latents_of(use)}
        with pyro.plate("data", 5):
            pyro.sample("y", eval(use.law, SCOPE | values), obs=use.at)

    return model


def engine_of(use: Use) -> tuple[Any, dict[str, Any]]:
    q = {name: Q[name] for name in latents_of(use)}
    families = {name: FAMILIES[name] for name in q if name in FAMILIES}
    loss = Trace_ELBO(num_particles=PARTICLES)
    blr, _ = engine(model_of(use), q, families=families, blocks="site", loss=loss)
    return blr, q


@pytest.mark.parametrize("use", USES, ids=str)
def test_tier(use: Use) -> None:
    blr, _ = engine_of(use)
    factor = factor_of(blr, use.of or "y")
    assert factor.tier == use.tier, factor.reason
    assert bool(factor.reason) or factor.tier == "exact"


@pytest.mark.parametrize("use", USES, ids=str)
def test_expectation_agrees_with_monte_carlo(use: Use) -> None:
    """E_q log p(y, z) of the engine against plain draws of the real model."""
    blr, q = engine_of(use)
    repeats = REPEATS if "sampled" in tiers(blr).values() else 1
    ours = torch.stack([expected_log_joint(blr, q) for _ in range(repeats)])
    error = ours.std() / repeats**0.5 if repeats > 1 else torch.zeros(())
    slow = next((n for law, n in ONE_BY_ONE.items() if use.law.startswith(law)), None)
    truth = monte_carlo.expected_log_joint(
        model_of(use), (), q, slow or DRAWS, seed=3, vectorise=slow is None
    )
    # Student t with 9 degrees of freedom is beyond 6.5 with a chance of 1e-4.
    bound = 5.0 if repeats == 1 else 6.5
    both = torch.hypot(error, torch.tensor(truth.standard_error))
    monte_carlo.z_test(ours.mean(), truth.value, both, bound, rounding=1e-7)


def test_every_registered_class_is_used_exactly() -> None:
    used = {name for use in USES if use.tier == "exact" for name in names_in(use.law)}
    elsewhere = {
        *(dist.MultivariateNormal, dist.Wishart),  # tests of Gaussian blocks
        *(dist.Beta, dist.Dirichlet),  # the priors of every use of p and theta
        dist.Delta,  # no density but at its own point
        dist.Uniform,  # a constant: what is not exact is the Jacobian of the latent's transform
    }
    assert {d.__name__ for d in registered() if d not in elsewhere} <= used

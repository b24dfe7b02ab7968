# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The example models are Stan's: the reference draws are draws of their posteriors.

For draws of a density p on the unconstrained space, E[grad log p] = 0 (integration by parts). A
prior that was forgotten, a scale taken for a variance or a wrong Jacobian moves that mean.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor

from benchmarks.rows import Skipped
from benchmarks.stan_models import EXAMPLES, Example, database, origin
from benchmarks.unconstrained import LogJoint

Draws = dict[str, Tensor]

#: Each of some 60 means lies within so many standard errors by chance with probability 0.996.
STANDARD_ERRORS = 4.0


def vector(draws: Draws, name: str) -> Tensor:
    """Stan's elements name[1], name[2], ... # shape: (draws, elements)"""
    count = sum(key.startswith(f"{name}[") for key in draws)
    return torch.stack([draws[f"{name}[{i + 1}]"] for i in range(count)], -1)


def schools(draws: Draws) -> Draws:
    mu, tau = draws["mu"].unsqueeze(-1), draws["tau"].unsqueeze(-1)
    return {"theta_trans": (vector(draws, "theta") - mu) / tau}


def mixture(draws: Draws) -> Draws:
    lower, upper = draws["mu[1]"], draws["mu[2]"]
    return {"lower": lower, "gap": upper - lower}


def shares(draws: Draws) -> Draws:
    alpha1, beta1 = draws["alpha1"], draws["beta1"]
    return {"shares": torch.stack([alpha1, beta1, 1 - alpha1 - beta1], -1)}


#: Sites that are not Stan's parameters, or not by their names.
SITES: dict[str, Callable[[Draws], Draws]] = {
    "eight_schools_noncentered": schools,
    "low_dim_gauss_mix": mixture,
    "garch11": shares,
}


def site_draws(example: Example, draws: Draws, sites: dict[str, slice]) -> Draws:
    """The reference draws as values of the model's sites. # shape of each: (draws, *site)"""
    own = SITES.get(example.name, lambda _: {})(draws)
    named = {n: draws[n] if n in draws else vector(draws, n) for n in sites if n not in own}
    return own | named


@pytest.mark.data
@pytest.mark.parametrize("example", EXAMPLES, ids=[e.name for e in EXAMPLES])
def test_the_reference_draws_are_of_the_models_posterior(
    example: Example, data_folder: Path
) -> None:
    try:
        folder = database.find(data_folder)
    except Skipped as reason:
        pytest.skip(str(reason))
    draws = database.read_draws(folder, example.posterior)
    if draws is None:
        pytest.skip("posteriordb has no reference draws of it")
    args = example.arguments(database.read_data(folder, example.data))
    joint = LogJoint(InitMessenger(origin)(example.model), args)
    values = site_draws(example, draws, joint.slices)
    u = joint.inverse(values).requires_grad_()
    (gradient,) = torch.autograd.grad(joint(u).sum(), u)
    error = gradient.std(0) / len(gradient) ** 0.5
    assert (gradient.mean(0).abs() / error).max() < STANDARD_ERRORS

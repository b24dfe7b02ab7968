# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Quadrature is taken only where each element depends on one or two Gaussian scalars."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

X = torch.linspace(-1.0, 2.0, 12, dtype=torch.float64).reshape(6, 2)
Y = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
GROUP = torch.tensor([5, 0, 0, 3, 2, 1])


def _tier(probabilities: Callable[[Tensor], Tensor]) -> str:
    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("n", 6):
            pyro.sample("y", dist.Bernoulli(probabilities(X @ w)), obs=Y)

    return BLR(model, AutoNatural(model), on_sampled="ignore").explain()["y"].tier


ONE_ELEMENT = {
    "elementwise": lambda f: torch.sigmoid(f),
    "gathered after": lambda f: torch.sigmoid(f)[GROUP],
    "flipped after": lambda f: torch.sigmoid(f).flip(0),
    "reshaped after": lambda f: torch.sigmoid(f).reshape(2, 3).reshape(6),
    "unsqueezed after": lambda f: (0.01 + 0.98 * torch.sigmoid(f).unsqueeze(-1)).squeeze(-1),
    "a class of two": lambda f: torch.stack([torch.sigmoid(f), torch.sigmoid(-f)], -1)[:, 0],
}
TWO_ELEMENTS = {
    "a product of neighbours": lambda f: torch.sigmoid(f) * torch.sigmoid(f).flip(0),
    "gathered twice": lambda f: torch.sigmoid(f) * torch.sigmoid(f)[GROUP],
    "shifted": lambda f: torch.sigmoid(f) * torch.sigmoid(f).roll(1, 0),
    "an outer product": lambda f: (torch.sigmoid(f) * torch.sigmoid(f).unsqueeze(-1))[0],
}
SEVERAL_ELEMENTS = {
    "a product of three": lambda f: (
        torch.sigmoid(f) * torch.sigmoid(f).flip(0) * torch.sigmoid(f)[GROUP]
    ),
    "gathered from two": lambda f: (
        (torch.sigmoid(f) * torch.tanh(f).flip(0).square())[GROUP] * f.exp()
    ),
    "a softmax": lambda f: torch.softmax(f, -1),
    "a mean": lambda f: torch.sigmoid(f) * torch.sigmoid(f).mean(),
}


@pytest.mark.parametrize("case", ONE_ELEMENT)
def test_one_element_is_integrated_by_quadrature(case: str) -> None:
    assert _tier(ONE_ELEMENT[case]) == "quadrature"


@pytest.mark.parametrize("case", TWO_ELEMENTS)
def test_two_elements_are_integrated_jointly(case: str) -> None:
    assert _tier(TWO_ELEMENTS[case]) == "quadrature"


@pytest.mark.parametrize("case", SEVERAL_ELEMENTS)
def test_several_elements_are_never_taken_for_one(case: str) -> None:
    assert _tier(SEVERAL_ELEMENTS[case]) == "sampled"


def test_a_rearranged_density_has_the_expectation_of_the_plain_one() -> None:
    def model(indexed: bool) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("n", 6):
            p = torch.sigmoid(X @ w)[GROUP] if indexed else torch.sigmoid((X @ w)[GROUP])
            pyro.sample("y", dist.Bernoulli(p), obs=Y)

    losses = []
    for indexed in (True, False):
        pyro.set_rng_seed(0)
        losses.append(BLR(model, AutoNatural(model)).evaluate_loss(indexed))
    assert abs(losses[0] - losses[1]) < 1e-10


C = torch.linspace(-0.5, 1.0, 6, dtype=torch.float64)
#: An index behind elementwise functions, and the same values with the index in front.
MOVED = {
    "a row of constants": (
        lambda f: (f.exp() * C)[GROUP],
        lambda f: f[GROUP].exp() * C[GROUP],
    ),
    "a column of constants": (
        lambda f: (f.exp() + C.reshape(6, 1))[2][GROUP],
        lambda f: f[GROUP].exp() + C[2],
    ),
    "two moves": (
        lambda f: torch.tanh(f.exp().flip(0) - 1)[GROUP],
        lambda f: torch.tanh(f.flip(0)[GROUP].exp() - 1),
    ),
    "another dim": (
        lambda f: torch.where(C > 0, f.exp(), C).reshape(2, 3).t().reshape(-1),
        lambda f: torch.where(
            C.reshape(2, 3).t().reshape(-1) > 0,
            f.reshape(2, 3).t().reshape(-1).exp(),
            C.reshape(2, 3).t().reshape(-1),
        ),
    ),
}


@pytest.mark.parametrize("case", MOVED)
def test_an_index_moved_in_front_leaves_the_expectation(case: str) -> None:
    """Each row has two scalars of one block, so that the index has to be moved."""

    def model(behind: bool) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        f = X @ w
        with pyro.plate("n", 6):
            scale = MOVED[case][0 if behind else 1](f)
            pyro.sample("y", dist.Bernoulli(logits=scale * torch.sin(f)), obs=Y)

    losses = []
    for behind in (True, False):
        pyro.set_rng_seed(0)
        blr = BLR(model, AutoNatural(model), on_sampled="error")
        assert "two Gaussian scalars" in blr.explain(behind)["y"].reason
        losses.append(blr.evaluate_loss(behind))
    assert abs(losses[0] - losses[1]) < 1e-10

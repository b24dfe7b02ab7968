# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Sums of products of exponentials: exact wherever numbers are far apart, also under vmap."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_blr.energy import log_einsum
from tests.checks import engine
from tests.discrete.models import randn

EQUATIONS = ["ab,a->b", "ab,bc->ac", "ab->", "ab,ab->ba", "a,b->ab", "ab,b,bc,a->c", "ba->ab"]


def operands(equation: str, size: int = 3) -> list[torch.Tensor]:
    inputs = equation.split("->")[0].split(",")
    return [randn(i, *(size + "abc".index(s) for s in dims)) for i, dims in enumerate(inputs)]


@pytest.mark.parametrize("small", [0, 10**6], ids=["apart", "table"])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_it_is_the_logarithm_of_einsum(
    equation: str, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_einsum, "SMALL", small)
    monkeypatch.setattr(log_einsum, "TIMES", 0)
    given = [t.requires_grad_() for t in operands(equation)]
    found = log_einsum.einsum(equation, *given)
    expected = torch.einsum(equation, *(t.exp() for t in given)).log()
    torch.testing.assert_close(found, expected)
    mine, theirs = (torch.autograd.grad(t.sin().sum(), given) for t in (found, expected))
    torch.testing.assert_close(mine, theirs)


def test_large_values_that_do_not_meet_leave_something() -> None:
    left, right = torch.tensor([0.0, -900.0]), torch.tensor([-800.0, 0.0])
    assert log_einsum.einsum("a,a->", left, right) == -800.0


def test_impossible_values_have_no_gradient() -> None:
    never = torch.full((2, 3), -torch.inf).requires_grad_()
    found = log_einsum.einsum("ab,a->b", never, torch.zeros(2))
    assert bool((found == -torch.inf).all())
    (gradient,) = torch.autograd.grad(found.nan_to_num(neginf=0.0).sum(), never)
    assert bool((gradient == 0).all())


def test_it_is_vectorised() -> None:
    given = operands("ab,b->a")
    batch = [torch.stack([t, 2 * t]) for t in given]
    found = torch.vmap(lambda *t: log_einsum.einsum("ab,b->a", *t))(*batch)
    one = log_einsum.einsum("ab,b->a", *(2 * t for t in given))
    torch.testing.assert_close(found[1], one)


def test_a_rare_class_explains_an_outlier() -> None:
    """Where the prior's large value meets the small one of the data, and the other way round."""

    def outlier(y: Any) -> None:
        rare = pyro.sample("rare", dist.Beta(1e-3, 1.0))
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Bernoulli(rare))
            pyro.sample("y", dist.Normal(torch.where(z == 1, torch.tensor(45.0), mu), 1.0), obs=y)

    q = {"rare": dist.Beta(torch.tensor(1e-3), torch.tensor(1.0)), "mu": dist.Normal(0.0, 1e-3)}
    blr, _ = engine(outlier, q, on_sampled="error")
    y = torch.tensor([45.0])
    logs = np.array([-(45.0**2) / 2 - 0.5e-6, 0.0]) - np.log(2 * np.pi) / 2
    prior = torch.tensor([1.0, 1e-3]).digamma() - torch.tensor(1.001).digamma()
    kl = torch.distributions.kl_divergence(dist.Normal(0.0, 1e-3), dist.Normal(0.0, 1.0))
    expected = np.logaddexp(*(logs + prior.numpy())) - float(kl)
    assert -blr.evaluate_loss(y) == pytest.approx(expected, rel=1e-9)
    assert blr.discrete_marginals(y)["z"].probs.item() == pytest.approx(1.0, abs=1e-4)

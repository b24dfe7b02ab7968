# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Constant arguments outside their domain, counts and shapes that cannot be: typed, with a mend."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_blr.errors import NonFiniteError, ParameterError, SupportError
from tests.checks import engine

Y = torch.tensor([0.3, 0.8, 0.5, 0.9])
COUNTS = torch.tensor([0.0, 3.0, 1.0, 2.0])
VECTORS = torch.sin(torch.arange(12.0)).reshape(4, 3)
INDEFINITE = torch.tensor([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def fitted(make: Callable[[Tensor], Any], obs: Tensor, latent: Any = None) -> Any:
    """One step of a model with a Normal latent z (or another) and four data."""

    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0) if latent is None else latent())
        with pyro.plate("data", 4):
            pyro.sample("y", make(z), obs=obs)

    return engine(model, on_sampled="ignore")[0].step()


ARGUMENTS: dict[str, tuple[Callable[[Tensor], Any], Tensor]] = {
    "negative scale": (lambda z: dist.Normal(z, -1.0), Y),
    "zero scale of one datum": (lambda z: dist.Normal(z, torch.tensor([1.0, 0.0, 1.0, 1.0])), Y),
    "zero concentration": (lambda z: dist.Gamma(0.0, z.exp()), Y),
    "negative concentration": (lambda z: dist.InverseGamma(-2.0, z.exp()), Y),
    "negative degrees of freedom": (lambda z: dist.StudentT(-4.0, z, 1.0), Y),
    "gate above one": (lambda z: dist.ZeroInflatedPoisson(z.exp(), gate=torch.tensor(1.2)), COUNTS),
    "probability below zero": (
        lambda z: dist.ZeroInflatedNegativeBinomial(
            5.0, probs=torch.tensor(-0.1), gate_logits=z.expand(4)
        ),
        COUNTS,
    ),
    "negative count of trials": (lambda z: dist.Binomial(-3.0, logits=z), COUNTS),
    "unordered cutpoints": (
        lambda z: dist.OrderedLogistic(z, torch.tensor([1.0, -1.0, 0.0])),
        COUNTS.long(),
    ),
    "base of a transformed one": (
        lambda z: dist.TransformedDistribution(
            dist.Normal(0.0, -1.0), [dist.transforms.AffineTransform(z, 1.0)]
        ),
        Y,
    ),
    "component of a mixture": (
        lambda z: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2)), dist.Normal(z.expand(2), -1.0)
        ),
        Y,
    ),
    "without any latent": (lambda z: dist.Exponential(-1.0), Y),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_argument_outside_its_domain(case: str) -> None:
    make, obs = ARGUMENTS[case]
    with pytest.raises(ParameterError, match="'y'") as caught:
        fitted(make, obs)
    assert "Mend:" in str(caught.value)


PRIORS: dict[str, Callable[[], Any]] = {
    "scale": lambda: dist.Normal(0.0, -1.0),
    "rate": lambda: dist.Gamma(2.0, -1.0),
    "wrapped": lambda: dist.Normal(torch.zeros(3), -torch.ones(3)).to_event(1),
    "masked": lambda: dist.MaskedDistribution(dist.HalfNormal(-1.0), torch.tensor(True)),
}


@pytest.mark.parametrize("case", PRIORS)
def test_prior_outside_its_domain(case: str) -> None:
    with pytest.raises(ParameterError, match="'z'"):
        fitted(lambda z: dist.Normal(z.sum(), 1.0), Y, PRIORS[case])


@pytest.mark.parametrize("argument", ["covariance_matrix", "precision_matrix"])
@pytest.mark.parametrize("where", ["likelihood", "prior"])
def test_matrix_that_is_not_positive_definite(where: str, argument: str) -> None:
    """Torch factors it when the distribution is made, before its site has a name."""
    wrong, right = {argument: INDEFINITE}, {argument: torch.eye(3)}
    with pytest.raises(ParameterError, match=f"'{argument}' of MultivariateNormal") as caught:
        fitted(
            lambda z: dist.MultivariateNormal(z, **(wrong if where == "likelihood" else right)),
            VECTORS,
            lambda: dist.MultivariateNormal(
                torch.zeros(3), **(wrong if where == "prior" else right)
            ),
        )
    assert "Mend:" in str(caught.value)


def test_argument_that_is_nan() -> None:
    with pytest.raises(NonFiniteError, match="'y'"):
        fitted(lambda z: dist.Normal(z, math.nan), Y)


def test_unnormalised_probabilities_are_weights() -> None:
    """Torch divides them by their sum; so they are no error."""
    mixture = dist.Categorical(torch.tensor([1.0, 3.0]))
    loss = fitted(
        lambda z: dist.MixtureSameFamily(mixture, dist.Normal(torch.stack([z, -z]), 1.0)), Y
    )
    assert math.isfinite(loss)


DATA: dict[str, tuple[Callable[[Tensor], Any], Tensor]] = {
    "negative": (lambda z: dist.Poisson(z.exp()), COUNTS - 1),
    "not integer": (lambda z: dist.NegativeBinomial(5.0, logits=z), COUNTS + 0.5),
    "above the trials": (lambda z: dist.Binomial(2, logits=z), COUNTS),
    "above the trials of one": (
        lambda z: dist.Binomial(torch.tensor([5.0, 2.0, 5.0, 5.0]), logits=z),
        COUNTS,
    ),
    "above the trials of a BetaBinomial": (lambda z: dist.BetaBinomial(z.exp(), 1.0, 2), COUNTS),
    "above the trials of a Multinomial": (
        lambda z: dist.Multinomial(2, logits=torch.stack([z, -z])),
        torch.tensor([[1.0, 2.0]]).expand(4, 2),
    ),
    "below the scale of a Pareto": (lambda z: dist.Pareto(0.5, z.exp()), Y),
    "off the simplex": (
        lambda z: dist.Dirichlet(torch.stack([z, -z]).exp()),
        torch.full((4, 2), 0.4),
    ),
    "beyond the integers of float64": (
        lambda z: dist.Poisson(z.exp()),
        torch.tensor([0.0, 2.0**53 + 2, 1.0, 2.0]),
    ),
    "beyond the integers of float32": (
        lambda z: dist.Poisson(z.exp()),
        torch.tensor([0.0, 2.0**24 + 2, 1.0, 2.0], dtype=torch.float32),
    ),
    "beyond the integers of int64 as float64": (
        lambda z: dist.Poisson(z.exp()),
        torch.tensor([0, 2**53 + 1, 1, 2]),
    ),
    "a wrong event": (lambda z: dist.Normal(z.expand(4, 3), 1.0).to_event(1), VECTORS[:, :2]),
    "no event": (lambda z: dist.MultivariateNormal(z.expand(3), torch.eye(3)), torch.tensor(1.0)),
    "a wrong batch": (lambda z: dist.Normal(z, 1.0).expand([4]), torch.zeros(3)),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be(case: str) -> None:
    make, obs = DATA[case]
    with pytest.raises(SupportError, match="'y'") as caught:
        fitted(make, obs)
    assert "Mend:" in str(caught.value)


def test_a_bound_among_many_that_changes() -> None:
    """The trials of one datum in 3000 fall below its count."""
    counts, trials = torch.ones(3000), torch.full((3000,), 2.0)

    def model(total: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3000):
            pyro.sample("y", dist.Binomial(total, logits=z), obs=counts)

    blr, _ = engine(model)
    blr.step(trials)
    fewer = trials.clone()
    fewer[1500] = 0
    with pytest.raises(SupportError, match="'y'"):
        blr.step(fewer)


def test_the_largest_exact_counts_are_taken() -> None:
    counts = torch.tensor([0.0, 2.0**24, 1.0, 2.0], dtype=torch.float32)
    assert math.isfinite(fitted(lambda z: dist.Poisson(z.exp()), counts))


class _Comparisons(TorchDispatchMode):
    """Counts the comparisons that are made."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func.overloadpacket.__name__ in ("gt", "ge", "lt", "le", "remainder")
        return func(*args, **(kwargs or {}))


def test_recognised_arguments_and_data_are_not_looked_at_again() -> None:
    scale, counts = torch.rand(5000) + 1, torch.ones(5000)

    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 3.0))
        with pyro.plate("data", 5000):
            pyro.sample("y", dist.Normal(z, scale), obs=scale)
            pyro.sample("k", dist.Poisson(z.exp()), obs=counts)

    blr, _ = engine(model)
    blr.step()
    with _Comparisons() as seen:
        blr.explain()
        blr.messages()
    assert seen.count == 0

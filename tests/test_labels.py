# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Labels and counts of any integer or boolean dtype are what they are as floating numbers."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.errors import SupportError
from pyro_blr.guides import AutoNatural

BINARY = torch.tensor([0, 1, 1, 0, 1, 0])
COUNTS = torch.tensor([0, 1, 2, 3, 1, 0])
CLASSES = torch.tensor([0, 1, 2, 2, 1, 0])
X = torch.linspace(-1.0, 1.0, 6)


def _classes(s: Tensor) -> Tensor:
    return torch.stack([s, -s, 0 * s], -1)


#: A distribution of the scalar of each datum, and its data.
DENSITIES: dict[str, tuple[Callable[[Any], Any], Tensor]] = {
    "Bernoulli logits": (lambda s: dist.Bernoulli(logits=s), BINARY),
    "Bernoulli probs": (lambda s: dist.Bernoulli(torch.sigmoid(s)), BINARY),
    "Binomial logits": (lambda s: dist.Binomial(3, logits=s), COUNTS),
    "Binomial probs": (lambda s: dist.Binomial(3, torch.sigmoid(s)), COUNTS),
    "Binomial binary": (lambda s: dist.Binomial(3, logits=s), BINARY),
    "Poisson": (lambda s: dist.Poisson(s.exp()), COUNTS),
    "Geometric logits": (lambda s: dist.Geometric(logits=s), COUNTS),
    "Geometric probs": (lambda s: dist.Geometric(torch.sigmoid(s)), COUNTS),
    "NegativeBinomial logits": (lambda s: dist.NegativeBinomial(3.0, logits=s), COUNTS),
    "NegativeBinomial probs": (lambda s: dist.NegativeBinomial(3.0, torch.sigmoid(s)), COUNTS),
    "Categorical logits": (lambda s: dist.Categorical(logits=_classes(s)), CLASSES),
    "Categorical probs": (lambda s: dist.Categorical(_classes(s).softmax(-1)), CLASSES),
    "OneHotCategorical": (
        lambda s: dist.OneHotCategorical(logits=_classes(s)),
        torch.nn.functional.one_hot(CLASSES, 3),
    ),
    "ZeroInflatedPoisson": (
        lambda s: dist.ZeroInflatedPoisson(s.exp(), gate=torch.tensor(0.2)),
        COUNTS,
    ),
    "Normal": (lambda s: dist.Normal(s, 1.0), COUNTS),
    "MultivariateNormal": (
        lambda s: dist.MultivariateNormal(_classes(s), torch.eye(3)),
        torch.nn.functional.one_hot(CLASSES, 3),
    ),
}

#: The scalar of each datum: of one or two Gaussian scalars, or of three.
SCALARS: dict[str, Callable[[Any, Any], Any]] = {
    "linear": lambda w, u: w[0] + w[1] * X + u,
    "two": lambda w, u: (w[0] + w[1] * X) * u,
    "sampled": lambda w, u: (w[0].exp() + w[1].exp() * X + u.exp()).tanh(),
}


def _outcome(name: str, scalar: str, guide: Any, y: Tensor) -> tuple[str, float]:
    def model(y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 6):
            pyro.sample("y", DENSITIES[name][0](SCALARS[scalar](w, u)), obs=y)

    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    blr = BLR(model, guide(model), num_draws=5, on_sampled="ignore")
    tier = blr.explain(y)["y"].tier
    pyro.set_rng_seed(0)
    return tier, blr.step(y)


@pytest.mark.parametrize("guide", [AutoNatural, AutoNormal], ids=lambda g: g.__name__)
@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("name", DENSITIES)
def test_the_dtype_of_labels_and_counts_changes_nothing(name: str, scalar: str, guide: Any) -> None:
    data = DENSITIES[name][1]
    tier, loss = _outcome(name, scalar, guide, data.double())
    dtypes = [torch.int64, torch.int32, torch.int16, torch.uint8]
    for dtype in dtypes + [torch.bool] * bool(data.max() == 1):
        assert _outcome(name, scalar, guide, data.to(dtype)) == (tier, pytest.approx(loss))


@pytest.mark.parametrize(
    "labels", [BINARY.bool(), BINARY, BINARY.int()], ids=lambda y: str(y.dtype)
)
def test_labels_may_have_any_dtype_where_a_beta_is_conjugate(labels: Tensor) -> None:
    def model(y: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("n", 6):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    guide = AutoNatural(model)
    blr = BLR(model, guide)
    blr.step(labels)
    assert blr.explain(labels)["y"].tier == "exact"
    assert guide.marginal("p").concentration1.item() == pytest.approx(4.0)


def test_a_count_beyond_float64_is_refused_in_int64_alone() -> None:
    def model(y: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
        with pyro.plate("n", 2):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    largest = torch.tensor([1, torch.iinfo(torch.int32).max])
    BLR(model, AutoNatural(model)).step(largest.int())
    with pytest.raises(SupportError, match=r"2\*\*53"):
        BLR(model, AutoNatural(model)).step(torch.tensor([1, 2**53 + 1]))

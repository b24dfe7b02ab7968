# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What cannot be answered is refused, with the site and the mend."""

import builtins
import copy
import math
import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoIAFNormal, AutoMultivariateNormal, AutoNormal
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.errors import (
    ArgumentError,
    ControlFlowError,
    DiscreteLatentError,
    GuideError,
    NonFiniteError,
    SampledFactorError,
    SubsampleError,
    UnknownNameError,
)
from pyro_blr.guides import AutoNatural
from tests.checks import engine
from tests.influence.models import logistic, normals, table


def mean(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def fitted(model: Any, *args: Any, **options: Any) -> BLR:
    blr, _ = engine(model, **options)
    blr.fit(*args)
    return blr


def test_a_pickle_is_refused_by_what_it_is_of() -> None:
    y = torch.tensor([0.5, -1.0, 2.0])
    blr = fitted(mean, y)
    for held in (blr.influence(y), blr.info):
        with pytest.raises(ControlFlowError, match=r"hold the model's program, keep the numbers"):
            pickle.dumps(held)
    copied = copy.deepcopy(blr.info)
    assert copied.loss_after == blr.info.loss_after and copied.residual == blr.info.residual


def test_no_observed_site() -> None:
    def model() -> None:
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ArgumentError, match="no observed site"):
        fitted(model).influence()


def test_a_site_outside_any_plate() -> None:
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        pyro.sample("y", dist.Normal(mu, 1.0).expand([4]).to_event(1), obs=y)

    with pytest.raises(ArgumentError, match=r"'y'.* in no plate.*Mend: with pyro.plate"):
        fitted(model, normals(0, 4)).influence(normals(0, 4))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"site": "x"}, "'x' is no site of the model; the observed sites are .'y'."),
        ({"site": "mu"}, "'mu' is a latent"),
        ({"plate": "rows"}, "no observed site is in a plate 'rows'.*'data'"),
    ],
)
def test_names_that_there_are_not(options: Any, text: str) -> None:
    y = normals(0, 4)
    with pytest.raises(ArgumentError, match=text):
        fitted(mean, y).influence(y, **options)


def test_sites_in_different_plates() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("first", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)
        with pyro.plate("second", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    args = normals(0, 4), normals(1, 3)
    blr = fitted(model, *args)
    with pytest.raises(ArgumentError, match=r"in different plates: .*'x'.*'y'.*Mend"):
        blr.influence(*args)
    assert blr.influence(*args, site="y").shape == (3,)
    assert blr.influence(*args, plate="first").shape == (4,)


@pytest.mark.parametrize(
    "index", [4, -5, [0, 9], 1.5, [0.5], "three", None, (0, 0), torch.ones(3, dtype=torch.bool)]
)
def test_positions_that_there_are_not(index: Any) -> None:
    y = normals(0, 4)
    blr = fitted(mean, y)
    with pytest.raises(ArgumentError, match="names no data of plate 'data', of size 4"):
        blr.without(index)


@pytest.mark.parametrize(
    "weights", [[1.0, 1.0], [1, 1, 1, -1.0], [1, 1, 1, math.nan], [1, 1, 1, math.inf], "many"]
)
def test_weights_that_are_none(weights: Any) -> None:
    y = normals(0, 4)
    with pytest.raises(ArgumentError, match="weights"):
        fitted(mean, y).weighted(weights)


def test_before_a_fit() -> None:
    model, args = logistic()
    blr, _ = engine(model)
    with pytest.raises(ArgumentError, match=r"not at an optimum.*Mend: blr.fit"):
        blr.influence(*args)
    with pytest.raises(ArgumentError, match="no fit has been made"):
        blr.without(3)


def test_other_data_than_were_fitted() -> None:
    model, (X, y) = logistic()
    blr = fitted(model, X, y)
    with pytest.raises(ArgumentError, match="not at an optimum for these data"):
        blr.influence(X, 1 - y)


def test_conjugate_models_know_other_data_and_narrowed_guides() -> None:
    y = normals(0, 5)
    blr = fitted(mean, y)
    for other in (2 * y, y[:3]):
        with pytest.raises(ArgumentError, match="not at an optimum for these data"):
            blr.influence(other)
    blr.guide.write({b: tuple(4 * t for t in n) for b, n in blr.guide.naturals().items()})
    with pytest.raises(ArgumentError, match="not at an optimum for these data"):
        blr.influence(y)


def test_data_that_are_not_finite() -> None:
    y = normals(0, 4)
    blr = fitted(mean, y)
    with pytest.raises(NonFiniteError, match="'y'"):
        blr.influence(torch.tensor([0.1, math.nan, 0.2, 0.3]))


def test_a_loop_over_a_plate() -> None:
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        for n in pyro.plate("data", len(y)):
            pyro.sample(f"y{n}", dist.Normal(mu, 1.0), obs=y[n])

    y = normals(0, 3)
    with pytest.raises(ArgumentError, match="in no plate that was entered by `with`"):
        fitted(model, y).influence(y)


def test_a_minibatch() -> None:
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(y), subsample_size=2) as rows:
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y[rows])

    y = normals(0, 6)
    blr, _ = engine(model)
    blr.step(y)
    with pytest.raises(SubsampleError, match="pass all data"):
        blr.influence(y)


def sampled(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(z.norm() * torch.ones(len(y)), 1.0), obs=y)


def test_factors_at_draws() -> None:
    y = normals(0, 5)
    blr, _ = engine(sampled, on_sampled="ignore")
    blr.step(y)
    with pytest.raises(SampledFactorError, match=r"'y'.*draws.*arviz"):
        blr.influence(y)


def test_discrete_latents() -> None:
    def model(y: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.tensor([-2.0, 2.0]), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(loc[k.long()], 1.0), obs=y)

    y = torch.cat([normals(0, 5) - 2, normals(1, 5) + 2])
    with pytest.raises(DiscreteLatentError, match=r"'y'.*Mend"):
        fitted(model, y).influence(y)
    held = BLR(model, AutoNatural(model), discrete="factorised")
    held.fit(y)
    with pytest.raises(DiscreteLatentError, match=r"holds the discrete latents \['k'\].*Mend"):
        held.influence(y)


@pytest.mark.parametrize("kind", [AutoDelta, AutoIAFNormal])
def test_guides_without_messages(kind: Any) -> None:
    y = normals(0, 4)
    model: Any = logistic()[0] if kind is AutoIAFNormal else mean
    args = logistic()[1] if kind is AutoIAFNormal else (y,)
    blr = BLR(model, kind(model), on_sampled="ignore")
    with pytest.raises(GuideError, match="Mend: use AutoNatural"):
        blr.influence(*args)


@pytest.mark.parametrize("kind", [AutoNormal, AutoMultivariateNormal])
def test_pyros_own_guides_have_scores_and_no_second_guide(kind: Any) -> None:
    model, args = logistic()
    blr = BLR(model, kind(model))
    blr.fit(*args, tol=1e-8)
    data = blr.influence(*args)
    assert torch.isfinite(data.loo).all()
    if kind is AutoMultivariateNormal:
        own = fitted(model, *args).influence(*args)
        assert torch.allclose(data.loo, own.loo, atol=1e-3)
    with pytest.raises(GuideError, match="Mend: use AutoNatural"):
        data.without(0)


def test_keywords_that_the_model_has_too() -> None:
    def model(y: Tensor, site: int = 0) -> None:
        mean(y)

    y = normals(0, 4)
    blr = fitted(model, y)
    with pytest.raises(ArgumentError, match=r"'site', which BLR\.influence takes for itself"):
        blr.influence(y)
    with pytest.raises(ArgumentError, match="influence passes 'plat'"):
        fitted(mean, y).influence(y, plat="data")


def test_rankings_and_quantities_that_are_none() -> None:
    y = normals(0, 4)
    data = fitted(mean, y).influence(y)
    for by in ("size", torch.ones(3), None):
        with pytest.raises(ArgumentError, match="by must be"):
            data.ranked(2, by=by)
    for count in (0, -1, 2.5, True):
        with pytest.raises(ArgumentError, match="count"):
            data.ranked(count)
    with pytest.raises(ArgumentError, match="function of the latents"):
        data.on("mu")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="returned float, not a tensor"):
        data.on(lambda z: 1.0)
    with pytest.raises(UnknownNameError, match=r"asks for 'nu', and there are .*'mu'.*Mend"):
        data.on(lambda z: z["nu"])


def test_no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    y = normals(0, 4)
    data = fitted(mean, y).influence(y)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ArgumentError, match="pip install matplotlib"):
        data.plot()


def test_pictures() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    model, args = table()
    data = fitted(model, *args).influence(*args)
    ax = data.plot(count=3)
    assert [t.get_text() for t in ax.texts] == [
        ", ".join(map(str, data.position(n))) for n in data.ranked(3).tolist()
    ]
    assert "rows x columns" in ax.get_xlabel()
    again = data.plot(by=data.on(lambda z: z["a"][0, 0]), ax=ax)
    assert again is ax
    with pytest.raises(ArgumentError, match=r"by must be.*not one of \(4, 3, 1\)"):
        data.plot(by=data.on(lambda z: z["a"][:1, 0]))
    matplotlib.pyplot.close("all")

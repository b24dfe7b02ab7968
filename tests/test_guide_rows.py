# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A guide that Pyro's own tools run samples the rows that the model names, and no others."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.errors import GuideError, PlateSizeError, SubsampleError
from pyro_blr.guides import AutoNatural, AutoNaturalMultivariateNormal

N = 50
Y = torch.arange(50.0)
INDEX = torch.tensor([13, 10, 44, 11, 27])


def model(index: Tensor | None = None, size: int | None = None, full: int = N) -> Tensor:
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", full, subsample=index, subsample_size=size) as rows:
        z = pyro.sample("z", dist.Normal(m, 1.0))
        s = pyro.sample("s", dist.Dirichlet(torch.ones(3)))
        pyro.sample("y", dist.Normal(z + s[..., 0], 1.0), obs=Y[rows])
    return rows


def apart(index: Tensor) -> Tensor:
    pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", N, subsample=index) as rows:
        pyro.sample("z", dist.Normal(0.0, 1.0))
    return rows


def seen(guide: Callable[..., Any], *args: Any) -> Tensor:
    """The rows that the model sees when it is replayed against the guide."""
    trace = poutine.trace(guide).get_trace(*args)
    rows: Tensor = poutine.replay(model, trace=trace)(*args)
    return rows


def test_pyros_own_guides_replace_the_rows() -> None:
    """The bug that ours must not have; when it is mended, so may be the code against it."""
    guide = AutoNormal(model)
    guide(INDEX)
    assert not torch.equal(seen(guide, INDEX), INDEX)


@pytest.mark.parametrize("first", [(), (INDEX,), (None, 7)], ids=["whole", "given", "drawn"])
def test_the_models_rows(first: tuple[Any, ...]) -> None:
    guide = AutoNatural(model)
    guide(*first)
    for index in (INDEX, INDEX[:2], torch.arange(N).flip(0)):
        assert torch.equal(seen(guide, index), index)
    assert torch.equal(seen(guide), torch.arange(N))
    assert len(seen(guide, None, 9)) == 9


def test_values_are_those_of_the_rows() -> None:
    mean = torch.linspace(-100.0, 100.0, N)
    guide = AutoNatural(model)
    guide.set_natural({"z": dist.Normal(mean, 1e-6)})
    assert torch.allclose(guide(INDEX)["z"], mean[INDEX], atol=1e-3)
    loss = Trace_ELBO(num_particles=2)
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), loss)
    svi.step(INDEX)
    draws = Predictive(model, guide=guide, num_samples=3, return_sites=("z", "s"))(INDEX)
    assert torch.allclose(draws["z"], mean[INDEX].expand(3, -1), atol=1e-3)
    assert draws["s"].shape == (3, 5, 3)


@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
def test_particles_in_a_plate_are_as_good_as_one_by_one(loss: Any) -> None:
    """A draw of rows keeps its place under the plate of particles."""
    guide = AutoNatural(model)
    guide.set_natural({"z": dist.Normal(Y, 1e-3), "m": dist.Normal(1.0, 1e-3)})
    one_by_one = loss(num_particles=20).loss(model, guide, INDEX)
    particles = loss(num_particles=20, vectorize_particles=True, max_plate_nesting=1)
    assert particles.loss(model, guide, INDEX) == pytest.approx(one_by_one, rel=0.05)
    with pyro.plate("particles", 7, dim=-2):
        draws = guide(INDEX)
    assert draws["z"].shape == (7, 5)
    assert draws["s"].shape == (7, 5, 3)
    assert draws["m"].shape == (7, 1)


def test_the_elbo_of_a_guide_is_that_of_the_engine() -> None:
    """-ELBO of the rows by draws of Pyro, and by BLR without any."""

    def exact(index: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", N, subsample=index) as rows:
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("y", dist.Normal(z, 2.0), obs=Y[rows] / 50)

    guide = AutoNatural(exact)
    blr = BLR(exact, guide)
    for rows in torch.arange(N).split(5):  # the same entropy in every row
        blr.step(rows)
    losses = torch.tensor([Trace_ELBO().loss(exact, guide, INDEX) for _ in range(400)])
    error = losses.mean() - blr.evaluate_loss(INDEX)
    assert abs(float(error)) < 4 * float(losses.std()) / 20


def test_a_guide_without_arguments_samples_all_it_has() -> None:
    def needs(index: Tensor) -> Tensor:
        return model(index)

    guide = AutoNatural(needs)
    guide(None)
    assert guide()["z"].shape == (N,)


def test_a_plate_of_another_size() -> None:
    guide = AutoNatural(model)
    guide()
    with pytest.raises(PlateSizeError, match=r"'data'.*'z' has size 20.*holds 50.*Mend:"):
        guide(None, None, 20)


def test_the_users_own_plates() -> None:
    def plates(index: Tensor | None = None, *_: Any) -> Any:
        return pyro.plate("data", N, subsample=index, dim=-1)

    guide = AutoNatural(model, create_plates=plates)
    assert torch.equal(seen(guide, INDEX), INDEX)

    def other(index: Tensor | None = None, *_: Any) -> Any:
        return pyro.plate("data", N, subsample_size=5, dim=-1)

    guide = AutoNatural(model, create_plates=other)
    assert len(seen(guide, None, 5)) == 5
    with pytest.raises(SubsampleError, match=r"'data'.*Mend:.*create_plates"):
        guide(INDEX)
    with pytest.raises(SubsampleError, match=r"'data' of the guide holds 5 of 50.*Mend:"):
        guide(INDEX[:3])


def test_a_part_of_a_list_of_guides() -> None:
    def plates(index: Tensor) -> Any:
        return pyro.plate("data", N, subsample=index, dim=-1)

    def guides(**options: Any) -> AutoGuideList:
        found = AutoGuideList(apart, **options)
        found.append(AutoNatural(poutine.block(apart, expose=["z", "data"])))
        found.append(AutoNatural(poutine.block(apart, expose=["m", "data"])))
        return found

    trace = poutine.trace(guides(create_plates=plates)).get_trace(INDEX)
    assert torch.equal(poutine.replay(apart, trace=trace)(INDEX), INDEX)
    with pytest.raises(SubsampleError, match=r"'data'.*AutoGuideList needs it"):
        guides()(INDEX)


def test_a_hidden_plate() -> None:
    guide = AutoNatural(poutine.block(apart, expose=["z", "m"]))
    with pytest.raises(SubsampleError, match=r"'data'.*hidden.*Mend: expose"):
        guide(INDEX)


def test_gaussian_guides_too() -> None:
    guide = AutoNaturalMultivariateNormal(model)
    assert torch.equal(seen(guide, INDEX), INDEX)


@pytest.mark.parametrize("ask", ["median", "quantiles", "sample_posterior", "marginal"])
def test_a_guide_that_has_not_seen_the_model(ask: str) -> None:
    def needs(index: Tensor) -> Tensor:
        return model(index)

    guide = AutoNatural(needs)
    calls: dict[str, Callable[[], Any]] = {
        "median": guide.median,
        "quantiles": lambda: guide.quantiles([0.5]),
        "sample_posterior": lambda: guide.sample_posterior(3),
        "marginal": lambda: guide.marginal("m"),
    }
    with pytest.raises(GuideError, match=r"not seen the model.*Mend:"):
        calls[ask]()
    assert guide.median(INDEX)["z"].shape == (N,)

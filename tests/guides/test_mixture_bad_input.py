# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What the guide of a mixture refuses, with the mend, and what it takes although it is unusual."""

import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_blr import BLR, Parts, errors
from pyro_blr.guides import (
    AutoNaturalLowRankMultivariateNormal,
    AutoNaturalMixture,
    AutoNaturalNormal,
    memory,
)

from .mixture_targets import model_of

Y = torch.tensor([0.3, 1.1, -0.4, 2.0]).double()


def location(y: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.StudentT(3.0, mu, 1.0), obs=y)


def two(z: torch.Tensor) -> torch.Tensor:
    """Two unit normals, 8 apart, of the same mass."""
    each = [-0.5 * (z - m).square().sum(-1) for m in (-4.0, 4.0)]
    return torch.stack(each).logsumexp(0) - math.log(2) - math.log(2 * math.pi)


@pytest.mark.parametrize("components", [0, -1, 2.5, True, "3", None])
def test_components_that_are_no_number(components) -> None:
    with pytest.raises(errors.ArgumentError, match=r"positive integer.*Mend"):
        AutoNaturalMixture(location, components=components)


def test_counts_of_numpy_are_counts() -> None:
    assert type(AutoNaturalMixture(location, components=np.int64(3)).components) is int
    assert type(AutoNaturalLowRankMultivariateNormal(location, rank=np.int32(1)).rank) is int


@pytest.mark.parametrize(
    "size, components, words",
    [
        (1, 10**6, r"densities of all components at 64 points of each, 5\.12e\+05 GB"),
        (2000, 100, r"100 matrices of 2000 x 2000 numbers, 3\.2 GB"),
    ],
)
def test_more_components_than_memory(monkeypatch, size, components, words) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10**10)

    def vector() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1))

    guide = AutoNaturalMixture(vector, components=components)
    with pytest.raises(errors.MemoryLimitError, match=words) as found:
        BLR(vector, guide).step()
    fewer = int(re.search(r"components=(\d+)\)", str(found.value))[1])
    memory.check_mixture("", fewer, size, torch.device("cpu"))
    with pytest.raises(errors.MemoryLimitError):
        memory.check_mixture("", fewer + 1, size, torch.device("cpu"))


@pytest.mark.parametrize("size", [1, 20])
def test_memory_is_asked_for_the_points_of_a_step(monkeypatch, size) -> None:
    def vector() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1))

    blr = BLR(vector, AutoNaturalMixture(vector, components=2))
    blr.step()
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1)
    count = blr.state_dict()["mixture"]["count"]
    with pytest.raises(errors.MemoryLimitError, match=f"at {count} points of each"):
        memory.check_mixture("", 1000, size, torch.device("cpu"))


def test_discrete_latents_are_no_part_of_it() -> None:
    with pytest.raises(errors.ArgumentError, match=r"holds discrete latents.*Mend"):
        BLR(location, AutoNaturalMixture(location, components=2), discrete="factorised")


def test_no_draws_are_allowed() -> None:
    blr = BLR(location, AutoNaturalMixture(location, components=2), on_sampled="error")
    with pytest.raises(errors.SampledFactorError, match="Mend"):
        blr.step(Y)


def test_a_part_of_the_rows() -> None:
    def model(y: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("n", len(y), subsample_size=2) as index:
            pyro.sample("y", dist.StudentT(3.0, mu, 1.0), obs=y[index])

    blr = BLR(model, AutoNaturalMixture(model, components=2))
    for call in (blr.step, blr.evaluate_loss, blr.explain):
        with pytest.raises(errors.SubsampleError, match="all rows"):
            call(Y)


def test_data_in_parts_and_streams() -> None:
    guide = AutoNaturalMixture(location, components=2)
    blr = BLR(location, guide)
    with pytest.raises(errors.BLRError, match="Mend"):
        blr.step(Parts([(Y,)]))
    blr.step(Y)
    methods = (blr.update, blr.forget, blr.influence, blr.messages, blr.surrogate)
    for method in (*methods, blr.discrete_marginals):
        with pytest.raises(errors.GuideError, match=r"AutoNaturalMixture is a mixture: .*Mend"):
            method(Y)


@pytest.mark.parametrize("num_draws", [2, 7])
def test_draws_that_are_too_few_or_odd(num_draws: int) -> None:
    model = model_of(two)
    blr = BLR(model, AutoNaturalMixture(model, components=2), num_draws=num_draws)
    with pytest.raises(errors.ArgumentError, match=r"num_draws.*Mend: 8 at least"):
        blr.step()


def test_options_of_other_guides() -> None:
    for options in ({"params": "em"}, {"momentum": 0.5}):
        blr = BLR(location, AutoNaturalMixture(location, components=2), **options)
        with pytest.raises(errors.ArgumentError, match="Mend"):
            blr.step(Y)


def test_control_flow_on_a_latent() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(0.0, 1.0 if z > 0 else 2.0), obs=torch.tensor(1.0))

    with pytest.raises(errors.ControlFlowError):
        BLR(model, AutoNaturalMixture(model, components=2)).step()


def test_a_density_that_is_0_at_points_is_named() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("half", torch.where(z > 0, 0.0, -torch.inf))

    pyro.set_rng_seed(0)
    with pytest.raises(errors.NonFiniteError, match=r"'half'.* of 128 points of q"):
        BLR(model, AutoNaturalMixture(model, components=2)).step()


def test_operations_without_a_batching_rule_are_no_warning() -> None:
    model = model_of(lambda z: torch.special.log_ndtr(z).sum(-1) - z.square().sum(-1))
    pyro.set_rng_seed(0)
    assert math.isfinite(BLR(model, AutoNaturalMixture(model, components=2)).step())


def test_data_that_are_nan_leave_the_guide_as_it_was() -> None:
    pyro.set_rng_seed(0)
    guide = AutoNaturalMixture(location, components=2)
    blr = BLR(location, guide)
    blr.step(Y)
    before = [t.detach().clone() for t in next(iter(guide.naturals().values()))]
    bad = Y.clone()
    bad[0] = math.nan
    with pytest.raises(errors.NonFiniteError, match="'y'"):
        blr.step(bad)
    after = next(iter(guide.naturals().values()))
    assert all(map(torch.equal, before, after))
    assert math.isfinite(blr.step(Y))


def test_a_log_density_that_is_nan_at_points_is_named() -> None:
    model = model_of(lambda z: (z.sum(-1) - 1e6).sqrt())
    with pytest.raises(errors.NonFiniteError, match="'target'"):
        BLR(model, AutoNaturalMixture(model, components=2)).step()


def test_parameters_of_the_model_are_the_optimisers() -> None:
    def model(y: torch.Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(mu, scale), obs=y)

    pyro.set_rng_seed(0)
    blr = BLR(model, AutoNaturalMixture(model, components=2), pyro.optim.Adam({"lr": 0.05}))
    fit = blr.fit(Y, max_steps=40)
    assert not fit.converged
    assert "'scale'" in fit.reason
    assert blr.explain(Y).parameters["scale"].update == "optim"
    assert float(pyro.param("scale")) == pytest.approx(float(Y.std()), abs=0.25)


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.SkippedStepWarning")
@pytest.mark.parametrize("prior", [dist.LogNormal(0.0, 500.0), dist.Normal(0.0, 1e-300)])
def test_priors_as_wide_or_narrow_as_no_number_is(prior) -> None:
    """Most draws of the first are impossible; the precision of the second overflows."""

    def model() -> None:
        s = pyro.sample("s", prior)
        pyro.sample("y", dist.Normal(s, 1.0), obs=torch.tensor(0.3).double())

    pyro.set_rng_seed(0)
    with pytest.raises(errors.NonFiniteError, match="'s'"):
        BLR(model, AutoNaturalMixture(model, components=2)).fit()


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.RemovedComponentWarning")
def test_a_start_at_one_place_is_spread() -> None:
    """Components at one place have the same messages, and would stay there for ever."""
    pyro.set_rng_seed(0)
    model = model_of(two)
    guide = AutoNaturalMixture(model, components=2, init_scale=1e-6)
    fit = BLR(model, guide).fit(tol=1e-4)
    assert fit.converged
    means = guide.get_posterior().component_distribution.loc[:, 0].sort().values
    torch.testing.assert_close(means, torch.tensor([-4.0, 4.0]).double(), atol=0.01, rtol=0)
    assert abs(fit.losses[-1]) < 1e-3  # q is p, which is normalised


def test_a_start_that_is_given_is_kept() -> None:
    model = model_of(two)
    pyro.set_rng_seed(0)
    guide = AutoNaturalMixture(model, components=2)
    start = dist.Normal(torch.full((2,), 4.0).double(), 0.1).to_event(1)
    guide.set_natural({"z": start})
    BLR(model, guide).fit(max_steps=10)
    assert guide.get_posterior().component_distribution.loc.min() > 3  # the other mode is far
    with pytest.raises(errors.ArgumentError, match="set_posterior"):
        guide.set_natural({"z": start})
    with pytest.raises(errors.ArgumentError, match="3 components of 2 numbers"):
        normal = dist.MultivariateNormal(torch.zeros(3, 2).double(), torch.eye(2).double())
        guide.set_posterior(dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), normal))
    with pytest.raises(errors.ArgumentError, match="NormalMixture"):
        guide.set_posterior(start)


SAVED = {
    "more": ("AutoNaturalMixture(model, components=3) takes it up", AutoNaturalMixture, 3),
    "one": ("AutoNaturalMixture(model, components=1) takes it up", AutoNaturalMixture, 1),
    "no mixture": ("AutoNaturalNormal(model) takes it up", AutoNaturalNormal, None),
}


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("name", SAVED)
def test_the_state_of_another_guide_names_it(name: str, is_new: bool) -> None:
    mend, kind, components = SAVED[name]
    options = {} if components is None else {"components": components}
    blr = BLR(location, kind(location, **options), on_sampled="ignore")
    blr.step(Y)
    state = blr.state_dict()
    pyro.clear_param_store()
    other = BLR(location, AutoNaturalMixture(location, components=2), on_sampled="ignore")
    if not is_new:
        other.step(Y)
    with pytest.raises(errors.CheckpointError, match="this guide has components=2") as error:
        other.load_state_dict(state)
    assert f"Mend: {mend}" in str(error.value) and "rank" not in str(error.value)
    other.step(Y)  # it is as it was


def test_other_guides_do_not_take_its_state() -> None:
    blr = BLR(location, AutoNaturalMixture(location, components=2))
    blr.step(Y)
    other = BLR(location, AutoNaturalNormal(location))
    with pytest.raises(errors.CheckpointError, match=r"Mend: AutoNaturalMixture\(model\)"):
        other.load_state_dict(blr.state_dict())


def test_before_it_has_seen_the_model() -> None:
    guide = AutoNaturalMixture(location, components=2)
    for ask in (guide.get_posterior, lambda: guide.set_posterior(None), guide.median):
        with pytest.raises(errors.GuideError, match="has not seen the model"):
            ask()
    assert guide.components == 2


def test_a_site_without_elements() -> None:
    def model() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(0), 1.0).to_event(1))

    with pytest.raises(errors.NoLatentError, match="no elements"):
        BLR(model, AutoNaturalMixture(model, components=2)).step()


def test_single_precision() -> None:
    """Values and densities are of the model's dtype, coordinates in float64."""
    pyro.set_rng_seed(0)
    y = Y.float()

    def model(y: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0).float(), 3.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.StudentT(torch.tensor(3.0).float(), mu, 1.0), obs=y)

    guide = AutoNaturalMixture(model, components=2)
    blr = BLR(model, guide)
    fit = blr.fit(y, max_steps=25)
    assert guide.median()["mu"].dtype == torch.float32
    assert guide.get_posterior().sample().dtype == torch.float64
    other = AutoNaturalMixture(location, components=2)
    double = BLR(location, other).fit(Y, max_steps=25)
    assert fit.losses[-1] == pytest.approx(double.losses[-1], abs=0.02)


def test_the_error_for_other_components_says_which() -> None:
    guide = AutoNaturalMixture(location, components=2)
    guide(Y)
    normals = dist.Normal(torch.zeros(2), 1.0)
    with pytest.raises(errors.ArgumentError, match=r"of Normal components.*MultivariateNormal"):
        guide.set_posterior(dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), normals))


def test_a_gradient_in_a_parameter_that_is_never_finite_is_no_chance() -> None:
    def model(y: torch.Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(0.0))
        pyro.factor("penalty", -scale.abs().sqrt())
        location(y)

    blr = BLR(model, AutoNaturalMixture(model, components=2))
    with pytest.raises(errors.NonFiniteError, match=r"parameter 'scale'.*Mend"):
        blr.step(Y)
    assert (blr.skipped, pyro.param("scale").item(), pyro.param("scale").grad) == (0, 0.0, None)

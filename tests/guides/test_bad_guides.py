# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Guides that do not fit are typed errors, which name the site and print the mend."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer import autoguide as auto

from pyro_blr import BLR
from pyro_blr import errors as e
from tests.guides.scripts import (
    beta_bernoulli,
    coins,
    exposed,
    param,
    positive_param,
    reals,
    regression,
    rows,
    structured,
    sum_of_two,
)

DATA = rows()


def extra(X: Any, y: Any) -> None:
    pyro.sample("b", dist.Normal(param("b0", 0.0), 1.0))
    pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("tau", dist.LogNormal(param("t0", 0.0), 1.0))
    pyro.sample("typo", dist.Normal(param("u0", 0.0), 1.0))


def lacking(X: Any, y: Any) -> None:
    pyro.sample("b", dist.Normal(param("b0", 0.0), 1.0))


def mis_broadcast(y: torch.Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(z.unsqueeze(-1), 1.0), obs=y)


def of_z(y: torch.Tensor) -> None:
    loc = param("loc", 0.0)
    first = pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
    pyro.sample("z", dist.Normal(loc + 0 * first, positive_param("scale", 1.0)))


LACKS: dict[str, tuple[Any, Any, str]] = {
    "a site that the model lacks": (regression, extra, r"'typo'.*Mend"),
    "a latent that the guide lacks": (regression, lacking, r"'tau', 'w'.*Mend"),
    "an automatic guide of a part": (regression, auto.AutoNormal(exposed("b")), r"'tau'|'w'.*Mend"),
    "an automatic guide of another model": (exposed("b"), auto.AutoNormal(regression), "w.*Mend"),
    "a point of a part": (regression, auto.AutoDelta(exposed("b")), r"'tau', 'w'.*Mend"),
}


@pytest.mark.parametrize("case", LACKS)
def test_a_site_of_one_alone_is_named(case):
    model, guide, words = LACKS[case]
    with pytest.raises(e.GuideError, match=words):
        BLR(model, guide, on_sampled="ignore").step(*DATA)


def test_a_model_that_is_not_safe_under_vectorized_particles():
    loss = Trace_ELBO(num_particles=4, vectorize_particles=True)
    with pytest.raises(e.ShapeError, match=r"'y'.*vectorized particles.*Mend"):
        BLR(mis_broadcast, of_z, loss=loss, on_sampled="ignore").step(*reals())
    blr = BLR(mis_broadcast, of_z, loss=Trace_ELBO(num_particles=4), on_sampled="ignore")
    blr.step(*reals())  # one particle at a time is safe


def test_a_safe_model_under_vectorized_particles():
    loss = Trace_ELBO(num_particles=4, vectorize_particles=True)
    BLR(sum_of_two, structured, loss=loss, on_sampled="ignore").step(*reals())


def test_a_site_that_broadcasts():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(z * torch.ones(len(y), 1), 1.0), obs=y)

    with pytest.raises(e.ShapeError, match=r"'y'.*Mend"):
        BLR(model, of_z, on_sampled="ignore").step(*reals())


def test_sampled_guides_can_be_refused():
    with pytest.raises(e.SampledFactorError, match="sampled from the guide"):
        BLR(sum_of_two, structured, on_sampled="error").step(*reals())


@pytest.mark.parametrize("options", [{"params": "em"}, {"momentum": 0.5}])
def test_options_of_lifted_guides(options):
    blr = BLR(sum_of_two, structured, on_sampled="ignore", **options)
    with pytest.raises(e.ArgumentError, match="Mend"):
        blr.step(*reals())


def test_a_guide_without_messages():
    blr = BLR(sum_of_two, structured, on_sampled="ignore")
    with pytest.raises(e.GuideError, match=r"no messages.*Mend"):
        blr.messages(*reals())


def test_a_class_is_no_guide():
    with pytest.raises(e.ArgumentError, match=r"AutoNormal\(model\)"):
        BLR(regression, auto.AutoNormal)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_not_a_number():
    with pyro.validation_enabled(False), pytest.raises(e.NonFiniteError, match="Mend"):
        BLR(sum_of_two, structured, on_sampled="ignore").step(torch.tensor([float("nan")]))


def test_control_flow_on_a_latent_is_sampled_from_the_guide():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        scale = 1.0 if z > 0 else 2.0
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(z, scale), obs=y)

    guide = auto.AutoNormal(model)
    blr = BLR(model, guide, pyro.optim.Adam({"lr": 0.1}))
    with pytest.warns(e.SampledFactorWarning, match="sampled from the guide"):
        blr.step(*reals())
    for _ in range(80):
        blr.step(*reals())
    assert float(guide.median()["z"]) == pytest.approx(float(reals()[0].mean()), abs=0.6)


def test_a_latent_that_the_guide_leaves_out_is_summed_out_unless_the_loss_does_not():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(y)):
            k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(m + 3 * k, 1.0), obs=y)

    hidden = poutine.block(model, hide=["k"])
    assert BLR(model, auto.AutoNormal(hidden)).step(*reals()) > 0
    blr = BLR(model, auto.AutoNormal(hidden), loss=TraceEnum_ELBO(), on_sampled="ignore")
    assert blr.step(*reals()) > 0
    assert BLR(model, auto.AutoDelta(hidden)).step(*reals()) > 0
    with pytest.raises(e.DiscreteLatentError, match="'k'"):
        BLR(model, auto.AutoDelta(hidden), loss=Trace_ELBO()).step(*reals())


def test_a_guide_known_by_its_draws_needs_an_enumerating_loss():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(y)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(m + 3 * k, 1.0), obs=y)

    def guide(y):
        scale = positive_param("scale", 1.0)
        a = pyro.sample("a", dist.Normal(0.0, scale), infer={"is_auxiliary": True})
        pyro.sample("m", dist.Normal(torch.sin(a), scale))

    with pytest.raises(e.DiscreteLatentError, match="'k'"):
        BLR(model, guide, loss=Trace_ELBO()).step(*reals())
    for loss in (TraceEnum_ELBO(), None):
        assert BLR(model, guide, loss=loss, on_sampled="ignore").step(*reals()) > 0


def test_a_guide_on_another_support():
    def real(x):
        pyro.sample("p", dist.Normal(param("loc", 0.0), positive_param("scale", 1.0)))

    blr = BLR(beta_bernoulli, real, on_sampled="ignore")
    with pytest.raises(ValueError, match="constraint"):  # Pyro's own words: draws are outside
        for _ in range(20):
            blr.step(*coins())

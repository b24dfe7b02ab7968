# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What cannot be summed out is said, by the name of the site and with a mend."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_blr import BLR, errors
from pyro_blr.energy import elimination, enumeration
from pyro_blr.guides import AutoNatural
from tests.checks import engine
from tests.discrete import models
from tests.discrete.hand_made import chain_start
from tests.discrete.models import GRAPH, apart, mixture, randn, weights

Y = apart(0, 12)


def refused(error: type[Exception], model: Any, *args: Any, names: tuple[str, ...] = ()) -> str:
    """The message of the error that a first step raises: with the names and a mend."""
    with pytest.raises(error) as found:
        BLR(model, AutoNatural(model)).step(*args)
    text = str(found.value)
    assert "Mend: " in text
    for name in names:
        assert name in text
    return text


def test_a_table_of_joint_values_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each latent of a loop meets all others in one factor."""
    monkeypatch.setattr(elimination, "available_bytes", lambda device: 10**7)
    monkeypatch.setattr(enumeration, "available_bytes", lambda device: 10**7)

    def looped(y: torch.Tensor) -> None:
        theta = weights(2)
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        total = sum(pyro.sample(f"z{i}", dist.Categorical(theta)) for i in range(22))
        pyro.sample("y", dist.Normal(mu * total, 1.0), obs=y)

    text = refused(errors.MemoryLimitError, looped, torch.tensor(1.0), names=("GB", "pyro.plate"))
    assert "'y'" in text
    assert "pyro.markov" in text


def test_sums_that_meet_in_a_table_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of the nodes of a graph are small, and what is left between sums is not."""
    monkeypatch.setattr(elimination, "available_bytes", lambda device: 5000)
    graph = models.draw(0, dist.Bernoulli(0.5), 12, 12)
    refused(errors.MemoryLimitError, models.blocks, graph, names=("GB", "z0", "pyro.plate"))


@pytest.mark.parametrize(
    "law",
    [dist.Poisson(2.0), dist.Geometric(torch.tensor(0.5)), dist.NegativeBinomial(3.0, 0.5)],
    ids=lambda law: type(law).__name__,
)
def test_a_latent_without_finite_support(law: Any) -> None:
    def counted(y: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        k = pyro.sample("k", law)
        pyro.sample("y", dist.Normal(mu + k, 1.0), obs=y)

    refused(errors.DiscreteLatentError, counted, torch.tensor(1.0), names=("'k'",))


def test_a_vector_of_discrete_values_in_one_event() -> None:
    def vector(y: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        k = pyro.sample("k", dist.Bernoulli(p).expand([3]).to_event(1))
        pyro.sample("y", dist.Normal(k.sum(-1), 1.0), obs=y)

    refused(errors.DiscreteLatentError, vector, torch.tensor(1.0), names=("'k'", "pyro.plate"))


def test_a_model_whose_only_latents_are_discrete() -> None:
    def only(y: torch.Tensor) -> None:
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    refused(errors.NoLatentError, only, Y, names=("'z'",))


def test_a_batch_of_latents_without_a_plate() -> None:
    """Each of a batch is one latent of a plate, or the batch is one event: neither is said."""

    def undeclared(y: torch.Tensor) -> None:
        theta = weights(3)
        mu = pyro.sample("mu", dist.Normal(torch.zeros(3), 5.0).to_event(1))
        z = pyro.sample("z", dist.Categorical(theta).expand([len(y)]))
        pyro.sample("y", dist.Normal(mu[z], 1.0).to_event(1), obs=y)

    refused(errors.ShapeError, undeclared, Y, names=("'z'", "pyro.plate"))


def test_a_batch_of_data_without_a_plate_below_a_latent() -> None:
    """One latent of all rows, and rows that no plate declares: Pyro refuses them too."""

    def undeclared(y: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        z = pyro.sample("z", dist.Bernoulli(p))
        pyro.sample("y", dist.Normal(z, torch.ones(len(y))), obs=y)

    refused(errors.ShapeError, undeclared, Y, names=("'y'", "pyro.plate"))


def test_different_scales_in_one_sum() -> None:
    def scaled(y: torch.Tensor) -> None:
        theta = weights(3)
        with pyro.plate("k", 3):
            mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with poutine.scale(scale=2.0):
            u = pyro.sample("u", dist.Categorical(theta))
        v = pyro.sample("v", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[u] + mu[v], 1.0), obs=y)

    refused(errors.ArgumentError, scaled, torch.tensor(1.0), names=("'u'", "'v'", "scale"))


def test_latents_of_plates_that_cross() -> None:
    def crossed(y: torch.Tensor) -> None:
        theta = weights(3)
        with pyro.plate("k", 3):
            mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        columns, rows = pyro.plate("columns", 3, dim=-1), pyro.plate("rows", 4, dim=-2)
        with columns:
            u = pyro.sample("u", dist.Categorical(theta))
        with rows:
            v = pyro.sample("v", dist.Categorical(theta))
        with columns, rows:
            pyro.sample("y", dist.Normal(mu[u] + mu[v], 1.0), obs=y)

    names = ("'columns'", "'rows'", "pyro.plate")
    refused(errors.DiscreteLatentError, crossed, Y.reshape(4, 3), names=names)


def test_a_latent_outside_of_its_plate() -> None:
    """Another plate of the same size says nothing of which rows belong together."""

    def renamed(y: torch.Tensor) -> None:
        theta = weights(3)
        with pyro.plate("k", 3):
            mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Categorical(theta))
        with pyro.plate("m", len(y)):
            pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)

    refused(errors.ShapeError, renamed, Y, names=("'z'", "'y'", "'n'"))


def test_a_guide_that_holds_the_discrete_latent_is_known_by_its_draws() -> None:
    def guide(y: torch.Tensor) -> None:
        theta = pyro.param("a", torch.ones(3), constraint=dist.constraints.positive)
        pyro.sample("theta", dist.Dirichlet(theta))
        loc = pyro.param("loc", torch.tensor([-1.0, 0.0, 1.0]))
        with pyro.plate("k", 3):
            pyro.sample("mu", dist.Normal(loc, 1.0))
        probs = pyro.param("probs", torch.ones(len(y), 3) / 3, constraint=dist.constraints.simplex)
        with pyro.plate("n", len(y)):
            pyro.sample("z", dist.Categorical(probs))

    blr = BLR(mixture, guide)
    with pytest.warns(errors.SampledFactorWarning, match="'z' is a Categorical"):
        assert math.isfinite(blr.step(Y))


# ------------------------------------------------------------------------- what is no error at all


def test_an_empty_cluster_keeps_its_prior() -> None:
    """Far from all data: no weight at all, no NaN."""
    start = {
        "theta": dist.Dirichlet(torch.ones(3)),
        "mu": dist.Normal(torch.tensor([-6.0, 0.0, 1e4]), 0.1),
    }
    blr, guide = engine(mixture, start, step_size=1.0)
    blr.step(Y)
    mu = guide.marginal("mu")
    assert mu.mean[2].item() == pytest.approx(0.0, abs=1e-9)
    assert mu.stddev[2].item() == pytest.approx(5.0)
    assert all(math.isfinite(blr.step(Y)) for _ in range(5))
    assert blr.discrete_marginals(Y)["z"].probs[:, 2].isfinite().all()


def test_more_classes_than_rows() -> None:
    blr, _ = engine(mixture)
    fit = blr.fit(Y[:2])
    assert math.isfinite(fit.losses[-1])


def test_no_rows_at_all() -> None:
    with pytest.raises(errors.SubsampleError, match=r"'n' has no elements[\s\S]*Mend: "):
        engine(mixture)[0].step(Y[:0])


def test_rows_that_are_all_missing_leave_the_prior() -> None:
    def masked_rows(y: torch.Tensor) -> None:
        theta = weights(3)
        with pyro.plate("k", 3):
            mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Categorical(theta))
            with poutine.mask(mask=torch.zeros(len(y), dtype=torch.bool)):
                pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)

    blr, guide = engine(masked_rows)
    fit = blr.fit(Y)
    assert fit.converged
    assert fit.losses[-1] == pytest.approx(0.0, abs=1e-9)
    assert guide.marginal("mu").stddev.tolist() == pytest.approx([5.0] * 3)
    probs = blr.discrete_marginals(Y)["z"].probs
    assert torch.allclose(probs, torch.full((12, 3), 1 / 3))


def test_nan_in_rows_that_are_masked_says_nothing() -> None:
    def masked(y: torch.Tensor) -> None:
        theta = weights(3)
        with pyro.plate("k", 3):
            mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Categorical(theta))
            there = y.isfinite()
            with poutine.mask(mask=there):
                pyro.sample("y", dist.Normal(mu[z], 1.0), obs=torch.where(there, y, 0.0))

    start = {
        "theta": dist.Dirichlet(torch.ones(3)),
        "mu": dist.Normal(torch.tensor([-6.0, 0.0, 6.0]), 1.0),
    }
    gaps = torch.cat([Y, torch.full((3,), torch.nan)])
    blr, _ = engine(masked, start)
    whole, _ = engine(mixture, start)
    assert [blr.step(gaps) for _ in range(3)] == pytest.approx([whole.step(Y) for _ in range(3)])


def test_nan_in_data_is_named() -> None:
    with pytest.raises(errors.BLRError, match=r"'y'[\s\S]*Mend: "):
        engine(mixture)[0].step(torch.cat([Y, torch.tensor([torch.nan])]))


def test_a_sequence_of_one_step() -> None:
    for model in (models.markov, models.discrete_hmm):
        blr, _ = engine(model)
        assert blr.fit(randn(0, 1, 1)).converged
    blr, _ = engine(models.markov_batch)
    assert blr.fit(randn(0, 3, 1, 1)).converged


def test_sequences_that_are_all_missing() -> None:
    y, there = randn(0, 3, 4, 1), torch.ones(3, 4, dtype=torch.bool)
    there[1] = False

    def some(y: torch.Tensor) -> None:
        models.markov_batch(y, 3, there)

    start = chain_start(1)
    blr, _ = engine(some, start, step_size=1.0)
    without, _ = engine(models.markov_batch, start, step_size=1.0)
    for _ in range(3):
        assert blr.step(y) == pytest.approx(without.step(y[[0, 2]]), rel=1e-10)


def test_explain_names_every_site_of_a_sum() -> None:
    blr, _ = engine(models.blocks)
    blr.step(GRAPH)
    explained = blr.explain(GRAPH)
    sites = {f.site for f in explained.factors}
    assert {"z0", "z1", "z2", "z3", "A1,0", "A3,2"} <= sites
    assert "mean_field" in explained["A3,2"].reason


def test_a_python_branch_on_a_latent_that_is_summed_out() -> None:
    def branches(y: torch.Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(m if z > 0 else -m, 1.0), obs=y)

    refused(errors.ControlFlowError, branches, torch.tensor(0.3), names=("torch.where",))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A Gaussian whose precision is an arrow-head along a plate is the dense one, where it may be."""

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive, Trace_ELBO
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.energy.latents import cut
from pyro_blr.errors import ArgumentError, GuideError, MemoryLimitError, SampledFactorError
from pyro_blr.families import ArrowNormal, arrow_matrices
from pyro_blr.guides import AutoNaturalMultivariateNormal, gaussian_guides, memory
from pyro_blr.lifting.arrow_blocks import ArrowBlock
from pyro_blr.steps.cone import Safety, has_retraction, safe_step
from tests.arrow_guides import arrow_of, made, parts_of
from tests.arrow_models import (
    ACROSS,
    CURVED,
    GROUP,
    GROUPS,
    INTRICATE,
    LINEAR,
    ROWS,
    Model,
    Y,
    hierarchical_normal,
    logistic_regression,
    nested_plates,
    random_walk,
)

every_linear = pytest.mark.parametrize("model", LINEAR)
every_model = pytest.mark.parametrize("model", (*LINEAR, *CURVED))
across = pytest.mark.parametrize("model", ACROSS)


@every_linear
def test_one_full_step_is_the_posterior_and_the_evidence(model: Model) -> None:
    found = []
    for structure in ("dense", "arrow"):
        blr, guide = made(model, structure, step_size=1.0)
        blr.step()
        found.append((blr.evaluate_loss(), *guide.joint(), blr.explain()))
    (loss, mean, root, explained), (other, mean_2, root_2, explained_2) = found
    assert isinstance(arrow_of(guide).family, ArrowNormal)
    # q is the posterior: every draw of the guide has the evidence.
    assert Trace_ELBO().loss(model, guide) == pytest.approx(loss, rel=1e-10)
    assert Predictive(model, guide=guide, num_samples=2)()["y"].shape[0] == 2
    assert other == pytest.approx(loss, rel=1e-10)
    torch.testing.assert_close(mean_2, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(root_2, root, rtol=1e-10, atol=1e-10)
    assert all(f.tier == "exact" and f.conjugate for f in explained.factors + explained_2.factors)


@pytest.mark.parametrize("model", CURVED)
def test_the_optimum_is_that_of_the_full_covariance(model: Model) -> None:
    found = []
    for structure in ("dense", "arrow"):
        blr, guide = made(model, structure)
        assert blr.fit(tol=1e-17, max_steps=60).converged
        found.append((blr.evaluate_loss(), *guide.joint(), blr.explain()))
    (loss, mean, root, explained), (other, mean_2, root_2, explained_2) = found
    assert arrow_of(guide).plate == "groups"
    assert other == pytest.approx(loss, rel=1e-10)
    torch.testing.assert_close(mean_2, mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(root_2, root, rtol=1e-8, atol=1e-8)
    assert [f.tier for f in explained.factors] == [f.tier for f in explained_2.factors]


@pytest.mark.parametrize("model", (*LINEAR, *CURVED, *INTRICATE))
def test_messages_are_parts_of_the_dense_ones(model: Model) -> None:
    """At the same q, at the start and after two steps; what the arrow-head leaves out is 0."""
    blr, guide = made(model, "arrow")
    seen = []
    for _ in range(3):
        (message,) = blr.messages().values()
        block = arrow_of(guide)
        natural = tuple(n.detach().clone() for n in guide.naturals()[block])
        seen.append((natural, message, blr.evaluate_loss()))
        blr.step()
    dense, full = made(model, "dense")
    dense.evaluate_loss()
    (held,) = full.blocks
    index = torch.arange(block.event_size or 0)
    order = torch.cat([cut(block, site, index, 0).flatten() for site in held.sites])
    for natural, message, loss in seen:
        precision = arrow_matrices.dense(ArrowNormal().precision(natural))[order][:, order]
        linear = arrow_matrices.pack((natural[0], natural[1]))[order]
        full.write({held: (linear, -0.5 * precision)})
        assert dense.evaluate_loss() == pytest.approx(loss, rel=1e-10)
        expected, left = parts_of(next(iter(dense.messages().values())), held, block)
        for value, whole in zip(message, expected, strict=True):
            torch.testing.assert_close(value, whole, rtol=1e-8, atol=1e-8)
        assert left.abs().max() < 1e-10


def test_index_tables_that_are_made_twice_are_of_the_same_groups() -> None:
    rows = 100  # beyond 64 elements a tensor is recognised by its memory
    x = torch.linspace(0.0, 1.0, rows)

    def model(shift: int) -> None:
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", GROUPS):
            a, b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
        first, second = (torch.arange(rows) % GROUPS for _ in range(2))
        second = (second + shift) % GROUPS
        pyro.sample("y", dist.Normal(a[first] + b[second] * x, 0.3).to_event(1), obs=x.sin())

    blr, _ = made(model, "arrow")
    blr.step(0)
    assert blr.explain(0)["y"].conjugate
    blr, _ = made(model, "arrow")
    with pytest.raises(GuideError, match="different elements of the plate 'groups'"):
        blr.step(1)


@across
def test_a_model_that_couples_groups_is_refused(model: Model) -> None:
    blr, _ = made(model, "arrow")
    with pytest.raises(GuideError, match=r"site 'y' has a product of .* the plate 'steps'.*Mend"):
        blr.step()


@across
def test_a_model_that_couples_groups_is_dense(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    blr, guide = made(model, "dense")
    assert blr.fit(tol=1e-10).converged
    loss = blr.evaluate_loss()
    monkeypatch.setattr(gaussian_guides, "MAX_DENSE", 3)
    blr, guide = made(model, "auto")
    assert blr.fit(tol=1e-10).converged
    assert blr.evaluate_loss() == pytest.approx(loss, abs=1e-9)
    assert len(guide.blocks) == 1
    assert "full covariance" in str(blr.explain())
    assert "site 'y' has a product" in str(blr.explain())


def test_auto_is_dense_where_it_is_small_and_an_arrow_head_beyond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blr, guide = made(hierarchical_normal, "auto")
    blr.step()
    assert not isinstance(guide.blocks[0], ArrowBlock)
    assert blr.explain().notes == ()
    monkeypatch.setattr(gaussian_guides, "MAX_DENSE", 10)
    blr, guide = made(hierarchical_normal, "auto")
    with pytest.raises(GuideError, match="take a step first"):
        guide.set_up((), {})
        guide.joint()
    blr.step()
    block = arrow_of(guide)
    assert (block.plate, block.groups, block.global_size, block.local_size) == ("groups", 5, 3, 3)
    note = "arrow-head precision along the plate 'groups', with 3 global numbers and 5 groups of 3"
    assert note in str(blr.explain())


def test_of_nested_plates_the_one_with_the_fewest_numbers_is_taken() -> None:
    blr, guide = made(nested_plates, "arrow")
    blr.step()
    block = arrow_of(guide)
    # Along "groups" (1 + 5 * 4) it is 1 + 1 + 5 * 4 * 6 = 122, along "members" 6 + 36 + 15 * 12.
    assert (block.plate, block.groups, block.global_size, block.local_size) == ("groups", 5, 1, 4)
    assert block.numbers == 122
    assert block.numbers == sum(n.numel() for n in guide.naturals()[block])


@pytest.mark.parametrize(
    ("model", "structure", "needed", "match"),
    [
        (random_walk, "auto", 100, "product of different elements of the plate 'steps'"),
        (hierarchical_normal, "dense", 200, "structure='arrow', an arrow-head .* would take 936 B"),
        (hierarchical_normal, "arrow", 50, "3 global numbers and 5 groups of 3 holds 5 times"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    model: Model, structure: str, needed: int, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaussian_guides, "MAX_DENSE", 3)
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed)
    blr, _ = made(model, structure)
    with pytest.raises(MemoryLimitError, match=rf"(?s){match}.*Mend"):
        blr.step()


def test_another_structure_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="'auto', 'dense', 'arrow', not 'banded'"):
        AutoNaturalMultivariateNormal(hierarchical_normal, structure="banded")
    blr, _ = made(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)), "arrow")
    with pytest.raises(GuideError, match=r"is in a plate\. Mend"):
        blr.step()


def test_a_later_call_that_couples_groups_is_refused() -> None:
    def model(together: bool) -> None:
        with pyro.plate("groups", GROUPS):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(a, 1.0), obs=Y[:GROUPS])
        if together:
            pyro.sample("y", dist.Normal(a.sum(), 1.0), obs=Y[0])

    blr, guide = made(model, "arrow")
    blr.step(False)
    with pytest.raises(GuideError, match="product of different elements of the plate 'groups'"):
        BLR(model, guide).step(True)
    with pytest.raises(SampledFactorError, match="product of different elements of the plate"):
        blr.step(True)


def test_sites_outside_the_joint_gaussian() -> None:
    def model() -> None:
        tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", GROUPS):
            a = pyro.sample("a", dist.Normal(mu, 1.0))
        with pyro.plate("data", ROWS):
            pyro.sample("y", dist.Normal(a[GROUP], tau.rsqrt()), obs=Y)

    found = []
    for structure in ("dense", "arrow"):
        pyro.clear_param_store()
        guide = AutoNaturalMultivariateNormal(model, sites=["mu", "a"], structure=structure)
        blr = BLR(model, guide)
        assert blr.fit(tol=1e-14).converged
        found.append((blr.evaluate_loss(), guide.marginal("tau").mean))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-8, atol=0.0)


def _subsampled(rows: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("groups", GROUPS * 2, subsample=rows) as index:
        a = pyro.sample("a", dist.Normal(mu, 0.7))
        pyro.sample("y", dist.Normal(a, 0.3), obs=Y[index])


def test_messages_of_subsamples_have_the_mean_of_the_full_one() -> None:
    blr, _ = made(_subsampled, "arrow")
    full = next(iter(blr.messages(torch.arange(GROUPS * 2)).values()))
    halves = [torch.arange(k, GROUPS * 2, 2) for k in range(2)]
    parts = [next(iter(blr.messages(rows).values())) for rows in halves]
    for whole, *each in zip(full, *parts, strict=True):
        torch.testing.assert_close(sum(each) / 2, whole)


def test_steps_beyond_the_cone_are_halved() -> None:
    """The improved-BLR step has products of groups, so that it is not taken."""
    blr, guide = made(logistic_regression, "arrow")
    blr.step()
    (block,) = guide.blocks
    natural = guide.naturals()[block]
    far = tuple(-3.0 * n.detach() for n in natural)
    safety = Safety()
    moved = safe_step(block.family, natural, far, 1.0, safety)
    assert not has_retraction(block.family)
    assert moved is not None
    assert bool(block.family.in_domain(moved))
    assert (safety.halvings, safety.retractions) == (3, 0)


MEMORY = """
import resource, time, torch, pyro, pyro.distributions as dist
from pyro_blr import BLR
from pyro_blr.guides import AutoNaturalMultivariateNormal

torch.set_num_threads(1)

def seconds(groups):
    group, x = torch.arange(groups), torch.randn(groups)

    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", groups):
            a = pyro.sample("a", dist.Normal(mu, 0.7))
            b = pyro.sample("b", dist.Normal(0.0, 0.5))
        with pyro.plate("data", groups):
            pyro.sample("y", dist.Normal(a[group] + (b[group] + w) * x, 0.3), obs=x)

    pyro.clear_param_store()
    guide = AutoNaturalMultivariateNormal(model)
    blr = BLR(model, guide)
    blr.step()
    start = time.process_time()
    blr.step()
    spent = time.process_time() - start
    assert guide.sample_posterior(2)["a"].shape == (2, groups)
    assert guide.median()["b"].shape == (groups,)
    return spent

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fewer, more = seconds(5_000), seconds(100_000)
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
print(fewer, more, peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux counts it")
def test_100_000_groups_take_memory_and_time_linear_in_their_number() -> None:
    """A dense precision would take 320 GB, and 8000 times as long as one of 1/20 of the groups."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    fewer, more, peak = map(float, run.stdout.split())
    assert more < 100 * fewer
    assert peak < 0.8

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""GaussianHMM with random arguments: the bound of the same model whose states are a latent."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.energy.hidden_gaussian import ChainIntegral, gaussian_chain
from pyro_blr.energy.hidden_markov import Sequences
from pyro_blr.errors import ArgumentError
from pyro_blr.lifting.distribution import LiftedDistribution
from tests import gaussian_hmm_models as models
from tests.checks import engine, tiers
from tests.gaussian_hmm_models import D, E, N, T, randn

Model = Callable[..., Any]

PAIRS: dict[str, tuple[Model, Model, Tensor]] = {
    **{
        p.__name__: (models.one(p, models.hmm), models.one(p, models.states), 2 * randn(7, T, E))
        for p in models.ONE
    },
    **{
        f"{p.__name__}, {name}": (
            models.sequences(p, models.hmm),
            models.sequences(p, models.states),
            2 * randn(8, *shape, E),
        )
        for p in (models.noises, models.matrices, models.everything)
        for name, shape in {"sequences": (N, T), "a step each": (N, 1)}.items()
    },
    "each_step, sequences": (
        models.sequences(models.each_step, models.hmm),
        models.sequences(models.each_step, models.states),
        2 * randn(8, N, T, E),
    ),
    "a step": (
        models.one(models.everything, models.hmm),
        models.one(models.everything, models.states),
        randn(9, 1, E),
    ),
    "of their own": (
        models.of_their_own(models.hmm),
        models.of_their_own(models.states),
        2 * randn(8, N, T, E),
    ),
}
pair = pytest.mark.parametrize(("model", "explicit", "y"), PAIRS.values(), ids=PAIRS)


def with_states(explicit: Model, guide: Any, y: Tensor) -> BLR:
    """The model with states, q of the arguments that of a guide, q of the states at its optimum."""
    known = {b.name: n for b, n in guide.naturals().items()}
    blr, other = engine(explicit, blocks="site", on_sampled="error")
    blr.step(y)
    other.write({b: known[b.name] for b in other.blocks if b.name != "z"})
    (states,) = (b for b in other.blocks if b.name == "z")
    other.write({states: blr.messages(y)["z"]})
    return blr


@pair
def test_the_bound_is_that_of_states_at_their_optimum(
    model: Model, explicit: Model, y: Tensor
) -> None:
    blr, guide = engine(model, blocks="site", on_sampled="error")
    for _ in range(2):
        blr.step(y)
    assert tiers(blr, y)["y"] == "exact"
    found, messages = blr.evaluate_loss(y), blr.messages(y)
    other = with_states(explicit, guide, y)
    assert found == pytest.approx(other.evaluate_loss(y), rel=1e-10)
    expected = other.messages(y)
    states, own = other.guide.marginal("z"), blr.discrete_marginals(y)["y.states"]
    assert own.batch_shape == y.shape[:-1]
    first = states.mean.shape[-2] - y.shape[-2]  # the state in front of the first observation
    for its, found in ((states.mean, own.mean), (states.variance, own.variance)):
        torch.testing.assert_close(found, its[..., first:, :], rtol=1e-8, atol=1e-10)
    for name, message in messages.items():  # the gradient of a maximum is the gradient at it
        for own, its in zip(message, expected[name], strict=True):
            torch.testing.assert_close(own, its, rtol=1e-8, atol=1e-8)


FITTED = ("noises", "each_step", "matrices, sequences", "of their own")


@pytest.mark.parametrize(("model", "explicit", "y"), [PAIRS[k] for k in FITTED], ids=FITTED)
def test_fit_climbs_to_the_optimum_with_states(model: Model, explicit: Model, y: Tensor) -> None:
    blr, guide = engine(model, blocks="site", on_sampled="error")
    losses = [blr.step(y) for _ in range(12)]
    assert max(b - a for a, b in pairwise(losses)) < 1e-9
    fit = blr.fit(y)
    assert fit.converged, fit.reason
    found = blr.evaluate_loss(y)
    other = with_states(explicit, guide, y)
    assert other.fit(y).converged
    assert other.evaluate_loss(y) == pytest.approx(found, abs=1e-5)


BLOCKS = {
    "scaled_transition": {"A+q"},
    "everything": {"A+b", "C+d", "m", "q", "r", "p"},
    "matrices": {"A", "C", "P", "W", "R"},
}


@pytest.mark.parametrize("name", BLOCKS)
def test_what_moves_together_shares_a_block(name: str) -> None:
    model, _, y = PAIRS[name]
    apart, _ = engine(model, blocks="site", on_sampled="error")
    apart.fit(y)
    highest = -apart.evaluate_loss(y)
    blr, guide = engine(model, on_sampled="error")
    losses = [blr.step(y) for _ in range(8)]
    assert max(b - a for a, b in pairwise(losses)) < 1e-9
    fit = blr.fit(y)
    assert fit.converged, fit.reason
    assert {b.name for b in guide.blocks} == BLOCKS[name]
    assert -blr.evaluate_loss(y) > highest - 1e-5


def test_a_joint_block_has_the_bound_with_states() -> None:
    model, explicit, y = PAIRS["scaled_transition"]
    blr, guide = engine(model, on_sampled="error")
    blr.fit(y)
    known = {b.name: n for b, n in guide.naturals().items()}
    other, its = engine(explicit, on_sampled="error")
    other.step(y)
    its.write({b: known[b.name] for b in its.blocks if b.name != "z"})
    (states,) = (b for b in its.blocks if b.name == "z")
    its.write({states: other.messages(y)["z"]})
    assert blr.evaluate_loss(y) == pytest.approx(other.evaluate_loss(y), rel=1e-10)


def spread(seed: int, size: int, *batch: int) -> Tensor:
    root = randn(seed, *batch, size, size)
    return root @ root.mT + 0.3 * torch.eye(size)


def known(kind: str, batch: tuple[int, ...], steps: int) -> dict[str, Any]:
    """The arguments of a chain. Of each there is one for each sequence, or for each step."""
    own = () if kind == "alike" else (*batch, steps)
    if kind == "normals":
        laws = [
            dist.Normal(randn(1, D), randn(2, *batch, D).exp()).to_event(1),
            dist.Normal(torch.zeros(D), randn(3, *own, D).exp()).to_event(1),
            dist.Normal(randn(4, *batch, 1, E), torch.ones(E)).to_event(1),
        ]
    else:
        vector = dist.MultivariateNormal
        laws = [
            vector(randn(1, D), spread(2, D)),
            vector(randn(3, *own, D), precision_matrix=spread(4, D)),
            vector(torch.zeros(E), scale_tril=torch.linalg.cholesky(spread(5, E, *own))),
        ]
    move, see = randn(6, *own, D, D), randn(7, *batch, 1, D, E) if own else randn(7, D, E)
    names = ("initial_dist", "transition_dist", "observation_dist")
    return {
        **dict(zip(names, laws, strict=True)),
        "transition_matrix": move,
        "observation_matrix": see,
    }


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("kind", ["alike", "normals", "each"])
def test_known_arguments_give_the_density_of_pyro(
    kind: str, batch: tuple[int, ...], steps: int
) -> None:
    given = known(kind, batch, steps)
    y = randn(8, *batch, steps, E)
    expected = dist.GaussianHMM(**given, duration=steps).log_prob(y)
    chain = gaussian_chain(LiftedDistribution(dist.GaussianHMM, given), y)
    assert chain is not None
    assert not isinstance(chain, str)
    found = ChainIntegral(chain, Sequences(expected.shape, None, 1.0))(*chain.log_factors)
    assert float(found) == pytest.approx(float(expected.sum()), rel=1e-9)


def test_data_of_any_scale_keep_their_figures() -> None:
    """Flows of the Nile are about 1000, their noise 120: in nats as in thousands."""

    def bound(unit: float) -> float:
        def model(y: Tensor) -> None:
            q = pyro.sample("q", dist.Gamma(3.0, 1.0))
            zero, one = torch.zeros(1), torch.ones(1)
            law = dist.GaussianHMM(
                dist.Normal(1000 * unit * one, 300 * unit).to_event(1),
                torch.eye(1),
                dist.Normal(zero, 40 * unit * q.rsqrt()).to_event(1),
                torch.eye(1),
                dist.Normal(zero, 120 * unit * one).to_event(1),
            )
            pyro.sample("y", law, obs=y)

        y = 1000 + 150 * randn(3, 100, 1)
        blr, _ = engine(model, {"q": dist.Gamma(5.0, 2.0)}, on_sampled="error")
        return blr.evaluate_loss(y * unit) - 100 * float(torch.tensor(unit).log())

    assert bound(1.0) == pytest.approx(bound(1e-3), abs=1e-8)
    assert bound(1.0) == pytest.approx(bound(1e4), abs=1e-8)


def masked(rows: Any) -> Model:
    def model(y: Tensor) -> None:
        space = models.everything()
        with pyro.plate("sequences", len(y)), pyro.poutine.mask(mask=rows):
            models.hmm(space, y)

    return model


@pytest.mark.parametrize("blocks", ["site", "auto"])
def test_masked_sequences_are_left_out(blocks: str) -> None:
    y = randn(8, N, T, E)
    there = torch.tensor([True, False, True, False])
    blr, guide = engine(masked(there), blocks=blocks, on_sampled="error")
    blr.step(y)
    few, _ = engine(models.sequences(models.everything, models.hmm), blocks=blocks)
    few.step(y[there])
    found = guide.naturals().values()
    few.guide.write(dict(zip(few.guide.blocks, found, strict=True)))
    assert blr.evaluate_loss(y) == pytest.approx(few.evaluate_loss(y[there]), rel=1e-12)


@pytest.mark.parametrize("rows", [False, torch.zeros(N, dtype=torch.bool)])
def test_without_data_q_is_the_prior(rows: Any) -> None:
    y = randn(8, N, T, E)
    blr, guide = engine(masked(rows), on_sampled="error")
    assert blr.fit(y).converged
    assert blr.evaluate_loss(y) == pytest.approx(0.0, abs=1e-6)
    assert float(guide.marginal("r").mean) == pytest.approx(1.5, rel=1e-6)


def test_a_subsample_is_scaled() -> None:
    y = randn(8, N, T, E)
    rows = torch.tensor([0, 2])

    def model(y: Tensor) -> None:
        space = models.noises()
        with pyro.plate("sequences", len(y), subsample=rows):
            models.hmm(space, y[rows])

    def twice(y: Tensor) -> None:
        space = models.noises()
        with pyro.plate("sequences", 2), pyro.poutine.scale(scale=2.0):
            models.hmm(space, y[rows])

    start = {"q": dist.Gamma(3.0, 2.0), "r": dist.Gamma(torch.full((E,), 4.0), 2.0).to_event(1)}
    losses = [engine(m, start, on_sampled="error")[0].evaluate_loss(y) for m in (model, twice)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_one_series_may_stand_for_all_of_a_plate() -> None:
    y = randn(8, T, E)

    def model(y: Tensor) -> None:
        space = models.noises()
        with pyro.plate("sequences", N):
            models.hmm(space, y)

    start = {"q": dist.Gamma(3.0, 2.0), "r": dist.Gamma(torch.full((E,), 4.0), 2.0).to_event(1)}
    losses = [engine(model, start)[0].evaluate_loss(data) for data in (y, y.expand(N, T, E))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_marginal_states_are_at_draws_and_tighter() -> None:
    """By Jensen, at the same q."""
    model, _, y = PAIRS["noises"]
    blr, guide = engine(model, on_sampled="error")
    blr.fit(y)
    other = BLR(model, guide, discrete="marginal", on_sampled="ignore", num_draws=64)
    assert tiers(other, y)["y"] == "sampled"
    assert other.evaluate_loss(y) < blr.evaluate_loss(y)
    assert torch.isfinite(torch.tensor(other.step(y)))


def test_what_has_no_expectation_is_at_draws_for_a_reason() -> None:
    def model(y: Tensor) -> None:
        a = pyro.sample("A", dist.Normal(models.TURN, 0.4).to_event(2))
        models.hmm(models.Space(move=torch.tanh(a)), y)

    y = randn(7, T, E)
    blr, _ = engine(model, on_sampled="ignore")
    row = next(f for f in blr.explain(y).factors if f.site == "y")
    assert row.tier == "sampled"
    assert "tanh" in row.reason
    assert torch.isfinite(torch.tensor(blr.step(y)))


def test_parameters_have_a_closed_m_step() -> None:
    """EM of a noise precision: at its optimum the evidence falls on both sides."""
    y = 2 * randn(7, 60, E)

    def model(y: Tensor) -> None:
        models.gamma("unused")
        q = pyro.param("q", torch.tensor(1.0), constraint=dist.constraints.positive)
        models.hmm(models.Space(step=models.unit(D, q.rsqrt())), y)

    blr, _ = engine(model, params="em", on_sampled="error")
    assert blr.fit(y).converged
    q = pyro.param("q").detach()

    def evidence(q: Tensor) -> float:
        space = models.Space(step=models.unit(D, q.rsqrt()))
        law = dist.GaussianHMM(
            *(space.first, space.move, space.step(space.step_loc), space.see),
            space.error(space.error_loc),
        )
        return float(law.log_prob(y))

    assert blr.evaluate_loss(y) == pytest.approx(-evidence(q), abs=1e-8)
    assert evidence(q) > max(evidence(q * 1.01), evidence(q * 0.99))


def test_a_chain_without_a_log_density_names_the_other_spellings() -> None:
    def heavy(y: Tensor) -> None:
        noise = pyro.sample("noise", dist.Gamma(2.0, 1.0))
        first = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        moves = dist.StudentT(4.0, torch.zeros(2), 1.0).to_event(1)
        seen = dist.Normal(torch.zeros(2), noise).to_event(1)
        eye = torch.eye(2)
        pyro.sample("y", dist.LinearHMM(first, eye, moves, eye, seen, duration=len(y)), obs=y)

    blr, _ = engine(heavy)
    with pytest.raises(ArgumentError, match="write the states as a latent"):
        blr.step(randn(0, 4, 2))

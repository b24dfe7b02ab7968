# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Ways to write one model with discrete latents: each has the same bound and the same posterior."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.ops.indexing import Vindex

from tests.checks import engine
from tests.discrete.models import Model, apart, draw, weights

K = 3
Y = apart(0, 24)
START = {
    "theta": dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0])),
    "mu": dist.Normal(torch.tensor([-5.0, 1.0, 4.0]), 0.5),
    "tau": dist.Gamma(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([2.0, 2.0, 5.0])),
}


def parameters() -> tuple[Any, Any, Any]:
    theta = weights(K)
    with pyro.plate("k", K):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.5))
    return theta, mu, tau


def mixture(y: torch.Tensor, infer: Any = None) -> None:
    theta, mu, tau = parameters()
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta), infer=infer)
        pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()), obs=y)


def inferred(**infer: Any) -> Model:
    return lambda y: mixture(y, infer)


def by_vindex(y: torch.Tensor) -> None:
    theta, mu, tau = parameters()
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(Vindex(mu)[z], Vindex(tau)[z].rsqrt()), obs=y)


def by_batches(y: torch.Tensor) -> None:
    """The last dim indexed, behind an ellipsis."""
    theta, mu, tau = parameters()
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[..., z], tau[..., z].rsqrt()), obs=y)


def by_one_hot(y: torch.Tensor) -> None:
    theta, mu, tau = parameters()
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.OneHotCategorical(theta))
        pyro.sample("y", dist.Normal(z @ mu, (z @ tau).rsqrt()), obs=y)


def by_one_hot_sum(y: torch.Tensor) -> None:
    theta, mu, tau = parameters()
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.OneHotCategorical(theta))
        pyro.sample("y", dist.Normal((z * mu).sum(-1), (z * tau).sum(-1) ** -0.5), obs=y)


def by_where(y: torch.Tensor) -> None:
    theta, mu, tau = parameters()
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        loc = torch.where(z == 0, mu[0], torch.where(z == 1, mu[1], mu[2]))
        precision = torch.where(z == 0, tau[0], torch.where(z == 1, tau[1], tau[2]))
        pyro.sample("y", dist.Normal(loc, precision.rsqrt()), obs=y)


def by_masks(y: torch.Tensor) -> None:
    """One observation statement for each class, masked."""
    theta, mu, tau = parameters()
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        for k in range(K):
            with poutine.mask(mask=z == k):
                pyro.sample(f"y{k}", dist.Normal(mu[k], tau[k].rsqrt()), obs=y)


def by_factor(y: torch.Tensor) -> None:
    theta, mu, tau = parameters()
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.factor("y", dist.Normal(mu[z], tau[z].rsqrt()).log_prob(y))


def by_logits(y: torch.Tensor) -> None:
    theta, mu, tau = parameters()
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(logits=theta.log()))
        pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()), obs=y)


def left_plate(y: torch.Tensor) -> None:
    theta, mu, tau = parameters()
    with pyro.plate("n", len(y), dim=-2):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()), obs=y[:, None])


def sequential(y: torch.Tensor) -> None:
    theta, mu, tau = parameters()
    for i in pyro.plate("n", len(y)):
        z = pyro.sample(f"z{i}", dist.Categorical(theta))
        pyro.sample(f"y{i}", dist.Normal(mu[z], tau[z].rsqrt()), obs=y[i])


def halves(y: torch.Tensor) -> None:
    """The same rows in two plates."""
    theta, mu, tau = parameters()
    for i, part in enumerate(y.split(10)):
        with pyro.plate(f"n{i}", len(part)):
            z = pyro.sample(f"z{i}", dist.Categorical(theta))
            pyro.sample(f"y{i}", dist.Normal(mu[z], tau[z].rsqrt()), obs=part)


def two_plates(y: torch.Tensor) -> None:
    theta, mu, tau = parameters()
    with pyro.plate("b", 4, dim=-1), pyro.plate("a", len(y) // 4, dim=-2):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()), obs=y.reshape(-1, 4))


def padded(y: torch.Tensor) -> None:
    """Rows that are masked, latents and all."""
    theta, mu, tau = parameters()
    more = torch.cat([y, torch.zeros(5)])
    with pyro.plate("n", len(more)), poutine.mask(mask=torch.arange(len(more)) < len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()), obs=more)


def missing(y: torch.Tensor) -> None:
    """Rows whose observation alone is masked: their latents say nothing."""
    theta, mu, tau = parameters()
    more = torch.cat([y, torch.zeros(5)])
    with pyro.plate("n", len(more)):
        z = pyro.sample("z", dist.Categorical(theta))
        with poutine.mask(mask=torch.arange(len(more)) < len(y)):
            pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()), obs=more)


def masked_classes(y: torch.Tensor) -> None:
    """Classes whose own density is masked, and counted, as Pyro's enumeration counts it."""
    theta, mu, tau = parameters()
    with pyro.plate("n", len(y)):
        with poutine.mask(mask=torch.arange(len(y)) % 2 == 0):
            z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()), obs=y)


def unused(y: torch.Tensor) -> None:
    """A latent that nothing depends on."""
    theta = weights(K)
    with pyro.plate("k", K):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.5))
    pyro.sample("idle", dist.Categorical(theta))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()), obs=y)


def mixture_same_family(y: torch.Tensor) -> None:
    """The latent left out: at draws, hence only in the neighbourhood."""
    theta, mu, tau = parameters()
    with pyro.plate("n", len(y)):
        components = dist.Normal(mu, tau.rsqrt())
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(theta), components), obs=y)


SAME: dict[str, Model] = {
    "config_enumerate": config_enumerate(mixture),
    "config_enumerate, expanded": config_enumerate(mixture, expand=True),
    "enumerate parallel": inferred(enumerate="parallel"),
    "enumerate parallel, expanded": inferred(enumerate="parallel", expand=True),
    "enumerate sequential": inferred(enumerate="sequential"),
    "by Monte Carlo": inferred(enumerate="parallel", num_samples=7),
    "Vindex": by_vindex,
    "ellipsis": by_batches,
    "one-hot": by_one_hot,
    "one-hot sum": by_one_hot_sum,
    "where": by_where,
    "masks": by_masks,
    "factor": by_factor,
    "logits": by_logits,
    "left plate": left_plate,
    "a plate that is a loop": sequential,
    "halves": halves,
    "two plates": two_plates,
    "padded rows": padded,
    "missing rows": missing,
    "masked classes": masked_classes,
    "an idle latent": unused,
    "poutine.scale of 1": poutine.scale(mixture, 1.0),
}


@pytest.fixture(scope="module")
def reference() -> tuple[float, Any, float]:
    blr, guide = engine(mixture, START, on_sampled="error", step_size=1.0)
    first, second = blr.step(Y), blr.step(Y)
    return first, guide.marginal("mu").mean, second


@pytest.mark.parametrize("model", SAME.values(), ids=SAME)
def test_spellings_have_the_same_bound_and_posterior(model: Model, reference: Any) -> None:
    blr, guide = engine(model, START, on_sampled="error", step_size=1.0)
    first, mean, second = reference
    assert blr.step(Y) == pytest.approx(first, rel=1e-11)
    assert blr.step(Y) == pytest.approx(second, rel=1e-10)
    torch.testing.assert_close(guide.marginal("mu").mean, mean, rtol=1e-9, atol=1e-9)


def test_two_classes_by_a_bernoulli() -> None:
    def indexed(y: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Beta(2.0, 1.0))
        with pyro.plate("k", 2):
            mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Bernoulli(p))
            pyro.sample("y", dist.Normal(mu[z.long()], 1.0), obs=y)

    def chosen(y: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Beta(2.0, 1.0))
        with pyro.plate("k", 2):
            mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Bernoulli(p))
            pyro.sample("y", dist.Normal(torch.where(z == 1, mu[1], mu[0]), 1.0), obs=y)

    def weighed(y: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Beta(2.0, 1.0))
        with pyro.plate("k", 2):
            mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Bernoulli(p))
            pyro.sample("y", dist.Normal(z * mu[1] + (1 - z) * mu[0], 1.0), obs=y)

    start = {"p": dist.Beta(2.0, 3.0), "mu": dist.Normal(torch.tensor([-1.0, 2.0]), 0.5)}
    losses = []
    for model in (indexed, chosen, weighed):
        blr, _ = engine(model, start, on_sampled="error")
        losses.append([blr.step(Y) for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-11)
    assert losses[2] == pytest.approx(losses[0], rel=1e-11)


def test_a_binomial_latent_is_summed_out() -> None:
    def thinned(y: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Beta(2.0, 1.0))
        mu = pyro.sample("mu", dist.Normal(1.0, 1.0))
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Binomial(3, p))
            pyro.sample("y", dist.Normal(mu * z, 1.0), obs=y)

    blr, _ = engine(thinned, on_sampled="error")
    y = draw(0, dist.Normal(2.0, 1.0), 10)
    fit = blr.fit(y)
    assert fit.converged
    assert blr.discrete_marginals(y)["z"].probs.shape == (10, 4)


# ------------------------------------------------------------------- scales, subsamples, precision


def test_a_scale_counts_every_row_so_often() -> None:
    def scaled(y: torch.Tensor, times: float) -> None:
        theta, mu, tau = parameters()
        with pyro.plate("n", len(y)), poutine.scale(scale=times):
            z = pyro.sample("z", dist.Categorical(theta))
            pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()), obs=y)

    twice, _ = engine(scaled, START, step_size=1.0)
    repeated, _ = engine(mixture, START, step_size=1.0)
    y = torch.cat([Y, Y])
    for _ in range(3):
        assert twice.step(Y, 2.0) == pytest.approx(repeated.step(y), rel=1e-10)
    marginals = twice.discrete_marginals(Y, 2.0)["z"].probs
    torch.testing.assert_close(marginals, repeated.discrete_marginals(y)["z"].probs[: len(Y)])


def test_subsamples_have_the_full_bound_on_average() -> None:
    def subsampled(y: torch.Tensor, index: torch.Tensor) -> None:
        theta, mu, tau = parameters()
        with pyro.plate("n", len(y), subsample=index):
            z = pyro.sample("z", dist.Categorical(theta))
            pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()), obs=y[index])

    full, _ = engine(mixture, START)
    part, _ = engine(subsampled, START)
    losses = [part.evaluate_loss(Y, index) for index in torch.arange(len(Y)).split(8)]
    assert sum(losses) / 3 == pytest.approx(full.evaluate_loss(Y), rel=1e-11)
    probs = [
        part.discrete_marginals(Y, index)["z"].probs for index in torch.arange(len(Y)).split(8)
    ]
    torch.testing.assert_close(torch.cat(probs), full.discrete_marginals(Y)["z"].probs)


def test_steps_on_subsamples_come_near_the_optimum() -> None:
    def subsampled(y: torch.Tensor, size: int) -> None:
        theta, mu, tau = parameters()
        with pyro.plate("n", len(y), subsample_size=size) as index:
            z = pyro.sample("z", dist.Categorical(theta))
            pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()), obs=y[index])

    y = apart(1, 120)
    full, _ = engine(mixture, START)
    full.fit(y)
    pyro.set_rng_seed(0)
    part, _ = engine(subsampled, START)
    for _ in range(80):
        part.step(y, 40)
    part.average()
    full_at = part.evaluate_loss(y, len(y))
    assert full_at == pytest.approx(full.evaluate_loss(y), abs=0.3)


def test_a_temperature_tempers_the_data_alone() -> None:
    """The bound of exp(E log p(z) + E log p(y | z) / T): of precisions over T, and a constant."""

    def by_hand(y: torch.Tensor, T: float) -> None:
        theta, mu, tau = parameters()
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Categorical(theta))
            law = dist.Normal(mu[z], tau[z].rsqrt())
            pyro.factor("y", law.log_prob(y) / T)

    tempered, _ = engine(mixture, START, temperature=2.5, on_sampled="error")
    expected, _ = engine(by_hand, START, on_sampled="error")
    for _ in range(3):
        assert tempered.step(Y) == pytest.approx(expected.step(Y, 2.5), rel=1e-10)


def test_single_precision_data_and_parameters() -> None:
    torch.set_default_dtype(torch.float32)
    try:
        start = {name: _single(law) for name, law in START.items()}
        blr, guide = engine(mixture, start, on_sampled="error")
        losses = [blr.step(Y.float()) for _ in range(4)]
        dtype = guide.marginal("mu").mean.dtype
    finally:
        torch.set_default_dtype(torch.float64)
    assert dtype == torch.float32
    double, _ = engine(mixture, START)
    assert losses == pytest.approx([double.step(Y) for _ in range(4)], rel=1e-4)


def _single(law: Any) -> Any:
    if isinstance(law, dist.Dirichlet):
        return dist.Dirichlet(law.concentration.float())
    if isinstance(law, dist.Gamma):
        return dist.Gamma(law.concentration.float(), law.rate.float())
    return dist.Normal(law.loc.float(), law.scale.float())

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Which latents are updated together: `blocks="auto"` is the joint posterior, `"site"` mean field.

Every oracle is dense Gaussian algebra on the design matrix. The evidence is what ties the joint
together: marginals alone do not show correlations, but -ELBO reaches -log p(data) only if q is the
joint posterior.
"""

import math
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from tests.checks import engine

SD = 0.8
ROWS = 60


def _randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Gaussian:
    """The posterior of standard normal weights of the columns of `design`, noise sd `SD`."""

    def __init__(self, design: Tensor, y: Tensor) -> None:
        width = design.shape[1]
        self.precision = torch.eye(width) + design.T @ design / SD**2
        self.covariance = torch.linalg.inv(self.precision)
        self.mean = torch.linalg.solve(self.precision, design.T @ y / SD**2)
        marginal = SD**2 * torch.eye(len(y)) + design @ design.T
        self.log_evidence = float(
            dist.MultivariateNormal(torch.zeros(len(y)), marginal).log_prob(y)
        )

    @property
    def sd(self) -> Tensor:
        return self.covariance.diagonal().sqrt()

    @property
    def mean_field_elbo(self) -> float:
        """The best product of marginals has the exact mean and the diagonal of the precision."""
        gap = 0.5 * (self.precision.diagonal().log().sum() - self.precision.logdet())
        return self.log_evidence - float(gap)


def plate_of_weights(X: Tensor, y: Tensor) -> None:
    with pyro.plate("f", X.shape[1]):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, SD), obs=y)


def line(X: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a * X[:, 0] + b * X[:, 1], SD), obs=y)


def separate_weights(X: Tensor, y: Tensor) -> None:
    w = torch.stack([pyro.sample(f"w{i}", dist.Normal(0.0, 1.0)) for i in range(X.shape[1])])
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, SD), obs=y)


def slope_and_plate(X: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("f", X.shape[1] - 1):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X[:, 0] * a + X[:, 1:] @ w, SD), obs=y)


def two_events(X: Tensor, y: Tensor) -> None:
    u = pyro.sample("u", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    v = pyro.sample("v", dist.Normal(0.0, 1.0).expand([X.shape[1] - 2]).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X[:, :2] @ u + X[:, 2:] @ v, SD), obs=y)


def _features(width: int) -> tuple[Tensor, Tensor]:
    X = _randn(1, ROWS, width)
    return X, X @ _randn(2, width) + SD * _randn(3, ROWS)


def _line(center: float) -> tuple[Tensor, Tensor]:
    x = center + _randn(4, ROWS)
    X = torch.stack([torch.ones(ROWS), x], -1)
    return X, 0.5 - 0.01 * x + SD * _randn(5, ROWS)


PROBLEMS: dict[str, tuple[Callable[..., None], tuple[Tensor, Tensor]]] = {
    "a plate of 10 weights": (plate_of_weights, _features(10)),
    "line, x near 3": (line, _line(3.0)),
    "line, x near 100": (line, _line(100.0)),
    "a list of scalars": (separate_weights, _features(4)),
    "a scalar and a plate": (slope_and_plate, _features(6)),
    "two vectors": (two_events, _features(5)),
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)


def marginals(guide: Any) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of all latents, in the order of the columns."""
    q = [guide.marginal(name) for name in guide.median()]
    means = torch.cat([d.mean.reshape(-1) for d in q])
    return means, torch.cat([d.variance.reshape(-1) for d in q]).sqrt()


def random_start(name: str, seed: int) -> dict[str, Any]:
    model, (X, _) = PROBLEMS[name]
    width = X.shape[1]
    loc, sd = 3 * _randn(seed, width), _randn(seed + 1, width).exp()
    if model is plate_of_weights:
        return {"w": dist.Normal(loc, sd)}
    if model is line:
        return {k: dist.Normal(loc[i], sd[i]) for i, k in enumerate("ab")}
    if model is separate_weights:
        return {f"w{i}": dist.Normal(loc[i], sd[i]) for i in range(width)}
    if model is slope_and_plate:
        return {"a": dist.Normal(loc[0], sd[0]), "w": dist.Normal(loc[1:], sd[1:])}
    return {
        "u": dist.Normal(loc[:2], sd[:2]).to_event(1),
        "v": dist.Normal(loc[2:], sd[2:]).to_event(1),
    }


# --------------------------------------------------------------- blocks="auto": the joint posterior


@pytest.mark.parametrize("seed", [None, 0, 1])
@every_problem
def test_auto_is_the_joint_posterior_in_one_step(name: str, seed: int | None) -> None:
    model, (X, y) = PROBLEMS[name]
    truth = Gaussian(X, y)
    start = None if seed is None else random_start(name, seed)
    blr, guide = engine(model, start, blocks="auto", step_size=1.0)
    blr.step(X, y)
    assert -blr.evaluate_loss(X, y) == pytest.approx(truth.log_evidence, rel=1e-9)
    means, sds = marginals(guide)
    # x near 100 has a condition number of 1e6 or so: 1e-10 of float64 is not there to be had.
    assert ((means - truth.mean) / truth.sd).abs().max() < 1e-8
    assert (sds / truth.sd - 1).abs().max() < 1e-8


@pytest.mark.parametrize("name", ["a plate of 10 weights", "line, x near 100", "two vectors"])
def test_draws_of_the_guide_have_the_joint_covariance(name: str) -> None:
    """What is stored as a block must also be sampled as a block."""
    model, (X, y) = PROBLEMS[name]
    truth = Gaussian(X, y)
    blr, guide = engine(model, blocks="auto", step_size=1.0)
    blr.step(X, y)
    rows = []
    for _ in range(400):
        draw = guide(X, y)
        rows.append(torch.cat([draw[site].reshape(-1) for site in guide.median()]))
    whitened = (torch.stack(rows) - truth.mean) @ torch.linalg.cholesky(truth.precision)
    covariance = whitened.T @ whitened / len(rows)
    # Entries of a sample covariance of white noise: sd at most sqrt(2/n).
    assert (covariance - torch.eye(X.shape[1])).abs().max() < 5 * math.sqrt(2 / len(rows))


@pytest.mark.parametrize("name", ["a plate of 10 weights", "line, x near 100"])
def test_fit_under_auto_is_converged_at_the_evidence(name: str) -> None:
    model, (X, y) = PROBLEMS[name]
    blr, _ = engine(model, blocks="auto")
    fit = blr.fit(X, y, max_steps=30, tol=1e-6)
    assert fit.converged
    assert -fit.losses[-1] == pytest.approx(Gaussian(X, y).log_evidence, abs=1e-5)


# --------------------------------------------------------------------- blocks="site": mean field


@every_problem
def test_site_never_diverges(name: str) -> None:
    """The loss never rises, from any start, at the automatic step and at step size 1."""
    model, (X, y) = PROBLEMS[name]
    for step_size in ("auto", 1.0):
        blr, _ = engine(model, random_start(name, 0), blocks="site", step_size=step_size)
        losses = [blr.step(X, y) for _ in range(15)] + [blr.evaluate_loss(X, y)]
        assert all(math.isfinite(loss) for loss in losses)
        rises = [b - a for a, b in pairwise(losses)]
        slack = 1e-12 * max(abs(loss) for loss in losses)
        assert max(rises) <= slack, f"rose by {max(rises):.2e} at step size {step_size}"


@pytest.mark.parametrize(
    "name", [n for n in PROBLEMS if n not in ("line, x near 100", "two vectors")]
)
def test_site_equals_mean_field(name: str) -> None:
    model, (X, y) = PROBLEMS[name]
    truth = Gaussian(X, y)
    blr, guide = engine(model, random_start(name, 2), blocks="site")
    # The line's two scalars have a correlation of 0.95, whose square is the rate of the sweeps.
    for _ in range(250 if model is line else 100):
        blr.step(X, y)
    assert -blr.evaluate_loss(X, y) == pytest.approx(truth.mean_field_elbo, abs=1e-8)
    means, sds = marginals(guide)
    assert ((means - truth.mean) / truth.sd).abs().max() < 1e-4
    assert (sds * truth.precision.diagonal().sqrt() - 1).abs().max() < 1e-8


def test_site_keeps_the_covariance_of_an_event() -> None:
    """Two vectors: full covariance within each, none between them."""
    X, y = _features(5)
    truth = Gaussian(X, y)
    blr, guide = engine(two_events, blocks="site")
    for _ in range(100):
        blr.step(X, y)
    for site, rows in (("u", slice(0, 2)), ("v", slice(2, 5))):
        inside = torch.linalg.inv(truth.precision[rows, rows])
        assert torch.allclose(guide.marginal(site).covariance_matrix, inside, rtol=1e-8)
    between = truth.precision[:2, :2].logdet() + truth.precision[2:, 2:].logdet()
    elbo = truth.log_evidence - 0.5 * float(between - truth.precision.logdet())
    assert -blr.evaluate_loss(X, y) == pytest.approx(elbo, abs=1e-8)


def test_site_near_100_is_slow_but_honest() -> None:
    """The optimum of mean field is there, far away: monotone, below it, and not called reached."""
    X, y = _line(100.0)
    best = Gaussian(X, y).mean_field_elbo
    blr, _ = engine(line, blocks="site")
    fit = blr.fit(X, y, max_steps=30, tol=1e-3)
    short = best + fit.losses[-1]
    assert short > -1e-8
    assert not fit.converged or short < 2e-3


# ------------------------------------------------------------ couplings through random precisions


def _regression_with_unknown_noise(X: Tensor, y: Tensor) -> None:
    with pyro.plate("f", X.shape[1]):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=y)


def structured_optimum(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    """Coordinate ascent over q(w) q(tau), w jointly Gaussian: mean, covariance, ELBO."""
    rows, width = X.shape
    shape, tau = 2.0 + rows / 2, 1.0
    for _ in range(500):
        covariance = torch.linalg.inv(torch.eye(width) + tau * X.T @ X)
        mean = tau * covariance @ (X.T @ y)
        squares = (y - X @ mean).square().sum() + (X.T @ X * covariance).sum()
        rate = 1.0 + squares / 2
        tau = shape / rate
    log_tau = math.lgamma(shape)  # E log tau enters times 2 + N/2 - shape = 0: lgamma only
    log_2pi = math.log(2 * math.pi)
    weights = (
        -0.5 * (mean.square().sum() + covariance.trace()) + 0.5 * covariance.logdet() + width / 2
    )
    noise = log_tau - shape * rate.log() - math.lgamma(2.0)
    # E_q of (rate - 1 - squares/2) tau vanishes at the optimum.
    return mean, covariance, float(weights + noise - 0.5 * rows * log_2pi)


def test_auto_merges_given_a_random_precision() -> None:
    X, y = _features(10)
    mean, covariance, elbo = structured_optimum(X, y)
    blr, guide = engine(_regression_with_unknown_noise, blocks="auto")
    fit = blr.fit(X, y, max_steps=100, tol=1e-10)
    assert fit.converged
    assert -blr.evaluate_loss(X, y) == pytest.approx(elbo, rel=1e-9)
    q = guide.marginal("w")
    sd = covariance.diagonal().sqrt()
    assert ((q.mean - mean) / sd).abs().max() < 1e-4
    assert (q.variance.sqrt() / sd - 1).abs().max() < 1e-4


def _level_and_groups(group: Tensor, y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("groups", 4):
        u = pyro.sample("u", dist.Normal(mu, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(u[group], SD), obs=y)


def test_auto_merges_a_hierarchy() -> None:
    """mu and the groups share a quadratic term through the prior of u, not through the data."""
    group = torch.arange(ROWS) % 4
    y = _randn(6, 4)[group] + SD * _randn(7, ROWS)
    # u = mu + e: in standard normal (mu, e) the design has a column of ones and the group columns.
    design = torch.cat([torch.ones(ROWS, 1), torch.nn.functional.one_hot(group, 4).double()], 1)
    truth = Gaussian(design, y)
    blr, guide = engine(_level_and_groups, blocks="auto", step_size=1.0)
    blr.step(group, y)
    assert -blr.evaluate_loss(group, y) == pytest.approx(truth.log_evidence, rel=1e-9)
    assert float(guide.marginal("mu").mean) == pytest.approx(float(truth.mean[0]), rel=1e-8)
    groups = truth.mean[0] + truth.mean[1:]
    assert torch.allclose(guide.marginal("u").mean, groups, rtol=1e-8)


def test_what_is_not_coupled_stays_apart() -> None:
    """Elements that share no term have the same posterior under both, and no joint covariance."""
    X, y = _features(3)

    def model(X: Tensor, y: Tensor) -> None:
        with pyro.plate("columns", 3, dim=-1):
            theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", len(X), dim=-2):
                pyro.sample("x", dist.Normal(theta, SD), obs=X)

    found = []
    for blocks in ("auto", "site"):
        pyro.clear_param_store()
        blr, guide = engine(model, blocks=blocks, step_size=1.0)
        blr.step(X, y)
        found.append((guide.marginal("theta").mean, guide.marginal("theta").variance))
    variance = 1 / (1 + len(X) / SD**2)
    for mean, var in found:
        assert torch.allclose(mean, variance * X.sum(0) / SD**2, rtol=1e-10)
        assert torch.allclose(var, torch.full((3,), variance), rtol=1e-10)


def test_a_matrix_stays_apart_where_an_exponential_runs_along_its_columns() -> None:
    """``sum_ij L_ij z_j exp(f_j)`` holds ``L z`` only without the exponential."""

    def model() -> None:
        matrix = pyro.sample("L", dist.Wishart(torch.tensor(5.0), torch.eye(2) / 4))
        z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), precision_matrix=matrix))
        f = pyro.sample("f", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.factor("x", -0.1 * torch.einsum("ij,j,j->", matrix, z, torch.exp(0.3 * f)))

    values = []
    for blocks in ("site", "auto"):
        pyro.set_rng_seed(0)
        blr, guide = engine(model, blocks=blocks)
        values.append(blr.evaluate_loss())
        assert [b.name for b in guide.blocks] == ["L", "z", "f"]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_merging_a_long_chain_takes_no_time_per_pair_of_terms() -> None:
    """60 sites in a loop, stacked: 1770 couplings and 3600 terms. Each met each once: a minute."""

    def model() -> None:
        z = [pyro.sample("z0", dist.Normal(0.0, 1.0))]
        for t in range(1, 60):
            z.append(pyro.sample(f"z{t}", dist.Normal(z[-1], 0.5)))
        pyro.sample("y", dist.Normal(torch.stack(z), 1.0).to_event(1), obs=_randn(0, 60))

    blr, guide = engine(model)
    start = time.process_time()
    blr.evaluate_loss()
    assert time.process_time() - start < 20.0
    assert [len(b.sites) for b in guide.blocks] == [60]

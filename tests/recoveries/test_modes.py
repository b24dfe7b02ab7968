# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The delta method: gradient descent, Newton's method, Laplace's approximation; flat minima."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import init_to_value
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from pyro_blr import BLR
from pyro_blr.errors import ArgumentError, GuideError
from pyro_blr.families import DiagonalNormal, FixedScaleNormal
from pyro_blr.guides import AutoNatural, AutoNaturalMultivariateNormal, AutoNaturalNormal
from pyro_blr.mode import with_shift

STEPS = 100


def data() -> tuple[Tensor, Tensor]:
    """A logistic regression of three covariates and 60 rows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    draws = torch.rand(60, generator=generator, dtype=torch.float64)
    return x, (draws < (x @ w).sigmoid()).double()


def logistic(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 2.0).to_event(1))
    with pyro.plate("n", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def loss_of(w: Tensor) -> Tensor:
    """-log p(w, y), written by hand."""
    x, y = data()
    prior = 0.125 * (w @ w) + 3 * math.log(2 * math.sqrt(2 * math.pi))
    logits = x @ w
    return prior + (torch.nn.functional.softplus(logits) - y * logits).sum()


def gradient(w: Tensor) -> Tensor:
    """Its gradient."""
    x, y = data()
    return w / 4 + x.T @ ((x @ w).sigmoid() - y)


def curvature(w: Tensor) -> Tensor:
    """Its Hessian."""
    x, _ = data()
    p = (x @ w).sigmoid()
    return torch.eye(3) / 4 + (x.T * (p * (1 - p))) @ x


def start(value: Any) -> Any:
    return init_to_value(values={"w": torch.as_tensor(value)})


def test_gradient_descent() -> None:
    """A Gaussian of fixed covariance at its mean: m - rho s^2 g."""
    x, y = data()
    guide = AutoNatural(
        logistic, families={"w": FixedScaleNormal(0.5)}, init_loc_fn=start([1.0, 1.0, 1.0])
    )
    blr = BLR(logistic, guide, estimator="delta", step_size=0.08)
    w = torch.ones(3)
    for _ in range(STEPS):
        loss = blr.step(x, y)
        assert loss == pytest.approx(float(loss_of(w)), abs=1e-9)
        w = w - 0.08 * 0.25 * gradient(w)
        assert (guide.marginal("w").mean - w).abs().max() < 1e-10


@pytest.mark.parametrize("rho", [1.0, 0.3])
def test_newton(rho: float) -> None:
    """A Gaussian with full covariance at its mean: at rho = 1 the step is H^-1 g."""
    x, y = data()
    guide = AutoNaturalMultivariateNormal(logistic, init_loc_fn=start([0.1, 0.2, 0.3]))
    blr = BLR(logistic, guide, estimator="delta", step_size=rho)
    w, precision = torch.tensor([0.1, 0.2, 0.3]), 100.0 * torch.eye(3)
    for _ in range(STEPS):
        blr.step(x, y)
        precision = (1 - rho) * precision + rho * curvature(w)
        w = w - rho * torch.linalg.solve(precision, gradient(w))
        mean, factor = guide.joint()
        assert (mean - w).abs().max() < 1e-10
        assert (torch.cholesky_inverse(factor) / precision - 1).abs().max() < 1e-8


def test_laplace() -> None:
    """The same to convergence: the mode and the Hessian there, on the unconstrained space."""
    x, y = data()

    def model() -> None:
        tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
        w = pyro.sample("w", dist.Normal(torch.zeros(3), tau.rsqrt()).to_event(1))
        with pyro.plate("n", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    def loss(z: Tensor) -> Tensor:
        u, w = z[0], z[1:]
        prior = -2.0 * u + 3.0 * u.exp() - 1.5 * u + 0.5 * u.exp() * (w @ w)
        logits = x @ w
        return prior + (torch.nn.functional.softplus(logits) - y * logits).sum()

    guide = AutoNaturalMultivariateNormal(model)
    fit = BLR(model, guide, estimator="delta").fit(tol=1e-20)
    assert fit.converged and "mode" in fit.reason
    z = torch.zeros(4)
    for _ in range(50):
        z = z - torch.linalg.solve(hessian(loss, z), jacobian(loss, z))
    mean, factor = guide.joint()
    assert (mean - z).abs().max() < 1e-8
    assert (torch.cholesky_inverse(factor) - hessian(loss, z)).abs().max() < 1e-8


@pytest.mark.parametrize("guide", [AutoNaturalNormal, AutoNatural])
def test_a_mode_is_certified_whatever_the_blocks(guide: Any) -> None:
    """With a diagonal precision steps are short of Newton's, and the gap knows it."""
    x, y = data()
    x = x @ torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.3, 0.9], [0.0, 0.0, 0.3]])
    own = guide(logistic)
    fit = BLR(logistic, own, estimator="delta").fit(x, y, tol=1e-12)
    assert fit.converged
    reference = AutoNaturalMultivariateNormal(logistic)
    BLR(logistic, reference, estimator="delta").fit(x, y, tol=1e-20)
    assert (own.median()["w"] - reference.median()["w"]).abs().max() < 1e-5


def two_wells() -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0).mask(False))
    pyro.factor("f", (-((z + 1) ** 2) / (2 * 0.05**2)).exp() + 0.8 * (
        -((z - 1) ** 2) / (2 * 0.8**2)).exp())  # fmt: skip


@pytest.mark.parametrize(
    ("scale", "end"), [(0.0, -0.9997), (0.25, -0.953), (0.5, 0.9996)], ids=["0", "0.25", "0.5"]
)
def test_flat_minimum(scale: float, end: float) -> None:
    """A wide q leaves the sharp well for the flat one; of no width it stays."""
    options: dict[str, Any] = {} if scale else {"estimator": "delta"}
    guide = AutoNatural(
        two_wells,
        families={"z": FixedScaleNormal(scale or 1e-2)},
        init_loc_fn=init_to_value(values={"z": torch.tensor(-1.0)}),
    )
    fit = BLR(two_wells, guide, **options).fit(max_steps=3000)
    assert fit.converged
    assert abs(float(guide.median()["z"]) - end) < 1e-3


def test_a_shift_of_the_mean_leaves_the_width() -> None:
    """Of scalars, vectors, and where the width is given: as of draws of the law itself."""

    def model() -> None:
        pyro.sample("a", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("c", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("d", dist.Normal(torch.zeros(2), torch.tensor([1.0, 3.0])).to_event(1))

    named = {"c": FixedScaleNormal(0.5), "d": DiagonalNormal()}
    guide = AutoNatural(model, families=named, init_scale=0.3)
    blr = BLR(model, guide, estimator="delta", step_size=0.5)
    blr.step()
    naturals = blr.view.naturals()
    assert len(naturals) == 4
    for block, natural in naturals.items():
        shift = torch.linspace(1.0, 2.0, natural[0].numel()).reshape(natural[0].shape)
        law = block.family.distribution(natural)
        moved = block.family.distribution(with_shift(block, natural, shift))
        assert (moved.mean - law.mean - shift).abs().max() < 1e-12
        assert (moved.variance - law.variance).abs().max() < 1e-12


def test_rows_that_share_a_covariance() -> None:
    """Of two plates, as one dim of rows: the mode, and a shift of all of them."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(2, 3, generator=generator)
    y = torch.randn(4, 5, 3, generator=generator)

    def model() -> None:
        with pyro.plate("b", 4, dim=-2), pyro.plate("n", 5, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z @ W, 1.0).to_event(1), obs=y)

    guide = AutoNatural(model)
    blr = BLR(model, guide, estimator="delta", step_size=1.0)
    blr.step()
    ((block, natural),) = blr.view.naturals().items()
    assert block.row_dims == 2
    precision = torch.eye(2) + W @ W.T
    expected = torch.linalg.solve(precision, (y @ W.T).mT).mT
    assert (guide.median()["z"] - expected).abs().max() < 1e-10
    shift = torch.linspace(1.0, 2.0, natural[0].numel()).reshape(natural[0].shape)
    first, second = with_shift(block, natural, shift)
    assert ((first - natural[0]) - shift @ precision).abs().max() < 1e-10
    assert second is natural[1]


def test_explain_says_that_factors_are_at_the_mean() -> None:
    x, y = data()
    explanation = BLR(logistic, AutoNatural(logistic), estimator="delta").explain(x, y)
    assert {f.tier for f in explanation.factors} == {"delta"}
    assert "at the mean of q" in explanation["y"].reason
    assert not explanation["y"].conjugate
    assert "unknown" in str(explanation)
    explanation._repr_html_()


def test_what_the_delta_method_refuses() -> None:
    def counts(y: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    y = torch.tensor([3.0, 1.0])
    with pytest.raises(GuideError, match=r"'rate' as a Gamma.*Mend: AutoNaturalMultivariate"):
        BLR(counts, AutoNatural(counts), estimator="delta").step(y)

    def at_prior() -> None:
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        f = pyro.sample("f", dist.Normal(u, 1.0))
        pyro.sample("y", dist.Bernoulli(logits=f), obs=torch.ones(()))

    with pytest.raises(GuideError, match=r"'f' stays at its prior.*Mend: leave it out"):
        BLR(at_prior, AutoNatural(at_prior, at_prior=["f"]), estimator="delta").step()
    for options in ({"params": "em"}, {"discrete": "mean_field"}, {"discrete": "factorised"}):
        with pytest.raises(ArgumentError, match=r'estimator="delta".*Mend'):
            BLR(counts, AutoNatural(counts), estimator="delta", **options)
    with pytest.raises(ArgumentError, match="guide is a point mass"):
        guide = pyro.infer.autoguide.AutoDelta(counts)
        BLR(counts, guide, estimator="delta").step(y)


def test_discrete_latents_are_summed_out_at_the_mean() -> None:
    """The mode of a mixture's own density."""
    y = torch.tensor([-2.1, -1.7, -2.4, 1.8, 2.2, 2.6])

    def mixture(y: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(torch.tensor([-1.0, 1.0]), 3.0).to_event(1))
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("y", dist.Normal(m[z], 1.0), obs=y)

    def loss(m: Tensor) -> Tensor:
        prior = ((m - torch.tensor([-1.0, 1.0])) ** 2).sum() / 18
        return prior - (-0.5 * (y[:, None] - m) ** 2).logsumexp(-1).sum()

    guide = AutoNaturalMultivariateNormal(mixture, init_loc_fn=init_to_value(
        values={"m": torch.tensor([-1.0, 1.0])}))  # fmt: skip
    blr = BLR(mixture, guide, estimator="delta")
    fit = blr.fit(y, tol=1e-16)
    mean, factor = guide.joint()
    assert fit.converged
    assert jacobian(loss, mean).abs().max() < 1e-6
    assert (torch.cholesky_inverse(factor) - hessian(loss, mean)).abs().max() < 1e-6
    probs = blr.discrete_marginals(y)["z"].probs
    expected = (-0.5 * (y[:, None] - mean) ** 2).softmax(-1)
    assert (probs - expected).abs().max() < 1e-10


def test_float32_converges_within_its_rounding() -> None:
    x, y = (t.float() for t in data())

    def model() -> None:
        w = pyro.sample("w", dist.Normal(x.new_zeros(3), 2.0).to_event(1))
        with pyro.plate("n", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    guide = AutoNaturalMultivariateNormal(model)
    fit = BLR(model, guide, estimator="delta").fit()
    assert fit.converged and fit.steps < 20
    assert gradient(guide.joint()[0]).abs().max() < 1e-4


@pytest.mark.parametrize("fixed", [True, False])
def test_steps_on_minibatches_are_taken_as_they_are(fixed: bool) -> None:
    """Stochastic gradient descent, and Newton's method by running means of Hessians."""
    x, y = data()
    rho = 0.3

    def model(rows: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 2.0).to_event(1))
        with pyro.plate("n", len(x), subsample=rows):
            pyro.sample("y", dist.Bernoulli(logits=x[rows] @ w), obs=y[rows])

    options: dict[str, Any] = {"init_loc_fn": start([1.0, 1.0, 1.0])}
    guide: Any = AutoNaturalMultivariateNormal(model, init_scale=1.0, **options)
    if fixed:
        guide = AutoNatural(model, families={"w": FixedScaleNormal(1.0)}, **options)
    blr = BLR(model, guide, estimator="delta", step_size=rho)
    generator = torch.Generator().manual_seed(3)
    w, precision = torch.ones(3), torch.eye(3)
    for _ in range(STEPS):
        rows = torch.randperm(len(x), generator=generator)[:12]
        blr.step(rows)
        p = (x[rows] @ w).sigmoid()
        slope = w / 4 + 5 * x[rows].T @ (p - y[rows])
        if not fixed:
            hessian = torch.eye(3) / 4 + 5 * (x[rows].T * (p * (1 - p))) @ x[rows]
            precision = (1 - rho) * precision + rho * hessian
        w = w - rho * torch.linalg.solve(precision, slope)
        assert (guide.marginal("w").mean - w).abs().max() < 1e-10
    assert blr.info.safety.shortened == 0


def test_minibatches_are_not_certified() -> None:
    x, y = data()

    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 2.0).to_event(1))
        with pyro.plate("n", len(x), subsample_size=30) as rows:
            pyro.sample("y", dist.Bernoulli(logits=x[rows] @ w), obs=y[rows])

    blr = BLR(model, AutoNaturalMultivariateNormal(model), estimator="delta")
    fit = blr.fit(max_steps=40)
    assert not fit.converged and "a part of the data. Mend: fit on all rows" in fit.reason


@pytest.mark.parametrize("families", [{}, {"w": FixedScaleNormal(0.2)}], ids=["delta", "fixed"])
def test_what_is_no_sum_of_messages_is_refused(families: dict[str, Any]) -> None:
    x, y = data()
    estimator = "auto" if families else "delta"
    blr = BLR(logistic, AutoNatural(logistic, families=families), estimator=estimator)
    blr.fit(x, y)
    for call in (blr.update, blr.influence, blr.surrogate):
        with pytest.raises(GuideError, match=r"Mend: leave out estimator"):
            call(x, y)


def test_a_fixed_scale_goes_on_where_it_was_saved() -> None:
    x, y = data()

    def made() -> BLR:
        pyro.clear_param_store()
        guide = AutoNatural(logistic, families={"w": FixedScaleNormal(0.2)})
        return BLR(logistic, guide, step_size=0.5)

    blr = made()
    blr.step(x, y)
    state = blr.state_dict()
    expected = blr.step(x, y)
    other = made()
    other.load_state_dict(state)
    assert other.step(x, y) == expected
    assert float(other.guide.marginal("w").stddev[0]) == pytest.approx(0.2)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_is_a_positive_number(scale: float) -> None:
    with pytest.raises(ArgumentError, match=r"scale = .*Mend"):
        FixedScaleNormal(scale)


def test_rows_of_a_minibatch_with_a_fixed_scale() -> None:
    """Each row that was seen is at its own optimum, whatever its plate is scaled by."""
    x = torch.tensor([1.0, -2.0, 3.0, 0.5, 4.0, -1.0])

    def model(rows: Tensor) -> None:
        with pyro.plate("n", 6, subsample=rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    guide = AutoNatural(
        model,
        families={"z": FixedScaleNormal(0.3)},
        init_loc_fn=init_to_value(values={"z": torch.zeros(2)}),
    )
    blr = BLR(model, guide)
    for _ in range(40):
        blr.step(torch.tensor([0, 4]))
    law = guide.marginal("z")
    expected = torch.tensor([0.5, 0.0, 0.0, 0.0, 2.0, 0.0])
    assert (law.mean - expected).abs().max() < 1e-6

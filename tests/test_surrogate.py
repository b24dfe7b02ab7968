# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The surrogate of a step: what minimises it is the next q, by an independent minimiser."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from pyro_blr import BLR, errors
from pyro_blr.families import Beta, Dirichlet, Gamma
from pyro_blr.guides import AutoNatural, AutoNaturalLowRankMultivariateNormal

matplotlib.use("Agg")

Y = torch.tensor([0.3, 0.5, 1.2, 0.9, 0.7], dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A model of one scalar latent in which its law is not conjugate, and q by two real numbers.

    :param latent: the prior of z.
    :param datum: the law of a datum given z.
    :param law: q from two unconstrained numbers.
    :param from_line: z from a number on the line, over which integrals run.
    """

    family: Any
    latent: Callable[[], Any]
    datum: Callable[[Tensor], Any]
    law: Callable[[Tensor], Any]
    start: tuple[float, float]
    from_line: Callable[[Tensor], Tensor]


def _positive(law: Any) -> Callable[[Tensor], Any]:
    return lambda at: law(at[0].exp(), at[1].exp())


CASES = {
    "Normal": Case(
        None,
        lambda: dist.Normal(0.0, 2.0),
        lambda z: dist.Poisson(torch.exp(z)),
        lambda at: dist.Normal(at[0], at[1].exp()),
        (0.1, -0.5),
        lambda t: t,
    ),
    "Bernoulli's Normal": Case(
        None,
        lambda: dist.Normal(0.0, 2.0),
        lambda z: dist.Binomial(2, logits=z),
        lambda at: dist.Normal(at[0], at[1].exp()),
        (0.1, -0.5),
        lambda t: t,
    ),
    "Gamma": Case(
        Gamma,
        lambda: dist.Gamma(2.0, 2.0),
        lambda z: dist.Normal(z, 0.7),
        _positive(dist.Gamma),
        (1.5, 1.5),
        torch.exp,
    ),
    "Beta": Case(
        Beta,
        lambda: dist.Beta(2.0, 3.0),
        lambda z: dist.Normal(z, 0.3),
        _positive(dist.Beta),
        (1.5, 1.5),
        torch.sigmoid,
    ),
}


def model_of(case: Case) -> Callable[[Tensor], None]:
    def model(y: Tensor) -> None:
        z = pyro.sample("z", case.latent())
        with pyro.plate("data", len(y)):
            law = case.datum(z)
            discrete = law.support.is_discrete if hasattr(law, "support") else False
            pyro.sample("y", law, obs=y.round() if discrete else y)

    return model


def engine(case: Case, step_size: float, steps: int = 2) -> BLR:
    """A BLR on its way: q is neither at its start nor at the optimum."""
    model = model_of(case)
    families = {} if case.family is None else {"z": case.family}
    blr = BLR(model, AutoNatural(model, families=families, init_scale=0.5), step_size=step_size)
    for _ in range(steps):
        blr.step(Y)
    return blr


class OnGrid:
    """E_q of functions of z by the trapezoidal rule on the line that z is a function of."""

    def __init__(self, case: Case) -> None:
        self.law = case.law
        line = torch.linspace(-40.0, 40.0, 16001, dtype=torch.float64).requires_grad_()
        z = case.from_line(line)
        (slope,) = torch.autograd.grad(z.sum(), line)
        kept = (z > 0) & (z < 1) if case.law(torch.zeros(2)).support is unit else z == z
        kept &= slope > 1e-300
        self.z, self.weight = z.detach()[kept], (80.0 / 16000) * slope[kept]

    def expected(self, function: Tensor, at: Tensor) -> Tensor:
        log_q = self.law(at).log_prob(self.z)
        return (self.weight * log_q.exp() * function).sum()

    def objective(self, surrogate: Tensor, at: Tensor) -> Tensor:
        """E_q[s] - H(q)."""
        log_q = self.law(at).log_prob(self.z)
        return (self.weight * log_q.exp() * (surrogate + log_q)).sum()


unit = dist.constraints.unit_interval


def minimised(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Newton's method with halved steps, on two numbers."""
    at = start
    for _ in range(200):
        hessian = torch.autograd.functional.hessian(function, at)
        leaf = at.detach().requires_grad_()
        value = function(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        values, vectors = torch.linalg.eigh(hessian)
        step = -vectors @ ((vectors.T @ gradient) / values.abs().clamp(min=1e-8))
        if step.abs().max() < 1e-10:
            return at + step
        size = 1.0
        while not function(at + size * step) <= value and size > 1e-12:
            size /= 2
        at = (at + size * step).detach()
    return at


def numbers_of(law: Any) -> Tensor:
    law = getattr(law, "base_dist", law)
    if isinstance(law, torch.distributions.Normal):
        return torch.stack([law.loc, law.scale.log()]).reshape(2)
    if isinstance(law, torch.distributions.Gamma):
        return torch.stack([law.concentration.log(), law.rate.log()]).reshape(2)
    return torch.stack([law.concentration1.log(), law.concentration0.log()]).reshape(2)


@pytest.mark.parametrize("step_size", [1.0, 0.3])
@pytest.mark.parametrize("name", CASES)
def test_its_minimiser_is_the_next_q(name: str, step_size: float) -> None:
    case = CASES[name]
    blr = engine(case, step_size)
    surrogate = blr.surrogate(Y)
    assert surrogate.step_size == step_size
    grid = OnGrid(case)
    loss = surrogate({"z": grid.z})
    start = torch.tensor(case.start, dtype=torch.float64)
    found = minimised(lambda at: grid.objective(loss, at), start)
    blr.step(Y)
    assert (blr.info.safety.retractions, blr.info.safety.halvings) == (0, 0)
    expected = numbers_of(blr.guide.marginal("z"))
    assert (found - expected).abs().max() < 1e-8


@pytest.mark.parametrize("name", CASES)
def test_at_q_both_agree_in_value_and_gradient(name: str) -> None:
    case = CASES[name]
    blr = engine(case, 1.0)
    surrogate, grid = blr.surrogate(Y), OnGrid(case)
    now = numbers_of(blr.guide.marginal("z")).detach().requires_grad_()
    values, gradients = [], []
    for own in (surrogate({"z": grid.z}), surrogate.loss({"z": grid.z})):
        own = torch.where(own.isfinite(), own, 0.0)  # where q has no mass, exp(z) overflows
        value = grid.expected(own, now)
        values.append(float(value.detach()))
        gradients.append(torch.autograd.grad(value, now)[0])
    assert values[0] == pytest.approx(values[1], abs=1e-8)
    assert (gradients[0] - gradients[1]).abs().max() < 1e-7
    assert surrogate.expected_loss == pytest.approx(values[1], abs=1e-8)


def test_a_regularised_step_keeps_a_share_of_minus_log_q() -> None:
    blr = engine(CASES["Gamma"], 1.0)
    z = torch.linspace(0.2, 3.0, 7, dtype=torch.float64)
    full, part = blr.surrogate(Y), blr.surrogate(Y, step_size=0.25)
    q = blr.guide.marginal("z")
    kept = 0.25 * full({"z": z}) - 0.75 * q.log_prob(z)
    difference = part({"z": z}) - kept
    assert (difference - difference[0]).abs().max() < 1e-10


X = torch.tensor(
    [[0.5, 1.0], [-1.0, 0.3], [0.8, -0.4], [1.5, 0.2], [-0.3, -1.2]], dtype=torch.float64
)


def regression(X: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    b = pyro.sample("b", dist.Normal(torch.zeros(()).double(), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w + b, 0.5), obs=y)


def test_of_a_conjugate_model_it_is_the_loss() -> None:
    blr = BLR(regression, AutoNatural(regression))
    surrogate = blr.surrogate(X, Y)
    w, b = torch.randn(4, 3, 2).double(), torch.randn(4, 3).double()
    both = {"w": w, "b": b}
    assert surrogate(both).shape == (4, 3)
    assert torch.allclose(surrogate(both), surrogate.loss(both), atol=1e-10)
    joint = [_log_joint(w[i, j], b[i, j]) for i in range(4) for j in range(3)]
    assert torch.allclose(surrogate.loss(both).reshape(-1), -torch.stack(joint), atol=1e-10)
    # w alone: b is averaged over q, on draws with exact second moments.
    blr.step(X, Y)
    alone = blr.surrogate(X, Y)
    assert torch.allclose(alone({"w": w}), alone.loss({"w": w}), atol=1e-8)
    assert alone({"b": torch.zeros(())}).shape == ()


def _log_joint(w: Tensor, b: Tensor) -> Tensor:
    total = dist.Normal(0.0, 1.0).log_prob(w).sum() + dist.Normal(0.0, 1.0).log_prob(b)
    return total + dist.Normal(X @ w + b, 0.5).log_prob(Y).sum()


def test_what_is_not_given_is_averaged_over_q() -> None:
    blr = BLR(regression, AutoNatural(regression))
    blr.step(X, Y)
    surrogate = blr.surrogate(X, Y)
    w = torch.tensor([[0.3, -0.2]]).double()
    mean, sd = blr.guide.marginal("b").mean, blr.guide.marginal("b").stddev
    nodes = mean + sd * torch.tensor([-1.0, 1.0])  # two points: exact for a quadratic
    expected = -torch.stack([_log_joint(w[0], b) for b in nodes]).mean()
    assert float(surrogate.loss({"w": w})[0]) == pytest.approx(float(expected), abs=1e-8)


def positive(y: Tensor) -> None:
    s = pyro.sample("s", dist.LogNormal(torch.zeros(()).double(), 1.0))
    tau = pyro.sample("tau", dist.Gamma(torch.tensor(2.0).double(), 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(s, tau.rsqrt()), obs=y)


def test_on_an_unconstrained_space_the_jacobian_counts() -> None:
    blr = BLR(positive, AutoNatural(positive))
    for _ in range(3):
        blr.step(Y)
    surrogate = blr.surrogate(Y)
    s = torch.tensor([0.5, 1.0]).double()
    tau = torch.tensor([1.0, 3.0]).double()
    expected = dist.Normal(0.0, 1.0).log_prob(s.log()) + dist.Gamma(2.0, 2.0).log_prob(tau)
    for datum in Y:
        expected = expected + dist.Normal(s, tau.rsqrt()).log_prob(datum)
    assert torch.allclose(surrogate.loss({"s": s, "tau": tau}), -expected, atol=1e-10)
    assert "Gamma" in repr(surrogate) and "quadratic" in repr(surrogate)
    assert "<table" in surrogate._repr_html_()


def mixture(y: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(torch.tensor([-1.0, 1.0]).double(), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Categorical(torch.ones(2).double()))
        pyro.sample("y", dist.Normal(m[k], 0.5), obs=y)


def with_parameter(y: Tensor) -> None:
    scale = pyro.param("scale", torch.ones(()).double(), constraint=dist.constraints.positive)
    z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(z, scale), obs=y)


def test_discrete_latents_and_parameters() -> None:
    of_mixture = BLR(mixture, AutoNatural(mixture))
    of_mixture.step(Y)
    m = torch.tensor([[-1.0, 0.5]]).double()
    law = torch.stack([dist.Normal(c, 0.5).log_prob(Y) for c in m[0]]).logsumexp(0)
    expected = (law - torch.tensor(2.0).log()).sum()
    expected = expected + dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).log_prob(m[0]).sum()
    loss = of_mixture.surrogate(Y).loss({"m": m})
    assert float(loss[0]) == pytest.approx(-float(expected), abs=1e-8)
    for params in ("optim", "em"):
        pyro.clear_param_store()
        blr = BLR(with_parameter, AutoNatural(with_parameter), params=params)
        blr.step(Y)
        surrogate = blr.surrogate(Y)
        z = torch.tensor([0.2, 0.9]).double()
        assert torch.allclose(surrogate({"z": z}), surrogate.loss({"z": z}), atol=1e-9)


def simplex(y: Tensor) -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0]).double()))
    L = pyro.sample("L", dist.Wishart(torch.tensor(4.0).double(), torch.eye(2).double()))
    with pyro.plate("data", 3):
        pyro.sample("k", dist.Categorical(p), obs=torch.tensor([0, 1, 1]))
        zero = torch.zeros(2).double()
        pyro.sample("x", dist.MultivariateNormal(zero, precision_matrix=L), obs=X[:3])


def test_elements_of_a_simplex_move_together_and_those_of_a_matrix_not_at_all() -> None:
    blr = BLR(simplex, AutoNatural(simplex))
    blr.step(Y)
    surrogate = blr.surrogate(Y)
    figure = surrogate.plot()
    curves = [a.get_lines() for a in figure.axes if a.get_lines()]
    assert len(curves) == 3  # p alone
    for loss, own in curves:  # conjugate: both are the same inside the simplex
        apart = loss.get_ydata() - own.get_ydata()
        assert abs(apart).max() < 0.01  # L is averaged over draws,
        assert apart.max() - apart.min() < 1e-9  # the same ones at every value
    with pytest.raises(errors.ArgumentError, match="positive definite"):
        surrogate.plot("L")
    L = torch.eye(2).double().expand(4, 2, 2)
    assert torch.allclose(surrogate({"L": L}), surrogate.loss({"L": L}), atol=0.5)
    matplotlib.pyplot.close("all")


def test_it_changes_nothing() -> None:
    blr = BLR(regression, AutoNatural(regression))
    blr.step(X, Y)
    before = {n: t.clone() for n, t in blr.guide.state_dict().items()}
    random = torch.get_rng_state()
    blr.surrogate(X, Y).plot()
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(t, blr.guide.state_dict()[n]) for n, t in before.items())
    assert blr.num_steps == 1
    matplotlib.pyplot.close("all")


def shifted(X: Tensor, y: Tensor) -> None:
    shift = pyro.param("shift", torch.tensor(0.5).double())
    w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w + shift, 0.5), obs=y)


@pytest.mark.parametrize("params", ["optim", "em"])
def test_it_stays_as_it_is_when_steps_go_on(params: str) -> None:
    blr = BLR(shifted, AutoNatural(shifted), params=params, step_size=0.5)
    surrogate = blr.surrogate(X, Y)
    w = torch.tensor([[0.3, -0.2], [1.0, 2.0]]).double()
    before = surrogate({"w": w}), surrogate.loss({"w": w})
    blr.step(X, Y)  # which writes natural parameters, and the shift, in place
    assert torch.equal(surrogate({"w": w}), before[0])
    assert torch.equal(surrogate.loss({"w": w}), before[1])


def test_it_keeps_parameters_that_an_operation_takes_in_a_list() -> None:
    network = torch.nn.GRU(1, 1).double()  # whose operation takes a list of weights

    def model(y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(5).double(), 1.0).to_event(1))
        output, _ = pyro.module("network", network)(w.reshape(5, 1, 1))
        pyro.sample("y", dist.Normal(output.reshape(-1), 1.0).to_event(1), obs=y)

    surrogate = BLR(model, AutoNatural(model), on_sampled="ignore").surrogate(Y)
    w = {"w": torch.ones(1, 5).double()}
    before = surrogate.loss(w)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1.0)
    assert torch.equal(surrogate.loss(w), before)


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_of_sparse_data(layout: torch.layout) -> None:
    w = {"w": torch.tensor([[0.3, -0.2], [1.0, 2.0]]).double()}
    found = []
    for rows in (X, X.to_sparse(layout=layout)):
        pyro.clear_param_store()
        found.append(BLR(shifted, AutoNatural(shifted), step_size=0.5).surrogate(rows, Y).loss(w))
    torch.testing.assert_close(*found)


def on_draws(y: Tensor) -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0]).double()))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(2 * p[0] + p[1], 0.3), obs=y)


def on_rows(y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    with pyro.plate("data", len(y), subsample_size=2) as rows:
        pyro.sample("y", dist.Bernoulli(logits=X[rows] @ w), obs=(y[rows] > 0.6).double())


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("model, step_size", [(on_draws, 1.0), (on_draws, 0.1), (on_rows, 0.05)])
def test_of_draws_and_of_some_rows_it_is_that_of_the_next_step(
    model: Any, step_size: float, steps: int
) -> None:
    def run(looks: bool) -> tuple[float, list[Tensor]]:
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        families = {"p": Dirichlet} if model is on_draws else {}
        guide = AutoNatural(model, families=families)
        blr = BLR(model, guide, step_size=step_size, on_sampled="ignore")
        for _ in range(steps):
            blr.step(Y)
        next_ones = blr.surrogate(Y).natural if looks else {}
        loss = blr.step(Y)
        (found,) = guide.naturals().values()
        for expected in next_ones.values():
            torch.testing.assert_close(
                tuple(t.detach() for t in found), expected, rtol=1e-10, atol=1e-10
            )
        return loss, [t.detach().clone() for t in found]

    with_look, without = run(True), run(False)
    assert with_look[0] == without[0]
    assert all(map(torch.equal, with_look[1], without[1]))


def test_its_pictures_have_a_panel_an_element() -> None:
    blr = BLR(regression, AutoNatural(regression))
    surrogate = blr.surrogate(X, Y)
    figure = surrogate.plot()
    labels = [a.get_xlabel() for a in figure.axes if a.get_xlabel()]
    assert labels == ["w[0]", "w[1]", "b"]
    axes = matplotlib.pyplot.subplots(1, 1)[1]
    assert surrogate.plot("b", axes) is axes.figure
    lines = axes.get_lines()
    assert [line.get_label() for line in lines] == ["loss", "surrogate"]
    assert abs(lines[0].get_ydata() - lines[1].get_ydata()).max() < 1e-7
    matplotlib.pyplot.close("all")


def local(y: Tensor) -> None:
    with pyro.plate("data", len(y), subsample_size=2) as rows:
        z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y[rows])


def test_its_step_is_that_of_the_engine_unless_another_is_given() -> None:
    guide = AutoNatural(regression)
    blr = BLR(regression, guide, step_size=lambda step: 1 / (step + 2))
    for size in (1 / 2, 1 / 3):
        surrogate = blr.surrogate(X, Y)
        assert surrogate.step_size == size
        assert blr.surrogate(X, Y, step_size=1.0).step_size == 1.0
        blr.step(X, Y)
        for block, natural in guide.naturals().items():
            for next_one, found in zip(surrogate.natural[block.name], natural, strict=True):
                assert (next_one - found).abs().max() < 1e-10
    assert BLR(regression, AutoNatural(regression)).surrogate(X, Y).step_size == 1.0


def half_normal(y: Tensor) -> None:
    z = pyro.sample("z", dist.HalfNormal(1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(z, 0.7), obs=y)


def scaled_uniform(y: Tensor) -> None:
    z = pyro.sample("z", dist.Uniform(-1.0, 3.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(z, 0.7), obs=y)


def on_simplex(y: Tensor) -> None:
    z = pyro.sample("z", dist.Dirichlet(torch.ones(2).double()))
    with pyro.plate("data", 2):
        pyro.sample("y", dist.Categorical(z), obs=torch.tensor([0, 1]))


#: Models, values inside the support of z, and values outside of it or on its boundary.
OUTSIDE: dict[str, tuple[Callable[[Tensor], None], list[Any], list[Any]]] = {
    "Gamma": (model_of(CASES["Gamma"]), [0.2, 3.0], [-1.0, 0.0, torch.inf]),
    "Beta": (model_of(CASES["Beta"]), [0.2, 0.8], [-0.1, 0.0, 1.0, 1.5]),
    "Normal": (model_of(CASES["Normal"]), [-2.0, 1.0], [-torch.inf, torch.inf]),
    "positive": (half_normal, [0.2, 3.0], [-1.0, 0.0, torch.inf]),
    "interval": (scaled_uniform, [-0.9, 2.9], [-1.5, -1.0, 3.0, 4.0, torch.inf]),
    "simplex": (
        on_simplex,
        [[0.3, 0.7], [0.5, 0.5]],
        [[0.2, 0.2], [-0.3, 1.3], [0.0, 1.0]],
    ),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_where_q_has_no_density_losses_are_infinite(name: str) -> None:
    model, within, outside = OUTSIDE[name]
    blr = BLR(
        model, AutoNatural(model, families={"z": CASES[name].family} if name in CASES else {})
    )
    blr.step(Y)
    surrogate = blr.surrogate(Y)
    mixed = torch.tensor([*within, *outside], dtype=torch.float64)
    for loss in (surrogate, surrogate.loss):
        found = loss({"z": mixed})
        assert torch.equal(found[: len(within)], loss({"z": mixed[: len(within)]}))
        assert torch.isfinite(found[: len(within)]).all()
        assert (found[len(within) :] == torch.inf).all()
    with pytest.raises(errors.NonFiniteError, match="'z' are NaN"):
        surrogate({"z": torch.full_like(mixed, torch.nan)})


def test_copies_are_whole_and_pickles_have_no_loss() -> None:
    blr = BLR(simplex, AutoNatural(simplex))
    surrogate = blr.surrogate(Y)
    values = {"p": torch.tensor([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2]], dtype=torch.float64)}
    again, loaded = copy.deepcopy(surrogate), pickle.loads(pickle.dumps(surrogate))
    assert torch.equal(again.loss(values), surrogate.loss(values))
    for other in (again, loaded):
        assert torch.equal(other(values), surrogate(values))
        assert repr(other) == repr(surrogate)
    for ask in (lambda: loaded.loss(values), loaded.plot):
        with pytest.raises(errors.ArgumentError, match="came from a pickle"):
            ask()


def test_a_latent_without_elements_is_no_hindrance() -> None:
    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(0).double(), 1.0).to_event(1))
        m = pyro.sample("m", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.factor("f", -(m**2) + w.sum())

    surrogate = BLR(model, AutoNatural(model)).surrogate()
    m = torch.tensor([0.0, 1.0]).double()
    assert torch.allclose(surrogate({"m": m}), surrogate.loss({"m": m}))
    assert surrogate({"w": torch.zeros(3, 0)}).shape == (3,)


def test_no_values_have_no_losses() -> None:
    surrogate = BLR(regression, AutoNatural(regression)).surrogate(X, Y)
    for values in (torch.zeros(0, 2), torch.zeros(3, 0, 2)):
        assert surrogate({"w": values}).shape == values.shape[:-1]
        assert surrogate.loss({"w": values}).shape == values.shape[:-1]


def test_bad_input() -> None:
    blr = BLR(regression, AutoNatural(regression))
    for wrong in (0.0, 1.5, "auto", True):
        with pytest.raises(errors.ArgumentError, match="step_size"):
            blr.surrogate(X, Y, step_size=wrong)  # type: ignore[arg-type]
    surrogate = blr.surrogate(X, Y)
    with pytest.raises(errors.UnknownNameError, match="'v'"):
        surrogate({"v": torch.zeros(2)})
    with pytest.raises(errors.UnknownNameError, match="'v'"):
        surrogate.plot("v")
    with pytest.raises(errors.ArgumentError, match=r"no latents to draw were named.*'w'"):
        surrogate.plot([])
    with pytest.raises(errors.ArgumentError, match="axes is empty"):
        surrogate.plot("w", [])
    with pytest.raises(errors.ArgumentError, match="'w' are no numbers"):
        surrogate({"w": "much"})
    with pytest.raises(errors.ShapeError, match="'w'"):
        surrogate({"w": torch.zeros(3)})
    with pytest.raises(errors.ShapeError, match="batch"):
        surrogate.loss({"w": torch.zeros(3, 2), "b": torch.zeros(4)})
    with pytest.raises(errors.ArgumentError, match="dict"):
        surrogate({})
    with pytest.raises(errors.SubsampleError, match="'z'"):
        BLR(local, AutoNatural(local)).surrogate(Y)
    with pytest.raises(errors.GuideError, match="no natural ones"):
        BLR(regression, AutoNaturalLowRankMultivariateNormal(regression, rank=1)).surrogate(X, Y)
    with pytest.raises(errors.GuideError, match="AutoDelta"):
        BLR(regression, AutoDelta(regression)).surrogate(X, Y)
    with pytest.raises(errors.NonFiniteError):
        blr.surrogate(X, torch.full_like(Y, torch.nan))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A Pyro model of discrete sites as a finite model, beside what `latent` learns it by."""

from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import config_enumerate
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.testing import assert_close

from pyro_blr.errors import (
    ArgumentError,
    BoundaryError,
    ControlFlowError,
    GuideError,
    MemoryLimitError,
    ShapeError,
    SupportError,
    UnknownNameError,
)
from pyro_blr.geometry import EnumeratedModel, flow, from_pyro
from pyro_blr.latent import conjugated
from pyro_blr.latent.evidence_metric import fisher_of_evidence
from pyro_blr.latent.learning import leaves_of
from tests.geometry.models import bayes_table

WEIGHT = torch.tensor(0.7)
PROBS = torch.tensor([[0.2, 0.6, 0.7], [0.9, 0.3, 0.4]])


def mixture(x: Tensor) -> None:
    weight = pyro.param("weight", WEIGHT, constraint=constraints.unit_interval)
    probs = pyro.param("probs", PROBS, constraint=constraints.unit_interval)
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Bernoulli(weight).mask(True))
        pyro.sample("x", dist.Bernoulli(probs[k.long()]).to_event(1), obs=x)


def naive_bayes(theta: Tensor) -> None:
    """The model of tests/geometry/models.py, where 0 has the probability that is a parameter."""
    x = pyro.sample("x", dist.Bernoulli(1.0 - theta[0]))
    pyro.sample("y", dist.Bernoulli(1.0 - theta[1:3][x.long()]))
    pyro.sample("z", dist.Bernoulli(1.0 - theta[3:5][x.long()]))


def stored() -> None:
    p = pyro.param(
        "p", torch.tensor([0.3, 0.8, 0.1, 0.7, 0.2]), constraint=constraints.unit_interval
    )
    naive_bayes(p)


def data(count: int) -> Tensor:
    k = torch.bernoulli(WEIGHT.expand(count)).long()
    return torch.bernoulli(PROBS[k])


def test_an_argument_is_the_parameter() -> None:
    theta = torch.rand(5)
    model = from_pyro(naive_bayes, theta, visible=("y", "z"), argument="theta")
    assert (model.dims, model.hidden, model.visible) == (("x", "y", "z"), ("x",), ("y", "z"))
    assert model.names(5) == tuple(f"theta[{i}]" for i in range(5))
    assert_close(model.theta, theta)
    for other in (theta, torch.rand(5)):
        assert_close(model.at(other).joint, bayes_table(other))


def test_parameters_of_the_store_are_taken_unconstrained() -> None:
    model = from_pyro(stored, visible=("y", "z"))
    assert_close(model.values(model.theta)["p"], torch.tensor([0.3, 0.8, 0.1, 0.7, 0.2]))
    theta = torch.randn(4, 5)
    many = model.at(theta)
    for i in range(4):
        assert_close(many.joint[i], bayes_table(theta[i].sigmoid()))
    pyro.get_param_store()["p"] = torch.full((5,), 0.4)
    assert_close(model.at(model.theta).joint, bayes_table(torch.full((5,), 0.4)))


def test_probabilities_have_no_coordinate_too_many() -> None:
    """Pyro stores K logits of K probabilities; the metric would be singular in them."""

    def model() -> None:
        p = pyro.param("p", torch.tensor([0.2, 0.3, 0.5]), constraint=constraints.simplex)
        k = pyro.sample("k", dist.Categorical(p))
        q = pyro.param("q", torch.tensor([0.1, 0.5, 0.7]), constraint=constraints.unit_interval)
        pyro.sample("y", dist.Binomial(2, q[k]), obs=torch.tensor(1.0))

    found = from_pyro(model)
    assert len(found.theta) == 5 and not bool(found.at(found.theta).joint_root.is_singular)
    assert found.at(found.theta).joint.shape == (3, 3)
    assert_close(found.values(found.theta)["p"], torch.tensor([0.2, 0.3, 0.5]))


def test_the_store_and_the_random_state_are_left_as_they_were() -> None:
    from_pyro(mixture, torch.zeros(1, 3))
    theta, drawn = torch.randn(3, 7), pyro.param("weight").detach().clone()
    before = torch.get_rng_state()
    model = from_pyro(mixture, torch.zeros(1, 3))
    model.at(theta)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(pyro.param("weight").detach(), drawn)


# ----- Every way of writing a model ---------------------------------------------------------------


def by_hand(model: Callable[..., Any], found: EnumeratedModel, *args: Any) -> Tensor:
    """The joint law by runs at each joint value, through Pyro's own conditioning."""
    supports, sizes = found.supports(), [len(s) for s in found.supports().values()]
    table = torch.zeros(sizes)
    for place in product(*map(range, sizes)):
        own: dict[str, list[Tensor]] = {}
        for (dim, support), i in zip(supports.items(), place, strict=True):
            own.setdefault(dim.partition("[")[0], []).append(support[i])
        shaped = {
            name: torch.stack(v).reshape(found.sites.found[name].fn.shape())
            for name, v in own.items()
        }
        conditioned = poutine.condition(poutine.uncondition(model), shaped)
        table[place] = poutine.trace(conditioned).get_trace(*args).log_prob_sum().exp()
    return table.detach()


def branching() -> None:
    """Python looks at the hidden value."""
    p = pyro.param("p", torch.tensor([0.3, 0.6, 0.9]), constraint=constraints.unit_interval)
    if pyro.sample("h", dist.Bernoulli(p[0])) > 0.5:
        pyro.sample("y", dist.Bernoulli(p[1]), obs=torch.tensor(1.0))
    else:
        pyro.sample("y", dist.Bernoulli(p[2]), obs=torch.tensor(1.0))


def summing() -> None:
    """A run of all joint values at once would sum them up, and say something else."""
    p = pyro.param("p", torch.tensor([0.3, 0.6]), constraint=constraints.unit_interval)
    with pyro.plate("two", 2):
        h = pyro.sample("h", dist.Bernoulli(p))
    pyro.sample("y", dist.Categorical(logits=h.sum() * torch.arange(3.0)), obs=torch.tensor(1))


def markov() -> None:
    turn = pyro.param(
        "turn", torch.tensor([[0.8, 0.2], [0.3, 0.7]]), constraint=constraints.simplex
    )
    emit = pyro.param("emit", torch.tensor([0.1, 0.6]), constraint=constraints.unit_interval)
    state = torch.tensor(0)
    for t in pyro.markov(range(2)):
        state = pyro.sample(f"z{t}", dist.Categorical(turn[state]))
        pyro.sample(f"y{t}", dist.Bernoulli(emit[state]), obs=torch.tensor(0.0))


def plates() -> None:
    w = pyro.param("w", torch.tensor(0.5))
    h = pyro.sample("h", dist.Categorical(torch.ones(3) / 3))
    pyro.deterministic("twice", 2 * h)
    with pyro.plate("rows", 2):
        pyro.sample("y", dist.Bernoulli(logits=w * h), obs=torch.zeros(2))


def vectors() -> None:
    w = pyro.param("w", torch.tensor([[0.5, -1.0], [2.0, 0.3]]))
    h = pyro.sample("h", dist.Bernoulli(logits=w[0]).to_event(1))
    pyro.sample("y", dist.Bernoulli(logits=w @ h).to_event(1), obs=torch.zeros(2))


def one_hot() -> None:
    w = pyro.param("w", torch.tensor([0.5, -1.0, 0.2]))
    h = pyro.sample("h", dist.OneHotCategorical(logits=w))
    with poutine.scale(scale=7.0):  # weighs the objective, not the law
        pyro.sample("y", dist.Binomial(2, logits=(w * h).sum(-1)), obs=torch.tensor(1.0))


@pytest.mark.parametrize(
    ("model", "at_once"),
    [
        (branching, False),
        (summing, False),
        (markov, True),
        (plates, True),
        (vectors, False),
        (one_hot, True),
    ],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_spellings(model: Callable[..., Any], at_once: bool) -> None:
    found = from_pyro(model)
    assert found.sites.at_once == at_once
    unscaled = poutine.block(model, hide_fn=lambda _: False)
    expected = by_hand(unscaled if model is not one_hot else without_scale, found)
    assert_close(found.at(found.theta).joint, expected)
    assert_close(expected.sum(), torch.ones(()))
    assert str(found.at(found.theta)).startswith("finite model at ")


def without_scale() -> None:
    w = pyro.param("w")
    h = pyro.sample("h", dist.OneHotCategorical(logits=w))
    pyro.sample("y", dist.Binomial(2, logits=(w * h).sum(-1)), obs=torch.tensor(1.0))


def test_elements_of_plates_are_dims() -> None:
    found = from_pyro(plates)
    assert found.dims == ("h", "y[0]", "y[1]") and found.hidden == ("h",)
    assert from_pyro(mixture, torch.zeros(1, 3)).dims == ("k", "x")


def test_modules() -> None:
    class Model(PyroModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.p = PyroParam(torch.tensor([0.3, 0.8, 0.1, 0.7, 0.2]), constraints.unit_interval)

        def forward(self) -> None:
            naive_bayes(self.p)

    found = from_pyro(Model(), visible=("y", "z"))
    assert_close(found.at(found.theta).joint, bayes_table(torch.tensor([0.3, 0.8, 0.1, 0.7, 0.2])))
    assert_close(found.at(torch.zeros(5)).joint, torch.full((2, 2, 2), 0.125))


def test_parameters_that_a_run_does_not_take_are_refused() -> None:
    """Those of modules are read from the module, so that their derivatives would all be 0."""

    class Net(PyroModule):  # type: ignore[misc]
        def __init__(self, is_taken: bool) -> None:
            super().__init__()
            self.linear = PyroModule[torch.nn.Linear](2, 2)
            if is_taken:
                self.linear.weight = PyroParam(torch.randn(2, 2))
                self.linear.bias = PyroParam(torch.randn(2))

        def forward(self, y: Tensor) -> None:
            h = pyro.sample("h", dist.Bernoulli(torch.full((2,), 0.4)).to_event(1))
            pyro.sample("y", dist.Bernoulli(logits=self.linear(h)).to_event(1), obs=y)

    registered = torch.nn.Linear(2, 2)

    def plain(y: Tensor) -> None:
        pyro.module("net", registered)
        Net.forward(SimpleNamespace(linear=registered), y)

    def unused(y: Tensor) -> None:
        pyro.param("idle", torch.tensor(1.0))
        mixture(y)

    for model in (Net(False), plain, unused):
        pyro.clear_param_store()
        with pytest.raises(ArgumentError, match="Mend: take it out"):
            from_pyro(model, torch.zeros(1, 3) if model is unused else torch.zeros(2))
    pyro.clear_param_store()
    found = from_pyro(Net(True), torch.zeros(2))
    theta = torch.randn(6)
    values = found.values(theta)
    h = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    p = torch.sigmoid(h @ values["linear.weight"].T + values["linear.bias"])
    given_h = (h[:, None] * p + (1.0 - h[:, None]) * (1.0 - p)).prod(-1).T
    prior = torch.tensor([0.36, 0.24, 0.24, 0.16])
    assert_close(found.at(theta).joint, prior[:, None] * given_h)


def test_conditioned_and_enumerated_models_are_as_the_model() -> None:
    x = torch.zeros(1, 3)
    plain = from_pyro(mixture, x)
    for other in (
        from_pyro(config_enumerate(mixture), x),
        from_pyro(poutine.condition(poutine.uncondition(mixture), {"x": x}), x),
        from_pyro(poutine.uncondition(mixture), x, visible="x"),
    ):
        assert other.dims == plain.dims and other.hidden == plain.hidden
        assert_close(other.at(other.theta).joint, plain.at(plain.theta).joint)


def test_a_parameter_that_is_gone() -> None:
    found = from_pyro(mixture, torch.zeros(1, 3))
    theta = found.theta
    pyro.clear_param_store()
    found.at(theta)
    assert not list(pyro.get_param_store())
    with pytest.raises(UnknownNameError, match="no longer"):
        _ = found.theta


# ----- Beside what `latent` does ------------------------------------------------------------------


def test_the_metric_of_the_evidence_is_that_of_latent() -> None:
    """Which draws N data: it is N times the visible Fisher matrix, of one datum."""
    x = data(8000)
    found = conjugated(mixture, x)
    setting = found.setting(x)
    drawn, count = fisher_of_evidence(setting, leaves_of(setting))
    model = from_pyro(mixture, x[:1])
    assert count == 8000
    exact = model.at(model.theta).visible_fisher
    assert_close(
        drawn / 8000, exact, atol=4.0 * float(exact.diagonal().max()) / 8000**0.5, rtol=0.0
    )


def test_steps_of_latent_are_those_of_the_fields() -> None:
    """Averaged statistics go along the ELBO's gradient, metric="evidence" along the evidence's."""
    x = data(8000)
    model = from_pyro(mixture, x[:1])
    target = model.frequencies({"x": x})
    rho = 1e-5

    def moved(**how: Any) -> tuple[Tensor, Tensor]:
        """The first parameters of which the averages are the means, and the step from there."""
        steps = []
        for count in (1, 2):
            pyro.clear_param_store()
            found = conjugated(mixture, x)
            found.learn(method="natural", step_size=rho, max_steps=count, tol=0.0, **how)
            steps.append(model.theta)
        return steps[0], (steps[1] - steps[0]) / rho

    theta, step = moved(metric="joint")
    expected = model.at(theta).recognition(target).direction()
    assert_close(step, expected, atol=2e-4 * float(expected.abs().max()), rtol=0.0)
    theta, step = moved(metric="evidence")
    gradient = model.at(theta).evidence(target)
    own, expected = (model.at(theta).visible_velocity(d) for d in (step, gradient.direction()))
    cosine = (own * expected / model.at(theta).visible).sum() / gradient.length.square()
    assert float(cosine) == pytest.approx(1.0, abs=0.05)  # its metric is of 8000 drawn data


def test_a_flow_learns() -> None:
    x = data(500)
    model = from_pyro(mixture, x[:1])
    target = model.at(model.theta).target(model.frequencies({"x": x}))
    path = flow(model, model.theta, target, "recognition", step=0.5, steps=20)
    assert bool((path.divergence.diff() < 0.0).all())
    assert set(model.values(path.end)) == {"weight", "probs"}


# ----- Bad input ----------------------------------------------------------------------------------


def run(code: str) -> Callable[[], None]:
    """A model of one parameter w, a hidden h, and what is given."""

    def model() -> None:
        w = pyro.param("w", torch.tensor(0.3))
        h = pyro.sample("h", dist.Bernoulli(logits=w))
        exec(code, {"pyro": pyro, "dist": dist, "torch": torch, "poutine": poutine, "w": w, "h": h})

    return model


SEEN = "pyro.sample('y', dist.Bernoulli(logits=w + h), obs=torch.tensor(1.0))"


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("pyro.sample('y', dist.Normal(h, 1.0), obs=w)", ArgumentError, "'y' is a Normal"),
        ("pyro.sample('y', dist.Poisson(h + 1.0), obs=w)", ArgumentError, "no finite list"),
        (f"{SEEN}\npyro.factor('f', w)", ArgumentError, "pyro.factor"),
        ("", GuideError, "no visible site"),
        (f"with poutine.mask(mask=torch.tensor(False)):\n    {SEEN}", ArgumentError, "masked"),
        (
            f"{SEEN}\nwith pyro.plate('n', 20):\n    pyro.sample('z', dist.Bernoulli(logits=w))",
            MemoryLimitError,
            "one row",
        ),
        (
            f"{SEEN}\nif h > 0.5:\n    pyro.sample('g', dist.Bernoulli(0.5))",
            ControlFlowError,
            "'g'",
        ),
    ],
)
def test_models_that_are_no_tables(code: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        from_pyro(run(code))
    assert "Mend: " in str(caught.value)


def test_what_is_named_must_be_there() -> None:
    theta = torch.full((5,), 0.5)
    with pytest.raises(UnknownNameError, match="no site 'w'"):
        from_pyro(naive_bayes, theta, visible="w", argument="theta")
    with pytest.raises(ArgumentError, match="has no pyro"):
        from_pyro(naive_bayes, theta, visible="y")
    for argument in ("phi", "theta"):
        with pytest.raises(ArgumentError, match=r"is no tensor|does not fit"):
            from_pyro(naive_bayes, *([theta] if argument == "phi" else []), argument=argument)
    with pytest.raises(ArgumentError, match="floating-point"):
        from_pyro(naive_bayes, theta.long(), visible="y", argument="theta")
    model = from_pyro(stored, visible=("y", "z"))
    with pytest.raises(UnknownNameError, match="visible dim 'z'"):
        model.frequencies({"y": torch.zeros(3)})
    with pytest.raises(SupportError, match="'z'"):
        model.frequencies({"y": torch.zeros(3), "z": torch.full((3,), 2.0)})


def test_a_parameter_of_the_argument_on_the_boundary() -> None:
    theta = torch.tensor([0.3, 1.0, 0.1, 0.7, 0.2])
    model = from_pyro(naive_bayes, theta, visible=("y", "z"), argument="theta")
    with pytest.raises(BoundaryError, match=r"p\(x=0, y=1, z=\d\) = 0"):
        model.at(theta)


def test_data_of_a_vector_are_rows() -> None:
    """One datum is a vector; a column of them is none, and is not broadcast."""

    def machine(v: Tensor) -> None:
        start = pyro.param("start", torch.tensor([0.2, -0.3]))
        h = pyro.sample("h", dist.Bernoulli(logits=start).to_event(1))
        pyro.sample("v", dist.Bernoulli(logits=h).to_event(1), obs=v)

    finite = from_pyro(machine, torch.zeros(2))
    v = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert finite.frequencies({"v": v}).tolist() == [0.25, 0.5, 0.0, 0.25]
    for wrong in (v[:, 0], v[:, :1], torch.tensor(1.0)):
        with pytest.raises(ShapeError, match=r"one datum of it has the shape \(2,\).*Mend"):
            finite.frequencies({"v": wrong})

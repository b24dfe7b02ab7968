# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A guide has what was loaded however it is first used, and is refused if it is another's."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints as pyro_constraints
from pyro.infer import Predictive
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from pyro_blr import BLR
from pyro_blr.errors import CheckpointError
from pyro_blr.guides import (
    AutoNatural,
    AutoNaturalLowRankMultivariateNormal,
    AutoNaturalMultivariateNormal,
    AutoNaturalNormal,
)
from pyro_blr.saved_constraints import constraint_from, saved_constraint
from tests.state.runs import D, N, X, Y, assert_same, on_disk


def regression(X: Tensor, y: Tensor | None = None) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
    s = pyro.sample("s", dist.Gamma(2.0, 2.0))
    with pyro.plate("data", len(X)):
        pyro.sample("y", dist.Normal(X @ w, s.rsqrt()), obs=y)


def weights_alone(X: Tensor, y: Tensor | None = None) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
    with pyro.plate("data", len(X)):
        pyro.sample("y", dist.Normal(X @ w, 1.0), obs=y)


def classes(X: Tensor, y: Tensor | None = None) -> None:
    """Discrete data, and a latent of each row."""
    w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
    with pyro.plate("data", len(X)):
        z = pyro.sample("z", dist.Normal((X * w).sum(-1), 1.0))
        pyro.sample("y", dist.Bernoulli(logits=z), obs=y)


def written(X: Tensor, y: Tensor | None = None) -> None:
    loc = pyro.param("loc", torch.zeros(D))
    scale = pyro.param("scale", lambda: torch.ones(D), constraint=constraints.positive)
    pyro.sample("w", dist.Normal(loc, scale).to_event(1))
    bound = constraints.interval(0.5, 9.0)
    rate = pyro.param("rate", torch.tensor(1.0), constraint=bound)
    pyro.sample("s", dist.Gamma(pyro.param("a", torch.tensor(2.0), constraint=bound), rate))


def covariance(X: Tensor, y: Tensor | None = None) -> None:
    loc = pyro.param("loc", torch.zeros(D))
    tril = pyro.param("tril", lambda: torch.eye(D), constraint=constraints.lower_cholesky)
    pyro.sample("w", dist.MultivariateNormal(loc, scale_tril=tril))
    concentrations = pyro.param(
        "ab", torch.ones(2), constraint=constraints.independent(constraints.positive, 1)
    )
    pyro.sample("s", dist.Gamma(concentrations[0], concentrations[1]))


class Written(PyroModule):
    """Parameters that are there from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(D))
        self.scale = PyroParam(torch.ones(D), constraints.positive)

    def forward(self, X: Tensor, y: Tensor | None = None) -> None:
        pyro.sample("w", dist.Normal(self.loc, self.scale).to_event(1))
        rate = torch.tensor(1.0)
        if not pyro.settings.get("module_local_params"):  # Pyro refuses it there
            rate = pyro.param("rate", rate, constraint=constraints.positive)
        pyro.sample("s", dist.Gamma(2.0, rate))


def parts(model: Callable[..., None]) -> Any:
    guide = AutoGuideList(model)
    guide.append(AutoMultivariateNormal(pyro.poutine.block(model, expose=["w"])))
    guide.append(AutoNormal(pyro.poutine.block(model, expose=["s"])))
    return guide


GUIDES: dict[str, Callable[[Any], Any]] = {
    "AutoNormal": AutoNormal,
    "AutoDiagonalNormal": AutoDiagonalNormal,
    "AutoMultivariateNormal": AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": AutoLowRankMultivariateNormal,
    "AutoDelta": AutoDelta,
    "AutoLaplaceApproximation": AutoLaplaceApproximation,
    "AutoIAFNormal": AutoIAFNormal,
    "AutoGuideList": parts,
    "a function": lambda _: written,
    "a function, matrices": lambda _: covariance,
    "a module": lambda _: Written(),
    "AutoNatural": AutoNatural,
    "AutoNaturalNormal": AutoNaturalNormal,
    "AutoNaturalMultivariateNormal": AutoNaturalMultivariateNormal,
    "AutoNaturalLowRankMultivariateNormal": AutoNaturalLowRankMultivariateNormal,
}
every_guide = pytest.mark.parametrize("make", GUIDES.values(), ids=list(GUIDES))
both_stores = pytest.mark.parametrize("local", [False, True], ids=["global store", "module-local"])


def engine(guide: Any, model: Any = regression) -> BLR:
    return BLR(model, guide, on_sampled="ignore")


def drawn(guide: Any) -> dict[str, Tensor]:
    """What a user would look at first: draws of the guide by Pyro's own tool."""
    pyro.set_rng_seed(5)
    return {n: v.detach() for n, v in Predictive(regression, guide=guide, num_samples=9)(X).items()}


@both_stores
@every_guide
def test_the_first_use_of_a_new_guide(make: Callable[[Any], Any], local: bool) -> None:
    with pyro.settings.context(module_local_params=local):
        pyro.set_rng_seed(1)
        pyro.clear_param_store()
        guide = make(regression)
        blr = engine(guide)
        for _ in range(4):
            blr.step(X, Y)
        state, expected = on_disk(blr.state_dict()), drawn(guide)
        pyro.clear_param_store()
        pyro.set_rng_seed(77)
        guide = make(regression)
        engine(guide).load_state_dict(state)
        guide(X, Y)
        assert_same(drawn(guide), expected)
        assert "forward" not in getattr(guide, "__dict__", {})


@every_guide
def test_a_guide_that_was_used_before_loading(make: Callable[[Any], Any]) -> None:
    pyro.set_rng_seed(1)
    pyro.clear_param_store()
    guide = make(regression)
    blr = engine(guide)
    for _ in range(2):
        blr.step(X, Y)
    state, expected = blr.state_dict(), drawn(guide)
    for _ in range(2):
        blr.step(X, Y)
    blr.load_state_dict(state)
    assert_same(drawn(guide), expected)


def state_of(make: Callable[[Any], Any], model: Any = regression) -> dict[str, Any]:
    pyro.clear_param_store()
    blr = engine(make(model), model)
    blr.step(X, Y)
    state: dict[str, Any] = on_disk(blr.state_dict())
    pyro.clear_param_store()
    return state


@pytest.mark.parametrize(
    "make",
    [
        AutoNatural,
        AutoNaturalNormal,
        AutoNaturalMultivariateNormal,
        AutoNaturalLowRankMultivariateNormal,
    ],
    ids=lambda make: make.__name__,
)
@pytest.mark.parametrize(
    ("model", "y"), [(regression, Y), (classes, (Y > 0).double())], ids=["real", "discrete"]
)
def test_a_natural_guide_first_called_without_the_data(
    make: Callable[[Any], Any], model: Any, y: Tensor
) -> None:
    """What was observed is then a latent of the model, and none of the guide."""
    pyro.clear_param_store()
    blr = engine(make(model), model)
    for _ in range(3):
        blr.step(X, y)
    expected, state = blr.guide.median(), on_disk(blr.state_dict())
    losses = [blr.step(X, y) for _ in range(2)]
    pyro.clear_param_store()
    guide = make(model)
    blr = engine(guide, model)
    blr.load_state_dict(state)
    random = torch.get_rng_state()
    found = Predictive(model, guide=guide, num_samples=9)(X)
    assert found["y"].shape == (9, N)
    assert_same(guide.median(), expected)
    torch.set_rng_state(random)
    assert [blr.step(X, y) for _ in range(2)] == losses


def test_another_model_is_refused_at_a_call_of_the_guide() -> None:
    state = state_of(AutoNatural)
    guide = AutoNatural(weights_alone)
    engine(guide, weights_alone).load_state_dict(state)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"'s' was saved.*Mend:"):
            guide(X)
    assert not guide.is_set_up


@both_stores
@pytest.mark.parametrize("make", [AutoNormal, AutoMultivariateNormal, AutoDelta, parts])
def test_a_guide_of_pyro_first_called_without_the_data(
    make: Callable[[Any], Any], local: bool
) -> None:
    with pyro.settings.context(module_local_params=local):
        state = state_of(make)
        guide = make(regression)
        blr = engine(guide)
        blr.load_state_dict(state)
        if make is parts:  # it is in sites that are named: y is none of them
            guide(X, Y)
            return
        for _ in range(2):
            with pytest.raises(CheckpointError, match=r"Mend:.*with the data.*evaluate_loss"):
                guide(X)
        assert not list(pyro.get_param_store())
        assert not list(guide.parameters())
        guide(X, Y)
        assert engine(guide).guide is guide
        values = blr.state_dict()["guide"]["values"]
        assert_same(values, state["guide"]["values"])


@pytest.mark.parametrize("make", [AutoNormal, AutoDelta])
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_the_guide_of_another_model(make: Callable[[Any], Any], used: bool) -> None:
    """Every parameter that was saved is one of the guide's, and the other way round."""
    for saved, taker in [(regression, weights_alone), (weights_alone, regression)]:
        state = state_of(make, saved)
        blr = engine(make(taker), taker)
        if used:
            loss = blr.step(X, Y)
        for _ in range(2):
            with pytest.raises(CheckpointError, match=r"'(\w+\.)?s'.*Mend:"):
                blr.load_state_dict(state)
                blr.step(X, Y)
        if used:
            assert blr.num_steps == 1
            assert blr.step(X, Y) < loss


@pytest.mark.parametrize(
    ("saved", "taker"),
    [(AutoNatural, AutoNormal), (AutoNormal, AutoNatural), (AutoDelta, AutoNatural)],
)
def test_another_kind_of_guide(saved: Any, taker: Any) -> None:
    state = state_of(saved)
    blr = engine(taker(regression))
    with pytest.raises(CheckpointError, match=f"{saved.__name__}.*{taker.__name__}.*Mend:"):
        blr.load_state_dict(state)
    blr.step(X, Y)


NATURAL = [
    AutoNatural,
    AutoNaturalNormal,
    AutoNaturalMultivariateNormal,
    AutoNaturalLowRankMultivariateNormal,
]


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("saved", NATURAL)
def test_natural_guides_take_the_state_of_their_own_class(saved: Any, is_new: bool) -> None:
    """Of others q has other laws, which it would hold from then on."""
    state = state_of(saved)
    for taker in NATURAL:
        pyro.clear_param_store()
        blr = engine(taker(regression))
        if not is_new:
            blr.step(X, Y)
        if saved is taker:
            blr.load_state_dict(state)
            continue
        name = rf"{saved.__name__} .*this is {taker.__name__},.*Mend: {saved.__name__}\(model\)"
        with pytest.raises(CheckpointError, match=name):
            blr.load_state_dict(state)


def test_a_subclass_takes_what_its_base_has_saved() -> None:
    class Own(AutoNatural):
        pass

    blr = engine(Own(regression))
    blr.load_state_dict(state_of(AutoNatural))
    assert blr.num_steps > 0
    blr.step(X, Y)


def test_another_rank() -> None:
    state = state_of(AutoNaturalLowRankMultivariateNormal)
    guide = AutoNaturalLowRankMultivariateNormal(regression, rank=1)
    engine(guide).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"\(4, 2\).*\(4, 1\).*Mend:.*rank"):
        guide(X, Y)


@pytest.mark.parametrize("y", [Y, None], ids=["with the data", "without"])
def test_new_rows(y: Tensor | None) -> None:
    """Global latents alone: the first call may have other rows than the fit."""
    blr = engine(AutoNatural(regression))
    blr.step(X, Y)
    expected, state = blr.guide.median(), blr.state_dict()
    blr = engine(AutoNatural(regression))
    blr.load_state_dict(state)
    blr.guide(X[:5], None if y is None else y[:5])
    assert_same(blr.guide.median(), expected)
    assert blr.step(X, Y) < 1e9


@pytest.mark.parametrize("make", [AutoNormal, lambda _: Written()], ids=["Pyro's", "own"])
def test_what_others_have_in_the_store_is_left_alone(make: Callable[[Any], Any]) -> None:
    pyro.clear_param_store()
    other = pyro.param("of another model", torch.tensor(1.0))
    blr = engine(make(regression))
    blr.step(X, Y)
    state = blr.state_dict()
    with torch.no_grad():
        other.copy_(torch.tensor(2.0))
    blr.load_state_dict(state)
    blr.step(X, Y)
    assert pyro.param("of another model") == 2.0


def test_every_constraint_of_pyro_is_saved() -> None:
    known = [getattr(pyro_constraints, n) for n in pyro_constraints.__all__]
    known = [c for c in known if isinstance(c, constraints.Constraint)]
    known += [constraints.interval(-1.0, torch.tensor(2.0)), constraints.greater_than(3.0)]
    known += [constraints.independent(constraints.less_than(1.0), 2)]
    assert len(known) > 20
    for constraint in known:
        made = constraint_from(on_disk(saved_constraint(constraint)))
        assert str(made) == str(constraint)
        assert type(made) is type(constraint)
        again = saved_constraint(pickle.loads(pickle.dumps(constraint)))
        assert str(constraint_from(again)) == str(constraint)
    assert saved_constraint(constraints.cat([constraints.positive])) is None


def test_a_state_of_pyros_guide_from_before_buffers_were_saved() -> None:
    state = state_of(AutoNormal)
    state["guide"] = {k: state["guide"][k] for k in ("values", "optim")}
    guide = AutoNormal(regression)
    engine(guide).load_state_dict(state)
    guide(X, Y)
    assert_same({n: p.detach() for n, p in guide.named_parameters()}, state["guide"]["values"])


def test_a_state_of_a_function_from_before_constraints_were_saved() -> None:
    state = state_of(lambda _: written)
    del state["guide"]["constraints"]
    blr = engine(written)
    blr.load_state_dict(state)
    blr.evaluate_loss(X, Y)
    saved = state["guide"]["values"]
    assert_same({n: t.detach() for n, t in pyro.get_param_store().named_parameters()}, saved)


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_between_loading_and_the_first_use(make_copy: Callable[[Any], Any]) -> None:
    state = state_of(AutoNormal)
    blr = engine(AutoNormal(regression))
    blr.load_state_dict(state)
    copied = make_copy(blr)
    for other in (copied, blr):
        pyro.clear_param_store()
        other.guide(X, Y)
        values = {n: p.detach() for n, p in other.guide.named_parameters()}
        assert_same(values, state["guide"]["values"])

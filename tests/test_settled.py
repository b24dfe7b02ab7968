# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Is this a mode of the log density? Point masses and the delta method answer alike."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide as auto
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_blr import BLR
from pyro_blr.fit import Fit
from pyro_blr.guides import AutoNatural, AutoNaturalMultivariateNormal, AutoNaturalNormal
from pyro_blr.steps.cone import Safety
from pyro_blr.steps.line_search import descend

Model = Callable[[], Any]
NATURAL = [AutoNatural, AutoNaturalMultivariateNormal, AutoNaturalNormal]
POINTS = [auto.AutoDelta, auto.AutoLaplaceApproximation]
#: One of each kind for the longer lists.
BOTH = [auto.AutoDelta, AutoNaturalMultivariateNormal]


def joint(density: Callable[[Tensor], Tensor], start: Tensor) -> Model:
    """A model whose log joint is a log density, with a latent like the start and no prior."""

    def model() -> None:
        law = dist.Normal(torch.zeros_like(start), 1.0).mask(False).to_event(start.dim())
        pyro.factor("f", density(pyro.sample("z", law)))

    return model


def fitted(kind: Any, density: Callable[[Tensor], Tensor], *start: float) -> tuple[Fit, Tensor]:
    """The fit, and where it ended; a vector for more than one number."""
    at = torch.tensor(start if len(start) > 1 else start[0])
    return fit_from(kind, joint(density, at), z=at)


def fit_from(kind: Any, model: Model, **start: Tensor) -> tuple[Fit, Tensor]:
    pyro.clear_param_store()
    options = {"init_loc_fn": auto.init_to_value(values=start)} if start else {}
    guide = kind(model, **options)
    estimator = "delta" if kind in NATURAL else "auto"
    fit = BLR(model, guide, estimator=estimator).fit(max_steps=100)
    first = next(iter(guide().values())) if kind in POINTS else next(iter(guide.median().values()))
    return fit, first.detach()


def gaussian_tail(z: Tensor) -> Tensor:
    """A probit of one datum, for ever the higher the larger z is."""
    return torch.log1p(-0.5 * torch.erfc(z / math.sqrt(2)))


def of_zeros(sd: float) -> Callable[[Tensor], Tensor]:
    """Five counts of 0: an exponential, which a weak prior ends far out."""
    return lambda z: -5 * z.exp() - z**2 / (2 * sd**2)


MODES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, ...]]] = {
    "z^4": (lambda z: -(z**4), (1.3,)),
    "z^10": (lambda z: -(z**10), (1.3,)),
    "z^6 on two scales": (lambda z: -(z[0] ** 6) - (30 * z[1]) ** 6, (1.3, 0.01)),
    "z^4 coupled": (lambda z: -(z[:2] ** 4).sum() - (z[2] - z[0]) ** 2, (1.3, -0.4, 2.0)),
    "r^4": (lambda z: -(z.square().sum() ** 2), (1.3, -0.4, 2.0)),
    "student t": (lambda z: -1.5 * (1 + z**2 / 2).log(), (30.0,)),
    "behind an inflection": (lambda z: -(z**3) - 0.25 * z**4, (1.0,)),
    "from a saddle": (lambda z: -(z[0] ** 2) / 2 + z[1] ** 2 / 2 - z[1] ** 4 / 4, (0.5, 0.0)),
    "weak prior": (of_zeros(1e4), (0.0,)),
    "weaker prior": (of_zeros(1e6), (0.0,)),
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("name", MODES)
def test_a_mode_is_certified(kind: Any, name: str) -> None:
    """Also flat ones, far from quadratic ones, and ones far off."""
    density, start = MODES[name]
    fit, z = fitted(kind, density, *start)
    assert fit.converged, fit.reason
    z = z.requires_grad_()
    (gradient,) = torch.autograd.grad(density(z), z)
    hessian = torch.autograd.functional.hessian(lambda z: -density(z), z.detach())
    step = torch.linalg.solve(hessian.reshape(z.numel(), -1), gradient.reshape(-1))
    assert float(gradient.reshape(-1) @ step) / 2 < 1e-6
    if name.startswith("weak"):
        # Where it is a mode and not on the way: 5 e^z = -z / sd^2.
        precision = 1e-8 if name == "weak prior" else 1e-12
        assert float(5 * z.detach().exp() / (-z.detach() * precision)) < 4.0


NO_MODES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, ...], str]] = {
    "separated": (logsigmoid, (0.0,), "levels off"),
    "separated in two dims": (
        lambda z: logsigmoid(torch.tensor([[1.0, 0.5], [0.3, 1.0], [1.0, 0.1]]) @ z).sum(),
        (0.0, 0.0),
        "levels off",
    ),
    "gaussian tail": (gaussian_tail, (0.0,), "levels off"),
    "bump turned over": (lambda z: -(-(z**2)).exp(), (1.0,), "levels off"),
    "power": (lambda z: -((1 + z**2) ** -0.5), (3.0,), "levels off"),
    "ring": (lambda z: -((z.square().sum() - 2) ** 2), (1.3, 0.2), "flat"),
    "flat ring": (lambda z: -((z.square().sum() - 2) ** 4), (1.3, 0.2), "flat"),
    "line": (lambda z: -(z[0] ** 2) * (1 + z[1] ** 2), (0.3, 0.0), "flat"),
    "flat line": (lambda z: -(z[0] ** 4) * (1 + z[1] ** 2), (0.3, 0.0), "flat"),
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("name", NO_MODES)
def test_where_there_is_no_single_mode_none_is_certified(kind: Any, name: str) -> None:
    density, start, why = NO_MODES[name]
    fit, z = fitted(kind, density, *start)
    assert not fit.converged and fit.gap == math.inf
    assert fit.steps < 30
    assert why in fit.reason and "Mend" in fit.reason
    assert torch.isfinite(z).all()


SIZE = 200

MANY: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, bool]] = {
    "regular": (
        lambda z: -(z**2).sum() - 0.1 * (z**4).sum(), torch.linspace(-1, 1, SIZE), True
    ),
    "quartic": (lambda z: -(z**4).sum(), torch.linspace(0.5, 1, SIZE), True),
    "one of them drifts": (
        lambda z: -((z[1:] - 1) ** 4 + z[1:] ** 2).sum() + 0.01 * logsigmoid(z[0]),
        torch.zeros(SIZE),
        False,
    ),
    "two of them on a ring": (
        lambda z: -(z[2:] ** 2).sum() - (z[:2].square().sum() - 2) ** 2,
        torch.linspace(0.7, 0.8, SIZE),
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("name", MANY)
def test_where_no_hessian_is_formed(kind: Any, name: str) -> None:
    density, start, has_mode = MANY[name]
    fit, _ = fit_from(kind, joint(density, start), z=start)
    assert fit.converged == has_mode, fit.reason


@pytest.mark.parametrize("kind", BOTH)
def test_in_float32(kind: Any) -> None:
    start = torch.tensor(1.3, dtype=torch.float32)
    fit, _ = fit_from(kind, joint(lambda z: -(z**4), start), z=start)
    assert fit.converged, fit.reason
    start = torch.tensor([1.3, 0.2], dtype=torch.float32)
    fit, _ = fit_from(kind, joint(lambda z: -((z.square().sum() - 2) ** 2), start), z=start)
    assert not fit.converged and "flat" in fit.reason


@pytest.mark.parametrize("kind", [AutoNatural, AutoNaturalNormal, *POINTS])
def test_of_several_latents_each_counts(kind: Any) -> None:
    """Of two sites, one with a mode, in blocks of their own or in one."""

    def model(density: Callable[[Tensor], Tensor]) -> Model:
        def run() -> None:
            law = dist.Normal(torch.zeros(()), 1.0).mask(False)
            a, b = pyro.sample("a", law), pyro.sample("b", law)
            pyro.factor("f", -500 * (a - 1) ** 2 - (a - 1) ** 4 + density(b))

        return run

    start = {"a": torch.tensor(3.0), "b": torch.tensor(0.5)}
    assert fit_from(kind, model(lambda b: -(b**4)), **start)[0].converged
    fit, _ = fit_from(kind, model(logsigmoid), **start)
    assert not fit.converged
    assert "levels off" in fit.reason or "flat" in fit.reason


@pytest.mark.parametrize("kind", BOTH)
def test_a_flat_mode_has_no_width(kind: Any) -> None:
    """The mode is one; that q's width says nothing there is said where q has one."""
    fit, _ = fitted(kind, lambda z: -(z**4), 1.3)
    assert fit.converged and fit.steps < 20
    assert ("width says nothing" in fit.reason) == (kind is AutoNaturalMultivariateNormal)


def corner() -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    pyro.sample("y", dist.Multinomial(5, p), obs=torch.tensor([5.0, 0.0, 0.0]))


def edge() -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    pyro.sample("y", dist.Multinomial(5, p), obs=torch.tensor([3.0, 2.0, 0.0]))


def all_of_them() -> None:
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("n", 3):
        pyro.sample("y", dist.Bernoulli(p), obs=torch.ones(3))


def no_scale() -> None:
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("n", 4):
        e = pyro.sample("e", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * e, 3.0), obs=torch.tensor([1.0, 1.2, 0.9, 1.1]))


def many_scales() -> None:
    pyro.sample("s", dist.Exponential(1.0).expand([SIZE]).to_event(1))


BOUNDS: dict[str, tuple[Model, list[float]]] = {
    "corner": (corner, [1.0, 0.0, 0.0]),
    "edge": (edge, [0.6, 0.4, 0.0]),
    "all of them": (all_of_them, [1.0]),
    "no scale": (no_scale, [0.0]),
    "many scales": (many_scales, [0.0]),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_mode_at_a_bound_is_a_mode_of_the_density_without_a_jacobian(name: str) -> None:
    model, expected = BOUNDS[name]
    fit, found = fit_from(auto.AutoDelta, model)
    assert fit.converged, fit.reason
    assert (found - torch.tensor(expected)).abs().max() < 3e-3
    fit, found = fit_from(auto.AutoLaplaceApproximation, model)
    assert fit.converged, fit.reason
    assert (found - torch.tensor(expected)).abs().max() > 3e-2


def test_a_drift_beside_a_bound_is_none() -> None:
    def model() -> None:
        pyro.sample("s", dist.Exponential(1.0))
        w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0).mask(False))
        pyro.factor("f", logsigmoid(w))

    fit, _ = fit_from(auto.AutoDelta, model)
    assert not fit.converged and "levels off" in fit.reason


def test_a_bound_in_a_chart_is_none() -> None:
    """With its Jacobian the density of a scale levels off towards 0, also if written by hand."""

    def model() -> None:
        s = pyro.sample("s", dist.HalfCauchy(1.0))
        pyro.factor("f", -s.log())

    def guide() -> None:
        u = pyro.param("u", torch.tensor(0.0))
        pyro.sample("s", dist.Delta(u.exp(), log_density=-u))

    fit = BLR(model, guide).fit(max_steps=100)
    assert not fit.converged and "levels off" in fit.reason
    for kind in (auto.AutoLaplaceApproximation, AutoNaturalMultivariateNormal):
        pyro.clear_param_store()
        fit, _ = fit_from(kind, model)
        assert not fit.converged and "levels off" in fit.reason


@pytest.mark.parametrize("by_hand", [True, False])
def test_proportions_have_a_mode(by_hand: bool) -> None:
    """K logits of K proportions can be moved together without any proportion."""
    x = torch.cat([torch.linspace(-4, -2, 15), torch.linspace(1, 4, 9)])

    def model() -> None:
        w = pyro.sample("w", dist.Dirichlet(torch.full((2,), 2.0)))
        with pyro.plate("k", 2):
            m = pyro.sample("m", dist.Normal(torch.tensor([-1.0, 1.0]), 5.0))
        with pyro.plate("n", len(x)):
            law = dist.MixtureSameFamily(dist.Categorical(w), dist.Normal(m, 1.0))
            pyro.sample("x", law, obs=x)

    def guide() -> dict[str, Tensor]:
        logits = pyro.param("logits", torch.zeros(2))
        at = pyro.param("at", torch.tensor([-1.0, 1.0]))
        w = pyro.sample("w", dist.Delta(logits.softmax(-1), event_dim=1))
        with pyro.plate("k", 2):
            pyro.sample("m", dist.Delta(at))
        return {"w": w}

    own: Any = guide if by_hand else auto.AutoDelta(model)
    fit = BLR(model, own).fit()
    assert fit.converged and fit.steps < 10
    assert float(own()["w"][0]) == pytest.approx(16 / 26, abs=0.01)


def test_a_step_over_the_valley_to_the_same_height_is_halved() -> None:
    """Else steps would go back and forth for ever."""
    found = descend(lambda size: (1 - 2 * size) ** 2, 1.0, 1e-12, Safety())
    assert found is not None and found[1] < 0.5

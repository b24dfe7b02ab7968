# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Maps from a guide's parameters to natural ones: exact where they can be, else pulled back."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch.testing import assert_close

from pyro_blr import BLR
from pyro_blr.families import Beta, Dirichlet, Gamma, MultivariateNormal, Normal, Wishart
from pyro_blr.guides import AutoNatural, natural_param
from pyro_blr.guides.natural_param import listening
from pyro_blr.guides.views.charts import Chart
from pyro_blr.steps.cone import squared_norm
from tests.guides.scripts import SCRIPTS, param, positive_param


def updates(guide: Any, model: Any, data: Any) -> dict[str, str]:
    blr = BLR(model, guide, on_sampled="ignore")
    return {n: p.update for n, p in blr.explain(*data).parameters.items()}


def dice(x: torch.Tensor) -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Categorical(p), obs=x)


def dice_guide(x: torch.Tensor) -> None:
    a = pyro.param("a", torch.tensor([3.0, 2.0, 2.0]), constraint=constraints.positive)
    pyro.sample("p", dist.Dirichlet(a))


def vector(y: torch.Tensor) -> None:
    z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.MultivariateNormal(z, 2 * torch.eye(2)), obs=y)


def vector_of(name: str, constraint: Any) -> Any:
    def guide(y: torch.Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        matrix = pyro.param(name, torch.eye(2), constraint=constraint)
        pyro.sample("z", dist.MultivariateNormal(loc, **{name: matrix}))

    return guide


def tied(y: torch.Tensor) -> None:
    scale = positive_param("scale", 1.0)
    pyro.sample("z", dist.MultivariateNormal(param("loc", 0.0).expand(2), scale * torch.eye(2)))


def elements(y: torch.Tensor) -> None:
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def elements_guide(y: torch.Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(3))
    scale = pyro.param("scale", torch.ones(3), constraint=constraints.softplus_positive)
    with pyro.plate("n", len(y)):
        pyro.sample("z", dist.Normal(loc, scale))


THROWS = (torch.tensor([0, 1, 1, 2, 1]),)
PAIRS = (torch.tensor([[1.0, 2.0], [0.5, 1.5], [2.0, 0.0]]),)
THREE = (torch.tensor([1.0, 2.0, 3.0]),)

EXACT: dict[str, tuple[Any, Any, Any]] = {
    "Dirichlet": (dice, dice_guide, THROWS),
    "scale_tril": (vector, vector_of("scale_tril", constraints.lower_cholesky), PAIRS),
    "covariance": (vector, vector_of("covariance_matrix", constraints.positive_definite), PAIRS),
    "precision": (vector, vector_of("precision_matrix", constraints.positive_definite), PAIRS),
    "elements of a plate": (elements, elements_guide, THREE),
}


@pytest.mark.parametrize("case", EXACT)
def test_identity_maps_step_exactly(case):
    model, guide, data = EXACT[case]
    assert set(updates(guide, model, data).values()) == {"written"}
    pyro.clear_param_store()
    blr = BLR(model, guide)
    blr.step(*data)
    after = blr.evaluate_loss(*data)
    twin = BLR(model, AutoNatural(model))
    assert after == pytest.approx(twin.fit(*data).losses[-1], abs=1e-9)


def test_tied_parameters_are_pulled_back_to_the_best_of_their_kind():
    assert set(updates(tied, vector, PAIRS).values()) == {"pulled back"}
    pyro.clear_param_store()
    fit = BLR(vector, tied).fit(*PAIRS, tol=1e-9)
    assert fit.converged
    # The posterior precision is (1 + 3/2) 1; the best common mean is the mean of the means.
    mean = (PAIRS[0].sum(0) / 2 / 2.5).mean()
    assert_close(pyro.param("loc").detach(), mean, atol=1e-5, rtol=0)
    assert_close(pyro.param("scale").detach(), torch.tensor(1 / 2.5), atol=1e-5, rtol=0)


def test_a_full_step_in_a_chart_is_the_natural_gradient():
    """(J'FJ)^-1 J'F d by matrices, for Normal(loc, exp(s))."""

    def natural(theta):
        loc, s = theta
        precision = (-2 * s).exp()
        return precision * loc, -0.5 * precision

    chart = Chart(Normal(), natural)
    theta = (torch.tensor([0.3]), torch.tensor([-0.4]))
    message = (torch.tensor([2.0]), torch.tensor([-1.5]))
    flat = torch.cat(theta)
    J = torch.autograd.functional.jacobian(
        lambda t: torch.cat(natural((t[:1], t[1:]))), flat, strict=True
    )
    F = torch.autograd.functional.jacobian(
        lambda n: torch.cat(Normal().mean_params((n[:1], n[1:]))), torch.cat(natural(theta))
    )
    gap = torch.cat(message) - torch.cat(natural(theta))
    step = torch.linalg.solve(J.T @ F @ J, J.T @ F @ gap)
    assert_close(torch.cat(chart.message(theta, message)), flat + step)
    covector = (torch.tensor([0.7]), torch.tensor([0.2]))
    solved = torch.linalg.solve(J.T @ F @ J, torch.cat(covector))
    assert_close(torch.cat(chart.inverse_fisher(theta, covector)), solved)
    length = squared_norm(chart, theta, (step[:1], step[1:]))
    assert_close(length, step @ J.T @ F @ J @ step)


def test_an_amortised_guide_is_known_by_its_draws():
    def guide(y):
        loc = param("slope", 0.0) * y
        with pyro.plate("n", len(y)):
            pyro.sample("z", dist.Normal(loc, positive_param("scale", 1.0)))

    optim = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.98})
    blr = BLR(elements, guide, optim, on_sampled="ignore")
    for _ in range(150):
        blr.step(torch.randn(5))
    blr.step(torch.randn(3))  # a short last batch
    assert "amortised" in blr.explain(torch.randn(5))["z"].reason
    assert_close(pyro.param("slope").detach(), torch.tensor(0.5), atol=0.1, rtol=0)


def test_explain_says_which_parameter_moves_how():
    script = SCRIPTS["Gamma of exp"]
    explained = BLR(*script.make()).explain(*script.data())
    assert "parameter log_a: pulled back (natural gradient" in str(explained)
    script = SCRIPTS["Beta"]
    explained = BLR(*script.make()).explain(*script.data())
    assert "parameter a: written" in str(explained)
    assert "concentration1 of a Beta" in str(explained)


def test_messages_are_in_natural_coordinates_in_a_chart_too():
    found = []
    for name in ("Beta", "Beta of exp"):
        pyro.clear_param_store()
        script = SCRIPTS[name]
        found.append(BLR(*script.make()).messages(*script.data())["p"])
    assert_close(*found)


# Natural parameters.

STARTS: list[tuple[Any, tuple[int, ...]]] = [
    (Normal, ()),
    (Normal, (3,)),
    (MultivariateNormal, (2, 3)),
    (Gamma, (2,)),
    (Beta, ()),
    (Dirichlet, (4,)),
    (Wishart, (2, 2)),
]


@pytest.mark.parametrize(("family", "shape"), STARTS)
def test_natural_param_starts_inside_the_domain(family, shape):
    natural = natural_param("z", family, shape)
    assert bool(family().in_domain(natural).all())
    assert family().distribution(natural).shape() == shape
    assert all(a is b for a, b in zip(natural, natural_param("z", family, shape), strict=True))


def test_natural_param_starts_where_it_is_told_to():
    law = dist.Gamma(torch.tensor(3.0), torch.tensor(2.0))
    natural = natural_param("z", Gamma, start=law)
    assert_close(Gamma().distribution(natural).rate.detach(), law.rate)
    with listening() as found:
        natural_param("z", Gamma)
    assert found[0].leaves[0] is pyro.param("z.natural_0")
    assert found[0].scale == 1.0


def test_local_natural_parameters_of_a_subsample():
    """The plate's scale is taken out of a row's natural gradient, or it would overshoot."""

    def model(y):
        with pyro.plate("n", len(y), subsample_size=2) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[index])

    def guide(y):
        with pyro.plate("n", len(y), subsample_size=2):
            natural = natural_param("z", Normal, (len(y),))
            pyro.sample("z", Normal().distribution(natural))

    y = torch.tensor([1.0, 2.0, -1.0, -2.0, 0.0, 1.0])
    blr = BLR(model, guide, on_sampled="ignore", step_size=0.2)
    for _ in range(150):
        blr.step(y)
    natural = tuple(pyro.param(f"z.natural_{k}").detach() for k in range(2))
    assert_close(Normal().distribution(natural).mean, y / 2, atol=0.35, rtol=0)
    assert "natural gradient" in str(blr.explain(y))


def test_a_structured_guide_reaches_the_evidence():
    script = SCRIPTS["structured"]
    model, guide = script.make()
    from pyro.infer import Trace_ELBO

    loss = Trace_ELBO(num_particles=10)
    optim = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.985})
    blr = BLR(model, guide, optim, loss, on_sampled="ignore")
    losses = [blr.step(*script.data()) for _ in range(200)][-50:]
    exact = BLR(model, AutoNatural(model)).fit(*script.data()).losses[-1]
    assert sum(losses) / 50 == pytest.approx(exact, abs=0.3)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Every way past the lifted tensors: each is evaluated rightly, or is an error with a mend.

Never silently wrong: where a route gives a number, its value and its gradient in the mean of the
latent agree with plain Monte Carlo of the real model. The routes are in `tests/routes`.
"""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.distribution import COERCIONS
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_blr import families
from pyro_blr.errors import BLRError, ControlFlowError
from tests.checks import engine, tiers, total_entropy
from tests.oracles.log_joint import log_joints
from tests.routes import ROUTES, Q, Y, control_flow, model_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),  # torch under NumPy 2
]


# Named, because the default family depends on what the route makes of t.
FAMILIES = {"t": families.Gamma}


def engine_value_and_slope(
    model: Callable[[], None], q: dict[str, Any], noisy: bool
) -> list[tuple[float, float]]:
    """ELBO and its derivative in the mean of z: estimate and standard error of each."""
    blr, _ = engine(
        model,
        q,
        families=FAMILIES if "t" in q else None,
        blocks="site",
        loss=Trace_ELBO(num_particles=4),
    )
    repeats = REPEATS if "sampled" in tiers(blr).values() or noisy else 2
    values = torch.tensor([-blr.evaluate_loss() for _ in range(repeats)])
    slopes = []
    for _ in range(repeats):
        first, second = blr.messages()["z"]
        # dL/dm = message_1 + 2 m message_2 for T = (z, z^2); the entropy does not depend on m.
        slopes.append(float(first + 2 * Q["z"].loc * second))
    return [
        (float(v.mean()), float(v.std() / repeats**0.5)) for v in (values, torch.tensor(slopes))
    ]


def true_value_and_slope(model: Callable[[], None], q: dict[str, Any]) -> list[tuple[float, float]]:
    """The same of the real model, the slope by differences of common random numbers."""
    step = 1e-3
    values = []
    for shift in (0.0, step, -step):
        try:
            values.append(_log_joints(model, q, shift, draws=4000, vectorise=True))
        except (RuntimeError, TypeError, NotImplementedError):  # not a model for vmap
            values.append(_log_joints(model, q, shift, draws=200, vectorise=False))
    value, slope = values[0] + total_entropy(q), (values[1] - values[2]) / (2 * step)
    return [(float(v.mean()), float(v.std() / len(v) ** 0.5)) for v in (value, slope)]


def _log_joints(
    model: Callable[[], None], q: dict[str, Any], shift: float, draws: int, vectorise: bool
) -> Tensor:
    torch.manual_seed(7)  # the same draws at each shift, also those that the model takes itself
    z = {name: d.sample((draws,)) for name, d in q.items()}
    z["z"] = z["z"] + shift
    return log_joints(model, (), z, vectorise=vectorise)


def assert_agrees(
    model: Callable[[], None], q: dict[str, Any], no_slope: bool = False, noisy: bool = False
) -> None:
    ours = engine_value_and_slope(model, q, noisy)
    truth = true_value_and_slope(model, q)
    for label, (a, da), (b, db) in zip(("ELBO", "slope"), ours, truth, strict=True):
        if label == "slope" and no_slope:
            continue
        # Student t with 15 degrees of freedom is beyond 6.5 once in 1e5 times.
        assert abs(a - b) < 6.5 * math.hypot(da, db) + 1e-6 * max(1, abs(b)), (label, ours, truth)


REPEATS = 16

# Models with a jump in z: their value has a slope that no derivative of the integrand shows, nor
# differences over 1e-3.
JUMPS = {"where_on_a_latent", "index_by_a_latent"}
# Models that ask for a gradient to stop: their value is compared, their slope is their own wish.
STOPPED = {"dot_detach", "dot_data"}


# Models that draw random numbers themselves: noisy on every tier.
NOISY = {"draw_of_a_lifted_distribution"}


@pytest.mark.parametrize("name", ROUTES)
def test_route(name: str) -> None:
    model, outcome = model_of(ROUTES[name].body), ROUTES[name].outcome
    try:
        engine(model, Q, families=FAMILIES, blocks="site")[0].evaluate_loss()
    except BLRError as error:
        assert outcome != "value", f"this route must work: {error}"
        message = str(error)
        assert "Mend:" in message
        if outcome == "error":
            assert isinstance(error, ControlFlowError)
    else:
        assert outcome != "error", "a random variable was read as a number, and nothing was said"
        assert_agrees(model, Q, name in JUMPS | STOPPED, name in NOISY)


@pytest.mark.parametrize("name", ROUTES)
def test_route_through_the_step(name: str) -> None:
    """The same through `step`: a typed error or a finite loss, and the guide stays proper."""
    blr, guide = engine(model_of(ROUTES[name].body), Q, families=FAMILIES, blocks="site")
    try:
        loss = blr.step()
    except BLRError:
        assert ROUTES[name].outcome != "value"
    else:
        assert math.isfinite(loss)
        assert torch.isfinite(guide.marginal("z").mean)
        assert guide.marginal("z").variance > 0


class OwnHook(Messenger):
    """What `poutine.collapse` does to the hooks of Pyro: adds its own, and pops the last again."""

    def hook(self, cls: type, args: Any, kwargs: Any) -> None:
        return None

    def __enter__(self) -> Any:
        COERCIONS.append(self.hook)
        return super().__enter__()

    def __exit__(self, *exc: Any) -> Any:
        popped = COERCIONS.pop()
        assert popped == self.hook, "a hook of another was popped"
        return super().__exit__(*exc)


def _likelihood(z: Tensor) -> None:
    with pyro.plate("data", 3):
        pyro.sample("y", dist.Normal(z, 0.7), obs=Y)


def _hook_around_the_likelihood() -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with OwnHook():
        _likelihood(z)


def _hook_around_the_latent() -> None:
    with OwnHook():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    _likelihood(z)


def _hook_around_everything() -> None:
    with OwnHook():
        _likelihood(pyro.sample("z", dist.Normal(0.0, 1.0)))


@pytest.mark.parametrize(
    "model", [_hook_around_the_likelihood, _hook_around_the_latent, _hook_around_everything]
)
def test_another_hook_comes_and_goes(model: Callable[[], None]) -> None:
    """The handlers of Pyro that intercept distributions too leave ours in place."""
    blr, _ = engine(model, {"z": Q["z"]})
    assert set(tiers(blr).values()) == {"exact"}
    assert_agrees(model, {"z": Q["z"]})


def test_no_hook_is_left_behind_by_an_error() -> None:
    """After a failed trace Pyro is as it was: its distributions are plain again."""
    blr, _ = engine(model_of(control_flow.if_of_a_latent), Q)
    with pytest.raises(ControlFlowError):
        blr.step()
    draw = dist.Normal(torch.zeros(()), 1.0).sample()
    assert type(draw) is Tensor
    assert float(draw) == draw.item()

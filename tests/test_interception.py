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
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_blr.errors import BLRError, ControlFlowError
from tests.checks import engine, total_entropy
from tests.routes import ROUTES, Q, Y, control_flow, model_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),  # torch under NumPy 2
]


def engine_value_and_slope(
    model: Callable[[], None], q: dict[str, Any]
) -> list[tuple[float, float]]:
    """ELBO and its derivative in the mean of z: estimate and standard error of each."""
    blr, _ = engine(model, q, blocks="site", loss=Trace_ELBO(num_particles=30))
    values = torch.tensor([-blr.evaluate_loss() for _ in range(20)])
    slopes = []
    for _ in range(20):
        first, second = blr.messages()["z"]
        # dL/dm = message_1 + 2 m message_2 for T = (z, z^2); the entropy does not depend on m.
        slopes.append(float(first + 2 * Q["z"].loc * second))
    slope = torch.tensor(slopes)
    return [(float(v.mean()), float(v.std() / 20**0.5)) for v in (values, slope)]


def true_value_and_slope(
    model: Callable[[], None], q: dict[str, Any], draws: int = 800
) -> list[tuple[float, float]]:
    """The same of the real model, the slope by differences of common random numbers."""
    torch.manual_seed(7)
    step = 1e-3
    values, slopes = [], []
    for _ in range(draws):
        z = {name: d.sample() for name, d in q.items()}
        state = torch.get_rng_state()
        moved = []
        for shift in (0.0, step, -step):
            torch.set_rng_state(state)
            at = {**z, "z": z["z"] + shift}
            trace = poutine.trace(poutine.condition(model, data=at)).get_trace()
            moved.append(float(trace.log_prob_sum()))
        values.append(moved[0])
        slopes.append((moved[1] - moved[2]) / (2 * step))
    entropy = float(total_entropy(q))
    value, slope = torch.tensor(values) + entropy, torch.tensor(slopes)
    return [(float(v.mean()), float(v.std() / draws**0.5)) for v in (value, slope)]


def assert_agrees(model: Callable[[], None], q: dict[str, Any], jumps: bool) -> None:
    ours = engine_value_and_slope(model, q)
    truth = true_value_and_slope(model, q)
    for label, (a, da), (b, db) in zip(("ELBO", "slope"), ours, truth, strict=True):
        if label == "slope" and jumps:
            continue  # differences over 1e-3 see no jump, and no reparametrised gradient does
        assert abs(a - b) < 5 * math.hypot(da, db) + 1e-6 * max(1, abs(b)), (label, ours, truth)


# Models with a jump in z: their value has a slope that no derivative of the integrand shows.
JUMPS = {"where_on_a_latent", "index_by_a_latent"}
MENDS = ("use ", "instead", "replace", "write", "torch.", "pyro.", "call ")


@pytest.mark.parametrize("name", ROUTES)
def test_route(name: str) -> None:
    model, outcome = model_of(ROUTES[name].body), ROUTES[name].outcome
    try:
        engine(model, Q, blocks="site")[0].evaluate_loss()
    except BLRError as error:
        assert outcome != "value", f"this route must work: {error}"
        message = str(error)
        assert any(mend in message.lower() for mend in MENDS), f"no mend in: {message}"
        if outcome == "error":
            assert isinstance(error, ControlFlowError)
    else:
        assert outcome != "error", "a random variable was read as a number, and nothing was said"
        assert_agrees(model, Q, jumps=name in JUMPS)


@pytest.mark.parametrize("name", ROUTES)
def test_route_through_the_step(name: str) -> None:
    """The same through `step`: a typed error or a finite loss, and the guide stays proper."""
    blr, guide = engine(model_of(ROUTES[name].body), Q, blocks="site")
    try:
        loss = blr.step()
    except BLRError:
        assert ROUTES[name].outcome != "value"
    else:
        assert math.isfinite(loss)
    assert torch.isfinite(guide.marginal("z").mean)
    assert guide.marginal("z").variance > 0


def test_collapsed_model() -> None:
    """`poutine.collapse` takes the hook that intercepts distributions for itself."""

    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3):
            pyro.sample("y", dist.Normal(z, 0.7), obs=Y)

    try:
        collapsed = poutine.collapse(model)
        blr, _ = engine(collapsed, {"z": Q["z"]})
        blr.evaluate_loss()
    except BLRError as error:
        assert any(mend in str(error).lower() for mend in MENDS)
    except ImportError:
        pytest.skip("funsor is not installed: there is no poutine.collapse here")
    else:
        assert_agrees(collapsed, {"z": Q["z"]}, jumps=False)


def test_no_hook_is_left_behind_by_an_error() -> None:
    """After a failed trace Pyro is as it was: its distributions are plain again."""
    blr, _ = engine(model_of(control_flow.if_of_a_latent), Q)
    with pytest.raises(ControlFlowError):
        blr.step()
    draw = dist.Normal(torch.zeros(()), 1.0).sample()
    assert type(draw) is Tensor
    assert float(draw) == draw.item()

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What the tests of the cache share: a model, a start, and an engine that has seen nothing."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from tests.checks import engine

START = {"w": dist.Normal(0.3, 0.5), "tau": dist.Gamma(3.0, 2.0)}


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normal(x: Any, y: Any, *, offset: Any = 0.0) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(w * x + offset, tau.rsqrt()), obs=y)


def fresh(model: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    """The loss at START by an engine that has seen nothing before."""
    with pyro.get_param_store().scope():
        return engine(model, START, blocks="site")[0].evaluate_loss(*args, **kwargs)


def assert_follows(
    blr: Any, model: Callable[..., Any], before: float, *args: Any, **kw: Any
) -> float:
    """The engine answers for what is now, and now differs from before."""
    expected = fresh(model, *args, **kw)
    assert abs(expected - before) > 1e-3, "the case changed nothing: it can't fail"
    assert blr.evaluate_loss(*args, **kw) == pytest.approx(expected, rel=1e-12)
    return expected


def warm(model: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """An engine that has folded: two evaluations, equal to each other and to a fresh one."""
    keywords = {"blocks": "site", **kwargs.pop("engine_keywords", {})}
    blr, _ = engine(model, START, **keywords)
    first = blr.evaluate_loss(*args, **kwargs)
    assert blr.evaluate_loss(*args, **kwargs) == pytest.approx(first, rel=1e-14)
    assert first == pytest.approx(fresh(model, *args, **kwargs), rel=1e-12)
    return blr, first

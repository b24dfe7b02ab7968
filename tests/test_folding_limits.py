# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The limits of the cache: changes that torch can't see, memory, and passes over the data."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_blr.errors import StaleDataError
from tests.checks import engine
from tests.folding import START, assert_follows, normal, randn, warm

# --------------------------------------------- changes that torch can't see: check, and invalidate


def _numpy_case() -> tuple[Callable[[], None], Callable[[], None]]:
    array = np.linspace(-1.0, 1.0, 20)
    x, y = torch.ones(20), torch.from_numpy(array)

    def change() -> None:
        array[:] = array + 1.0

    return lambda: normal(x, y), change


def _data_attribute_case() -> tuple[Callable[[], None], Callable[[], None]]:
    x, y = torch.ones(20), torch.linspace(-1.0, 1.0, 20)
    return lambda: normal(x, y), lambda: y.data.add_(1.0) and None


UNSEEN = {"torch.from_numpy": _numpy_case, "Tensor.data": _data_attribute_case}
every_unseen = pytest.mark.parametrize("case", UNSEEN)


@every_unseen
def test_check_every_raises_on_stale_data(case: str) -> None:
    model, change = UNSEEN[case]()
    blr, _ = engine(model, START, blocks="site", check_every=1)
    blr.step()
    blr.step()
    change()
    with pytest.raises(StaleDataError, match=r"invalidate\(\)"):
        blr.step()


@every_unseen
def test_check_every_k_raises_within_k_steps(case: str) -> None:
    model, change = UNSEEN[case]()
    blr, _ = engine(model, START, blocks="site", check_every=3)
    for _ in range(4):
        blr.step()
    change()
    with pytest.raises(StaleDataError):
        for _ in range(3):
            blr.step()


@every_unseen
def test_invalidate_drops_the_fold(case: str) -> None:
    model, change = UNSEEN[case]()
    blr, before = warm(model)
    change()
    blr.invalidate()
    assert_follows(blr, model, before)


def test_check_every_is_quiet_when_nothing_changed() -> None:
    x, y = randn(0, 20), randn(1, 20)
    blr, _ = engine(normal, START, blocks="site", check_every=1)
    assert all(np.isfinite(blr.step(x, y)) for _ in range(5))


# -------------------------------------------------------------------------- cost: memory and passes


def test_cache_is_bounded() -> None:
    """Data of a stream must not be kept alive for ever."""
    blr, _ = engine(normal, START, blocks="site")
    x = randn(0, 50)
    alive: list[weakref.ref[Tensor]] = []
    for seed in range(150):
        y = randn(seed, 50)
        alive.append(weakref.ref(y))
        blr.evaluate_loss(x, y)
        del y
    gc.collect()
    kept = sum(r() is not None for r in alive)
    assert kept <= 75, f"{kept} of 150 data sets are still in memory"


def test_invalidate_lets_the_data_go() -> None:
    blr, _ = engine(normal, START, blocks="site")
    y = randn(1, 50)
    reference = weakref.ref(y)
    blr.evaluate_loss(torch.ones(50), y)
    del y
    blr.invalidate()
    gc.collect()
    assert reference() is None


class LargeOperations(TorchDispatchMode):
    """Notes every operation with an operand or a result of at least `size` elements."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        if any(t.numel() >= self.size and _is_stored(t) for t in tensors):
            self.seen.append(str(func))
        return result


def _is_stored(t: Tensor) -> bool:
    """Whether the tensor really has that many elements, and is no expanded scalar."""
    return all(stride for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1)


def _regression(X: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=y)


def _groups(X: Tensor, y: Tensor) -> None:
    index = torch.arange(len(y)) % 4
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("groups", 4):
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(u[index], tau.rsqrt()), obs=y)


def _counts(X: Tensor, y: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Poisson(rate * X[:, 0].exp()), obs=y.abs().floor())


@pytest.mark.parametrize("model", [_regression, _groups, _counts], ids=lambda m: m.__name__[1:])
def test_later_steps_do_not_touch_the_data(model: Callable[..., None]) -> None:
    rows = 4096
    X, y = randn(0, rows, 3), randn(1, rows)
    blr, _ = engine(model)
    with LargeOperations(rows) as first:
        blr.step(X, y)
    assert first.seen, "the watch does not work"
    with LargeOperations(rows) as second:
        blr.step(X, y)
        blr.evaluate_loss(X, y)
    assert not second.seen, f"operations on the data: {second.seen}"

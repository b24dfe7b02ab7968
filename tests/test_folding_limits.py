# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The limits of the cache: changes that torch can't see, memory, and passes over the data."""

import gc
import math
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
from tests.folding import START, assert_follows, fresh, normal, randn, warm

# --------------------------------------------- changes that torch can't see: check, and invalidate


# More rows than any affordable checksum of lent memory would read at every step.
ROWS = 20_000


def _numpy_case() -> tuple[Callable[[], None], Callable[[], None]]:
    array = np.linspace(-1.0, 1.0, ROWS)
    x, y = torch.ones(ROWS), torch.from_numpy(array)

    def change() -> None:
        array[4321] += 100.0

    return lambda: normal(x, y), change


def _data_attribute_case() -> tuple[Callable[[], None], Callable[[], None]]:
    x, y = torch.ones(ROWS), torch.linspace(-1.0, 1.0, ROWS)

    def change() -> None:
        y.data.add_(1.0)

    return lambda: normal(x, y), change


UNSEEN = {"torch.from_numpy": _numpy_case, "Tensor.data": _data_attribute_case}
every_unseen = pytest.mark.parametrize("case", UNSEEN)


def assert_right_or_stale(blr: Any, model: Callable[[], None], steps: int) -> None:
    """Within that many steps the change is seen: by the loss itself, or by the check."""
    try:
        for _ in range(steps):
            loss = blr.step()
            blr.guide.set_natural(START)
    except StaleDataError as error:
        assert "invalidate()" in str(error)
    else:
        assert loss == pytest.approx(fresh(model), rel=1e-12)


@every_unseen
@pytest.mark.parametrize("check_every", [1, 3])
def test_check_every_sees_stale_data(case: str, check_every: int) -> None:
    model, change = UNSEEN[case]()
    blr, _ = engine(model, START, blocks="site", check_every=check_every)
    for _ in range(4):
        before = blr.step()
        blr.guide.set_natural(START)
    change()
    assert abs(fresh(model) - before) > 1.0
    assert_right_or_stale(blr, model, steps=check_every)


def test_stale_data_can_be_had() -> None:
    """What the check is for: without it `.data` is folded, which the tests above must have met."""
    model, change = _data_attribute_case()
    blr, before = warm(model)
    change()
    if blr.evaluate_loss() == before:
        blr, _ = engine(model, START, blocks="site", check_every=1)
        blr.step()
        change()
        with pytest.raises(StaleDataError):
            blr.step()


def test_numpy_array_changed_throughout() -> None:
    """The usual case, an array that is filled again: right without being told."""
    array = np.linspace(-1.0, 1.0, ROWS)
    x, y = torch.ones(ROWS), torch.from_numpy(array)
    blr, before = warm(normal, x, y)
    array[:] = array[::-1].copy() + 0.5
    assert_follows(blr, normal, before, x, y)


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


def of_some(y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y), subsample_size=5) as rows:
        pyro.sample("y", dist.Normal(w, 1.0), obs=y[rows])


def test_check_every_looks_at_the_rows_that_the_model_drew() -> None:
    runs = []
    for check_every in (None, 1):
        start = {"w": dist.Normal(1.0, 0.5)}
        blr, _ = engine(of_some, start, blocks="site", step_size=0.5, check_every=check_every)
        pyro.set_rng_seed(0)
        runs.append([blr.step(randn(0, 20)) for _ in range(5)])
    assert runs[0] == runs[1]


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
    # The first data stay in the guide's prototype trace, as in every AutoGuide of Pyro.
    blr.evaluate_loss(torch.ones(50), randn(0, 50))
    blr.evaluate_loss(torch.ones(50), y)
    del y
    blr.invalidate()
    gc.collect()
    assert reference() is None


VIEWS = {"alias", "view", "_unsafe_view", "expand", "select", "slice", "unsqueeze", "permute", "t"}


class LargeOperations(TorchDispatchMode):
    """Notes the operations that read a tensor of at least `size` stored elements."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operands = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        name = func.overloadpacket.__name__
        if name not in VIEWS and any(_stored(t) >= self.size for t in operands):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def _stored(t: Tensor) -> int:
    """The number of elements less the repetitions of an expanded tensor."""
    sizes = [n for n, stride in zip(t.shape, t.stride(), strict=True) if stride]
    return math.prod(sizes)


# The models compute nothing of the data themselves: Pyro code that does is run at every step.


def _regression(X: Tensor, y: Tensor, index: Tensor, counts: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=y)


def _groups(X: Tensor, y: Tensor, index: Tensor, counts: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("groups", 4):
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(u[index], tau.rsqrt()), obs=y)


def _counts(X: Tensor, y: Tensor, index: Tensor, counts: Tensor) -> None:
    with pyro.plate("groups", 4):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Poisson(rate[index]), obs=counts)


def _coins(X: Tensor, y: Tensor, index: Tensor, counts: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Binomial(50, p), obs=counts)


MODELS = [_regression, _groups, _counts, _coins]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__[1:])
def test_later_steps_do_not_touch_the_data(model: Callable[..., None]) -> None:
    rows = 4096
    X, y = randn(0, rows, 3), randn(1, rows)
    data = X, y, torch.arange(rows) % 4, y.abs().floor()
    blr, _ = engine(model)
    with LargeOperations(rows) as first:
        blr.step(*data)
    assert first.seen, "the watch does not work"
    with LargeOperations(rows) as second:
        blr.step(*data)
        blr.evaluate_loss(*data)
    assert not second.seen, f"operations on the data: {second.seen}"

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The guard around every test sees each kind of leak, and repairs it."""

import gc
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.distributions.distribution import COERCIONS

from tests.global_state import differences, restore, snapshot


def open_figure() -> None:
    """A figure of pyplot's that nobody closes."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.figure()


LEAKS: dict[str, tuple[Callable[[], object], str]] = {
    "dtype": (lambda: torch.set_default_dtype(torch.float32), "torch default dtype"),
    "device": (lambda: torch.set_default_device("meta"), "torch default device"),
    "gradient": (lambda: torch.set_grad_enabled(False), "torch gradient mode"),
    "threads": (lambda: torch.set_num_threads(2), "torch number of threads"),
    "validation": (lambda: pyro.enable_validation(False), "validate_distributions_torch"),
    "coercions": (lambda: COERCIONS.append(lambda *args: None), "pyro COERCIONS"),
    "handler": (lambda: poutine.trace().__enter__(), "pyro handlers still open"),
    "setting": (lambda: pyro.settings.set(module_local_params=True), "module_local_params"),
    "figure": (open_figure, "open figures"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_each_leak_is_named_and_repaired(name: str) -> None:
    leak, words = LEAKS[name]
    before = snapshot()
    try:
        leak()
        changed = differences(before, snapshot())
    finally:
        restore(before)
    assert any(words in line for line in changed)
    assert differences(before, snapshot()) == []


def test_a_leaking_test_fails_and_the_next_one_starts_clean(tmp_path: Path) -> None:
    inner = tmp_path / "tests"
    inner.mkdir()
    for name in ("conftest.py", "devices.py", "global_state.py"):
        shutil.copy(Path(__file__).with_name(name), inner / name)
    shutil.copytree(Path(__file__).with_name("simulated"), inner / "simulated")
    shutil.copy(Path(__file__).parent.with_name("conftest.py"), tmp_path)
    (inner / "test_inner.py").write_text(
        "import torch\n"
        "def test_leaks(): torch.set_default_dtype(torch.float32)\n"
        "def test_starts_clean(): assert torch.get_default_dtype() == torch.float64\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    result = subprocess.run([*command, inner], cwd=tmp_path, capture_output=True, text=True)
    assert "2 passed, 1 error" in result.stdout
    assert "torch default dtype: torch.float64 became torch.float32" in result.stdout


def test_a_test_starts_on_stated_ground() -> None:
    assert torch.get_default_dtype() == torch.float64
    assert torch.get_num_threads() == 1
    assert len(pyro.get_param_store()) == 0
    assert torch.distributions.Distribution._validate_args
    first = torch.rand(())
    pyro.set_rng_seed(0)
    assert torch.rand(()) == first


def test_hypothesis_seeds_torch() -> None:
    draws: list[float] = []

    @settings(max_examples=5, database=None)
    @given(st.integers())
    def record(_: int) -> None:
        draws.append(torch.rand(()).item())

    record()
    assert len(draws) == 5
    assert len(set(draws)) == 1


def test_the_heap_that_is_searched_is_without_what_was_collected() -> None:
    assert gc.get_freeze_count() > 100_000  # torch and Pyro alone
    assert gc.isenabled()

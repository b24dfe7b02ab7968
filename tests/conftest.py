# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The ground of every test: float64, one thread, a fixed seed, an empty store, validation on."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pyro
import pytest
import torch

from tests import simulated
from tests.devices import missing, tests_on
from tests.global_state import differences, restore, snapshot

# At import, so that tensors in the parameters of tests are float64 too.
torch.set_default_dtype(torch.float64)
# Collecting tests makes next to no garbage, only much to search it in.
gc.disable()
# Two test processes share the machine; a second thread makes small tensors slower, not faster.
torch.set_num_threads(1)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_configure(config: pytest.Config) -> None:
    """Make tensors on the device that was asked for, from before the tests are imported."""
    name = config.getoption("--device")
    if name != "cpu" and not missing(name):
        tests_on(name)
        DEVICES[:] = dict.fromkeys([*DEVICES, name])
    for message in simulated.WARNINGS if simulated.is_default() else ():
        config.addinivalue_line("filterwarnings", f"ignore:{message}:UserWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip everything, and say so once, where the device is absent; else what needs the host."""
    name = config.getoption("--device")
    why = missing(name) if name != "cpu" else ""
    if why and items:
        items[0].add_marker(pytest.mark.skip(reason=why))
        config.hook.pytest_deselected(items=items[1:])
        del items[1:]
    for item in items if name != "cpu" else ():
        for marker in item.iter_markers("host"):
            item.add_marker(pytest.mark.skip(reason=f"on the host only: {marker.args[0]}"))


class TorchRandom:
    """Torch's generator in the form that hypothesis seeds before each example."""

    def seed(self, seed: int) -> None:
        """Start the stream of draws again."""
        torch.manual_seed(seed)

    def getstate(self) -> torch.Tensor:
        """Read the place in the stream."""
        return torch.get_rng_state()

    def setstate(self, state: torch.Tensor) -> None:
        """Return to a place in the stream."""
        torch.set_rng_state(state)


# Held here: hypothesis keeps only a weak reference.
TORCH_RANDOM = TorchRandom()
hypothesis.register_random(TORCH_RANDOM)
# The same examples on every machine, however slow it is: more of them find nothing new. To search
# for new counterexamples: pytest --hypothesis-profile=explore
hypothesis.settings.register_profile(
    "fixed", derandomize=True, deadline=None, print_blob=True, max_examples=50
)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("fixed")


def pytest_collection_finish() -> None:
    """Leave what the tests are made of out of every search of Python's heap.

    That is some 800 000 objects, which live until the end: garbage collections, and the search for
    layers at an optimiser's first draws, would walk through all of them again and again.
    """
    gc.freeze()
    gc.enable()


def pytest_report_header() -> str:
    """Say on which devices the parametrised tests run."""
    data = os.environ.get("PYRO_BLR_DATA", "not set: the tests marked data are skipped")
    default = torch.get_default_device()
    return f"devices: {', '.join(DEVICES)}; default device: {default}; PYRO_BLR_DATA: {data}"


@pytest.fixture(autouse=True)
def clean_state() -> Iterator[None]:
    """Start from nothing, and fail a test that leaves a switch of the process changed."""
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    pyro.enable_validation(True)
    pyro.set_rng_seed(0)
    before = snapshot()
    yield
    changed = differences(before, snapshot())
    restore(before)
    pyro.clear_param_store()
    if changed:
        pytest.fail(
            "the test left the process changed (use a context manager, or monkeypatch): "
            + "; ".join(changed)
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat a test on each device; not by the fixtures' own params, which are fixed too early."""
    given = {marker.args[0] for marker in metafunc.definition.iter_markers("parametrize")}
    for name, devices in (("device", DEVICES), ("accelerator", DEVICES[1:])):
        if name in metafunc.fixturenames and name not in given:
            metafunc.parametrize(name, devices, indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device of this machine, the CPU first."""
    return torch.device(request.param)


@pytest.fixture
def accelerator(request: pytest.FixtureRequest) -> torch.device:
    """Every device but the CPU; a test that takes it is skipped where there is none."""
    return torch.device(request.param)


@pytest.fixture
def data_folder() -> Path:
    """The folder of development data; a test that takes it must be marked ``data``."""
    folder: Any = os.environ.get("PYRO_BLR_DATA")
    if not folder:
        pytest.skip("set PYRO_BLR_DATA to the folder of the development data sets")
    return Path(folder)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What a test may change for itself but must put back: the switches of the whole process."""

import sys
from typing import Any

import pyro
import torch
from pyro.distributions.distribution import COERCIONS
from pyro.poutine.runtime import _PYRO_STACK

SETTING = "pyro.settings: "


def snapshot() -> dict[str, Any]:
    """Read every switch that would leak from one test into the next."""
    state = {
        "torch default dtype": torch.get_default_dtype(),
        "torch default device": torch.get_default_device(),
        "torch gradient mode": torch.is_grad_enabled(),
        "torch deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch number of threads": torch.get_num_threads(),
        "pyro COERCIONS": tuple(COERCIONS),
        "pyro handlers still open": tuple(_PYRO_STACK),
        "open figures": _figures(),
    }
    # The validation switches of Pyro and of torch.distributions are among the settings.
    return state | {SETTING + name: value for name, value in pyro.settings.get().items()}


def restore(state: dict[str, Any]) -> None:
    """Put every switch back to what :func:`snapshot` read."""
    torch.set_default_dtype(state["torch default dtype"])
    _restore_device(state["torch default device"])
    torch.set_grad_enabled(state["torch gradient mode"])
    torch.use_deterministic_algorithms(state["torch deterministic algorithms"])
    torch.set_num_threads(state["torch number of threads"])
    COERCIONS[:] = state["pyro COERCIONS"]
    _PYRO_STACK[:] = state["pyro handlers still open"]
    for number in set(_figures()) - set(state["open figures"]):
        sys.modules["matplotlib.pyplot"].close(number)
    settings = {k.removeprefix(SETTING): v for k, v in state.items() if k.startswith(SETTING)}
    pyro.settings.set(**settings)


def _figures() -> tuple[int, ...]:
    """The numbers of pyplot's figures, where somebody has imported it."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    return () if pyplot is None else tuple(pyplot.get_fignums())


def _restore_device(device: torch.device) -> None:
    # A default that is set, to the CPU as well, sends every call of torch through Python.
    if torch.get_default_device() != device:
        torch.set_default_device(None if device.type == "cpu" else device)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Say in words which switches differ between two snapshots."""
    return [
        f"{name}: {before[name]} became {after[name]}"
        for name in before
        if before[name] != after[name]
    ]

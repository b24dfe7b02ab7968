# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What a test may change for itself but must put back: the switches of the whole process."""

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
    }
    # The validation switches of Pyro and of torch.distributions are among the settings.
    return state | {SETTING + name: value for name, value in pyro.settings.get().items()}


def restore(state: dict[str, Any]) -> None:
    """Put every switch back to what :func:`snapshot` read."""
    torch.set_default_dtype(state["torch default dtype"])
    torch.set_default_device(state["torch default device"])
    torch.set_grad_enabled(state["torch gradient mode"])
    torch.use_deterministic_algorithms(state["torch deterministic algorithms"])
    torch.set_num_threads(state["torch number of threads"])
    COERCIONS[:] = state["pyro COERCIONS"]
    _PYRO_STACK[:] = state["pyro handlers still open"]
    settings = {k.removeprefix(SETTING): v for k, v in state.items() if k.startswith(SETTING)}
    pyro.settings.set(**settings)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Say in words which switches differ between two snapshots."""
    return [
        f"{name}: {before[name]} became {after[name]}"
        for name in before
        if before[name] != after[name]
    ]

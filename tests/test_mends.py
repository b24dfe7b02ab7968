# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Mends are true: every spelling that one names is run, and its factor is not sampled."""

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F

from pyro_blr.lifting.mends import MENDS, mend_of
from tests.checks import engine, factor_of

SCOPE = {
    "X": torch.sin(torch.arange(18.0)).reshape(6, 3),
    "x": torch.tensor([0.5, -1.0, 0.2]),
    "A": torch.eye(3) + 0.3,
    "mask": torch.tensor([1.0, 0.0, 1.0]),
    "group": torch.tensor([0, 2, 2, 1]),
    "index": torch.tensor([0, 2, 2, 1]),
}
LATENT = re.compile(r"\b(z|w|tau)\b")
SPELLINGS = sorted(
    {
        code
        for text in MENDS.values()
        for code in re.findall("`([^`]+)`", text)
        if LATENT.search(code)
    }
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_spelling_of_a_mend_is_deterministic(spelling: str) -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("positive", 3):
            tau = pyro.sample("tau", dist.Gamma(torch.full((3,), 3.0), 1.0))
        scope = SCOPE | {"z": z, "w": w, "tau": tau, "torch": torch, "F": F}
        scope["mask"] = scope["mask"].bool() if "where" in spelling else scope["mask"]
        pyro.factor("y", eval(spelling, scope).sum())

    blr, _ = engine(model)
    factor = factor_of(blr, "y")
    assert factor.tier in ("exact", "quadrature"), factor.reason


def test_every_spelling_that_a_mend_promises_was_found() -> None:
    assert len(SPELLINGS) > 25


def test_mends_are_for_torch_operations() -> None:
    homes = (torch, torch.Tensor, F, torch._C._linalg, torch._C._special, torch._C._fft)
    assert [name for name in MENDS if not any(hasattr(h, name) for h in homes)] == []


def test_the_operation_is_found_in_a_reason() -> None:
    assert mend_of("`norm` has no closed-form expectation") == f"`norm` {MENDS['norm']}"
    assert mend_of("`unheard_of` of something, then `softmax`") == f"`softmax` {MENDS['softmax']}"
    assert mend_of("degree 4 in w") is None and mend_of("") is None
    assert mend_of("`unheard_of` of something") is None


def test_a_factor_that_is_sampled_has_a_mend() -> None:
    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(w.norm(), 1.0), obs=torch.tensor(1.0))

    blr, _ = engine(model, on_sampled="ignore")
    mend = mend_of(factor_of(blr, "y").reason)
    assert mend is not None and "(z ** 2).sum(-1)" in mend

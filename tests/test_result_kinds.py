# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The rules of shapes and dtypes say what torch says, and spare a fit torch's compiler."""

import itertools
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pyro_blr.lifting.result_kinds import COMMON_SHAPE, PRODUCTS, kind_by_rule

SHAPES = [torch.Size(s) for s in ((), (3,), (1,), (4, 3), (3, 4), (2, 4, 3), (0,))]
DTYPES = (torch.float64, torch.float32, torch.int64)
KINDS = list(itertools.product(SHAPES, DTYPES))


def function_of(name: str) -> Any:
    if name == "log_sigmoid":
        return F.logsigmoid
    return next(f for f in (getattr(w, name, None) for w in (torch, torch.Tensor, F)) if f)


def by_torch(function: Any, args: tuple[Any, ...]) -> Any:
    """Its kind on the meta device, or None where it raises."""
    metas = [
        torch.empty(*a[:1], dtype=a[1], device="meta") if isinstance(a, tuple) else a for a in args
    ]
    try:
        result = function(*metas)
    except (RuntimeError, TypeError):
        return None
    return None if result is NotImplemented else (result.shape, result.dtype)


@pytest.mark.parametrize("name", sorted(COMMON_SHAPE | PRODUCTS))
def test_a_rule_says_what_torch_says(name: str) -> None:
    function = function_of(name)
    calls = [(k,) for k in KINDS] + list(itertools.product(KINDS, [*KINDS, 2, 0.5]))
    said = 0
    for args in calls:
        found, expected = kind_by_rule(function, args), by_torch(function, args)
        said += found is not None
        assert found is None or found == expected, args
    assert said


FIRST_FIT = """
import sys, torch, pyro, pyro.distributions as dist
from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

def model(X, y):
    tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 10.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=y)
        pyro.sample("more", dist.Bernoulli(logits=X @ w), obs=(y > 0).float())

X = torch.randn(50, 3)
assert BLR(model, AutoNatural(model)).fit(X, X.sum(-1)).converged
sys.exit("torch._dynamo" in sys.modules)
"""


def test_a_first_fit_does_not_wait_for_torchs_compiler() -> None:
    assert subprocess.run([sys.executable, "-c", FIRST_FIT], timeout=120).returncode == 0

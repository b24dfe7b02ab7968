# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Two processes, each with its own rows, are one process with all of them."""

import pytest
import torch

from .launch import together
from .models import EXAMPLES
from .scenarios import rows, run

#: Conjugate ones come first; the others search, or are at draws of q.
EXACT = ("regression", "hierarchy", "mixture", "poisson", "maximised", "learnt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return together("every_example", tmp_path_factory.mktemp("processes"))


def close(found, expected, tolerance: float) -> None:
    """Posteriors, or messages, are the same to a relative tolerance."""
    assert found.keys() == expected.keys()
    for name, naturals in expected.items():
        for own, other in zip(found[name], naturals, strict=True):
            torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", EXAMPLES)
def test_two_processes_are_one(found, name):
    one = run(EXAMPLES[name], rows(0, 1), 2)
    two = found[0][name]
    tolerance = 1e-12 if name in EXACT else 1e-7 if name == "logistic" else 1e-6
    assert two["losses"] == pytest.approx(one["losses"], rel=tolerance)
    for what in ("steps", "messages", "fit"):
        close(two[what], one[what], tolerance)
    assert two["converged"] == one["converged"]
    assert two["gap"] == pytest.approx(one["gap"], rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("name", EXAMPLES)
def test_processes_stay_the_same_bit_for_bit(found, name):
    first, second = (f[name] for f in found)
    assert first["losses"] == second["losses"]
    assert first["gap"] == second["gap"]
    for what in ("steps", "messages", "fit"):
        assert first[what].keys() == second[what].keys()
        for block, tensors in first[what].items():
            assert all(map(torch.equal, tensors, second[what][block]))

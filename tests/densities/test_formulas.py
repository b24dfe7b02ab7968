# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Every formula equals the distribution's own ``log_prob``, its arguments given or read."""

import inspect
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr.lifting.densities import density_of, registered
from pyro_blr.lifting.expectation import compile_plan
from pyro_blr.lifting.polynomial import Polynomial
from tests.densities.formulas import ROWS, Row


def value_of(constant: Polynomial) -> Tensor:
    """The tensor that a polynomial without latents is."""
    assert constant.is_constant
    if not constant.terms:
        return torch.zeros(constant.shape)
    return compile_plan(constant, {}).evaluate({})[0]


def named(row: Row) -> str:
    return f"{row[0].__name__}-{'-'.join(row[1])}"


def assert_equal(found: Polynomial, expected: Tensor) -> None:
    assert found.shape == expected.shape
    scale = float(expected.abs().max()) + 1
    assert float((value_of(found) - expected).abs().max()) <= 1e-12 * scale


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_formula_of_given_arguments(row: Row) -> None:
    make, arguments, value = row
    density = density_of(make)
    assert density is not None
    names = inspect.signature(density.formula).parameters
    if make is dist.ImproperUniform:  # its event_dim is read from the instance
        return
    given = {k: v for k, v in arguments.items() if k in names or k == "event_dim"}
    assert_equal(density.formula(value, **given), make(**arguments).log_prob(value))


@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize("row", ROWS, ids=named)
def test_formula_of_an_instance(row: Row, expanded: bool) -> None:
    """The reader finds the arguments under the formula's names, also after ``expand``."""
    make, arguments, value = row
    fn = make(**arguments)
    if expanded:
        fn = fn.expand((2, *value.shape[: value.dim() - fn.event_dim]))
        if isinstance(fn, dist.Delta):
            value = value.expand(2, *value.shape)
    density = density_of(type(fn))
    assert density is not None
    found = density.formula(value, **density.reads(fn))
    expected = fn.log_prob(value)
    assert_equal(found.expand_to(torch.broadcast_shapes(found.shape, expected.shape)), expected)


def test_every_registered_class_has_a_row() -> None:
    assert {row[0] for row in ROWS} == set(registered())


class _Shifted(dist.Normal):
    """A subclass with a log density of its own."""

    def log_prob(self, value: Tensor) -> Any:
        return super().log_prob(value - 1)


class _Renamed(dist.Normal):
    """A subclass with the log density of its parent."""


def test_a_subclass_inherits_a_row_only_with_its_log_density() -> None:
    assert density_of(_Shifted) is None
    assert density_of(_Renamed) is density_of(dist.Normal)
    assert density_of(dist.OrderedLogistic) is None
    assert density_of(dist.ExtendedBinomial) is None

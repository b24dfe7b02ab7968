# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""P-values are uniform where the hypothesis holds, and small where it does not."""

import pytest
import torch
from scipy import stats

from pyro_blr.diagnostics.uniformity import (
    FAR,
    _anderson_darling_tail,
    corrected,
    symmetric_p_value,
    uniform_p_value,
)


@pytest.mark.parametrize(
    "statistic, p", [(1.9329578, 0.10), (2.492367, 0.05), (3.0774, 0.025), (3.878125, 0.01)]
)
def test_quantiles_of_the_limit_law(statistic, p):
    assert _anderson_darling_tail(statistic) == pytest.approx(p, rel=1e-4)


def test_it_is_the_law_of_weighted_squares():
    j = torch.arange(1, 400, dtype=torch.float64)
    drawn = (torch.randn(20_000, 399).square() / (j * (j + 1))).sum(-1) + 1 / 400
    for statistic in (0.3, 0.6, 1.0, 2.0):
        share = float((drawn > statistic).double().mean())
        assert _anderson_darling_tail(statistic) == pytest.approx(share, abs=0.012)


def test_the_tail_is_smooth_where_its_form_changes():
    near, far = _anderson_darling_tail(FAR - 1e-9), _anderson_darling_tail(FAR)
    assert far == pytest.approx(near, rel=0.02)
    assert _anderson_darling_tail(0.0) == 1.0 and _anderson_darling_tail(1e4) == 0.0


@pytest.mark.parametrize("count", [20, 100])
def test_p_values_of_uniform_numbers_are_uniform(count):
    numbers = torch.rand(count, 600)
    for p_values in (uniform_p_value(numbers), symmetric_p_value(numbers)):
        assert stats.kstest(p_values.numpy(), "uniform").pvalue > 1e-3
        assert (p_values < 0.05).double().mean() == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("scale", [1 / 3, 0.5, 2.0, 3.0])
def test_too_narrow_or_wide_is_not_uniform_but_symmetric(scale):
    numbers = torch.special.ndtr(scale * torch.randn(100, 200))
    assert uniform_p_value(numbers).median() < 0.01
    assert (symmetric_p_value(numbers) < 0.05).double().mean() < 0.12


def test_off_to_a_side_is_neither():
    numbers = torch.special.ndtr(0.7 + torch.randn(100, 200))
    assert uniform_p_value(numbers).median() < 1e-5
    assert symmetric_p_value(numbers).median() < 1e-5


def test_wilcoxon_is_scipys():
    numbers = torch.rand(50) ** 1.3
    theirs = stats.wilcoxon((numbers - 0.5).numpy(), method="asymptotic", correction=False)
    assert float(symmetric_p_value(numbers)) == pytest.approx(theirs.pvalue, rel=1e-9)


def test_many_tests_are_corrected():
    assert corrected(torch.tensor([0.01, 0.5, 0.9])) == pytest.approx(0.03)
    assert corrected(torch.tensor([0.6, 0.5])) == 1.0


def test_columns_keep_their_shape():
    numbers = torch.rand(30, 2, 3)
    assert uniform_p_value(numbers).shape == symmetric_p_value(numbers).shape == (2, 3)
    one = uniform_p_value(numbers[:, 1, 2])
    assert float(one) == pytest.approx(float(uniform_p_value(numbers)[1, 2]), abs=1e-14)

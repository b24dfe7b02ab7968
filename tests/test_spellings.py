# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Ordinary spellings of conjugate models are exact, whatever torch operations they are made of.

A regression is written in many ways and compared with E_q log p written by hand, at a random q:
equal to 1e-10 relative, hence equal to each other.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.checks import engine, total_entropy
from tests.oracles import monte_carlo
from tests.spelling_catalogue import PREDICTORS, SCALES
from tests.spelling_data import N, assert_close
from tests.spelling_operations import OPERATION_PREDICTORS, OPERATION_SCALES
from tests.spelling_regression import (
    check_regression,
    declare_multivariate,
    declare_plate,
    declare_scalars,
    declare_vector,
    mean_params_of_q,
    regression,
    regression_by_hand,
    regression_q,
)
from tests.spelling_wrappers import WRAPPERS


@pytest.mark.parametrize("spelling", PREDICTORS | OPERATION_PREDICTORS)
def test_predictor(spelling: str) -> None:
    check_regression(regression((PREDICTORS | OPERATION_PREDICTORS)[spelling]))


@pytest.mark.parametrize("spelling", SCALES | OPERATION_SCALES)
def test_standard_deviation_from_a_precision(spelling: str) -> None:
    check_regression(regression(scale=(SCALES | OPERATION_SCALES)[spelling]))


@pytest.mark.parametrize("blocks", ["site", "auto"])
@pytest.mark.parametrize(
    "declare", [declare_vector, declare_multivariate, declare_plate, declare_scalars]
)
@pytest.mark.parametrize("spelling", ["X @ w", "einsum nd,d->n", "slices", "cat", "flip"])
def test_declaration_of_the_weights(
    spelling: str, declare: Callable[[], Tensor], blocks: str
) -> None:
    model = regression(PREDICTORS[spelling], declare=declare)
    check_regression(model, declare, blocks=blocks)


def test_hand_written_value_is_that_of_the_real_model() -> None:
    """The oracle of this file itself: a slip in it would make every comparison above worthless."""
    for declare in (declare_vector, declare_plate, declare_scalars):
        q, covariance = regression_q(declare)
        found = monte_carlo.expected_log_joint(
            regression(declare=declare), (), q, num_draws=20_000, seed=1
        )
        expected = regression_by_hand(*mean_params_of_q(covariance), torch.ones(N))
        monte_carlo.z_test(expected, found.value, found.standard_error, bound=5)


def test_messages_are_the_gradient_of_the_hand_written_value() -> None:
    q, covariance = regression_q(declare_vector)
    blr, _ = engine(regression(), q, blocks="site")
    mean_params = tuple(m.detach().requires_grad_() for m in mean_params_of_q(covariance))
    value = regression_by_hand(*mean_params, torch.ones(N))
    expected = torch.autograd.grad(value, mean_params)
    messages = blr.messages()
    for actual, wanted in zip((*messages["w"], *messages["tau"]), expected, strict=True):
        assert_close(actual, wanted)


def test_entropy_of_q_is_that_of_the_guide() -> None:
    """-ELBO = -E_q log p - H: a loss without its entropy would pass nothing above; say it once."""
    q, covariance = regression_q(declare_vector)
    blr, _ = engine(regression(), q, blocks="site")
    value = regression_by_hand(*mean_params_of_q(covariance), torch.ones(N))
    assert_close(torch.tensor(-blr.evaluate_loss()), value + total_entropy(q))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapper(wrapper: str) -> None:
    model, weights = WRAPPERS[wrapper]
    check_regression(model, weights=weights)

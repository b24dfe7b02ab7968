# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The posterior of the weights, its draws, and predictions from them."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_blr.errors import ArgumentError
from pyro_blr.optim import IVON, posterior, predict, sample_posterior
from tests.optim.nets import batch, net, train


def ivon(w: Any, **options: Any) -> IVON:
    return IVON([w] if isinstance(w, nn.Parameter) else w, **{"lr": 0.1, "ess": 20.0, **options})


def test_the_posterior_is_that_of_the_draws() -> None:
    w = nn.Parameter(torch.full((2, 3), 2.0))
    optimizer = ivon(w, hessian_init=0.3, weight_decay=0.2, ess=50.0)
    train(optimizer, lambda: w.square().sum(), 3)
    q = posterior(optimizer, w)
    sd = (50 * (optimizer.state[w]["hessian"] + 0.2)).rsqrt()
    torch.testing.assert_close(q.mean, w.detach())
    torch.testing.assert_close(q.stddev, sd)
    assert q.event_shape == (2, 3)


def test_draws_of_a_module_go_through_functional_call() -> None:
    module, (x, y) = net(), batch()
    optimizer = ivon(module.parameters())
    train(optimizer, lambda: F.cross_entropy(module(x), y), 2)
    drawn = sample_posterior(optimizer, module, 5)
    assert {n: v.shape for n, v in drawn.items()} == {
        n: (5, *p.shape) for n, p in module.named_parameters()
    }
    call = torch.func.vmap(lambda w: torch.func.functional_call(module, w, (x,)))
    assert call(drawn).shape == (5, len(x), 2)


def test_a_prediction_is_the_function_at_draws() -> None:
    w = nn.Parameter(torch.zeros(40_000))
    optimizer = ivon(w, hessian_init=0.5, weight_decay=0.0, ess=50.0)
    values = predict(optimizer, lambda: w * 1.0, num_draws=3)
    assert values.shape == (3, 40_000)
    assert not values.requires_grad
    assert float(values.std()) == pytest.approx(0.2, rel=0.02)
    assert not torch.equal(values[0], values[1])
    assert torch.equal(w, torch.zeros(40_000))


def test_bad_predictions() -> None:
    w = nn.Parameter(torch.zeros(2))
    optimizer = ivon(w)
    for bad in (0, 1.5, True):
        with pytest.raises(ArgumentError, match="num_draws"):
            predict(optimizer, lambda: w * 1.0, num_draws=bad)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="never drawn"):
        posterior(optimizer, w)
    with pytest.raises(ArgumentError, match="never drawn"):
        posterior(optimizer, nn.Parameter(torch.zeros(2)))
    with pytest.raises(ArgumentError, match="no parameter of the Sequential"):
        sample_posterior(optimizer, net(), 2)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Traces of torch's own optimisers, from the one step of a diagonal Gaussian."""

import pytest
import torch

from pyro_blr.optim import GaussianBLR

from .nets import largest, trace_of_rule, trace_of_torch

#: A Gaussian of fixed, unit curvature, with gradients at its mean.
FIXED = {"at": "mean", "hessian": "fixed", "hessian_init": 1.0}
#: Squares of the minibatch's gradient for the Hessian, under a root.
ROOT = {
    **{"at": "mean", "hessian": "squared_gradient", "batch_size": 1, "hessian_init": 0.0},
    **{"power": 0.5, "damping": 1e-8},
}


def test_sgd() -> None:
    torch_trace = trace_of_torch(lambda p: torch.optim.SGD(p, lr=0.1))
    rule = trace_of_rule(lambda p: GaussianBLR(p, 0.1, betas=(0.0, 0.0), **FIXED))
    assert largest(rule, torch_trace) < 1e-8


def test_sgd_with_momentum() -> None:
    """A running mean of gradients is torch's running sum times 1 - momentum."""
    torch_trace = trace_of_torch(lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    rule = trace_of_rule(
        lambda p: GaussianBLR(p, 0.05 / (1 - 0.9), betas=(0.9, 0.0), debias=False, **FIXED)
    )
    assert largest(rule, torch_trace) < 1e-8


def test_sgd_with_weight_decay() -> None:
    """The decay is the prior's precision: part of that of q."""
    torch_trace = trace_of_torch(lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1))
    options = {**FIXED, "hessian_init": 0.9}
    rule = trace_of_rule(
        lambda p: GaussianBLR(p, 0.1, weight_decay=0.1, betas=(0.0, 0.0), **options)
    )
    assert largest(rule, torch_trace) < 1e-8


def test_rmsprop() -> None:
    torch_trace = trace_of_torch(lambda p: torch.optim.RMSprop(p, lr=1e-2, alpha=0.95))
    rule = trace_of_rule(lambda p: GaussianBLR(p, 1e-2, betas=(0.0, 0.95), **ROOT))
    assert largest(rule, torch_trace) < 1e-8


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_adam(betas: tuple[float, float]) -> None:
    torch_trace = trace_of_torch(lambda p: torch.optim.Adam(p, lr=1e-2, betas=betas))
    rule = trace_of_rule(lambda p: GaussianBLR(p, 1e-2, betas=betas, debias_hessian=True, **ROOT))
    assert largest(rule, torch_trace) < 1e-8

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A small regression and its minibatches, for traces of two optimisers side by side."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

STEPS, BATCH, NUM_DATA = 100, 8, 64


def regression() -> tuple[Tensor, Tensor]:
    """Data of a smooth function. # shape: (64, 4), (64, 1)"""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(NUM_DATA, 4, generator=generator, dtype=torch.float64)
    return x, torch.sin(x.sum(-1, keepdim=True))


def network() -> nn.Sequential:
    """The same weights at each call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """The same minibatches at each call."""
    x, y = regression()
    generator = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        rows = torch.randint(NUM_DATA, (BATCH,), generator=generator)
        yield x[rows], y[rows]


def mse(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean squared error."""
    return nn.functional.mse_loss(net(x), y)


def flat(net: nn.Module) -> Tensor:
    """All weights as one vector."""
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def trace_of_torch(make: Callable[[Any], torch.optim.Optimizer]) -> Tensor:
    """The weights after each step of one of torch's optimisers. # shape: (steps, weights)"""
    net, trace = network(), []
    optimizer = make(net.parameters())
    for x, y in batches():
        optimizer.zero_grad()
        mse(net, x, y).backward()
        optimizer.step()
        trace.append(flat(net))
    return torch.stack(trace)


def trace_of_rule(make: Callable[[Any], Any]) -> Tensor:
    """The weights after each step of one of ours. # shape: (steps, weights)"""
    net, trace = network(), []
    optimizer = make(net.parameters())
    for x, y in batches():
        optimizer.zero_grad()
        with optimizer.sampled_params():
            mse(net, x, y).backward()
        optimizer.step()
        trace.append(flat(net))
    return torch.stack(trace)


def gradients(net: nn.Module, values: list[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The gradient of the mean squared error at given weights, apart from the network's own."""
    leaves = [v.detach().requires_grad_() for v in values]
    named = dict(zip([n for n, _ in net.named_parameters()], leaves, strict=True))
    output = torch.func.functional_call(net, named, (x,))
    return torch.autograd.grad((output - y).square().mean(), leaves)


def largest(left: Tensor, right: Tensor) -> float:
    """The largest difference."""
    return float((left - right).abs().max())

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Methods whose gradients are at random, masked or binary weights: plain loops, given the noise."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_blr.optim import VOGN, BinaryBLR, GaussianBLR

from .nets import BATCH, NUM_DATA, STEPS, batches, gradients, largest, mse, network


def values_of(net: nn.Module) -> list[Tensor]:
    """Copies of the weights."""
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("mask_dim", [None, 0, 1])
def test_dropout(mask_dim: int | None) -> None:
    """Stochastic gradient descent on weights that are masked unit by unit."""
    net = network()
    means, lr = values_of(net), 0.1
    options: dict[str, Any] = {"hessian": "fixed", "hessian_init": 1.0, "betas": (0.0, 0.0)}
    optimizer = GaussianBLR(
        net.parameters(), lr, at="masked", keep=0.6, mask_dim=mask_dim, seed=0, **options
    )
    kept = []
    for x, y in batches():
        optimizer.zero_grad()
        with optimizer.sampled_params():
            masks = [(v != 0).double() for v in values_of(net)]
            mse(net, x, y).backward()
        optimizer.step()
        grads = gradients(net, [k * m for k, m in zip(masks, means, strict=True)], x, y)
        means = [m - lr * k * g for m, k, g in zip(means, masks, grads, strict=True)]
        kept.append(masks[0])
        for own, reference in zip(values_of(net), means, strict=True):
            assert largest(own, reference) < 1e-10
    masks = torch.stack(kept)
    assert abs(masks.mean() - 0.6) < 0.07
    if mask_dim is not None:  # a unit's weights are dropped together
        assert masks.amax(2 - mask_dim).equal(masks.amin(2 - mask_dim))


def test_dropout_with_several_masks_a_step() -> None:
    """The gradient in a mean is the mean of mask times gradient, mask by mask."""
    net, lr = network(), 0.1
    means = values_of(net)
    optimizer = GaussianBLR(
        net.parameters(), lr, at="masked", hessian="fixed", hessian_init=1.0, betas=(0.0, 0.0)
    )
    for x, y in batches():
        optimizer.zero_grad()
        totals = [torch.zeros_like(m) for m in means]
        for _ in range(3):
            with optimizer.sampled_params():
                masks = [(v != 0).double() for v in values_of(net)]
                mse(net, x, y).backward()
            grads = gradients(net, [k * m for k, m in zip(masks, means, strict=True)], x, y)
            totals = [t + k * g / 3 for t, k, g in zip(totals, masks, grads, strict=True)]
        optimizer.step()
        means = [m - lr * t for m, t in zip(means, totals, strict=True)]
    assert max(map(largest, values_of(net), means)) < 1e-10


def test_straight_through_estimator() -> None:
    """The gradient at the signs moves the real numbers behind them."""
    net, rho = network(), 0.02
    natural = values_of(net)
    optimizer = BinaryBLR(net.parameters(), rho, ess=1.0, at="mode", entropy=False)
    for x, y in batches():
        optimizer.zero_grad()
        with optimizer.sampled_params():
            mse(net, x, y).backward()
        optimizer.step()
        grads = gradients(net, [n.sign() for n in natural], x, y)
        natural = [n - rho * g for n, g in zip(natural, grads, strict=True)]
        own = [optimizer.state[p]["natural"] for p in net.parameters()]
        assert max(map(largest, own, natural)) < 1e-10
    assert any((n.sign() != v.sign()).any() for n, v in zip(natural, values_of(network()),
               strict=True))  # fmt: skip


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_bayes_binn(momentum: float) -> None:
    """Natural gradients at Gumbel-softmax draws (arXiv 2002.10778), given their noise."""
    net, rho, tau, prior = network(), 1e-3, 0.7, 0.1
    natural = values_of(net)
    running = [torch.zeros_like(n) for n in natural]
    optimizer = BinaryBLR(
        net.parameters(), rho, ess=NUM_DATA, tau=tau, prior=prior, momentum=momentum, seed=4
    )
    noise = torch.Generator().manual_seed(4)
    sizes = [n.numel() for n in natural]
    for step, (x, y) in enumerate(batches(), 1):
        optimizer.zero_grad()
        with optimizer.sampled_params():
            mse(net, x, y).backward()
        optimizer.step()
        eps = torch.empty(sum(sizes), dtype=torch.float64).uniform_(generator=noise).split(sizes)
        delta = [0.5 * (e / (1 - e)).log().view(n.shape) for e, n in zip(eps, natural, strict=True)]
        drawn = [((n + d) / tau).tanh() for n, d in zip(natural, delta, strict=True)]
        grads = gradients(net, drawn, x, y)
        for k, (n, w, g) in enumerate(zip(natural, drawn, grads, strict=True)):
            s = NUM_DATA * (1 - w**2) / (tau * (1 - n.tanh() ** 2))
            running[k] = momentum * running[k] + (1 - momentum) * s * g
            moved = running[k] / (1 - momentum**step) - prior
            natural[k] = (1 - rho) * n - rho * moved
        own = [optimizer.state[p]["natural"] for p in net.parameters()]
        assert max(map(largest, own, natural)) < 1e-10
    for weights, n in zip(net.parameters(), natural, strict=True):
        assert largest(weights.detach(), n.tanh()) < 1e-10


def each_gradient(net: nn.Module, values: list[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
    """The gradient of each datum's loss. # shape of each: (data, *weight)"""
    rows = [gradients(net, values, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def test_online_gauss_newton() -> None:
    """The mean square of each datum's gradient for the Hessian, at the mean, without a root."""
    net, lr, beta, decay = network(), 0.1, 0.9, 0.05
    means = values_of(net)
    squares = [torch.full_like(m, 0.5) for m in means]
    optimizer = GaussianBLR(
        net.parameters(), lr, at="mean", hessian="per_example", hessian_init=0.5,
        betas=(0.0, beta), weight_decay=decay,
    )  # fmt: skip
    for x, y in batches():
        optimizer.zero_grad()
        with optimizer.sampled_params():
            optimizer.backward(net, nn.functional.mse_loss, x, y)
        optimizer.step()
        rows = each_gradient(net, means, x, y)
        for k, own in enumerate(rows):
            squares[k] = beta * squares[k] + (1 - beta) * own.square().mean(0)
            moved = (own.mean(0) + decay * means[k]) / (squares[k] + decay)
            means[k] = means[k] - lr * moved
        assert max(map(largest, values_of(net), means)) < 1e-10


def test_vogn() -> None:
    """The same at draws of q, given their noise."""
    net, lr, beta, decay = network(), 0.1, 0.9, 0.05
    means = values_of(net)
    squares = [torch.full_like(m, 0.5) for m in means]
    optimizer = VOGN(
        net.parameters(), lr, ess=NUM_DATA, hessian_init=0.5, betas=(0.0, beta),
        weight_decay=decay, seed=3,
    )  # fmt: skip
    noise, sizes = torch.Generator().manual_seed(3), [m.numel() for m in means]
    for x, y in batches():
        optimizer.zero_grad()
        with optimizer.sampled_params():
            optimizer.backward(net, nn.functional.mse_loss, x, y)
        optimizer.step()
        eps = torch.empty(sum(sizes), dtype=torch.float64).normal_(generator=noise).split(sizes)
        drawn = [
            m + e.view(m.shape) / (NUM_DATA * (s + decay)).sqrt()
            for m, s, e in zip(means, squares, eps, strict=True)
        ]
        for k, own in enumerate(each_gradient(net, drawn, x, y)):
            squares[k] = beta * squares[k] + (1 - beta) * own.square().mean(0)
            moved = (own.mean(0) + decay * means[k]) / (squares[k] + decay)
            means[k] = means[k] - lr * moved
        assert max(map(largest, values_of(net), means)) < 1e-10


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize(
    "other", [{"at": "draw", "hessian": "price"}, {"at": "masked", "hessian": "fixed"}],
    ids=["price", "masked"],
)  # fmt: skip
def test_squares_of_each_datum_beside_another_group(other: dict[str, Any], draws: int) -> None:
    """They belong to their own group alone: what the other one sums over draws is without them."""
    traces = []
    for hessian in ("per_example", "squared_gradient"):
        net = network()
        still = {"params": net[0].parameters(), "lr": 0.0, "at": "mean", "hessian": hessian}
        moving = {"params": net[2].parameters(), **other}
        optimizer = GaussianBLR([still, moving], 0.1, NUM_DATA, batch_size=BATCH, seed=0)
        for x, y in batches():
            optimizer.zero_grad()
            for _ in range(draws):
                with optimizer.sampled_params():
                    if hessian == "per_example":
                        optimizer.backward(net, nn.functional.mse_loss, x, y)
                    else:
                        mse(net, x, y).backward()
            optimizer.step()
        traces.append(torch.cat([v.flatten() for v in values_of(net)]))
    assert largest(*traces) < 1e-10


def test_traces_are_long_enough() -> None:
    assert STEPS >= 100 and BATCH < NUM_DATA and math.isfinite(STEPS)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian processes: counts along a random walk, and two classes in the plane."""

import math
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from .problem import Problem

STEPS, TINY_STEPS = 1_000, 12
#: The law of the first state, and the standard deviation of a step.
FIRST, MOVE = (1.0, 1.0), 0.1
POINTS, TINY_POINTS = 1_000, 20
#: Inducing points along each side of the square of this half width.
SIDE, TINY_SIDE, HALF = 8, 3, 3.0
#: Of the squared exponential kernel; the inducing points leave less than a thousandth of it.
VARIANCE, LENGTH, JITTER = 4.0, 1.5, 1e-6


def counts(data: Path | None, tiny: bool) -> Problem:
    """A count at each of 1000 steps, whose log rate is a random walk; made up."""
    return Problem(
        "counts",
        "Poisson state space, T=1000",
        walk,
        (draw_counts(TINY_STEPS if tiny else STEPS),),
        (
            *("blr", "pyro_svi", "numpyro_svi", "blackjax_vi", "blackjax_pathfinder"),
            *("pymc_advi", "numpyro_nuts", "statsmodels_kalman", "dynamax_moments"),
        ),
        ours=("default", "mean-field"),
        told={"walk": (*FIRST, MOVE)},
    )


def walk(y: Tensor) -> None:
    """Log rates are one site without a prior of its own; the moves are a factor."""
    with pyro.plate("times", len(y)):
        x = pyro.sample("x", dist.Normal(0.0, 1.0).mask(False))
    pyro.sample("first", dist.Normal(*FIRST), obs=x[..., 0])
    with pyro.plate("moves", len(y) - 1):
        pyro.sample("move", dist.Normal(x[..., :-1], MOVE), obs=x[..., 1:])
    with pyro.plate("counts", len(y)):
        pyro.sample("y", dist.Poisson(x.exp()), obs=y)


def draw_counts(steps: int) -> Tensor:
    """From the model."""
    make = np.random.default_rng(0)
    moves = MOVE * make.normal(size=steps - 1)
    x = FIRST[0] + np.concatenate([[0.0], np.cumsum(moves)])
    return torch.from_numpy(make.poisson(np.exp(x)).astype(float))


def banana(data: Path | None, tiny: bool) -> Problem:
    """1000 points of two bent classes, 64 inducing points on a grid; made up."""
    X, y = draw_banana(TINY_POINTS if tiny else POINTS)
    Z = grid(TINY_SIDE if tiny else SIDE)
    return Problem(
        "banana",
        "Sparse GP classification, N=1000, M=64",
        classify,
        (weights(X, Z), y, X, Z),
        (
            *("blr", "pyro_svi", "numpyro_svi", "blackjax_vi", "blackjax_pathfinder"),
            *("pymc_advi", "numpyro_nuts", "gpytorch_ngd", "gpjax_natural"),
        ),
        told={"kernel": {"variance": VARIANCE, "length": LENGTH, "jitter": JITTER}},
    )


def classify(A: Tensor, y: Tensor, X: Tensor, Z: Tensor) -> None:
    """Whitened values v at the inducing points, f = A v; what A leaves of f's variance is left out.

    # shapes: (N, M), (N,), (N, 2), (M, 2)
    """
    v = pyro.sample("v", dist.Normal(torch.zeros(A.shape[1]), 1.0).to_event(1))
    with pyro.plate("points", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=A @ v), obs=y)


def kernel(X: Tensor, Z: Tensor) -> Tensor:
    """The squared exponential one."""
    return VARIANCE * (-0.5 * torch.cdist(X, Z).square() / LENGTH**2).exp()


def weights(X: Tensor, Z: Tensor) -> Tensor:
    """K_xz L^-T, where L L' = K_zz + jitter. # shape: (N, M)"""
    L = torch.linalg.cholesky(kernel(Z, Z) + JITTER * torch.eye(len(Z)))
    return torch.linalg.solve_triangular(L, kernel(Z, X), upper=False).T


def grid(side: int) -> Tensor:
    """Points of a square grid. # shape: (side ** 2, 2)"""
    line = torch.linspace(-HALF, HALF, side)
    return torch.cartesian_prod(line, line)


def draw_banana(count: int) -> tuple[Tensor, Tensor]:
    """Two half moons, wide enough to overlap. # shape: (count, 2), (count,)"""
    make = np.random.default_rng(0)
    label = make.integers(2, size=count)
    turn = math.pi * make.random(count)
    side = 1 - 2 * label
    moons = np.stack([np.cos(turn) + label - 0.5, side * np.sin(turn) + 0.5 * label - 0.25], -1)
    X = 1.4 * moons + 0.45 * make.normal(size=(count, 2))
    return torch.from_numpy(X.clip(-HALF, HALF)), torch.from_numpy(label.astype(float))

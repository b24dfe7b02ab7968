# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Regression on five UCI sets, 20 splits each: IVON against mean-field VI by Adam on one net.

One hidden layer of 50 units; the noise's scale is a weight like the others. Both sides have one
ELBO, the prior Normal(0, 1) of each weight, and as many gradients. Adam has the rate that is best
on the *test* data; IVON's settings were chosen on parts of the training data and are the same for
all sets. The nets of all splits are trained side by side as one net with a batch dim, whose splits
know nothing of each other.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_blr.optim import IVON

from .rows import Check, Row, Settings, Skipped
from .timing import seconds

NAME = "uci"
SETS = ("concrete", "energy", "yacht", "wine-quality-red", "power-plant")
HIDDEN, BATCH, STEPS, DRAWS, SPLITS = 50, 128, 3000, 100, 20
RATES = (0.01, 0.03)


def run(settings: Settings) -> Iterator[Row]:
    """The test log likelihood of each set, paired by split."""
    if settings.tiny:
        yield row("generated", made_up(), 3, 2)
        return
    if settings.data is None or not (settings.data / "uci").is_dir():
        raise Skipped("PYRO_BLR_DATA is no folder with uci/*.npz")
    for name in SETS:
        with np.load(settings.data / "uci" / f"{name}.npz") as held:
            yield row(name, splits_of(held["X"], held["y"], held["test_index"][:SPLITS]), STEPS)


def row(name: str, data: "Splits", steps: int, draws: int = DRAWS) -> Row:
    """Both sides on one set."""
    scores, times = {}, {}
    sides: dict[str, Callable[[], Draw]] = {"IVON": lambda: ivon(data, steps)}
    sides |= {f"Adam at {rate:g}": lambda rate=rate: adam(data, steps, rate) for rate in RATES}
    for kind, side in sides.items():
        torch.manual_seed(0)
        times[kind], predict = seconds(side)
        scores[kind] = log_likelihood(data, predict, draws)
    best = max((kind for kind in scores if kind != "IVON"), key=lambda k: float(scores[k].mean()))
    gain = scores["IVON"] - scores[best]
    error = float(gain.std() / math.sqrt(len(gain)))
    limit = None if name == "generated" else 0.0
    return Row(
        NAME,
        f"{name}, {len(gain)} splits",
        Check("test log likelihood, difference", float(gain.mean()), limit, "at least"),
        [
            Check("its standard error", error),
            *(Check(f"of {kind}", float(own.mean())) for kind, own in scores.items()),
            Check("splits where IVON is ahead", float((gain > 0).sum())),
        ],
        {kind: [took] for kind, took in times.items()},
        f"{steps} gradients of {BATCH} data each",
    )


# ------------------------------------------------------------------------------------- the data


@dataclass(frozen=True)
class Splits:
    """Standardised by the training part of each split.

    :param x: of training.  # shape: (K, N, D)
    :param y: # shape: (K, N)
    :param test_x: # shape: (K, T, D)
    :param test_y: # shape: (K, T)
    :param scale: of y, by which log densities are turned into those of its own unit.  # shape: (K,)
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    scale: Tensor


def splits_of(x: Any, y: Any, test: Any) -> Splits:
    """The splits of a set. # shape: (N, D), (N,), (K, T)"""
    train = np.stack([np.setdiff1d(np.arange(len(y)), own) for own in test])
    kept = [torch.from_numpy(np.ascontiguousarray(a)).float() for a in (x[train], y[train])]
    held = [torch.from_numpy(np.ascontiguousarray(a)).float() for a in (x[test], y[test])]
    centre, spread = kept[0].mean(1, keepdim=True), kept[0].std(1, keepdim=True).clamp_min(1e-6)
    middle, scale = kept[1].mean(1, keepdim=True), kept[1].std(1, keepdim=True)
    return Splits(
        (kept[0] - centre) / spread,
        (kept[1] - middle) / scale,
        (held[0] - centre) / spread,
        (held[1] - middle) / scale,
        scale.squeeze(1),
    )


def made_up() -> Splits:
    """A small set without a file."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 3))
    y = np.sin(x[:, 0]) + 0.1 * generator.normal(size=60)
    return splits_of(x, y, np.stack([generator.permutation(60)[:10] for _ in range(2)]))


# -------------------------------------------------------------------------------------- the net


class Nets(nn.Module):
    """K nets beside each other, and the log of each one's noise."""

    def __init__(self, count: int, features: int) -> None:
        super().__init__()

        def weights(*shape: int) -> nn.Parameter:
            spread = 1 / math.sqrt(shape[0])
            return nn.Parameter(spread * torch.randn(count, *shape, dtype=torch.float32))

        self.first, self.last = weights(features, HIDDEN), weights(HIDDEN, 1)
        self.first_bias = nn.Parameter(torch.zeros(count, 1, HIDDEN, dtype=torch.float32))
        self.last_bias = nn.Parameter(torch.zeros(count, 1, 1, dtype=torch.float32))
        self.log_noise = nn.Parameter(torch.full((count, 1), -1.0, dtype=torch.float32))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The log density of each datum. # shape: (K, B, D), (K, B) -> (K, B)"""
        hidden = (x @ self.first + self.first_bias).relu()
        mean = (hidden @ self.last + self.last_bias).squeeze(-1)
        error = (y - mean) * (-self.log_noise).exp()
        return -0.5 * error.square() - self.log_noise - 0.5 * math.log(2 * math.pi)


def batches(data: Splits, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of each split, without replacement within an epoch."""
    count, size = data.y.shape
    batch, order, place = min(BATCH, size), torch.empty(count, 0, dtype=torch.long), 0
    which = torch.arange(count)[:, None]
    for _ in range(steps):
        if place + batch > order.shape[1]:
            order, place = torch.rand(count, size).argsort(1), 0
        rows = order[:, place : place + batch]
        place += batch
        yield data.x[which, rows], data.y[which, rows]


Draw = Callable[[Tensor, Tensor], Tensor]


def ivon(data: Splits, steps: int, lr: float = 0.1, **options: Any) -> Draw:
    """IVON; the log densities at a new draw of its posterior."""
    nets, size = Nets(len(data.y), data.x.shape[2]), data.y.shape[1]
    given = {"hessian_init": 1.0, "betas": (0.9, 0.9995), **options}
    optimizer = IVON(nets.parameters(), lr=lr, ess=size, weight_decay=1 / size, **given)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for x, y in batches(data, steps):
        optimizer.zero_grad()
        with optimizer.sampled_params():
            (-nets(x, y).mean(1).sum()).backward()
        optimizer.step()
        schedule.step()

    def draw(x: Tensor, y: Tensor) -> Tensor:
        with optimizer.sampled_params(train=False):
            found: Tensor = nets(x, y)
        return found

    return draw


def adam(data: Splits, steps: int, lr: float, spread: float = 0.03) -> Draw:
    """Mean-field VI by gradients through a draw.

    :param spread: the first standard deviation.
    """
    nets, size = Nets(len(data.y), data.x.shape[2]), data.y.shape[1]
    means = {name: p.detach().clone().requires_grad_() for name, p in nets.named_parameters()}
    logs = {n: torch.full_like(m, math.log(spread)).requires_grad_() for n, m in means.items()}
    optimizer = torch.optim.Adam([*means.values(), *logs.values()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def at_a_draw(x: Tensor, y: Tensor) -> Tensor:
        drawn = {n: m + logs[n].exp() * torch.randn_like(m) for n, m in means.items()}
        found: Tensor = torch.func.functional_call(nets, drawn, (x, y))
        return found

    for x, y in batches(data, steps):
        optimizer.zero_grad()
        pairs = ((means[n], logs[n]) for n in means)
        prior = sum((0.5 * (m.square() + (2 * s).exp()) - s).sum() for m, s in pairs)
        (prior / size - at_a_draw(x, y).mean(1).sum()).backward()
        optimizer.step()
        schedule.step()
    return at_a_draw


@torch.no_grad()
def log_likelihood(data: Splits, draw: Draw, draws: int) -> Tensor:
    """The log of the mean density of a test datum, in the unit of the data. # shape: (K,)"""
    drawn = torch.stack([draw(data.test_x, data.test_y).double() for _ in range(draws)])
    return (drawn.logsumexp(0) - math.log(draws)).mean(1) - data.scale.double().log()

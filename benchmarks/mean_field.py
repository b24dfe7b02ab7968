# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""VOGN against black-box VI by Adam: gradients to the same mean-field ELBO, each at its best rate.

Logistic regression on made-up data with the prior Normal(0, 1); both see one batch at one draw
at a time. The ELBO of the mean-field Gaussian is a sum of integrals over one dim, by quadrature, so
that who has arrived is judged without noise; the optimum is found beforehand.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_blr.optim import VOGN

from .rows import Check, Row, Settings

NAME = "mean_field"
SIZE, FEATURES, BATCH, SEEDS = 600, 20, 50, 2
LENGTHS = (125, 175, 250, 350, 500, 700, 1000, 1400, 2000)
#: Nats below the optimum that count as arrived.
GAPS = (2.0, 0.5)
RATES = (0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Problem:
    """Features and labels in {0, 1}. # shape: (N, D), (N,)"""

    x: Tensor
    y: Tensor

    def elbo(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """In nats, of a Gaussian without covariances. # shape: (D,), (D,)"""
        place, spread = self.x @ mean, (self.x.square() @ deviation.square()).sqrt()
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)
        points = place[:, None] + spread[:, None] * torch.from_numpy(nodes).to(place)
        logs = F.logsigmoid(points * (2 * self.y[:, None] - 1))
        fit = (logs @ torch.from_numpy(weights).to(place)).sum() / math.sqrt(2 * math.pi)
        square = mean.square() + deviation.square()
        return fit - (0.5 * square - deviation.log() - 0.5).sum()

    def best(self) -> float:
        """The optimum of the ELBO, by L-BFGS."""
        mean, log = (torch.zeros(self.x.shape[1]).to(self.x).requires_grad_() for _ in range(2))
        optimizer = torch.optim.LBFGS(
            [mean, log], max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-12
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = -self.elbo(mean, log.exp())
            value.backward()
            return value

        optimizer.step(closure)  # type: ignore[arg-type]
        return float(self.elbo(mean.detach(), log.detach().exp()))


#: Of a problem, a rate, a number of steps and a seed: the ELBO at the end.
Side = Callable[[Problem, float, int, int], float]


def made_up(size: int = SIZE) -> Problem:
    """Correlated features of different scales, and labels of a logistic model."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
    x = (x + 0.5 * x.roll(1, 1)) * torch.logspace(-1, 0.5, FEATURES, dtype=torch.float64)
    w = torch.randn(FEATURES, generator=generator, dtype=torch.float64)
    y = torch.rand(size, generator=generator, dtype=torch.float64) < torch.sigmoid(x @ w)
    return Problem(x, y.double())


def run(settings: Settings) -> Iterator[Row]:
    """The shortest run whose rate falls to 0 and that ends near the optimum, by the best rate."""
    problem = made_up(100 if settings.tiny else SIZE)
    best, lengths = problem.best(), LENGTHS[:1] if settings.tiny else LENGTHS
    sides: dict[str, Side] = {"VOGN": vogn, "Adam": adam}
    found = {kind: arrivals(problem, side, best, lengths) for kind, side in sides.items()}
    for gap in GAPS:
        (own, rate), (theirs, their_rate) = found["VOGN"][gap], found["Adam"][gap]
        yield Row(
            NAME,
            f"logistic, {gap:g} nats from the best mean field",
            Check("x fewer gradients than Adam", theirs / own),
            [
                *(Check("VOGN steps", own), Check("its rate", rate)),
                *(Check("Adam steps", theirs), Check("its rate", their_rate)),
            ],
            note=f"runs of {lengths[0]} to {lengths[-1]} steps of {BATCH} data; inf: none",
        )


def arrivals(
    problem: Problem, side: Side, best: float, lengths: Sequence[int]
) -> dict[float, tuple[float, float]]:
    """Of each gap the fewest steps, and their rate."""
    found: dict[float, tuple[float, float]] = {}
    for steps in lengths:
        runs = {rate: mean_elbo(problem, side, rate, steps) for rate in RATES}
        rate = max(runs, key=lambda r: runs[r])
        for gap in GAPS:
            if gap not in found and runs[rate] >= best - gap:
                found[gap] = float(steps), rate
        if len(found) == len(GAPS):
            break
    return {gap: found.get(gap, (math.inf, math.nan)) for gap in GAPS}


def mean_elbo(problem: Problem, side: Side, rate: float, steps: int) -> float:
    """Of some seeds; minus infinity where one of them has no ELBO."""
    values = [side(problem, rate, steps, seed) for seed in range(SEEDS)]
    return statistics.mean(v if v == v else -math.inf for v in values)


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """A rate that falls to 0, on both sides."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def batches(problem: Problem, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches for both."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randperm(len(problem.y), generator=generator)[:BATCH]
        yield problem.x[rows], problem.y[rows]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The mean loss of logits with a column. # shape: (B, 1), (B,)"""
    return F.binary_cross_entropy_with_logits(logits.squeeze(-1), y)


def vogn(problem: Problem, rate: float, steps: int, seed: int) -> float:
    """The ELBO at the end."""
    net = nn.Linear(FEATURES, 1, bias=False).double()
    nn.init.zeros_(net.weight)
    size = len(problem.y)
    options = {"hessian_init": 0.1, "betas": (0.9, 0.95), "weight_decay": 1 / size}
    optimizer = VOGN(net.parameters(), lr=rate, ess=size, seed=seed, **options)  # type: ignore[arg-type]
    rates = schedule(optimizer, steps)
    for x, y in batches(problem, steps, seed):
        optimizer.zero_grad()
        with optimizer.sampled_params():
            optimizer.backward(net, cross_entropy, x, y)
        optimizer.step()
        rates.step()
    precision = size * optimizer.state[net.weight]["hessian"][0] + 1
    return float(problem.elbo(net.weight.detach()[0], precision.rsqrt()))


def adam(problem: Problem, rate: float, steps: int, seed: int) -> float:
    """The same of the mean and the log deviation, by gradients through a draw."""
    size = len(problem.y)
    generator = torch.Generator().manual_seed(seed)
    mean = torch.zeros(FEATURES, dtype=torch.float64, requires_grad=True)
    # The deviation that VOGN begins with.
    first = -0.5 * math.log(size * 0.1 + 1)
    log = torch.full((FEATURES,), first, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log], lr=rate)
    rates = schedule(optimizer, steps)
    for x, y in batches(problem, steps, seed):
        optimizer.zero_grad()
        noise = torch.randn(FEATURES, generator=generator, dtype=torch.float64)
        drawn = mean + log.exp() * noise
        prior = (0.5 * (mean.square() + (2 * log).exp()) - log).sum() / size
        (cross_entropy((x @ drawn)[:, None], y) + prior).backward()
        optimizer.step()
        rates.step()
    return float(problem.elbo(mean.detach(), log.detach().exp()))

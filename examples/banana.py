# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Two bent classes: classification by a sparse Gaussian process in plain Pyro.

    python -m examples.banana [--out FOLDER]

The values f at the data stay at their prior given u, the values at the inducing points: the bound
is that of Hensman et al. (2015), by quadrature. Adam takes the same bound down, as a function of
the mean and the Cholesky factor of q(u).
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from . import show

JITTER = 1e-4
#: Adam's learning rates, of which the best counts.
RATES = (0.01, 0.03, 0.1, 0.3)
#: Nats from the optimum at which iterations are counted.
CLOSE = 1e-3


class Found(NamedTuple):
    """-ELBO at each iteration, of the fit and of Adam at its best rate; iterations to the optimum;
    the share of new points that are classified right.
    """

    losses: list[float]
    adam: list[float]
    steps: int
    adam_steps: int
    accuracy: float


def bent(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two half circles that lie in one another, with noise. # shape: (N, 2), (N,)"""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.arange(count) % 2).double()
    turn = math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    arc = torch.stack([turn.cos(), turn.sin()], 1) - torch.tensor([0.5, 0.3])
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return 1.5 * torch.where(y[:, None] > 0, arc, -arc) + 0.35 * noise, y


class Classifier:
    """The model, at a kernel that is held.

    :param Z: the inducing points. # shape: (M, 2)
    """

    def __init__(self, Z: Tensor) -> None:
        self.Z = Z
        self.kernel = gp.kernels.RBF(2, variance=torch.tensor(4.0), lengthscale=torch.tensor(0.8))
        self.kernel.requires_grad_(False)

    def project(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """W with E[f | u] = W u for white u, and the variances of f given u."""
        L = torch.linalg.cholesky(self.kernel(self.Z) + JITTER * torch.eye(len(self.Z)))
        W = torch.linalg.solve_triangular(L, self.kernel(self.Z, X), upper=False).mT
        return W, (self.kernel(X, diag=True) - W.square().sum(-1)).clamp(min=1e-9)

    def __call__(self, X: Tensor, y: Tensor | None = None) -> Tensor:
        u = pyro.sample("u", dist.Normal(torch.zeros(len(self.Z)), 1.0).to_event(1))
        W, variance = self.project(X)
        with pyro.plate("data", len(X)):
            f = pyro.sample("f", dist.Normal(W @ u, variance.sqrt()))
            result: Tensor = pyro.sample("y", dist.Bernoulli(logits=f), obs=y)
        return result


def by_adam(model: Classifier, X: Tensor, y: Tensor, rate: float, iterations: int) -> list[float]:
    """-ELBO of q(u) = N(m, R R') at each iteration, by 30 Gauss-Hermite nodes."""
    nodes, weights = (torch.as_tensor(t) for t in np.polynomial.hermite_e.hermegauss(30))
    weights = weights / weights.sum()
    W, variance = model.project(X)
    m = torch.zeros(len(model.Z), requires_grad=True)
    R = torch.eye(len(m)).requires_grad_()
    adam, losses = torch.optim.Adam([m, R], lr=rate), []
    for _ in range(iterations):
        lower = R.tril()
        sd = (variance + (W @ lower).square().sum(-1)).sqrt()
        f = (W @ m)[:, None] + sd[:, None] * nodes
        fit = (logsigmoid((2 * y - 1)[:, None] * f) * weights).sum()
        trace = 0.5 * (lower.square().sum() + m.square().sum() - len(m))
        loss = trace - lower.diagonal().abs().log().sum() - fit
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    return losses


def probability(model: Classifier, blr: BLR, X: Tensor) -> Tensor:
    """P(y = 1) at points: the probit approximation to the mean of a sigmoid."""
    W, variance = model.project(X)
    law = blr.guide.marginal("u")
    spread = variance + ((W @ law.covariance_matrix) * W).sum(-1)
    return torch.sigmoid((W @ law.mean) / (1 + math.pi / 8 * spread).sqrt())


def reached(losses: list[float], best: float) -> int:
    """The iterations to within ``CLOSE`` of a loss; all of them if none is."""
    return next((i for i, loss in enumerate(losses) if loss <= best + CLOSE), len(losses))


def draw(model: Classifier, blr: BLR, X: Tensor, y: Tensor, found: Found, out: Path) -> Path:
    """The classes with their probability, and -ELBO by iteration."""
    figure, (left, right) = show.picture(1, 2, figsize=(10, 4.4), width_ratios=(1.15, 1))
    side = torch.linspace(-3.0, 3.0, 80)
    grid = torch.cartesian_prod(side, side)
    levels = probability(model, blr, grid).reshape(80, 80).T
    shades = left.contourf(side, side, levels, np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.45)
    left.contour(side, side, levels, [0.5], colors="black", linewidths=1.2)
    for k, colour in ((0, show.COLOURS[0]), (1, show.COLOURS[1])):
        here = X[y == k]
        left.scatter(here[:, 0], here[:, 1], s=9, color=colour, alpha=0.8, linewidth=0)
    left.scatter(
        *model.Z.T, s=28, marker="x", color="black", linewidth=1.2, label="inducing points"
    )
    left.legend(loc="upper left", frameon=True)
    left.set_title("P(class 1)")
    figure.colorbar(shades, ax=left, ticks=[0, 0.5, 1])
    best = min(found.losses[-1], found.adam[-1])
    for losses, colour, name in (
        (found.losses, show.COLOURS[1], f"BLR: {found.steps} steps"),
        (
            found.adam,
            show.COLOURS[0],
            f"Adam, best of {len(RATES)} rates: {found.adam_steps} steps",
        ),
    ):
        above = [max(loss - best, 1e-9) for loss in losses]
        right.loglog(range(1, len(above) + 1), above, color=colour, label=name)
    right.axhline(CLOSE, color=show.GREY, linewidth=0.8, linestyle="--")
    right.set_ylim(1e-8, None)
    right.set_xlabel("iteration")
    right.set_ylabel("nats from the optimum")
    right.set_title("the same bound, to 0.001 nats")
    right.legend()
    return show.save(figure, out, "banana")


def main(out: Path, count: int = 400, inducing: int = 30, iterations: int = 600) -> Found:
    """Fit, compare with Adam, print and draw."""
    pyro.clear_param_store()
    X, y = bent(count)
    model = Classifier(X[:inducing].clone())
    blr = BLR(model, AutoNatural(model, at_prior=["f"], init_scale=1.0))
    fit = blr.fit(X, y)
    show.report("sparse Gaussian process", blr, fit, X, y)
    adams = {rate: by_adam(model, X, y, rate, iterations) for rate in RATES}
    best = min([fit.losses[-1], *(losses[-1] for losses in adams.values())])
    counts = {rate: reached(losses, best) for rate, losses in adams.items()}
    rate = min(counts, key=counts.__getitem__)
    new, labels = bent(2000, seed=1)
    right = ((probability(model, blr, new) > 0.5) == (labels > 0)).double().mean().item()
    steps = reached(fit.losses, best)
    found = Found(fit.losses, adams[rate], steps, counts[rate], right)
    print(f"to {CLOSE:g} nats: {steps} steps, Adam {counts} iterations by rate")
    print(f"{right:.1%} of 2000 new points are classified right")
    draw(model, blr, X, y, found, out)
    return found


if __name__ == "__main__":
    show.run(main)

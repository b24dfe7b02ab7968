# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Logistic regression, N=200, D=5: steps at rho = 1 to a gap of 1e-8 nats.

Features and true weights are standard normal (seed 0), the prior is N(0, I), the start m=0, S=I.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from .classification import Bound, mean_and_precision, model
from .rows import Check, Row, Settings
from .timing import fresh, seconds

NAME = "logistic"
N, D, SEED = 200, 5, 0
GAP, MOST_STEPS = 1e-8, 12


def run(settings: Settings) -> Iterator[Row]:
    """The gap of each iterate is that of its q, by an ELBO that the package has no part in."""
    fresh()
    X, y = data()
    prior_precision = torch.ones(D)
    bound = Bound(X.numpy(), y.numpy(), prior_precision.numpy())
    best = bound.maximum()
    guide = AutoNatural(model)
    guide.set_natural({"w": (torch.zeros(D), -torch.eye(D) / 2)})
    engine = BLR(model, guide, step_size=1.0)
    gaps, times, losses = [], [], []
    while len(gaps) < 3 * MOST_STEPS and not (gaps and gaps[-1] <= GAP):
        elapsed, loss = seconds(lambda: engine.step(X, y, prior_precision))
        times.append(elapsed)
        losses.append(loss)
        gaps.append(best - bound.elbo(*mean_and_precision(guide.marginal("w"))))
    final = -engine.evaluate_loss(X, y, prior_precision)
    yield Row(
        NAME,
        f"N={N} D={D}, rho=1, from m=0, S=I",
        Check(f"steps to gap {GAP:g}", len(gaps) if gaps[-1] <= GAP else np.inf, MOST_STEPS),
        [
            Check("gap in nats", gaps[-1], GAP),
            Check("reported ELBO's error in nats", abs(final - best), 1e-6),
            Check("falls of the ELBO", int((np.diff(losses) > 0).sum()), 0),
        ],
        {"step": times},
        f"seed {SEED}; gaps {', '.join(f'{gap:.1e}' for gap in gaps)}",
    )


def data() -> tuple[Tensor, Tensor]:
    """Standard normal features and weights; labels drawn from the model."""
    generator = torch.Generator().manual_seed(SEED)
    X = torch.randn(N, D, generator=generator, dtype=torch.float64)
    w = torch.randn(D, generator=generator, dtype=torch.float64)
    uniform = torch.rand(N, generator=generator, dtype=torch.float64)
    return X, (uniform < torch.sigmoid(X @ w)).double()

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The best Gaussian of a posterior, and how good another one is.

The family is that of all three sides: one Gaussian with a full covariance over the unconstrained
space of all sites. Its best ELBO is found by L-BFGS on fixed draws, which no side has a part in,
and every side's q is judged on these draws.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..family import Family, State
from ..optimum import optimum
from ..stan import scalars
from ..stan_models import Example
from ..unconstrained import LogJoint
from .store import Store

#: What the best Gaussian may fall short of the true optimum, in nats: a tenth of NEAR.
ALLOWED = 0.01
#: Within so many nats of the best, a q has arrived.
NEAR = 0.1
#: Draws of a q for its moments (their own error is 0.7 % of a sd) and for its importance weights.
DRAWS = 20_000
#: Posteriors with more than one mode: every side has the best of so many starts.
STARTS = 5
MULTIMODAL = ("low_dim_gauss_mix", "ldaK2", "irt_2pl")

#: Mean and standard deviation of each of Stan's scalars.
Moments = dict[str, tuple[float, float]]


def starts(name: str) -> int:
    """From how many starts each side begins."""
    return STARTS if name in MULTIMODAL else 1


@dataclass(frozen=True)
class Judge:
    """The best ELBO of the family, on fixed draws.

    :param float error: an estimate in nats of what it falls short of the true optimum.
    """

    family: Family
    draws: Any
    elbo: float
    error: float

    def gap(self, q: State) -> float:
        """Nats that a q is below the best one; infinite for one that is no Gaussian."""
        with torch.no_grad():
            gap = self.elbo - float(self.family.elbo(q, self.draws))
        return gap if math.isfinite(gap) else math.inf


def judge_of(example: Example, joint: LogJoint, store: Store) -> Judge:
    """Find the best Gaussian."""
    family = Family(joint, [list(joint.slices)])
    best = store.once("optimum", "best", lambda: _best(family, starts(example.name)))
    draws = family.draws(best["draws"], seed=0)
    return Judge(family, draws, best["elbo"], best["error"])


def _best(family: Family, count: int) -> dict[str, Any]:
    """The best Gaussian: from each start on few draws, from the best of these on more."""
    begin = time.process_time()
    coarse = [optimum(family, math.inf, _start(family, seed)) for seed in range(count)]
    best = optimum(family, ALLOWED, max(coarse, key=lambda c: c.elbo).q)
    return {
        "elbo": best.elbo,
        "error": best.error,
        "draws": len(best.draws.normal),
        "elbos_of_starts": [c.elbo for c in coarse],
        "seconds": time.process_time() - begin,
    }


def _start(family: Family, seed: int) -> State:
    """The first start is the origin; the others are Stan's, uniform within 2 of it."""
    generator = torch.Generator().manual_seed(seed)
    loc = 4 * torch.rand(family.size, generator=generator) - 2
    return family.start()._replace(loc=loc if seed else torch.zeros_like(loc))


def quality(example: Example, joint: LogJoint, q: State, reference: Moments) -> dict[str, float]:
    """How far the moments of q are from the reference's, and k-hat of its importance weights.

    ``mean_error`` is the largest, in reference standard deviations; ``least_sd`` and ``largest_sd``
    bound the ratios of the standard deviations. k-hat is that of Vehtari et al., *Pareto smoothed
    importance sampling* (arXiv 1507.02646): above 0.7 the weights are no use.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(DRAWS, len(q.loc), generator=generator)
    with torch.no_grad():
        u = q.loc + noise @ q.scale.T
        drawn = scalars(example.quantities(joint.values(u)))
        # log q up to a constant, which changes no k-hat.
        log_weights = torch.cat([joint(part) for part in u.split(1024)]) + noise.square().sum(1) / 2
    result = {"khat": khat(log_weights)}
    if reference:
        means = torch.stack([(drawn[n].mean() - m).abs() / s for n, (m, s) in reference.items()])
        ratios = torch.stack([drawn[n].std() / s for n, (_, s) in reference.items()])
        result |= {
            "mean_error": float(means.max()),
            "least_sd": float(ratios.min()),
            "largest_sd": float(ratios.max()),
        }
    return result


def khat(log_weights: Tensor) -> float:
    """The shape of the Pareto tail of importance weights."""
    from arviz_stats.base import array_stats

    # psislw is told log likelihoods, whose weights are their inverses.
    return float(array_stats.psislw(-log_weights.numpy())[1])

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The best Gaussian of a posterior, and how good another one is.

The family is that of all three sides: one Gaussian with a full covariance over the unconstrained
space of all sites. Its best ELBO is found by L-BFGS on fixed draws, which no side has a part in,
and every side's q is judged on these draws. Where even the most draws leave the best Gaussian short
of the true optimum it owes part of its ELBO on them to them, so all are judged on fresh ones.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..draws import FixedDraws
from ..family import CHUNK, Family, State
from ..optimum import glance, optimum
from ..stan import scalars
from ..stan_models import Example
from ..store import Store
from ..unconstrained import LogJoint
from .starts import count_of

#: What the best Gaussian may fall short of the true optimum, in nats: a tenth of NEAR.
ALLOWED = 0.01
#: Draws to begin with. They are mapped to a covariance of I, which takes two for each dimension.
FEWEST, PER_DIMENSION = 512, 4
#: Draws times dimensions that end the search, whatever the error; it is told.
MOST_ELEMENTS = 4_000_000
#: Fresh draws for each draw of the search, and their seed: no side has seen them.
FRESH, FRESH_SEED = 2, 5
#: Within so many nats of the best, a q has arrived.
NEAR = 0.1
#: Points of a q for its moments, exact where these are linear in u; draws for importance weights.
DRAWS, WEIGHTS = 8192, 4096
#: Mean and standard deviation of each of Stan's scalars.
Moments = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Judge:
    """The best ELBO of the family, on the draws that sides are judged on.

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
    best = store.once("optimum", "best", lambda: _best(family, count_of(example)))
    if best["error"] <= ALLOWED:
        return Judge(family, family.draws(best["draws"], seed=0), best["elbo"], best["error"])
    draws = family.draws(FRESH * best["draws"], seed=FRESH_SEED)
    return Judge(family, draws, best["elbo_on_fresh"], best["error"])


def _best(family: Family, count: int) -> dict[str, Any]:
    """The best Gaussian: a glance from each start on few draws, from the best of these on more."""
    begin = time.process_time()
    fewest = max(FEWEST, PER_DIMENSION * family.size)
    glances = [glance(family, _start(family, seed), fewest) for seed in range(count)]
    _, start = max(glances, key=lambda found: found[0])
    best = optimum(family, ALLOWED, start, fewest, MOST_ELEMENTS // family.size)
    fresh = family.draws(FRESH * len(best.draws.normal), seed=FRESH_SEED)
    with torch.no_grad():
        on_fresh = float(family.elbo(best.q, fresh))
    return {
        "elbo": best.elbo,
        "error": best.error,
        "elbo_on_fresh": on_fresh,
        "draws": len(best.draws.normal),
        "elbos_of_starts": [elbo for elbo, _ in glances],
        "seconds": time.process_time() - begin,
    }


def _start(family: Family, seed: int) -> State:
    """The first start is the origin; the others are Stan's, uniform within 2 of it."""
    generator = torch.Generator().manual_seed(seed)
    loc = 4 * torch.rand(family.size, generator=generator) - 2
    return family.start()._replace(loc=loc if seed else torch.zeros_like(loc))


def answers(example: Example, joint: LogJoint, q: State) -> dict[str, Any]:
    """Mean and standard deviation of each of Stan's scalars under q, and k-hat of its weights.

    k-hat is that of Vehtari et al., *Pareto smoothed importance sampling* (arXiv 1507.02646): above
    0.7 the weights are no use. It is the shape of their tail alone, whatever that weighs: where the
    efficiency, the effective share of the draws, is near 1, a large one says nothing.
    """
    noise = FixedDraws(DRAWS, len(q.loc), 0, seed=2).normal
    # The extremes of even points are no sample of a tail.
    independent = torch.randn(WEIGHTS, len(q.loc), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        drawn = scalars(example.quantities(joint.values(q.loc + noise @ q.scale.T)))
        u = q.loc + independent @ q.scale.T
        log_p = torch.cat([joint(part) for part in u.split(CHUNK)])
    # log q up to a constant, which changes no k-hat.
    log_weights = log_p + independent.square().sum(1) / 2
    moments = {n: [_rounded(x.mean()), _rounded(x.std())] for n, x in drawn.items()}
    weights = log_weights.softmax(0)
    return {
        "khat": khat(log_weights),
        "efficiency": _rounded(1 / (len(weights) * weights.square().sum())),
        "moments": moments,
    }


def _rounded(x: Tensor) -> float:
    return float(f"{float(x):.7g}")


def errors_of(moments: Any, reference: Moments) -> dict[str, float]:
    """The largest error of a mean, in the reference's sds, and the bounds of the ratios of sds."""
    means = [abs(moments[n][0] - mean) / sd for n, (mean, sd) in reference.items()]
    ratios = [moments[n][1] / sd for n, (_, sd) in reference.items()]
    return {"mean": max(means), "least sd": min(ratios), "largest sd": max(ratios)}


def khat(log_weights: Tensor) -> float:
    """The shape of the Pareto tail of importance weights."""
    from arviz_stats.base import array_stats

    # psislw is told log likelihoods, whose weights are their inverses.
    return float(array_stats.psislw(-log_weights.numpy())[1])

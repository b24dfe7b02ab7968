# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Steps along a certificate's direction, as far as they raise the ELBO."""

import math

from ..families import Natural
from ..lifting import host
from .certificate import Certificate, Curvature
from .cone import inside, squared_norm
from .gaussian_means import means_direction
from .objective import Block, Naturals, Objective
from .sweep import CLOSE, has_not_fallen

#: Halvings of a step along the certificate's direction; one that gains nothing by then is no step.
HALVINGS = 8

#: The same where curvature is negative: the metric, in which lengths are taken there, may know
#: nothing of a direction (of the factor of a low-rank covariance where that is small: 1e-5 of the
#: Hessian), and the step is that much too long.
HALVINGS_AT_SADDLES = 24


def climb(
    curvature: Curvature, certificate: Certificate
) -> tuple[dict[Block, Natural], float] | None:
    """A step along the certificate's direction that raises the ELBO, and by how much; or None.

    It ends the slow tail of alternating updates of strongly coupled blocks, and leaves saddles.
    Along negative curvature both signs are tried, and so is the Newton step as far as it was solved
    before that curvature was met (Steihaug 1983): far from an optimum, and around one that a
    symmetry of the model makes a ridge, it is the longer step. So is Newton's step of the means
    alone. The one that gains most is taken.
    """
    objective, naturals = curvature.objective, curvature.naturals
    if not objective.is_exact:
        short = certificate.descent or certificate.direction
        return _close_by(objective, naturals, short)
    before = curvature.elbo
    if not certificate.saddle:
        found = rising(objective, naturals, certificate.direction, (1.0,), before)
        return None if found is None else (found[1], found[0] - before)
    norm = _metric_norm(naturals, certificate.direction)
    scale = 0.1 / norm if norm > 0 else 1.0
    directions = [(certificate.direction, (scale, -scale)), (certificate.descent, (1.0,))]
    steps = [
        rising(objective, naturals, direction, rates, before, HALVINGS_AT_SADDLES)
        for direction, rates in directions
        if direction is not None
    ]
    means = means_direction(curvature)
    steps.append(None if means is None else rising(objective, naturals, means, (1.0,), before))
    best = max((s for s in steps if s is not None), key=lambda s: s[0], default=None)
    return None if best is None else (best[1], best[0] - before)


def _close_by(
    objective: Objective, naturals: Naturals, direction: dict[Block, Natural]
) -> tuple[dict[Block, Natural], float] | None:
    """The longest halved step that loses nothing; one of a fraction of a nat may lose as much."""
    before = objective.value(naturals)
    norm = _metric_norm(naturals, direction)
    close = min(1.0, math.sqrt(2 * CLOSE) / norm) if norm > 0 else 1.0
    far = [0.25**power for power in range(HALVINGS) if 0.25**power > close]
    for rate in (*far, *(close * 0.5**power for power in range(HALVINGS))):
        moved = _moved(naturals, direction, rate)
        allowed = 0.0 if rate > close else CLOSE
        if moved is None:
            continue
        after = objective.value(moved)
        if has_not_fallen(before, after, allowed):
            return moved, after.elbo - before.elbo
    return None


def rising(
    objective: Objective,
    naturals: Naturals,
    direction: dict[Block, Natural],
    rates: tuple[float, ...],
    before: float,
    halvings: int = HALVINGS,
) -> tuple[float, dict[Block, Natural]] | None:
    """The longest halved step that raises the ELBO, and the ELBO there; or None."""
    for power in range(halvings):
        best: tuple[float, dict[Block, Natural]] | None = None
        for rate in rates:
            moved = _moved(naturals, direction, rate * 0.5**power)
            if moved is None:
                continue
            value = objective.value(moved).elbo
            if value > before and (best is None or value > best[0]):
                best = (value, moved)
        if best is not None:
            return best
    return None


def _metric_norm(naturals: Naturals, direction: dict[Block, Natural]) -> float:
    total = sum(host.number(squared_norm(b.family, n, direction[b])) for b, n in naturals.items())
    return math.sqrt(max(total, 0.0))


def _moved(
    naturals: Naturals, direction: dict[Block, Natural], rate: float
) -> dict[Block, Natural] | None:
    result = {}
    for block, natural in naturals.items():
        moved = tuple(n + rate * d for n, d in zip(natural, direction[block], strict=True))
        if not inside(block.family, moved):
            return None
        result[block] = moved
    return result

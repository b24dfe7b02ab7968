# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Anderson's acceleration of a slowly converging iteration, in the Fisher metric."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from ..families import Natural
from .cone import Safety, inner, inside, minus
from .objective import Elbo, U
from .sweep import CLOSE, has_not_fallen
from .taken import Taken

#: Steps that are remembered: as many slow directions as are left out at a time.
DEPTH = 6

#: A step that leaves less than this share of the last one's residual needs no help.
FAST = 0.1

#: Squared length in nats below which the iteration is close to linear; further away a combination
#: of steps leads anywhere, unless they keep more than this share of it from one to the next.
NEAR, STEADY = 2.0, 0.9

#: Relative size below which differences of steps are rounding, and left out of the least squares.
DEPENDENT = 1e-10


class Iteration(Protocol[U]):
    """What is asked of the iteration that is helped."""

    @property
    def blocks(self) -> tuple[U, ...]: ...

    @property
    def is_exact(self) -> bool:
        """Whether the ELBO is itself, and no estimate on draws."""

    def value(self, naturals: Mapping[U, Natural], /) -> Elbo:
        """The ELBO."""


class Anderson:
    """Goes to where the last steps, combined, would have been shortest (Anderson 1965).

    A sweep takes x to ``y = x + d``. With weights that sum to 1, ``sum_i w_i y_i`` is taken in the
    place of the last y, w such that ``sum_i w_i d_i`` is shortest in the Fisher metric. On a linear
    iteration that is GMRES (Walker & Ni 2011): directions in which it converges slowly, or
    overshoots, go out one a step. It is left out where it leaves the cone, or where the ELBO is
    lower there.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[dict[Any, Natural], dict[Any, Natural]]] = []
        self._norm = float("inf")
        #: Refusals in a row, after which as many steps are left alone: a refusal costs two values.
        self._refused = self._wait = 0

    def reset(self) -> None:
        """Forget the steps: what they were taken on has changed."""
        self._steps, self._norm = [], float("inf")

    def extrapolate(
        self, objective: Iteration[U], taken: Taken[U], safety: Safety
    ) -> dict[U, Natural] | None:
        """Where to go instead of the end of a sweep; None where that is as good.

        :param taken: the sweep, from x to y.
        """
        before, after, step, metric = taken.before, taken.after, taken.change, taken.metric
        if self._steps and list(self._steps[-1][1]) != list(step):
            self.reset()
        norm, previous = _paired(metric, step), self._norm
        self._steps = [*self._steps[-DEPTH:], ({b: after[b] for b in step}, step)]
        self._norm = norm
        self._wait = max(self._wait - 1, 0)
        is_linear = norm < NEAR or STEADY * previous < norm < previous
        if self._wait or len(self._steps) < 2 or norm <= FAST * previous or not is_linear:
            return None
        moved = self._combined(before, metric)
        if moved is None or not all(inside(b.family, n) for b, n in moved.items()):
            safety.refused += 1
            return None
        proposed = {**after, **moved}
        allowed = 0.0 if objective.is_exact else CLOSE
        if not has_not_fallen(objective.value(after), objective.value(proposed), allowed):
            safety.refused += 1
            self._refused += 1
            self._wait = self._refused
            return None
        self._refused = 0
        return proposed

    def _combined(
        self, before: Mapping[U, Natural], metric: Mapping[U, Natural]
    ) -> dict[U, Natural] | None:
        """The combination; None where products of steps overflow."""
        *earlier, (last, step) = self._steps
        changes = [_difference(step, old) for _, old in earlier]
        products = [
            {b: b.family.fisher(before[b], change[b]) for b in change} for change in changes
        ]
        gram = torch.tensor([[_paired(p, c) for c in changes] for p in products])
        target = torch.tensor([_paired(metric, c) for c in changes])
        if not bool(torch.isfinite(gram).all() & torch.isfinite(target).all()):
            return None
        weights = torch.linalg.pinv(gram.double(), rtol=DEPENDENT, hermitian=True) @ target.double()
        moved = dict(last)
        for weight, (old, _) in zip(weights.tolist(), earlier, strict=True):
            back = _difference(last, old)
            moved = {
                b: tuple(m - weight * d for m, d in zip(moved[b], back[b], strict=True))
                for b in moved
            }
        return moved


def _difference(left: Mapping[U, Natural], right: Mapping[U, Natural]) -> dict[U, Natural]:
    return {b: minus(left[b], right[b]) for b in left}


def _paired(left: Mapping[U, Natural], right: Mapping[U, Natural]) -> float:
    return sum(float(inner(left[b], right[b])) for b in left)

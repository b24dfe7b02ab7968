# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How far a mixture is from the optimum: the length of its step, and which directions are slow.

A step of size 1 is Newton's where components lie apart. Where they overlap, it goes a share of the
way: near the optimum ``d(x) = -A (x - x*)``, with a matrix A whose eigenvalues a are 1 for what
the components tell apart, and small for what they do not. The gap is ``d' F A^-1 d / 2``. The last
steps went along the slow directions, since in all others the distance is gone, and their
differences say what A is there: ``A (x_s - x_t) = d_t - d_s``.
"""

import math

import torch
from torch import Tensor

from ..families import Natural
from ..lifting import host
from .cone import minus
from .mixture import Gradient, Mixture, whitened

#: Steps that are remembered: as many slow directions are seen.
DEPTH = 8

#: Differences that are less than this share of the longest say nothing but rounding.
DEPENDENT = 1e-6

#: The least eigenvalue that counts. What is slower is flat: two components that share one mode may
#: share its weight in any way.
LEAST = 1 / 100


#: Steps in which the gap on the points does not fall by a tenth, after which their own error is
#: what is left of it.
STALLED, FALL = 12, 0.9


class Convergence:
    """What a fit knows of its distance to the optimum."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the steps: the points or the components are others."""
        self._past: list[tuple[Natural, Natural]] = []
        #: The gap on the points below which their own error is looked at next.
        self.look = math.inf
        self._least, self._since = math.inf, 0

    def has_stalled(self, gap: float) -> bool:
        """Whether steps on these points come no nearer.

        :param gap: on the points, of the last step.
        """
        falls = gap < FALL * self._least
        self._least, self._since = (gap, 0) if falls else (self._least, self._since + 1)
        return self._since >= STALLED

    def enter(self, mixture: Mixture, gradient: Gradient) -> None:
        """Remember where a step began, and its direction."""
        entry = mixture.coordinates, gradient.direction(mixture)
        if self._past and len(self._past[-1][0][0]) != len(entry[0][0]):
            self.reset()  # components were removed
        self._past = [*self._past, entry][-DEPTH:]

    @property
    def is_known(self) -> bool:
        """Whether the steps are enough to see slow directions by."""
        return len(self._past) == DEPTH

    def slow(self, mixture: Mixture) -> tuple[Tensor, Tensor]:
        """Orthonormal directions, whitened, and ``1 / a - 1`` of each. # shape: (n, R), (R,)"""
        *earlier, (place, direction) = self._past
        moves = [whitened(mixture, minus(x, place)) for x, _ in earlier]
        changes = [whitened(mixture, minus(direction, d)) for _, d in earlier]
        move, change = torch.stack(moves, -1), torch.stack(changes, -1)
        u, sizes, vh = torch.linalg.svd(move, full_matrices=False)
        kept = sizes > DEPENDENT * sizes[0]
        u, inverse = u[:, kept], (vh[kept] / sizes[kept].unsqueeze(-1)).mT
        matrix = u.mT @ change @ inverse
        values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
        extra = values.clamp(min=LEAST).reciprocal() - 1
        return u @ vectors, extra.clamp(min=0.0)

    def gap(self, mixture: Mixture, gradient: Gradient) -> float:
        """``d' F A^-1 d / 2`` on the points of the steps."""
        step = gradient.steps(mixture)
        basis, extra = self.slow(mixture)
        along = basis.mT @ step
        return 0.5 * host.number(step @ step + (extra * along.square()).sum())

    def independent_gap(self, mixture: Mixture, steps: list[Tensor]) -> tuple[float, float]:
        """The same with the noise of points left out, and two standard errors added.

        :param steps: of independent sets of points.
        :return: it, and what the noise of one set adds.
        """
        basis, extra = self.slow(mixture)
        table = torch.stack(steps)
        along = table @ basis
        products = 0.5 * (table @ table.mT + (extra * along) @ along.mT)
        count = len(steps)
        upper = products[torch.triu_indices(count, count, 1).unbind()]
        mean, error = upper.mean(), upper.std() / math.sqrt(count)
        noise = products.diagonal().mean() - mean
        return max(0.0, host.number(mean + 2 * error)), max(0.0, host.number(noise))

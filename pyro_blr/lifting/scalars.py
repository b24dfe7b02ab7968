# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""One or two jointly Gaussian scalars an element, and their values at standard normal nodes."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import host

#: A residual variance below this many rounding errors of the variance is none: the scalars are
#: perfectly correlated. What is left out is below the rounding of the variance itself.
ROUNDING = 64


def standard_deviation(variance: Tensor) -> Tensor:
    """The square root with gradient 0 at a variance of exactly 0 (a row of zeros as predictor)."""
    positive = variance > 0
    return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)


@dataclass(frozen=True, eq=False)
class Root:
    """The lower triangular root of the covariance: ``f = mean + L t``, t standard normal.

    :param own: its diagonal, one for each scalar.
    :param cross: what the second scalar moves with the first one's t; None if they are independent.
    """

    own: tuple[Tensor, ...]
    cross: Tensor | None

    def rows(self) -> list[list[Tensor | None]]:
        """The entries by rows."""
        if len(self.own) == 1:
            return [[self.own[0]]]
        return [[self.own[0], None], [self.cross, self.own[1]]]


@dataclass(eq=False)
class Scalars:
    """One or two jointly Gaussian scalars for each element of a factor.

    :param means: one for each scalar; their shapes broadcast. # shape: (*f_i)
    :param variances: likewise. # shape: (*f_i)
    :param covariance: of the two; None if they are independent or there is one.
        # shape: (*f_1) and (*f_2) broadcast
    """

    means: tuple[Tensor, ...]
    variances: tuple[Tensor, ...]
    covariance: Tensor | None = None
    root: Root = field(init=False)

    def __post_init__(self) -> None:
        if self.covariance is None:
            self.root = Root(tuple(standard_deviation(v) for v in self.variances), None)
        else:
            first, second = self.variances
            self.root = _cholesky(first, second, self.covariance)

    def at(self, nodes: Tensor) -> tuple[Tensor, ...]:
        """The scalars at standard normal nodes, whose dim comes first.

        :param nodes: # shape: (K, number of scalars)
        :returns: # shape: (K, *f_i); a correlated second scalar has the common shape
        """
        root, columns = self.root, nodes.unbind(-1)
        values = tuple(
            mean + own * _column(t, own)
            for mean, own, t in zip(self.means, root.own, columns, strict=True)
        )
        if root.cross is None:
            return values
        return values[0], values[1] + root.cross * _column(columns[0], root.cross)

    def spreads(self) -> "Spreads":
        """The largest entries of the root over the elements (this waits for the device)."""
        rows = self.root.rows()
        zero = torch.zeros((), dtype=self.means[0].dtype, device=self.means[0].device)
        largest = [
            zero if e is None or not e.numel() else e.detach().abs().max()
            for row in rows
            for e in row
        ]
        found = iter(host.numbers(largest))
        return tuple(tuple(next(found) for _ in row) for row in rows)


def _cholesky(first: Tensor, second: Tensor, covariance: Tensor) -> Root:
    """The root of each element's 2x2 covariance.

    A scalar without variance has gradient 0 there. So has the residual of perfectly correlated
    scalars: they depend on one another linearly whatever q is, so that the derivative of
    ``v2 - c^2 / v1`` is 0 along every change of q.
    """
    moves = first > 0
    slope = torch.where(moves, covariance / torch.where(moves, first, 1.0), 0.0)
    residual = second - slope * covariance
    known = residual > ROUNDING * torch.finfo(residual.dtype).eps * second
    own = standard_deviation(first)
    rest = standard_deviation(torch.where(known, residual, 0.0))
    return Root((own, rest), slope * own)


#: The largest absolute entries of the root, by rows.
Spreads = tuple[tuple[float, ...], ...]


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * like.dim())

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Anderson's mixing of many fixed points side by side (Anderson 1965), each by itself."""

import torch
from torch import Tensor

#: Earlier rounds that the next one is made from: a datum's message depends on q through the law of
#: one Gaussian scalar (two numbers), or of two (five).
MEMORY = 4


class Mixing:
    """The next place of ``x = g(x)`` from the last few, for each row.

    :param metric: in which residuals are made small; that of the numbers themselves if None.
        # shape: (numbers, numbers)
    """

    def __init__(self, metric: Tensor | None) -> None:
        self.factor = None if metric is None else torch.linalg.cholesky(metric)
        self.places: list[Tensor] = []
        self.images: list[Tensor] = []

    def next(self, place: Tensor, image: Tensor) -> Tensor:
        """Where the residual's linear model from the last rounds has its least length.

        :param place: x of each row. # shape: (rows, numbers)
        :param image: g(x)
        """
        self.places, self.images = [*self.places[-MEMORY:], place], [*self.images[-MEMORY:], image]
        if len(self.places) < 2:
            return image
        residuals = [i - p for p, i in zip(self.places, self.images, strict=True)]
        if self.factor is not None:
            residuals = [r @ self.factor for r in residuals]
        changes = torch.stack([residuals[-1] - r for r in residuals[:-1]], -1)
        moves = torch.stack([self.images[-1] - i for i in self.images[:-1]], -1)
        shares = _least_squares(changes, residuals[-1])
        return image - (moves @ shares.unsqueeze(-1)).squeeze(-1)


def _least_squares(matrix: Tensor, target: Tensor) -> Tensor:
    """The shortest x of ``matrix x ~ target``, by the singular values that rounding leaves.

    :param matrix: # shape: (rows, numbers, k)
    """
    finite = torch.isfinite(matrix).all(-1).all(-1) & torch.isfinite(target).all(-1)
    matrix = torch.where(finite[:, None, None], matrix, 0.0)
    target = torch.where(finite[:, None], target, 0.0)
    scale = matrix.square().sum(-2).sqrt()
    scaled = matrix / torch.where(scale > 0, scale, 1.0).unsqueeze(-2)
    solution = torch.linalg.pinv(scaled, rtol=1e-10) @ target.unsqueeze(-1)
    shares: Tensor = solution.squeeze(-1) / torch.where(scale > 0, scale, 1.0)
    return shares

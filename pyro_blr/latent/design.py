# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Values of the latents at which a function of them is fitted by ``r . s(z) + c``."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .spaces import Space

#: Singular values below this share of the largest one are zeros: statistics that say a thing twice
#: (the entries z_i z_j and z_j z_i of a matrix), whose coefficients are then the same.
RANK = 1e-10


@dataclass(frozen=True)
class Design:
    """Points, and the least squares of functions given at them.

    :param points: the values of each site. # shape: (points, *event)
    :param basis: 1 and s(z) at the points. # shape: (points, 1 + statistics)
    :param inverse: its pseudo-inverse. # shape: (1 + statistics, points)
    """

    points: Mapping[str, Tensor]
    basis: Tensor
    inverse: Tensor

    @staticmethod
    def of(space: Space, points: Mapping[str, Tensor], device: torch.device) -> "Design":
        """The design of some points."""
        if not space.parts:
            one = torch.ones(1, 1, dtype=torch.float64, device=device)
            return Design({}, one, one)
        statistics = space.statistics(points)
        basis = torch.cat([torch.ones_like(statistics[:, :1]), statistics], -1)
        scale = basis.square().mean(0).sqrt()
        scale = torch.where(scale > 0.0, scale, 1.0)
        inverse = torch.linalg.pinv(basis / scale, rtol=RANK) / scale[:, None]
        return Design(points, basis, inverse)

    @staticmethod
    def at(space: Space, points: Mapping[str, Tensor], device: torch.device) -> "Design":
        """Points to look at functions, which nothing is fitted at."""
        if not space.parts:
            return Design.of(space, points, device)
        statistics = space.statistics(points)
        basis = torch.cat([torch.ones_like(statistics[:, :1]), statistics], -1)
        return Design(points, basis, basis.new_zeros(0))

    @property
    def size(self) -> int:
        """How many points there are."""
        return self.basis.shape[0]

    def fit(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients c and r of ``values = r . s(z) + c``.

        :param values: # shape: (states, points, *rest)
        :returns: c and r. # shapes: (states, *rest), (states, *rest, statistics)
        """
        if values.shape[1] == 1:  # no continuous latent in it
            zeros = values.new_zeros(())
            constant = values[:, 0]
            return constant, zeros.expand(*constant.shape, self.basis.shape[1] - 1)
        found = torch.tensordot(self.inverse, values.double(), dims=([1], [1]))
        # Once more on what is left: the rounding of the inverse goes.
        rest = values - torch.tensordot(self.basis, found, dims=([1], [0])).movedim(0, 1)
        found = found + torch.tensordot(self.inverse, rest, dims=([1], [1]))
        return found[0], found[1:].movedim(0, -1)

    def predict(self, constant: Tensor, slope: Tensor) -> Tensor:
        """``r . s(z) + c`` at the points. # shape: (states, points, *rest)"""
        linear: Tensor = torch.tensordot(slope, self.basis[:, 1:], dims=([-1], [1]))
        return constant.unsqueeze(1) + linear.movedim(-1, 1)

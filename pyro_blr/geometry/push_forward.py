# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The push-forward of tangent vectors by marginalisation.

A tangent vector of joint laws is a table whose entries sum to 0, and the push-forward sums it over
the hidden dims. In coordinates ``a / sqrt(p)``, where the Fisher-Rao metric is Euclidean, that is
``B'``, with one column ``sqrt(p(h|v))`` for each visible value v. The columns are orthonormal, so
that ``B'`` forgets what is along a fibre (h given v) and keeps lengths across, and ``P_H = BB'``
is the projector on what the visible law sees: functions of v alone times ``sqrt(p)``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PushForward:
    """The push-forward at a law.

    :param share: ``sqrt(p(h|v))``. # shape: (*batch, V, H)
    """

    share: Tensor

    @classmethod
    def of(cls, joint: Tensor) -> "PushForward":
        """At a joint law. # shape: (*batch, V, H)"""
        visible = joint.sum(-1, keepdim=True)
        # A visible value that is impossible has no fibre.
        given = torch.where(visible > 0.0, joint / torch.where(visible > 0.0, visible, 1.0), 0.0)
        return cls(_root(given))

    def __call__(self, rooted: Tensor) -> Tensor:
        """``B'a``: the visible tangent vector, both in root coordinates. # shape: (*batch, V)"""
        folded = rooted.reshape(*rooted.shape[:-1], *self.share.shape[-2:])
        return (self.share * folded).sum(-1)

    def lift(self, rooted: Tensor) -> Tensor:
        """``Ba``: the shortest joint tangent vector that is pushed to it. # shape: (*batch, V H)"""
        return (self.share * rooted.unsqueeze(-1)).flatten(-2)

    def basis(self, vectors: Tensor) -> Tensor:
        """``B'U`` of columns. # shape: (*batch, V, columns)"""
        folded = vectors.reshape(*vectors.shape[:-2], *self.share.shape[-2:], vectors.shape[-1])
        return (self.share.unsqueeze(-1) * folded).sum(-2)

    def lift_basis(self, vectors: Tensor) -> Tensor:
        """``BN`` of columns. # shape: (*batch, V H, columns)"""
        return (self.share.unsqueeze(-1) * vectors.unsqueeze(-2)).flatten(-3, -2)


def _root(given: Tensor) -> Tensor:
    """The square root, whose derivative at an impossible value is 0 and not infinite."""
    inside = given > 0.0
    return torch.where(inside, torch.where(inside, given, 1.0).sqrt(), 0.0)


def inverse_root(law: Tensor) -> Tensor:
    """``1 / sqrt(p)``, and 0 of what is impossible."""
    inside = law > 0.0
    return torch.where(inside, torch.where(inside, law, 1.0).rsqrt(), 0.0)

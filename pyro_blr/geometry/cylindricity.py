# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How far a model is from cylindrical at a parameter, where ELBO and evidence rise alike.

Let T be the tangent space of the joint model, and H the tangent vectors that the visible law sees.
The natural gradient of the ELBO becomes that of the evidence, for every target, where the
projectors on the two commute (arXiv 2307.11249): where T is a part along H and a part across, and
has no direction at an angle in between. The commutator is ``X - X'``, ``X = (1 - P_H) P_T P_H``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import errors
from .fisher import FisherRoot
from .push_forward import PushForward

#: A defect below so many eps is rounding: 1e-12 in float64.
ROUNDED = 4500.0

NORMS = ("spectral", "frobenius")


@dataclass(frozen=True)
class Cylindricity:
    """How far a model is from cylindrical at a parameter.

    :param defect: ``|| P_T P_H - P_H P_T ||``; the spectral norm is at most 1/2. # shape: (*batch,)
    :param norm: which norm that is: ``"spectral"`` or ``"frobenius"``.
    :param shares: the squared cosines of the angles between T and H, the largest first: the share
        of the joint Fisher information that the visible data hold, in each principal direction.
    :param rounding: a defect that rounding alone may give.
    """

    defect: Tensor
    norm: str
    shares: Tensor  # shape: (*batch, min(parameters, V))
    rounding: float

    @property
    def is_cylindrical(self) -> Tensor:
        """Whether the defect is rounding. # shape: (*batch,)"""
        return self.defect < self.rounding

    @property
    def least_share(self) -> Tensor:
        """The least of the shares that are not 0. # shape: (*batch,)

        EM's steps near a maximum leave 1 less that of the distance, in the slowest direction. A
        share of 1/2 makes the largest defect; the two gradients part most where one is near 0.
        """
        seen = torch.where(self.shares > self.rounding, self.shares, torch.inf)
        return seen.amin(-1)

    @property
    def verdict(self) -> str:
        """What that means, in words."""
        if bool(self.is_cylindrical.all()):
            return (
                "cylindrical: the natural gradients of the ELBO (EM's direction) and of the "
                "evidence move the visible law alike, for every target"
            )
        return (
            "not cylindrical: the natural gradients of the ELBO (EM's direction) and of the "
            "evidence move the visible law differently"
        )

    def __str__(self) -> str:
        worst = float(self.defect.max())
        return f"{self.verdict} (defect {worst:.2g}, {self.norm} norm)"


def cylindricity(joint: FisherRoot, push_forward: PushForward, norm: str) -> Cylindricity:
    """The commutator of the two projectors, from an orthonormal basis of each."""
    if norm not in NORMS:
        raise errors.ArgumentError(
            f"norm={norm!r} is not one of {', '.join(map(repr, NORMS))}. Mend: one of these."
        )
    basis = joint.basis
    seen = push_forward.basis(basis)
    # (1 - P_H) U (B'U)' is X in the basis B: no difference of projectors, so rounding stays small.
    across = basis - push_forward.lift_basis(seen)
    crossed = across @ seen.mT
    if norm == "spectral":
        defect = torch.linalg.matrix_norm(crossed, ord=2)
    else:
        defect = 2.0**0.5 * torch.linalg.matrix_norm(crossed)
    shares = torch.linalg.svdvals(seen).square()
    return Cylindricity(defect, norm, shares, ROUNDED * joint.eps)

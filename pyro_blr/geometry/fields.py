# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Natural gradients of the ELBO and of the evidence, and the angles between them."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .. import errors
from .fisher import ROUNDED, FisherRoot
from .layout import Layout
from .push_forward import PushForward, inverse_root


@dataclass(frozen=True)
class NaturalGradient:
    """The steepest ascent of a function of the law, in the metric of a Fisher matrix.

    :param of: what rises, in words.
    :param covector: its gradient in the entries of the law, times ``sqrt(p)``.
    """

    of: str
    layout: Layout
    fisher: FisherRoot
    covector: Tensor
    visible_law: Tensor
    push_forward: PushForward | None

    @property
    def metric(self) -> str:
        """Whose Fisher matrix it is the steepest in."""
        return f"Fisher information of the {self.fisher.law} law"

    def direction(self, singular: str = "refuse") -> Tensor:
        """In the parameters: the Fisher matrix's inverse times the gradient.

        :param singular: ``"refuse"``, or ``"pinv"`` for the shortest of the directions that move
            the law alike, where the Fisher matrix has no inverse.
        :returns: # shape: (*batch, parameters)
        :raises SingularFisherError: if there is no inverse, and none was chosen.
        """
        return self.fisher.solve(self.covector, singular)

    @cached_property
    def rooted(self) -> Tensor:
        """The velocity of the visible law, divided by its square root. # shape: (*batch, V)"""
        moved = self.fisher.project(self.covector)
        return moved if self.push_forward is None else self.push_forward(moved)

    @property
    def velocity(self) -> Tensor:
        """How the visible law moves: a table whose entries sum to 0; it needs no inverse."""
        return self.layout.unfold_visible(self.rooted * self.visible_law.sqrt())

    @property
    def length(self) -> Tensor:
        """Of the visible law's velocity, in the visible Fisher metric. # shape: (*batch,)"""
        length: Tensor = torch.linalg.vector_norm(self.rooted, dim=-1)
        return length

    def cosine(self, other: "NaturalGradient") -> Tensor:
        """Of the angle between two velocities of the visible law, in the visible Fisher metric.

        It is NaN where one of them does not move the visible law, but for rounding.
        # shape: (*batch,)
        """
        inner = (self.rooted * other.rooted).sum(-1)
        cosine = inner / (self.length * other.length)
        return torch.where(self._is_still | other._is_still, torch.nan, cosine)

    @property
    def _is_still(self) -> Tensor:
        """Whether the visible law does not move but for rounding. # shape: (*batch,)"""
        # The gradient is a difference of laws, whose roots have length 1.
        size: Tensor = 1.0 + torch.linalg.vector_norm(self.covector, dim=-1)
        return self.length <= ROUNDED * self.fisher.eps * size


class Cosines(NamedTuple):
    """The cosines between the three gradients, in the visible Fisher metric.

    :param elbo: of the ELBO's with that of the evidence.
    :param recognition: of the ELBO's under perfect recognition with that of the evidence.
    :param recognitions: of the two ELBOs' with each other.
    """

    elbo: Tensor
    recognition: Tensor
    recognitions: Tensor


class Fields(NamedTuple):
    """The three natural gradients at a parameter, for a target.

    :param elbo: of the ELBO with a joint target, in the metric of the joint law.
    :param recognition: of the ELBO whose recognition is p(h|v) at the parameter, in that metric.
    :param evidence: of the evidence, in the metric of the visible law.
    """

    elbo: NaturalGradient
    recognition: NaturalGradient
    evidence: NaturalGradient

    @property
    def cosines(self) -> Cosines:
        """How far the directions agree, as they are seen in the visible law."""
        return Cosines(
            self.elbo.cosine(self.evidence),
            self.recognition.cosine(self.evidence),
            self.elbo.cosine(self.recognition),
        )

    def __str__(self) -> str:
        found = self.cosines
        cosines = (found.elbo, found.recognition, torch.ones(()))
        lines = ["natural gradients (cosine with the evidence's, visible Fisher metric)"]
        for gradient, cosine in zip(self, cosines, strict=True):
            mean = float(cosine.double().mean())
            lines.append(f"  {gradient.of}: {mean:.4f}, steepest in the {gradient.metric}")
        return "\n".join(lines)


def covector_of(target: Tensor, law: Tensor) -> Tensor:
    """``sqrt(p) d/dp sum p* log p``, less its part along ``sqrt(p)``, which no law moves along.

    # shape: that of the two, broadcast
    """
    root = inverse_root(law)
    if bool(((target > 0.0) & (law <= 0.0)).any()):
        raise errors.SupportError(
            "the target has a value that is impossible under the model, so that its evidence is "
            "minus infinity. Mend: a target that is 0 where the model is."
        )
    return (target - law) * root

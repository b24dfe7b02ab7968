# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The geometry of a model at a parameter: metrics, gradients, and whether it is cylindrical."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .. import errors
from .cylindricity import Cylindricity, cylindricity
from .fields import Fields, NaturalGradient, covector_of
from .fisher import FisherRoot
from .layout import Layout
from .push_forward import PushForward, inverse_root


@dataclass(frozen=True)
class Point:
    """A finite model at a parameter, or at each of many; made by :meth:`.FiniteModel.at`.

    :param theta: the parameter. # shape: (*batch, parameters)
    :param folded: the joint law. # shape: (*batch, V, H)
    :param jacobian: its derivatives. # shape: (*batch, V, H, parameters)
    :param eps: the rounding of what the model computed.
    """

    layout: Layout
    names: tuple[str, ...]
    theta: Tensor
    folded: Tensor
    jacobian: Tensor
    eps: float

    # ----- Laws and metrics -------------------------------------------------------------------

    @property
    def joint(self) -> Tensor:
        """The joint law. # shape: (*batch, *sizes)"""
        return self.layout.unfold(self.folded)

    @property
    def visible(self) -> Tensor:
        """The visible law. # shape: (*batch, *sizes of visible dims)"""
        return self.layout.unfold_visible(self._visible)

    @cached_property
    def _visible(self) -> Tensor:
        return self.folded.sum(-1)

    @cached_property
    def joint_root(self) -> FisherRoot:
        """The root of the joint Fisher matrix."""
        root = (self.jacobian * inverse_root(self.folded).unsqueeze(-1)).flatten(-3, -2)
        sizes = torch.linalg.vector_norm(root, dim=-2)
        return FisherRoot(root, sizes, "joint", self.names, self.eps)

    @cached_property
    def visible_root(self) -> FisherRoot:
        """The root of the visible Fisher matrix."""
        weight = inverse_root(self._visible).unsqueeze(-1)
        root = self.jacobian.sum(-2) * weight
        sizes = torch.linalg.vector_norm(self.jacobian.abs().sum(-2) * weight, dim=-2)
        return FisherRoot(root, sizes, "visible", self.names, self.eps)

    @cached_property
    def _pushed(self) -> PushForward:
        return PushForward.of(self.folded)

    @property
    def joint_fisher(self) -> Tensor:
        """The Fisher matrix of the joint law, EM's metric. # shape: (*batch, d, d)"""
        return self.joint_root.matrix

    @property
    def visible_fisher(self) -> Tensor:
        """The Fisher matrix of the visible law, of one datum. # shape: (*batch, d, d)"""
        return self.visible_root.matrix

    def log_jeffreys(self, law: str = "joint") -> Tensor:
        """``log sqrt(det G)``, the log density of Jeffreys' prior up to a constant.

        It is minus infinity where the Fisher matrix is singular.

        :param law: ``"joint"`` or ``"visible"``: whose Fisher matrix.
        :returns: # shape: (*batch,)
        """
        if law not in ("joint", "visible"):
            raise errors.ArgumentError(f"law={law!r} is not one of 'joint', 'visible'. Mend: one.")
        return (self.joint_root if law == "joint" else self.visible_root).log_volume()

    # ----- How laws move ----------------------------------------------------------------------

    def joint_velocity(self, direction: Tensor) -> Tensor:
        """How the joint law moves as the parameter moves: a table whose entries sum to 0.

        :param direction: of the parameter. # shape: (*batch, parameters)
        """
        return self.layout.unfold((self.jacobian * direction[..., None, None, :].double()).sum(-1))

    def push_forward(self, tangent: Tensor) -> Tensor:
        """A tangent vector of joint laws as one of visible laws: summed over the hidden dims.

        :param tangent: a table, such as a joint velocity. # shape: (*batch, *sizes)
        :returns: # shape: (*batch, *sizes of visible dims)
        """
        table = self.layout.shaped(tangent, "the tangent vector")
        return self.layout.unfold_visible(self.layout.fold(table.double()).sum(-1))

    def visible_velocity(self, direction: Tensor) -> Tensor:
        """How the visible law moves: the push-forward of how the joint law does.

        :param direction: of the parameter. # shape: (*batch, parameters)
        """
        moved = (self.jacobian.sum(-2) * direction[..., None, :].double()).sum(-1)
        return self.layout.unfold_visible(moved)

    # ----- Natural gradients ------------------------------------------------------------------

    def target(self, visible: Tensor, recognition: Tensor | None = None) -> Tensor:
        """A joint target: a visible law, and a law of the hidden dims given the visible ones.

        :param visible: # shape: (*batch, *sizes of visible dims)
        :param recognition: Q(h|v), a table that sums to 1 over the hidden dims; p(h|v) at the
            parameter, which is perfect recognition, if None. # shape: (*batch, *sizes)
        :returns: # shape: (*batch, *sizes)
        """
        marginal = self.layout.visible_law(visible, "the visible target").unsqueeze(-1)
        if recognition is None:
            return self.layout.unfold(marginal * self._pushed.share.square())
        return self.layout.unfold(marginal * self.layout.conditional(recognition))

    def elbo(self, target: Tensor) -> NaturalGradient:
        """The natural gradient of the ELBO, ``E_target[log p(v, h)]``, in the joint metric.

        :param target: a joint law, p*(v) Q(h|v). # shape: (*batch, *sizes)
        """
        law = self.layout.joint_law(target, "the joint target")
        covector = covector_of(law, self.folded).flatten(-2)
        return self._joint_gradient("ELBO with a joint target", covector)

    def recognition(self, target: Tensor) -> NaturalGradient:
        """The same where Q(h|v) is p(h|v) at the parameter: the direction in which EM sets out.

        :param target: a visible law. # shape: (*batch, *sizes of visible dims)
        """
        law = self.layout.visible_law(target, "the visible target")
        covector = self._pushed.lift(covector_of(law, self._visible))
        return self._joint_gradient("ELBO with perfect recognition", covector)

    def evidence(self, target: Tensor) -> NaturalGradient:
        """The natural gradient of the evidence, ``E_target[log p(v)]``, in the visible metric.

        :param target: a visible law. # shape: (*batch, *sizes of visible dims)
        """
        law = self.layout.visible_law(target, "the visible target")
        covector = covector_of(law, self._visible)
        how = (self.layout, self.visible_root, covector, self._visible, None)
        return NaturalGradient("evidence", *how)

    def gradient(self, field: str, target: Tensor) -> NaturalGradient:
        """One of the three by its name, those of the visible law for the target's marginal.

        :param field: ``"elbo"``, ``"recognition"`` or ``"evidence"``.
        :param target: a joint law, p*(v) Q(h|v); see :meth:`target`. # shape: (*batch, *sizes)
        :raises ArgumentError: for another name.
        """
        if field == "elbo":
            return self.elbo(target)
        marginal = self.layout.joint_law(target, "the joint target").sum(-1)
        visible = self.layout.unfold_visible(marginal)
        if field == "recognition":
            return self.recognition(visible)
        if field == "evidence":
            return self.evidence(visible)
        raise errors.ArgumentError(
            f"there is no gradient field {field!r}. Mend: one of "
            f"{', '.join(map(repr, Fields._fields))}."
        )

    def fields(self, target: Tensor) -> Fields:
        """All three, those of the visible law for the target's marginal.

        :param target: a joint law, p*(v) Q(h|v); see :meth:`target`. # shape: (*batch, *sizes)
        """
        return Fields(*(self.gradient(field, target) for field in Fields._fields))

    def _joint_gradient(self, of: str, covector: Tensor) -> NaturalGradient:
        how = (self.layout, self.joint_root, covector, self._visible, self._pushed)
        return NaturalGradient(of, *how)

    # ----- Cylindrical or not -----------------------------------------------------------------

    def cylindricity(self, norm: str = "spectral") -> Cylindricity:
        """Whether ELBO and evidence rise alike here, whatever the target.

        :param norm: of the defect: ``"spectral"`` or ``"frobenius"``.
        """
        return cylindricity(self.joint_root, self._pushed, norm)

    def __str__(self) -> str:
        size = len(self.names)
        sizes = dict(zip(self.layout.dims, self.layout.sizes, strict=True))
        ranks = [int(r.rank.min()) for r in (self.joint_root, self.visible_root)]
        lines = [
            f"finite model at {self._shown()}",
            f"  visible: {', '.join(f'{n} ({sizes[n]})' for n in self.layout.visible)}; "
            f"hidden: {', '.join(f'{n} ({sizes[n]})' for n in self.layout.hidden)}",
            f"  Fisher matrices of {size} parameters: joint rank {ranks[0]}, visible {ranks[1]}",
            f"  {self.cylindricity()}",
        ]
        return "\n".join(lines)

    def _shown(self) -> str:
        if self.theta.dim() > 1:
            return f"{self.theta[..., 0].numel()} parameters of {len(self.names)} numbers"
        pairs = zip(self.names, self.theta.tolist(), strict=True)
        text = ", ".join(f"{n}={v:.4g}" for n, v in pairs)
        return text if len(text) < 80 else f"{text[:77]}..."

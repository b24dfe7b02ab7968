# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Fisher matrices by their roots, and steepest ascents in the metric that they are.

With ``A = diag(p)^-1/2 dp/dtheta`` the Fisher matrix is ``A'A``, and the gradient of a function of
the law is ``A'w``, ``w = sqrt(p) df/dp``. So its natural gradient is ``pinv(A) w``, and the
velocity of the law ``P_T w`` (divided by ``sqrt(p)``), with ``P_T = A pinv(A)`` the projector on
the model's tangent space: half of the digits that the squares ``A'A`` would lose are kept.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from .. import errors

#: A singular value of A, its columns scaled to size 1, is rounding below so many eps for each row
#: or column. So is a column of A itself: a unit of that parameter moves log p by rounding alone.
ROUNDED = 16.0

#: A singular value decomposition: orthonormal columns, values, orthonormal rows.
Decomposed: TypeAlias = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class FisherRoot:
    """The root A of a Fisher matrix.

    :param root: # shape: (*batch, states, parameters)
    :param sizes: of what each column is a sum of: eps times it is rounding, however much of it
        cancels. # shape: (*batch, parameters)
    :param law: whose Fisher matrix it is, in words.
    :param eps: the rounding of the numbers that it was computed from.
    """

    root: Tensor
    sizes: Tensor
    law: str
    names: tuple[str, ...]
    eps: float

    @cached_property
    def matrix(self) -> Tensor:
        """The Fisher matrix. # shape: (*batch, parameters, parameters)"""
        return self.root.mT @ self.root

    @cached_property
    def scale(self) -> Tensor:
        """The sizes of the columns; 1 of those that are 0. # shape: (*batch, parameters)"""
        return torch.where(self.sizes > ROUNDED * self.eps, self.sizes, 1.0)

    @cached_property
    def decomposed(self) -> Decomposed:
        """The singular value decomposition of A with columns of size 1."""
        scaled = self.root / self.scale.unsqueeze(-2)
        left, values, right = torch.linalg.svd(scaled, full_matrices=False)
        return left, values, right

    @cached_property
    def is_kept(self) -> Tensor:
        """Which singular values are not rounding. # shape: (*batch, min(states, parameters))"""
        kept: Tensor = self.decomposed[1] > ROUNDED * self.eps * max(self.root.shape[-2:])
        return kept

    @cached_property
    def rank(self) -> Tensor:
        """The dimension of the tangent space. # shape: (*batch,)"""
        return self.is_kept.sum(-1)

    @property
    def is_singular(self) -> Tensor:
        """Whether the Fisher matrix has no inverse. # shape: (*batch,)"""
        return self.rank < self.root.shape[-1]

    @cached_property
    def basis(self) -> Tensor:
        """Orthonormal columns that span the tangent space, with columns of 0 for want of more."""
        left, _, _ = self.decomposed
        if not self.root.requires_grad:
            return left * self.is_kept.unsqueeze(-2)
        return _columns(self.root / self.scale.unsqueeze(-2), self.decomposed, self.is_kept)

    def project(self, covector: Tensor) -> Tensor:
        """``P_T w``. # shape: (*batch, states)"""
        inside = self.basis.mT @ covector.unsqueeze(-1)
        return (self.basis @ inside).squeeze(-1)

    def log_volume(self) -> Tensor:
        """The logarithm of ``sqrt(det G)``; -inf where it is singular. # shape: (*batch,)"""
        size = self.root.shape[-1]
        values = self.decomposed[1]
        if values.shape[-1] < size:
            return torch.full_like(values[..., 0], -torch.inf)
        total = values.log().sum(-1) + self.scale.log().sum(-1)
        return torch.where(self.is_singular, -torch.inf, total)

    def solve(self, covector: Tensor, singular: str) -> Tensor:
        """``pinv(A) w``, the natural gradient in the parameters. # shape: (*batch, parameters)

        :param singular: ``"refuse"`` or ``"pinv"``.
        :raises SingularFisherError: if there is no inverse, and none was chosen.
        """
        if singular not in ("refuse", "pinv"):
            raise errors.ArgumentError(
                f'singular={singular!r} is not one of "refuse", "pinv". Mend: one of these.'
            )
        is_singular = self.is_singular.detach()
        any_singular = bool(is_singular.any())
        if any_singular and singular == "refuse":
            raise self._refused()
        scaled = self.root / self.scale.unsqueeze(-2)
        found = _shortest(scaled, self.decomposed, self.is_kept, covector) / self.scale
        if not any_singular:
            return found
        # Of all directions with this velocity the shortest one, which rows of A span.
        decomposed = torch.linalg.svd(self.root, full_matrices=False)
        count = decomposed[1].shape[-1]
        kept = torch.arange(count, device=self.root.device) < self.rank.unsqueeze(-1)
        shortest = _shortest(self.root, decomposed, kept, covector)
        return torch.where(is_singular.unsqueeze(-1), shortest, found)

    def _refused(self) -> errors.SingularFisherError:
        worst = int(self.rank.flatten().argmin())
        rank, size = int(self.rank.flatten()[worst]), self.root.shape[-1]
        root = self.root.detach().reshape(-1, *self.root.shape[-2:])[worst]
        limit = ROUNDED * self.eps * self.scale.detach().reshape(-1, size)[worst]
        columns = zip(self.names, torch.linalg.vector_norm(root, dim=0) <= limit, strict=True)
        idle = [name for name, is_idle in columns if bool(is_idle)]
        why = f"; it does not depend on {', '.join(idle)}" if idle else ""
        return errors.SingularFisherError(
            f"the Fisher matrix of the {self.law} law is singular, of rank {rank} with {size} "
            f"parameters{why}: several directions of the parameters move the law alike. Mend: "
            'singular="pinv" takes the shortest of these, which depends on the coordinates; or '
            "look at how the law moves (velocity, cosine), which does not; or take parameters out."
        )


def _shortest(root: Tensor, decomposed: Decomposed, kept: Tensor, covector: Tensor) -> Tensor:
    """``pinv(A) w``. # shape: (*batch, parameters)

    :param decomposed: A's singular value decomposition.
    :param kept: which singular values are not rounding.
    """
    left, values, right = decomposed
    w = covector.unsqueeze(-1)
    if not root.requires_grad:
        inverse = torch.where(kept, 1.0 / values, 0.0).unsqueeze(-1)
        return (right.mT @ (inverse * (left.mT @ w))).squeeze(-1)
    columns = _columns(root, decomposed, kept)
    rows = _columns(root.mT, (right.mT, values, left.mT), kept)
    between = columns.mT @ root @ rows + torch.diag_embed((~kept).to(root.dtype))
    along: Tensor = torch.linalg.solve(between, columns.mT @ w)
    return (rows @ along).squeeze(-1)


def _columns(root: Tensor, decomposed: Decomposed, kept: Tensor) -> Tensor:
    """An orthonormal basis of what the columns of A span, with its derivatives.

    Singular vectors have none where singular values are alike, as often they are, but what they
    span has: they are held as combinations of the columns, which move.
    """
    _, values, right = (t.detach() for t in decomposed)
    basis = root @ (right.mT * torch.where(kept, 1.0 / values, 0.0).unsqueeze(-2))
    gram = basis.mT @ basis + torch.diag_embed((~kept).to(root.dtype))
    factor = torch.linalg.cholesky(gram)
    rows: Tensor = torch.linalg.solve_triangular(factor, basis.mT, upper=False)
    return rows.mT

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Pyro distribution of a chain of normal vectors: a block-tridiagonal precision matrix."""

from functools import cached_property
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import chain_matrices
from pyro_blr.families.chain_matrices import ChainFactor
from pyro_blr.families.chain_places import Parts
from pyro_blr.families.joint_distributions import _PackedDistribution
from pyro_blr.families.normal import LOG_TWO_PI


class ChainNormalDistribution(_PackedDistribution):
    """Normal of T successive D-vectors, each independent of the others given its two neighbours.

    The parameters broadcast over the batch; nothing is ever as large as the full precision matrix.

    :param loc: the means m_t  # shape: (*batch, T, D)
    :param precision: S_tt, the precision of z_t given its neighbours  # shape: (*batch, T, D, D)
    :param cross_precision: S_t,t+1  # shape: (*batch, T - 1, D, D)
    :raises ValueError: if the joint precision is not positive definite.
    """

    event_dims: ClassVar = {"loc": 2, "precision": 3, "cross_precision": 3}
    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.independent(constraints.real, 2),
        "precision": constraints.independent(constraints.positive_definite, 1),
        "cross_precision": constraints.independent(constraints.real, 3),
    }
    support = constraints.independent(constraints.real, 2)

    def __init__(
        self,
        loc: Tensor,
        precision: Tensor,
        cross_precision: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(
            loc.shape[-2:],
            validate_args,
            loc=loc,
            precision=precision,
            cross_precision=cross_precision,
        )
        if self._validate_args and bool(self._factor.root.isnan().any()):
            raise ValueError("the joint precision of the chain is not positive definite")

    loc: Tensor
    precision: Tensor
    cross_precision: Tensor

    @property
    def parts(self) -> Parts:
        """S_tt and S_t,t+1."""
        return self.precision, self.cross_precision

    @cached_property
    def _factor(self) -> ChainFactor:
        return chain_matrices.factorise(self.parts)

    @property
    def mean(self) -> Tensor:
        """The means.  # shape: (*batch, T, D)"""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The marginal variances.  # shape: (*batch, T, D)"""
        return self._factor.inverse[0].diagonal(dim1=-2, dim2=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        square = self._factor.whitened(value - self.loc).square().sum((-2, -1))
        constant = 0.5 * LOG_TWO_PI * self.event_shape.numel()
        density: Tensor = self._factor.log_diagonal() - constant - 0.5 * square
        return density

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return draws, differentiable in the parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self._factor.back_solve(noise)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        """Return the distribution with its batch dimensions expanded."""
        new = super().expand(batch_shape, _instance)
        new.__dict__.pop("_factor", None)
        return new

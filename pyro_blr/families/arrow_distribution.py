# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Pyro distribution of a normal vector whose precision is an arrow-head matrix."""

from functools import cached_property
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import arrow_matrices
from pyro_blr.families.arrow_matrices import ArrowFactor, Parts, Vector
from pyro_blr.families.joint_distributions import _PackedDistribution
from pyro_blr.families.normal import LOG_TWO_PI

_MATRICES = constraints.independent(constraints.real, 3)


class ArrowNormalDistribution(_PackedDistribution):
    """Normal of (g, l_1, ..., l_N), in which the L-vectors l_n are independent given g.

    The parameters broadcast over the batch; nothing is ever as large as the full precision matrix.

    :param global_loc: m_g  # shape: (*batch, G)
    :param local_loc: m_n  # shape: (*batch, N, L)
    :param global_precision: S_gg, the rows of g in the joint precision  # shape: (*batch, G, G)
    :param cross_precision: S_gn  # shape: (*batch, N, G, L)
    :param local_precision: S_nn, the precision of l_n given g  # shape: (*batch, N, L, L)
    :raises ValueError: if the joint precision is not positive definite.
    """

    event_dims: ClassVar = {
        "global_loc": 1,
        "local_loc": 2,
        "global_precision": 2,
        "cross_precision": 3,
        "local_precision": 3,
    }
    arg_constraints: ClassVar[dict[str, Any]] = {
        "global_loc": constraints.real_vector,
        "local_loc": constraints.independent(constraints.real, 2),
        "global_precision": constraints.positive_definite,
        "cross_precision": _MATRICES,
        "local_precision": constraints.independent(constraints.positive_definite, 1),
    }
    support = constraints.real_vector

    def __init__(
        self,
        global_loc: Tensor,
        local_loc: Tensor,
        global_precision: Tensor,
        cross_precision: Tensor,
        local_precision: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(
            global_loc.shape[-1] + local_loc.shape[-2] * local_loc.shape[-1],
            validate_args,
            global_loc=global_loc,
            local_loc=local_loc,
            global_precision=global_precision,
            cross_precision=cross_precision,
            local_precision=local_precision,
        )
        if self._validate_args and bool(self._factor.schur.isnan().any()):
            raise ValueError(
                "the Schur complement of the local precisions in the joint one is not positive "
                "definite"
            )

    global_loc: Tensor
    local_loc: Tensor
    global_precision: Tensor
    cross_precision: Tensor
    local_precision: Tensor

    @property
    def precision(self) -> Parts:
        """S_gg, S_gn and S_nn."""
        return self.global_precision, self.cross_precision, self.local_precision

    @property
    def locations(self) -> Vector:
        """m_g and m_n."""
        return self.global_loc, self.local_loc

    @cached_property
    def _factor(self) -> ArrowFactor:
        return arrow_matrices.factorise(self.precision)

    @property
    def mean(self) -> Tensor:
        """The mean of (g, l_1, ..., l_N).  # shape: (*batch, G + N L)"""
        return arrow_matrices.pack(self.locations)

    @property
    def variance(self) -> Tensor:
        """The marginal variances.  # shape: (*batch, G + N L)"""
        first, _, local = self._factor.inverse()
        return arrow_matrices.pack(
            (first.diagonal(dim1=-2, dim2=-1), local.diagonal(dim1=-2, dim2=-1))
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        first, local = arrow_matrices.unpack(value - self.mean, self.locations)
        first, local = self._factor.whitened((first, local))
        square = first.square().sum(-1) + local.square().sum((-2, -1))
        constant = 0.5 * LOG_TWO_PI * self.event_shape[0]
        density: Tensor = self._factor.log_diagonal() - constant - 0.5 * square
        return density

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return draws, differentiable in the parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.global_loc.dtype, device=self.global_loc.device)
        spread = self._factor.back_solve(arrow_matrices.unpack(noise, self.locations))
        return self.mean + arrow_matrices.pack(spread)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        """Return the distribution with its batch dimensions expanded."""
        new = super().expand(batch_shape, _instance)
        new.__dict__.pop("_factor", None)
        return new

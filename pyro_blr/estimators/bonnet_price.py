# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""An estimate of E_q[f] whose derivatives in means and covariances are Bonnet's and Price's."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import SampledFactorError


@dataclass(frozen=True, eq=False)
class Variable:
    """A batch of Gaussian variables under q, and draws of it.

    :param mean: the leaf that stands for the means. # shape: (*batch[, D])
    :param covariance: the leaf that stands for the covariances; a variance where events are
        scalars, and of rows that share one, one for all of them. # shape: (*own[, D, D])
    :param precision: its inverse. # shape: that of the covariance
    :param draws: leaves that require a gradient. # shape: (draws, *mean)
    :param scalar: whether events are scalars.
    :param seed: of the signs of probes: with that of the draws the estimate is a function of q, and
        over the seeds it has no bias.
    """

    mean: Tensor
    covariance: Tensor
    precision: Tensor
    draws: Tensor
    scalar: bool
    seed: int = 0

    @property
    def has_rows(self) -> bool:
        """Whether the last batch dim shares one covariance."""
        return not self.scalar and self.covariance.dim() == self.mean.dim()


#: From the gradient at each draw, with its graph, to the mean Hessian within each event; None if 0.
Curvature = Callable[[Tensor, Variable], Tensor | None]


def bonnet_price(
    values: Tensor, variables: Sequence[Variable], curvatures: Sequence[Curvature]
) -> Tensor:
    """E_q[f], a scalar, differentiable in the means and covariances of the variables.

    The value is the mean of the values. Its derivative in a mean is the mean gradient, in a
    covariance half the mean Hessian (Opper & Archambeau 2009; arXiv 2107.04562, eqs. 10-11). They
    are computed when they are asked for, variable by variable, and have no derivatives themselves.

    :param values: f at the draws, computed from the variables' draws. # shape: (draws,)
    :param curvatures: how the mean Hessian in each variable is estimated.
    """
    derivatives = _Derivatives(values, variables, curvatures)
    return _with_slopes(values, variables, derivatives.slope, derivatives.curvature)


Derivative = Callable[[int], Tensor | None]


def _with_slopes(
    values: Tensor, variables: Sequence[Variable], slope: Derivative, curvature: Derivative
) -> Tensor:
    """The mean of values, whose derivatives in means and covariances are given."""
    total = values.mean()
    for i, variable in enumerate(variables):
        own = _Slope.apply(variable.mean, slope, i)  # type: ignore[no-untyped-call]
        curved = _Slope.apply(variable.covariance, curvature, i)  # type: ignore[no-untyped-call]
        total = total + own + curved
    return total


class MeanDerivatives:
    """Bonnet's and Price's derivatives, added up over parts of the draws.

    :param variables: with all of the draws.
    """

    def __init__(self, variables: Sequence[Variable]) -> None:
        self.variables = variables
        self._slopes: list[Tensor | None] = [None] * len(variables)
        self._curvatures: list[Tensor | None] = [None] * len(variables)

    def add(
        self, values: Tensor, variables: Sequence[Variable], curvatures: Sequence[Curvature]
    ) -> None:
        """Add a part, whose graph is not needed any more.

        :param values: as those of :func:`bonnet_price`.
        :param variables: with the draws of the part.
        """
        derivatives = _Derivatives(values, variables, curvatures)
        for i, (whole, part) in enumerate(zip(self.variables, variables, strict=True)):
            share = len(part.draws) / len(whole.draws)
            self._slopes[i] = _sum(self._slopes[i], derivatives.slope(i), share)
            self._curvatures[i] = _sum(self._curvatures[i], derivatives.curvature(i), share)

    def estimate(self, values: Tensor) -> Tensor:
        """E_q[f] with the derivatives of all parts, a scalar.

        :param values: f at all of the draws. # shape: (draws,)
        """
        slope, curvature = self._slopes.__getitem__, self._curvatures.__getitem__
        return _with_slopes(values, self.variables, slope, curvature)


def _sum(total: Tensor | None, mean: Tensor | None, share: float) -> Tensor | None:
    """A total with the mean of a share of the draws; None is 0."""
    if mean is None:
        return total
    return share * mean if total is None else total + share * mean


class _Derivatives:
    """The mean gradients and Hessians of f over its draws, each computed once."""

    def __init__(
        self, values: Tensor, variables: Sequence[Variable], curvatures: Sequence[Curvature]
    ) -> None:
        self.values = values
        self.variables = variables
        self.curvatures = curvatures

    @cached_property
    def gradients(self) -> tuple[Tensor | None, ...]:
        """At each draw, with their graph; None where f has none. # shape of each: (draws, *mean)"""
        if not self.values.requires_grad:  # z.detach() alone
            return (None,) * len(self.variables)
        draws = [v.draws for v in self.variables]
        return torch.autograd.grad(self.values.sum(), draws, create_graph=True, allow_unused=True)

    def slope(self, i: int) -> Tensor | None:
        """Bonnet's derivative in a variable's mean."""
        gradient = self.gradients[i]
        if gradient is None:
            return None
        return gradient.detach().to(self.variables[i].mean.dtype).mean(0)

    def curvature(self, i: int) -> Tensor | None:
        """Price's derivative in a variable's covariance."""
        gradient = self.gradients[i]
        if gradient is None:
            return None
        with _twice_differentiable():
            hessian = self.curvatures[i](gradient, self.variables[i])
        return None if hessian is None else 0.5 * hessian


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Say of an operation that has no second derivative what can be done."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in _NO_SECOND):
            raise
        raise SampledFactorError(
            f"an operation of a sampled factor has no second derivative "
            f"({str(error).splitlines()[0]}), of which messages are made. Mend: attention within "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH); recurrent cells on a GPU within "
            "torch.backends.cudnn.flags(enabled=False); an embedding bag as the sum of embeddings."
        ) from error


#: What torch says of it.
_NO_SECOND = ("derivative for", "double backward", "once_differentiable")


class _Slope(torch.autograd.Function):
    """0, with a derivative in the leaf that is computed when it is asked for."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, derivative: Derivative, i: int) -> Tensor:
        ctx.derivative, ctx.i, ctx.shape = derivative, i, leaf.shape
        return leaf.new_zeros(())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        with torch.enable_grad():
            derivative = ctx.derivative(ctx.i)
        return None if derivative is None else gradient * derivative, None, None

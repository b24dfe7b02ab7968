# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The statistics of one block of q, and the gradient with respect to its mean parameters.

L is differentiated in *leaves*: a Gaussian's mean and covariance, any other family's mean
parameters. A Gaussian's leaves are central because its mean parameter ``E[zz']`` is ``Cov + mm'``,
from which the covariance would have to be recovered by a cancelling difference.
:meth:`Moments.message` turns the gradient in the leaves into dL/dmean_params by the chain rule

    dL/dE[zz'] = dL/dCov,        dL/dE[z] = dL/dm - 2 dL/dCov m.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..families import Natural, matrices
from ..families.normal import LOG_TWO_PI
from ..linear_algebra import at_draws
from .blocks import Block
from .statistics import COV, LOCATION, MEAN, SECOND, SPREAD, Statistic, sufficient_statistics


class Moments(ABC):
    """The statistics of a block at given natural parameters.

    :param natural: the natural parameters. If they require a gradient, so do the statistics,
        through them (for Hessian-vector products); otherwise the leaves do (for messages).
    """

    def __init__(self, block: Block, natural: Natural) -> None:
        self.block = block
        self.natural = natural
        self._cache: dict[tuple[Hashable, bool], Tensor] = {}
        leaves = self._coordinates(natural)
        if not any(n.requires_grad for n in natural):
            leaves = tuple(t.detach().requires_grad_() for t in leaves)
        self.leaves = leaves

    def statistic(self, which: Statistic) -> Tensor:
        """A statistic's expectation; its dims are the ones that its addresses name."""
        return self._kept(which, lambda: self._statistic(which))

    def _kept(self, what: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """What is computed once with a graph and once without, for where none is built."""
        key = what, torch.is_grad_enabled()
        value = self._cache.get(key)
        if value is None:
            value = self._cache[key] = compute()
        return value

    def elementwise(self, which: Statistic) -> Tensor | None:
        """The diagonal of a matrix statistic, where that costs less than the matrix; or None."""
        return None

    def entropy(self) -> Tensor:
        """The entropy of the whole block in nats, a scalar."""
        return self._kept("entropy", lambda: self.block.family.entropy(self.natural).sum())

    @abstractmethod
    def _coordinates(self, natural: Natural) -> tuple[Tensor, ...]: ...

    @abstractmethod
    def _statistic(self, which: Statistic) -> Tensor: ...

    @abstractmethod
    def message(self, gradient: tuple[Tensor, ...]) -> Natural:
        """dL/dmean_params from the gradient in the leaves."""

    def of_coefficients(self, coefficients: Sequence[Tensor | None]) -> Natural:
        """The message whose pairing with the mean parameters has these coefficients.

        :param coefficients: by statistic, None where there is none; of a matrix any one of those
            that are paired alike with symmetric matrices.
        """
        filled = tuple(
            torch.zeros_like(natural) if given is None else given.reshape(natural.shape)
            for given, natural in zip(coefficients, self.natural, strict=True)
        )
        return self.block.family.symmetrize(filled)

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """log q at draws of the block, in nats, differentiable in the leaves.

        :param value: # shape: (draws, *block)
        :return: # shape: (draws, *batch)
        """

    @property
    def noise_shape(self) -> tuple[int, ...] | None:
        """The shape of the noise of a draw; None where draws take noise of their own."""
        return None

    @abstractmethod
    def draw(self, noise: Tensor | None = None, count: int = 1) -> Tensor:
        """Draws of the block, differentiable in the leaves, as the family has its values.

        :param noise: standard normal numbers; drawn anew if None. # shape: (count, *noise_shape)
        :param count: the number of draws where there is no noise.
        :return: # shape: (count, *block)
        """


class GaussianMoments(Moments):
    """Leaves: mean # shape: (*batch[, D]) and covariance # shape: (*batch[, D, D])."""

    #: Half the log-determinant of the precision, where its factor is known. # shape: (*batch)
    _log_diagonal: Tensor | None = None

    @property
    def _scalar(self) -> bool:
        return self.block.event_size is None

    def _coordinates(self, natural: Natural) -> tuple[Tensor, ...]:
        if self._scalar:
            variance = -0.5 / natural[1]
            return natural[0] * variance, variance
        factor = torch.linalg.cholesky(-2 * natural[1])
        self._log_diagonal = matrices.log_diagonal(factor)
        covariance = torch.cholesky_inverse(factor)
        mean = torch.cholesky_solve(natural[0].unsqueeze(-1), factor).squeeze(-1)
        return mean, covariance

    def entropy(self) -> Tensor:
        if self._log_diagonal is None:
            return super().entropy()
        constant = 0.5 * (1.0 + LOG_TWO_PI) * self.natural[0].shape[-1]
        return (constant - self._log_diagonal).sum()

    def _statistic(self, which: Statistic) -> Tensor:
        mean, cov = self.leaves
        if which == MEAN:
            return mean
        if which == COV:
            return cov
        assert which == SECOND
        outer = mean * mean if self._scalar else mean.unsqueeze(-1) * mean.unsqueeze(-2)
        return cov + outer

    @property
    def mean(self) -> Tensor:
        """The means. # shape: (*batch[, D])"""
        return self.leaves[0]

    @property
    def covariance(self) -> Tensor:
        """The covariances (variances of scalars). # shape: (*batch[, D, D])"""
        return self.leaves[1]

    @property
    def variance(self) -> Tensor:
        """The marginal variances. # shape: that of the mean"""
        return self.covariance if self._scalar else self.covariance.diagonal(dim1=-2, dim2=-1)

    def message(self, gradient: tuple[Tensor, ...]) -> Natural:
        dmean, dcov = gradient
        mean = self.leaves[0].detach()
        if self._scalar:
            return dmean - 2 * dcov * mean, dcov
        dcov = 0.5 * (dcov + dcov.mT)
        return dmean - 2 * (dcov @ mean.unsqueeze(-1)).squeeze(-1), dcov

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return tuple(self.leaves[0].shape)

    def draw(self, noise: Tensor | None = None, count: int = 1) -> Tensor:
        mean, cov = self.leaves
        noise = torch.randn(count, *mean.shape).to(mean) if noise is None else noise
        if self._scalar:
            return mean + cov.sqrt() * noise
        factor: Tensor = torch.linalg.cholesky(cov)
        return mean + at_draws(factor, noise)

    def log_prob(self, value: Tensor) -> Tensor:
        mean, cov = self.leaves
        if self._scalar:
            squares = (value - mean).square() / cov
            return -0.5 * (squares + cov.log() + LOG_TWO_PI)
        factor = torch.linalg.cholesky(cov)
        if self.block.row_dims:
            factor = factor.unsqueeze(-3)
        white = torch.linalg.solve_triangular(factor, (value - mean).unsqueeze(-1), upper=False)
        logs = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = mean.shape[-1] * LOG_TWO_PI
        log_density: Tensor = -0.5 * (white.square().sum((-2, -1)) + constant) - logs
        return log_density


class SharedGaussianMoments(GaussianMoments):
    """Rows with one common covariance, which is never expanded along them.

    Leaves: mean # shape: (*own, N, D) and covariance # shape: (*own, D, D). The mean parameters are
    the means and ``N Cov + sum_n m_n m_n'``, hence the division by N in the message.
    """

    def _coordinates(self, natural: Natural) -> tuple[Tensor, ...]:
        factor = torch.linalg.cholesky(-2 * natural[1])
        mean = torch.cholesky_solve(natural[0].mT, factor).mT
        return mean, torch.cholesky_inverse(factor)

    def _statistic(self, which: Statistic) -> Tensor:
        mean, cov = self.leaves
        if which == MEAN:
            return self.mean
        if which == COV:
            return cov
        assert which == SECOND
        return mean.shape[-2] * cov + mean.mT @ mean

    @property
    def mean(self) -> Tensor:
        mean = self.leaves[0]
        return mean.reshape(*self.block.batch_shape, mean.shape[-1])

    @property
    def covariance(self) -> Tensor:
        cov = self.leaves[1]
        own = cov.shape[:-2]
        rows = (1,) * self.block.row_dims
        matrix = cov.shape[-2:]
        return cov.reshape(*own, *rows, *matrix).expand(*self.block.batch_shape, *matrix)

    def message(self, gradient: tuple[Tensor, ...]) -> Natural:
        dmean, dcov = gradient
        mean = self.leaves[0].detach()
        dcov = 0.5 * (dcov + dcov.mT) / mean.shape[-2]
        return dmean - 2 * (mean @ dcov), dcov

    def draw(self, noise: Tensor | None = None, count: int = 1) -> Tensor:
        mean, cov = self.leaves
        noise = torch.randn(count, *mean.shape).to(mean) if noise is None else noise
        factor: Tensor = torch.linalg.cholesky(cov)
        return mean + noise @ factor.mT


class FixedScaleMoments(GaussianMoments):
    """Elements whose variance is given: their mean alone is a leaf that messages move.

    The mean parameter is m and the base measure a Gaussian, of which ``-dE_q[log h]/dm = m/s^2`` is
    the natural parameter itself: the message is ``natural + dL/dm``.
    """

    def _coordinates(self, natural: Natural) -> tuple[Tensor, ...]:
        family: Any = self.block.family
        return family.variance * natural[0], torch.full_like(natural[0].detach(), family.variance)

    def message(self, gradient: tuple[Tensor, ...]) -> Natural:
        return (self.natural[0].detach() + gradient[0],)


class _NaturalOfMean(torch.autograd.Function):
    """natural(mean_params), whose value is known; backward applies the inverse Fisher matrix."""

    @staticmethod
    def forward(ctx: Any, moments: "Moments", *mean_params: Tensor) -> Natural:
        ctx.moments = moments
        return tuple(n.clone() for n in moments.natural)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *covector: Tensor | None) -> tuple[Tensor | None, ...]:
        moments = ctx.moments
        filled = tuple(
            torch.zeros_like(n) if g is None else g
            for g, n in zip(covector, moments.natural, strict=True)
        )
        return (None, *moments.block.family.inverse_fisher(moments.natural, filled))


class MeanParamsMoments(Moments):
    """Leaves: the family's own mean parameters; their order is that of its statistics.

    Other moments (``E[tau ** -0.5]``, draws) are functions of the natural parameters, which are
    connected to the leaves by the inverse Fisher matrix.
    """

    def _coordinates(self, natural: Natural) -> tuple[Tensor, ...]:
        return self.block.family.mean_params(natural)

    @property
    def _connected_natural(self) -> Natural:
        if any(n.requires_grad for n in self.natural):
            return self.natural
        return tuple(_NaturalOfMean.apply(self, *self.leaves))  # type: ignore[no-untyped-call]

    def _statistic(self, which: Statistic) -> Tensor:
        sufficient = sufficient_statistics(self.block)
        if which in sufficient:
            return self.leaves[sufficient.index(which)]
        kind, power = which
        assert kind == "power"
        value = self.block.family.expected_power(self._connected_natural, power)
        assert value is not None
        return value

    def message(self, gradient: tuple[Tensor, ...]) -> Natural:
        # Only the symmetric part of a matrix parameter's derivative acts on symmetric matrices.
        dims = self.block.family.natural_event_dims
        return tuple(0.5 * (g + g.mT) if d == 2 else g for g, d in zip(gradient, dims, strict=True))

    @property
    def noise_shape(self) -> tuple[int, ...] | None:
        return self.block.family.noise_shape(self.natural)

    def draw(self, noise: Tensor | None = None, count: int = 1) -> Tensor:
        if noise is None:
            return self.block.family.rsample(self._connected_natural, (count,))
        return self.block.family.at_noise(self._connected_natural, noise)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.block.family.log_prob(self._connected_natural, value)


class JointMoments(MeanParamsMoments):
    """A Gaussian z and its precision tau: also the moments of z that are no mean parameters.

    Given tau, z has the mean ``LOCATION`` and the covariance ``SPREAD / tau``.
    """

    def _statistic(self, which: Statistic) -> Tensor:
        if which in sufficient_statistics(self.block):
            return super()._statistic(which)
        family: Any = self.block.family
        natural = self._connected_natural
        if which == LOCATION:
            location: Tensor = family.location(natural)
            return location
        if which == SPREAD:
            return family.conditional_covariance(natural)  # type: ignore[no-any-return]
        kind, power = which
        assert kind == "power"
        scale = family.scale_marginal(natural)
        value: Tensor = family.scale_family.expected_power(scale, power)
        return value


def differentiated(total: Tensor, moments: Sequence[Moments]) -> list[Natural]:
    """d total / dmean_params of each block, by one backward pass that keeps the graph."""
    leaves = [leaf for m in moments for leaf in m.leaves]
    gradient: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if leaves and total.requires_grad:
        gradient = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
    filled = iter(
        torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradient, leaves, strict=True)
    )
    return [m.message(tuple(next(filled) for _ in m.leaves)) for m in moments]

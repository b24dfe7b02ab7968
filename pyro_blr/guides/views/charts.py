# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Blocks whose natural parameters are a function of others: the Fisher matrix pulled back to these.

A guide may have other parameters than natural ones, ``natural = f(theta)``: ``Normal(loc, exp(s))``
has theta = (loc, s). With J = df/dtheta and F the family's Fisher matrix, the metric of theta is
J'FJ and the natural gradient of the ELBO in theta is

    (J'FJ)^-1 J'F (message - natural),

so that a block in a chart is to ``steps/`` a unit like any other: its coordinates are theta, its
message is theta plus this step, and its family is the chart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...conjugate_gradients import solve
from ...families import ExponentialFamily, Natural
from ...families.base import derivative_times
from ...lifting import host
from ...lifting.blocks import Block

#: Conjugate-gradient iterations for the pulled-back metric.
MAX_ITERATIONS = 200

#: The relative residual at which they stop. A step is searched along, so two digits will do; where
#: the metric is nearly singular (W and its rotations have one covariance W W') more of them would
#: only lengthen the step along the directions that change nothing. A preconditioner must be linear.
STEP, PRECONDITIONER = 1e-2, 1e-8


class Chart:
    """A family in the coordinates theta of a guide: what ``steps/`` asks of a family.

    :param family: the family of the block.
    :param natural: natural parameters from theta, twice differentiable.
    """

    #: Its steps are those of natural parameters, in its own coordinates.
    is_curved = False

    def __init__(self, family: ExponentialFamily, natural: Callable[[Natural], Natural]) -> None:
        self.family = family
        self.natural = natural
        self.name = family.name

    def in_domain(self, theta: Natural) -> Tensor:
        """Whether every element is a proper distribution."""
        with torch.no_grad():
            finite = torch.stack([torch.isfinite(t).all() for t in theta]).all()
            if not host.truth(finite):
                return finite
            return self.family.in_domain(self.natural(theta)).all()

    def symmetrize(self, covector: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A covector as it is: theta is not restricted to symmetric matrices."""
        return covector

    def mean_params(self, theta: Natural) -> Natural:
        """A map whose derivative at theta is the metric J'FJ: ``J' mean_params(f(.))``."""
        fixed, natural = self._graph(theta)
        mean_params = self.family.mean_params(self.natural(theta))
        return _filled(fixed, natural, mean_params, create_graph=True)

    def fisher(self, theta: Natural, vector: Natural) -> tuple[Tensor, ...]:
        """``J'FJ vector``."""
        return derivative_times(self.mean_params, theta, vector)

    def inverse_fisher(self, theta: Natural, covector: tuple[Tensor, ...]) -> Natural:
        """``(J'FJ)^-1 covector``, by conjugate gradients; of least norm where it is singular."""
        return self._solved(theta, covector, PRECONDITIONER)

    def message(self, theta: Natural, message: Natural) -> Natural:
        """theta plus the natural gradient of the ELBO in theta.

        :param message: the message to the block, in natural coordinates.
        """
        with torch.enable_grad():
            fixed, natural = self._graph(theta)
            gap = tuple(m - n.detach() for m, n in zip(message, natural, strict=True))
            covector = _filled(fixed, natural, self.family.fisher(natural, gap))
        step = self._solved(theta, covector, STEP)
        return tuple(t.detach() + s for t, s in zip(theta, step, strict=True))

    def _solved(self, theta: Natural, covector: Natural, relative: float) -> Natural:
        times = self._metric(theta)
        return tuple(solve(times, covector, most=MAX_ITERATIONS, relative=relative).value)

    def _graph(self, theta: Natural) -> tuple[Natural, Natural]:
        fixed = tuple(t.detach().clone().requires_grad_() for t in theta)
        with torch.enable_grad():
            return fixed, self.natural(fixed)

    def _metric(self, theta: Natural) -> Callable[[Sequence[Tensor]], Natural]:
        """v -> J'FJ v. J v is the derivative of the linear map u -> J'u."""
        fixed, natural = self._graph(theta)
        with torch.enable_grad():
            dual = tuple(torch.zeros_like(n).requires_grad_() for n in natural)
            pulled = _filled(fixed, natural, dual, create_graph=True)

        def times(vector: Sequence[Tensor]) -> Natural:
            with torch.enable_grad():
                pushed = torch.autograd.grad(
                    pulled, dual, tuple(vector), retain_graph=True, allow_unused=True
                )
                along = tuple(
                    torch.zeros_like(n) if p is None else p
                    for p, n in zip(pushed, natural, strict=True)
                )
                return _filled(fixed, natural, self.family.fisher(natural, along))

        return times


@dataclass(frozen=True, eq=False)
class ChartedBlock(Block):
    """A block in the coordinates of a chart, which is its ``family``.

    :param inner: the same block in natural coordinates, as the energy knows it.
    """

    inner: Any = None

    @property
    def chart(self) -> Chart:
        """The family, as what it is."""
        chart: Any = self.family
        return chart  # type: ignore[no-any-return]


def charted(block: Block, natural: Callable[[Natural], Natural]) -> ChartedBlock:
    """A block in other coordinates.

    :param natural: its natural parameters from these.
    """
    chart: Any = Chart(block.family, natural)
    return ChartedBlock(
        block.name,
        chart,
        block.sites,
        block.batch_shape,
        block.event_size,
        block.placements,
        inner=block,
    )


def _filled(
    leaves: Natural, values: Natural, covector: Natural, create_graph: bool = False
) -> Natural:
    """J' covector, 0 where the values do not depend on a leaf."""
    pairs = [(v, c) for v, c in zip(values, covector, strict=True) if v.requires_grad]
    with torch.enable_grad():
        found = torch.autograd.grad(
            [value for value, _ in pairs],
            leaves,
            [c for _, c in pairs],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
    return tuple(
        torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The quadratures of a factor: all of them have a rule, or the factor is at draws."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..lifting import host
from ..lifting.blocks import Block
from ..lifting.moments import Moments
from .build import resample
from .eliminated import EliminatedFactor, QuadraturePart
from .factors import Factor, KeptRule, QuadratureFactor
from .non_finite import non_finite
from .weighted import WeightedFactor, no_expectation


def quadratures(factor: Factor) -> list[QuadratureFactor]:
    """The quadratures that a factor is made of."""
    if isinstance(factor, EliminatedFactor):
        return [p.factor for p in factor.parts if isinstance(p, QuadraturePart)]
    if isinstance(factor, WeightedFactor):
        return [factor.part.factor]
    return [factor] if isinstance(factor, QuadratureFactor) else []


def with_rules(
    factor: Factor,
    moments: Mapping[Block, Moments],
    tolerance: float,
    kept: dict[str, KeptRule] | None,
    estimator: str,
) -> Factor:
    """The factor with a rule chosen for each of its quadratures, or at draws where one has none.

    :param kept: rules that were chosen a short way from here, by site.
    :param estimator: of the messages at draws.
    :raises NonFiniteError: where there is none since the moments are not finite.
    """
    for quadrature in quadratures(factor):
        if not quadrature.calibrate(moments, tolerance, kept):
            _check_moments(quadrature, moments)
            return _at_draws(factor, quadrature, estimator)
    return factor


def without_rules(factor: Factor, why: str, estimator: str) -> Factor:
    """The factor at draws, for a reason; as it is if it has no quadrature."""
    found = quadratures(factor)
    if not found:
        return factor
    found[0].refusal = why
    return _at_draws(factor, found[0], estimator)


def _at_draws(factor: Factor, refused: QuadratureFactor, estimator: str) -> Factor:
    """The factor at draws, as one of its quadratures was refused.

    :raises DiscreteLatentError: for discrete latents that q holds, of which draws say nothing.
    """
    if isinstance(factor, WeightedFactor):
        raise no_expectation(factor.name, factor.summed.node, refused.refusal)
    if isinstance(factor, EliminatedFactor):
        return factor.at_draws(f"{refused.refusal}; {refused.reason}")
    return resample(refused, estimator)


def _check_moments(refused: QuadratureFactor, moments: Mapping[Block, Moments]) -> None:
    if refused.error != refused.error or refused.error == float("inf"):
        scalars = refused.scalars(moments)
        if not host.truth(_are_finite((*scalars.means, *scalars.variances))):
            raise non_finite(refused.name)


def _are_finite(values: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([torch.isfinite(v).all() for v in values]).all()

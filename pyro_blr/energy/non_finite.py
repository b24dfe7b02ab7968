# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which site makes an ELBO NaN or infinite."""

import math
from collections.abc import Mapping

from .. import errors
from ..lifting import host
from ..lifting.blocks import Block
from ..lifting.moments import Moments
from .eliminated import EliminatedFactor
from .factors import Factor


def culprit(factor: Factor, moments: Mapping[Block, Moments]) -> str:
    """The site that makes a factor NaN or infinite; of a sum over discrete latents one of many."""
    if isinstance(factor, EliminatedFactor):
        values = zip(factor.parts, factor.expected(moments), strict=True)
        wrong = [p.name for p, v in values if host.truth((v.isnan() | (v == math.inf)).any())]
        return wrong[0] if wrong else factor.name
    return factor.name


def non_finite(site: str, is_at_mean: bool = False) -> errors.NonFiniteError:
    """The error for a factor that is NaN or infinite.

    :param is_at_mean: whether steps go to where the log density is highest, bounded or not.
    """
    unbounded = (
        '; or leave out estimator="delta", if the log density has no upper bound (the loss fell '
        "and fell): it has no mode then, and the optimum of the ELBO needs none"
    )
    return errors.NonFiniteError(
        f"the expected log density of site {site!r} is NaN or infinite. Mend: look for NaN or "
        "infinity in its data, its covariates or its distribution's arguments and remove these "
        "rows, or mask them (poutine.mask, and other values in the place of NaN covariates); if "
        "they are finite, look for an argument that latents take out of its domain (a scale that "
        "may be negative), start from a narrower guide (init_scale) or rescale the covariates"
        f"{unbounded if is_at_mean else ''}."
    )

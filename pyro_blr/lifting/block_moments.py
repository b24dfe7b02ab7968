# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The statistics of a block by its kind."""

from ..families import Natural
from .arrow_blocks import ArrowBlock
from .arrow_moments import ArrowMoments
from .blocks import Block, has_fixed_scale
from .chain_blocks import ChainBlock
from .chain_moments import ChainMoments
from .discrete_moments import DiscreteMoments
from .moments import (
    FixedScaleMoments,
    GaussianMoments,
    JointMoments,
    MeanParamsMoments,
    Moments,
    SharedGaussianMoments,
)


def moments_of(block: Block, natural: Natural) -> Moments:
    """The statistics of a block at given natural parameters."""
    if isinstance(block, ArrowBlock):
        return ArrowMoments(block, natural)
    if isinstance(block, ChainBlock):
        return ChainMoments(block, natural)
    if block.sites[0].is_discrete:
        return DiscreteMoments(block, natural)
    if has_fixed_scale(block):
        return FixedScaleMoments(block, natural)
    if block.gaussian:
        return (SharedGaussianMoments if block.row_dims else GaussianMoments)(block, natural)
    return (JointMoments if block.is_joint else MeanParamsMoments)(block, natural)

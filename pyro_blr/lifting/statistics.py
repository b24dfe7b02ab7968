# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The names of a block's statistics, and which of them are its mean parameters."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from .arrow_blocks import ArrowBlock
from .blocks import Block, has_fixed_scale
from .chain_blocks import ChainBlock

#: A statistic: what is taken, and the power of the variable.
Statistic = tuple[str, float]

MEAN: Statistic = ("power", 1)
SECOND: Statistic = ("power", 2)
RECIPROCAL: Statistic = ("power", -1)
LOG: Statistic = ("log", 1)
LOG1M: Statistic = ("log1m", 1)
LOGDET: Statistic = ("logdet", 1)
#: Of a discrete latent: the probability of each of its values.
IS: Statistic = ("is", 1)
#: The central second moment of a Gaussian, for predictors and coinciding plate elements.
COV: Statistic = ("cov", 2)
#: Of a joint block (z, tau): tau z and tau z z'; with a Wishart matrix L: L z and z'L z.
SCALED: Statistic = ("scaled", 1)
SCALED_SECOND: Statistic = ("scaled", 2)
#: Of a joint block: the mean of z, and the covariance of z times tau.
LOCATION: Statistic = ("location", 1)
SPREAD: Statistic = ("spread", 2)
#: Of an arrow-head block, with g the global numbers and l_n those of a group: means, E[g g'],
#: E[g l_n'], E[l_n l_n'], and the covariances in their places.
GLOBAL_MEAN: Statistic = ("global", 1)
LOCAL_MEAN: Statistic = ("local", 1)
GLOBAL_SECOND: Statistic = ("global", 2)
CROSS_SECOND: Statistic = ("cross", 2)
LOCAL_SECOND: Statistic = ("local", 2)
GLOBAL_COV: Statistic = ("global cov", 2)
CROSS_COV: Statistic = ("cross cov", 2)
LOCAL_COV: Statistic = ("local cov", 2)
#: Of a chain: means, E[z_t z_t'], E[z_t z_t+1'], and the covariances in their places.
CHAIN_MEAN: Statistic = ("chain", 1)
CHAIN_SECOND: Statistic = ("chain", 2)
NEXT_SECOND: Statistic = ("next", 2)
CHAIN_COV: Statistic = ("chain cov", 2)
NEXT_COV: Statistic = ("next cov", 2)

#: The mean parameters of each family that is a law of latents, in their order. A Gaussian has its
#: own (below): L is differentiated in its mean and covariance.
_SUFFICIENT: dict[str, tuple[Statistic, ...]] = {
    "Gamma": (LOG, MEAN),
    "InverseGamma": (LOG, RECIPROCAL),
    "Beta": (LOG, LOG1M),
    "Dirichlet": (LOG,),
    "Wishart": (LOGDET, MEAN),
    "Categorical": (IS,),
    "NormalGamma": (LOG, MEAN, SCALED, SCALED_SECOND),
    "NormalInverseGamma": (LOG, RECIPROCAL, SCALED, SCALED_SECOND),
    "NormalWishart": (LOGDET, MEAN, SCALED, SCALED_SECOND),
    "ChainNormal": (CHAIN_MEAN, CHAIN_SECOND, NEXT_SECOND),
    "ArrowNormal": (GLOBAL_MEAN, LOCAL_MEAN, GLOBAL_SECOND, CROSS_SECOND, LOCAL_SECOND),
}


def sum_of_coefficients(
    each: Iterable[Mapping[Statistic, Tensor] | None],
) -> dict[Statistic, Tensor] | None:
    """What multiplies each statistic in a sum of terms; None from the first that does not say."""
    total: dict[Statistic, Tensor] = {}
    for own in each:
        if own is None:
            return None
        for which, value in own.items():
            total[which] = total[which] + value if which in total else value
    return total


def sufficient_statistics(block: Block) -> tuple[Statistic, ...]:
    """The statistics that are a block's mean parameters (a point's own), in their order.

    None where the family is curved, or of a fixed scale: L is linear in nothing that it has.
    """
    own: tuple[Statistic, ...] = getattr(block, "statistics", ()) or block.family.lifted_statistics
    if own:
        return own
    if block.family.is_curved or has_fixed_scale(block):
        return ()
    plain = block.gaussian and not isinstance(block, ArrowBlock | ChainBlock)
    return (MEAN, SECOND) if plain else _SUFFICIENT.get(block.family.name, ())


def statistic_shape(block: Block, which: Statistic) -> tuple[int, ...]:
    """The sizes of the dims by which a statistic is addressed."""
    if isinstance(block, ArrowBlock):
        return _arrow_shape(block, which)
    if isinstance(block, ChainBlock):
        kind, power = which
        times = block.length - 1 if kind.startswith("next") else block.length
        return (*block.batch_shape, times, *(block.width,) * int(power))
    if block.gaussian:
        batch = block.batch_shape if which == MEAN else block.own_shape
        return batch if block.event_size is None else (*batch, block.event_size, block.event_size)
    if which == IS:
        return (*block.batch_shape, len(block.sites[0].levels))
    if not block.is_joint:
        return block.sites[0].shape
    size = block.location_size
    return (*block.batch_shape, size, size)


def _arrow_shape(block: ArrowBlock, which: Statistic) -> tuple[int, ...]:
    kind, power = which
    groups = () if kind.startswith("global") else (block.groups,)
    first = block.local_size if kind.startswith("local") else block.global_size
    last = block.global_size if kind.startswith("global") else block.local_size
    return (*groups, first) if power == 1 else (*groups, first, last)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Of which fits it can be told what data did, and of which exactly."""

from collections.abc import Mapping
from typing import Any

from .. import errors
from ..energy.energy import Energy
from ..energy.sampled import SampledFactor
from ..families import Natural
from ..lifting.blocks import Block
from ..refusals import check_natural
from ..steps.taken import residual
from .copies import check_block
from .response import not_at_optimum

#: The residual in nats above which a guide is not at an optimum.
RESIDUAL = 1e-3

#: How predictions without a datum are had of any guide.
LOO = "pyro_blr.to_arviz(blr, *args) and arviz_stats.loo"


def check_served(blr: Any, energy: Energy) -> None:
    """Refuse what has no messages by datum.

    :raises DiscreteLatentError: for discrete latents that the guide holds.
    :raises GuideError: for coordinates that are not natural ones.
    :raises SampledFactorError: for a model with sampled factors.
    """
    for block in energy.blocks:
        check_block(block)
    lacks = "no message of a datum is what it adds to q"
    check_natural(blr.view, energy, lacks, LOO)
    held = [name for name, latent in energy.latents.items() if latent.site.is_discrete]
    if held:
        raise errors.DiscreteLatentError(
            f"the guide holds the discrete latents {held}, without whose own states data are not "
            f"predicted by the others. Mend: {LOO}."
        )
    for factor in energy.factors:
        if isinstance(factor, SampledFactor):
            raise errors.SampledFactorError(
                f"factor {factor.name!r} is at draws of q ({factor.reason}), so that the optimum "
                "is known up to their error, which is larger than what most data do. Mend: the "
                "spelling that keeps it deterministic, see blr.explain(); or "
                f"{LOO}."
            )


def check_optimum(
    naturals: Mapping[Block, Natural], messages: Mapping[Block, Natural], exact: bool
) -> None:
    """Refuse a guide at which messages are not in balance, and a model without a posterior.

    :param exact: whether the messages do not depend on q.
    :raises ArgumentError: for a guide that was not fitted.
    :raises ImproperPosteriorError: if exact messages do not sum to a distribution.
    """
    for block, natural in (messages if exact else naturals).items():
        if not bool(block.family.in_domain(natural).all()):
            raise errors.ImproperPosteriorError(
                f"the messages to {block.name!r} do not sum to a proper distribution. Mend: a "
                "proper prior, or more data."
            )
    away = residual(naturals, messages)
    if not away <= RESIDUAL:
        raise not_at_optimum(f"a step would move it by {away:.3g} nats")

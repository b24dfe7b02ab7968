# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What has no natural parameters that add up: guides and calls of which nothing can be summed."""

from typing import Any

from . import errors
from .energy.energy import Energy
from .guides.views import charts_of
from .lifting.blocks import has_fixed_scale


def without_naturals(rule: Any, so: str, mend: str = "use AutoNatural(model)") -> errors.GuideError:
    """The error for a guide that is known by its draws alone, is a point mass, or a mixture.

    :param rule: that of the guide, which says what it is.
    :param so: what there is not, as it has no natural parameters.
    """
    name = getattr(rule.guide, "__name__", type(rule.guide).__name__)
    return errors.GuideError(
        f"{name} {rule.what}: it has no natural parameters, and so {so}. Mend: {mend}."
    )


def check_natural(view: Any, energy: Energy, lacks: str, mend: str = "") -> None:
    """Refuse a guide whose parameters are no natural ones, or no sums of messages.

    :param view: the guide, as the engine sees it.
    :param lacks: what there is not, therefore.
    :param mend: another way to what there is not, if there is one.
    :raises GuideError: naming the guide, or the option.
    """
    otherwise = f"; or {mend}" if mend else ""
    if charts_of(view) or any(b.family.is_curved for b in energy.blocks):
        name = type(getattr(view, "guide", view)).__name__
        raise errors.GuideError(
            f"the guide {name} has parameters that are no natural ones, and do not add up: "
            f"{lacks}. Mend: use AutoNatural(model){otherwise}."
        )
    if energy.is_at_mean or any(has_fixed_scale(b) for b in energy.blocks):
        raise errors.GuideError(
            'natural parameters are no sum of messages under estimator="delta", nor where the '
            f"width of a Gaussian is given: {lacks}. Mend: leave out estimator, and families of a "
            f"fixed scale{otherwise}."
        )


def check_adds_up(view: Any, energy: Energy, rows: str, lacks: str) -> None:
    """Refuse a call whose messages are not those of its own data, or are no natural parameters.

    :param view: the guide, as the engine sees it.
    :param rows: how its rows are counted, and the mend.
    :param lacks: what a guide in other coordinates does not have.
    :raises SubsampleError: for a minibatch.
    :raises GuideError: for a guide whose coordinates are not natural ones.
    """
    if energy.is_subsampled:
        raise errors.SubsampleError(
            f"a plate holds a part of its rows, whose factors are scaled up to all of them: {rows}"
        )
    check_natural(view, energy, lacks)

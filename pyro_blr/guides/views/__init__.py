# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Views of guides that are not in natural coordinates: one row of a table for a class of guides."""

from typing import Any

from pyro.infer import autoguide

from .gaussian import DiagonalNormalView, MultivariateNormalView, NormalView
from .view import View

#: The view of each class of guides; a guide has that of its most specific class.
VIEWS: dict[type, type[View]] = {
    autoguide.AutoNormal: NormalView,
    autoguide.AutoDiagonalNormal: DiagonalNormalView,
    autoguide.AutoMultivariateNormal: MultivariateNormalView,
}


def view_of(guide: Any) -> View | None:
    """The view of a guide by its class, or None where no class of it has one."""
    for ancestor in type(guide).__mro__:
        if ancestor in VIEWS:
            return VIEWS[ancestor](guide)
    return None


__all__ = ["VIEWS", "View", "view_of"]

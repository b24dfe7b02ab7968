# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Sites that a guide holds as points: the model is run at these, and they move as its parameters.

A Delta beside other distributions (an ``AutoDelta`` in a list, ``map_estimate``) makes L a function
of the other sites' q and of the point, exactly as it is of a ``pyro.param`` of the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger

from ..._compat import site_is_subsample


@dataclass(frozen=True, eq=False)
class PointSites:
    """Points of a guide.

    :param guide: the guide, or the part of one, that has them.
    :param sites: their names.
    :param parameters: the full names of the parameters that they are functions of.
    """

    guide: Callable[..., Any]
    sites: frozenset[str]
    parameters: frozenset[str]

    def values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The points as they are now; only the statements of their parameters are seen outside."""

        def is_hidden(msg: dict[str, Any]) -> bool:
            return msg["type"] != "param" or msg["name"] not in self.parameters

        with poutine.block(hide_fn=is_hidden):
            trace = poutine.trace(self.guide).get_trace(*args, **kwargs)
        return {name: trace.nodes[name]["value"] for name in self.sites}


class PointMessenger(Messenger):
    """Gives sites of the model their values, as observations that are priors all the same."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values and not site_is_subsample(msg):
            msg["value"] = self.values[msg["name"]]
            msg["is_observed"] = True
            msg["infer"] = {**msg["infer"], "_pyro_blr_point": True}


def at_points(model: Callable[..., Any], points: tuple[PointSites, ...]) -> Callable[..., Any]:
    """The model at the points of a guide; the model itself where it has none."""
    if not points:
        return model

    def run(*args: Any, **kwargs: Any) -> Any:
        values = {n: v for p in points for n, v in p.values(args, kwargs).items()}
        with PointMessenger(values):
            return model(*args, **kwargs)

    return run

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What the model says of new data: at draws of q, or before any data."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .dims import Dims
from .fitted import Fitted
from .program import Program
from .together import at_draws


@dataclass(frozen=True, eq=False)
class Predictions:
    """Values of sites at draws, with how each lies.

    :param values: # shape: (S, *site)
    """

    values: Mapping[str, Tensor]
    dims: Mapping[str, Dims]
    latents: frozenset[str]

    def of(self, names: Container[str]) -> "Predictions":
        """Those of some sites."""
        values = {n: v for n, v in self.values.items() if n in names}
        return Predictions(values, self.dims, self.latents)


def predictive(
    own: Fitted,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    latents: Mapping[str, Tensor],
    sites: Container[str],
    caller: str,
) -> Predictions:
    """Data that the model draws anew at each draw; discrete latents are drawn with them.

    :param latents: the values of latents. # shape: (S, *site)
    :param sites: the names of the sites that are data.
    """
    count = min(map(len, latents.values()))
    return _run(own, args, kwargs, latents, count, caller, is_free=True).of(sites)


def prior(
    own: Fitted, args: tuple[Any, ...], kwargs: Mapping[str, Any], num_samples: int, caller: str
) -> tuple[Predictions, dict[str, Tensor]]:
    """Draws of the model that nothing observed: its sites, and the values of all of its latents."""
    found = _run(own, args, kwargs, {}, num_samples, caller, is_free=False)
    return found, {n: found.values[n] for n in found.latents}


def _run(
    own: Fitted,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    given: Mapping[str, Tensor],
    num_samples: int,
    caller: str,
    *,
    is_free: bool,
) -> Predictions:
    program = Program(own.model, args, kwargs, caller, is_free=is_free)
    found = at_draws(program, given, num_samples)
    kept = {n: s for n, s in found.items() if s.kind in ("latent", "deterministic")}
    values = {n: s.values for n, s in kept.items() if s.values is not None}
    latents = frozenset(n for n, s in kept.items() if s.kind == "latent")
    return Predictions(values, {n: s.dims for n, s in kept.items()}, latents)

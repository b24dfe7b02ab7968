# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What the model says of new data: at draws of q, or before any data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .dims import Dims
from .draws import Draws
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


def predictive(
    own: Fitted, args: tuple[Any, ...], kwargs: Mapping[str, Any], draws: Draws, caller: str
) -> Predictions:
    """Data that the model draws anew at each draw of q; discrete latents are drawn with them.

    :param draws: the draws, of the same fit and arguments.
    """
    return _run(own, args, kwargs, draws.latents, draws.num_samples, draws.data_sites, caller)


def prior(
    own: Fitted,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    draws: Draws,
    num_samples: int,
    caller: str,
) -> tuple[Predictions, Predictions]:
    """Draws of the model without its data: of its latents, and of data.

    :param draws: of the posterior, which say what is a latent and what is a datum.
    """
    found = _run(own, args, kwargs, {}, num_samples, None, caller)
    names = {*draws.latents, *draws.deterministic}
    parts = names & set(found.values), draws.data_sites & set(found.values)
    before, data = (
        Predictions({n: v for n, v in found.values.items() if n in part}, found.dims)
        for part in parts
    )
    return before, data


def _run(
    own: Fitted,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    given: Mapping[str, Tensor],
    num_samples: int,
    names: frozenset[str] | None,
    caller: str,
) -> Predictions:
    program = Program(own.model, args, kwargs, caller, is_free=True)
    sites = at_draws(program, given, num_samples)
    kept = {
        n: s for n, s in sites.items() if s.values is not None and (names is None or n in names)
    }
    values = {n: s.values for n, s in kept.items() if s.values is not None}
    return Predictions(values, {n: s.dims for n, s in kept.items()})

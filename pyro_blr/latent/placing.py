# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The sites of a model at all values of a design: in one run, or in one for each value."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from .. import errors
from .design import Design
from .harmonium import Layout
from .peeling import given_arguments, own_dims, peel
from .probe import Census, Placed, Record


def place(census: Census, layout: Layout, design: Design) -> Placed:
    """Run the model at a design.

    A model whose latents are in plates is made for dims in front of them. One whose latents are
    not may be written for single values (``X @ w``): then it is run once under ``torch.vmap``.

    :raises ShapeError: if it can be run in neither way.
    """
    placed = Placed(design.points, census.discrete, layout.depth)
    try:
        census.call.run(placed)
        _check(placed, layout, design)
        return placed
    except errors.BLRError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, LinAlgError) or "to satisfy the constraint" in str(error):
            raise _outside(error) from error
        if layout.own or not design.points:
            raise _not_vectorised(error) from error
        try:
            return _one_by_one(census, layout, design)
        except errors.BLRError:
            raise
        except (RuntimeError, ValueError, IndexError) as other:
            raise _not_vectorised(other) from other


def _check(placed: Placed, layout: Layout, design: Design) -> None:
    """Refuse sites with other dims than those of discrete states, points and plates."""
    states = [len(s) for s in reversed(list(placed.states.values()))]
    full = (*states, design.size, *layout.plates)
    for site in placed.sites.values():
        shape = tuple(getattr(site.fn, "batch_shape", ()))
        if len(shape) > len(full):
            raise ValueError(f"site {site.name!r} has the batch shape {shape}")
        pairs = zip(reversed(shape), reversed(full), strict=False)
        if any(size not in (1, whole) for size, whole in pairs):
            raise ValueError(f"site {site.name!r} has the batch shape {shape}, not within {full}")


def _one_by_one(census: Census, layout: Layout, design: Design) -> Placed:
    """A run at each point, all at once, and the distributions of all of them side by side."""
    kept: list[Placed] = []
    lead = len(census.discrete) + 1 + layout.depth

    def run(points: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        placed = Placed(points, census.discrete, layout.depth, alone=True)
        with pyro.validation_enabled(False):
            census.call.run(placed)
        kept.append(placed)
        return {name: _padded(site, lead) for name, site in placed.sites.items()}

    stacked = torch.vmap(run, randomness="different")(dict(design.points))
    placed, where = kept[0], len(census.discrete)
    found = Placed(design.points, census.discrete, layout.depth)
    found.states = placed.states
    for name, site in placed.sites.items():
        own = {
            argument: value.squeeze(1 + where).movedim(0, where)
            for argument, value in stacked[name].items()
        }
        value = site.value
        if name in design.points:
            points = design.points[name]
            value = points.reshape(-1, *(1,) * layout.depth, *points.shape[1:])
        found.sites[name] = replace(site, fn=_rebuilt(site, own), value=value)
    return found


def _padded(site: Record, lead: int) -> dict[str, Tensor]:
    """The tensors that make a site's distribution, with all dims in front of their events."""
    if hasattr(site.fn, "log_factor"):
        found, events = {"log_factor": site.fn.log_factor}, {"log_factor": 0}
    else:
        base = peel(site.fn).base
        given = given_arguments(base)
        if given is None:
            raise ValueError(f"site {site.name!r} has a {type(base).__name__}")
        found = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        elements = peel(site.fn).elements
        events = {name: elements + own_dims(base, name) for name in found}
    padded = {}
    for name, value in found.items():
        missing = lead + events[name] - value.dim()
        padded[name] = value.reshape((1,) * missing + tuple(value.shape)) * 1.0
    return padded


def _rebuilt(site: Record, tensors: Mapping[str, Tensor]) -> Any:
    if hasattr(site.fn, "log_factor"):
        return type(site.fn)(tensors["log_factor"])
    peeled = peel(site.fn)
    given = given_arguments(peeled.base)
    assert given is not None
    kind = getattr(type(peeled.base), "__wrapped__", type(peeled.base))
    made = kind(**{**given, **tensors}, validate_args=False)
    return made.to_event(peeled.elements) if peeled.elements else made


def _outside(error: Exception) -> errors.BLRError:
    return errors.ParameterError(
        "a distribution of the model refuses its arguments at the parameters as they are, or at "
        "some value of its latents. Mend: constrain the parameter (constraint= of pyro.param), or "
        f"map the argument into its domain. ({str(error).splitlines()[0]})"
    )


def _not_vectorised(error: Exception) -> errors.BLRError:
    if any(words in str(error) for words in ("Boolean value of Tensor", "control flow")):
        return errors.ControlFlowError(
            "the model asks for one value of a latent (if, while, float()), and is run at many "
            "values at once. Mend: torch.where, or indexing a table by the latent."
        )
    return errors.ShapeError(
        "the model cannot be run at many values of its latents at once, which are in dims in front "
        "of its plates. Mend: count dims from the right (z[..., 0], dim=-1, z @ A.T for A @ z). "
        f"({str(error).splitlines()[0]})"
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Discrete latents summed out at each draw: the log likelihood of what they join.

Where all of them are in a plate, its elements are independent given the continuous latents, and
each has a log likelihood of its own: a row of a mixture, a word of a document, a sequence of a
hidden Markov model.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..energy.components import Component, check_plates, components, elimination
from ..energy.enumeration import DEEPEST, choice_of, dims_of
from ..energy.traced import TracedSite
from .entries import Entry


def without_choices(trace: Any, entries: Sequence[Entry]) -> list[Entry]:
    """The sites of a run with enumerated discrete latents, these summed out.

    The sites that they join become one: the observed one among them, or their common name where
    several are observed. What is computed from a discrete latent has no value, and is left out.

    :raises ShapeError: where a site depends on a discrete latent outside of its plates.
    :raises DiscreteLatentError: where the sum takes a time that grows exponentially.
    """
    traced = [_traced(e, trace.nodes[e.name]) for e in entries]
    plain, joined = components(traced)
    if not joined:
        return list(entries)
    by_name = {e.name: e for e in entries}
    kept = {t.name for t in plain}
    result = [e for e in entries if e.name in kept and not _has_choices(e)]
    for component in joined:
        sites = tuple(s for s in component.sites if by_name[s.name].kind != "deterministic")
        if any(s.choice is not None for s in sites):
            result += _summed(Component(sites), by_name)
    return result


def _has_choices(entry: Entry) -> bool:
    """Whether a value runs along dims of discrete latents, as a first run shows: left of plates.

    Later runs have the sites of the first one.
    """
    value = entry.value if entry.kind == "deterministic" else None
    return value is not None and value.dim() > DEEPEST


def _traced(entry: Entry, site: Mapping[str, Any]) -> TracedSite:
    dims = dims_of(site)
    return TracedSite(entry.name, site["log_prob"], site["scale"], None, dims, choice_of(site))


def _summed(component: Component, by_name: Mapping[str, Entry]) -> list[Entry]:
    """One entry for all sites of a component, and the data if there are several."""
    check_plates(component)
    members = [by_name[s.name] for s in component.sites]
    log_prob, plates = _log_sum(component, [m.log_prob for m in members])
    scaled = log_prob
    if any(m.scaled is not m.log_prob for m in members):
        # A scale that all have in common is one of the sum; others are inside it.
        common = component.scale
        pairs = zip(members, component.sites, strict=True)
        inside = [m.log_prob * (s.scale / common) for m, s in pairs]
        scaled = common * _log_sum(component, inside)[0]
    observed = [m for m in members if m.kind == "observed"]
    numbers = sum(m.numbers for m in members)
    if len(observed) == 1:
        return [replace(observed[0], log_prob=log_prob, scaled=scaled, numbers=numbers)]
    name = _common([m.name for m in observed])
    if not name or name in by_name:
        name = "+".join([m.name for m in observed[:3]] or component.latents[:3])
    kind = "observed" if observed else "factor"
    zero = torch.zeros(())
    data = [replace(m, kind="datum", log_prob=zero, scaled=zero) for m in observed]
    return [Entry(name, kind, None, log_prob, scaled, 0, plates, numbers), *data]


def _log_sum(
    component: Component, log_factors: Sequence[Tensor]
) -> tuple[Tensor, dict[int, tuple[str, int]]]:
    """The log of the sum along the plates that all of it is in, and these by dim.

    Dims keep their places, counted from the right.
    """
    sum_out = elimination(component)
    terms = sum_out.terms(*(f.double() for f in log_factors))
    places = {n: dim for s in component.sites for dim, n in s.dims.plates.items()}
    own = [sum_out.plates_of(term) for term in terms]
    common = frozenset.intersection(*map(frozenset, own))
    total = sum(
        (_placed(t, names, common, places) for t, names in zip(terms, own, strict=True)),
        torch.zeros((), dtype=torch.float64),
    )
    return total, {places[n]: (n, total.shape[places[n]]) for n in common}


def _placed(
    term: Tensor, names: Sequence[str], common: Container[str], places: Mapping[str, int]
) -> Tensor:
    """A term along the common plates, each at its dim.

    :param names: the plate of each dim of the term.
    """
    over = tuple(i for i, name in enumerate(names) if name not in common)
    term = term.sum(over) if over else term
    left = [n for n in names if n in common]
    ordered = sorted(left, key=places.__getitem__)
    term = term.permute([left.index(n) for n in ordered])
    shape = [1] * max((-places[n] for n in left), default=0)
    for name, size in zip(ordered, term.shape, strict=True):
        shape[places[name]] = size
    return term.reshape(shape)


def _common(names: Sequence[str]) -> str:
    """What several names begin with, if it says anything: ``y`` of ``y_0``, ``y_1``."""
    shared = 0
    for letters in zip(*names, strict=False):
        if len(set(letters)) > 1:
            break
        shared += 1
    return names[0][:shared].rstrip("_0123456789.-/[( ") if names else ""

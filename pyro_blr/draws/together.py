# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A program at many draws: together under ``torch.vmap``, or one by one where that cannot be.

Under ``vmap`` each draw has the shapes that it has alone, so that no model can mix its draws or
broadcast over them; what ``vmap`` does not know (a value taken to Python, writes in place, an
operation without a rule) is an error, and the draws are run one by one.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyro
import torch
from torch import Tensor

from .. import errors
from .dims import Dims, along
from .entries import Entry
from .program import Program
from .randomness import WithoutWrites

#: Numbers of all sites together that a run at several draws may hold: 128 MB in float64.
MOST_NUMBERS = 2**24

#: Draws below which they are run one by one.
FEW = 4


@dataclass(eq=False)
class Site:
    """A site at every draw.

    :param values: # shape: (S, *site); of an observed site that is the same at all draws, (*site)
    :param log_prob: without ``poutine.scale``. # shape: (S, *batch)
    :param total: the sum with ``poutine.scale``, in float64. # shape: (S,)
    :param varies: whether the values differ from draw to draw.
    """

    entry: Entry
    values: Tensor | None
    log_prob: Tensor
    total: Tensor
    varies: bool

    @property
    def kind(self) -> str:
        """What it is to its program; an observation that is another at each draw is no datum."""
        return "factor" if self.entry.is_data and self.varies else self.entry.kind

    @property
    def dims(self) -> Dims:
        """How its value lies."""
        plates = {d: name for d, (name, _) in self.entry.plates.items()}
        if self.entry.value is None:
            return self.dims_of_log_prob
        value, event_dim = self.entry.value, self.entry.event_dim
        if self.entry.kind == "deterministic":
            # By default its fn calls every dim an event dim: plates are then known by their sizes.
            sizes = {d: size for d, (_, size) in self.entry.plates.items()}
            if event_dim == value.dim() and any(along(value, d, n) for d, n in sizes.items()):
                event_dim = 0
            plates = {d: p for d, p in plates.items() if along(value, d - event_dim, sizes[d])}
        return Dims.of(value.shape, event_dim, plates)

    @property
    def dims_of_log_prob(self) -> Dims:
        """How its log density lies."""
        shape = self.log_prob.shape[1:]
        plates = {
            d: name
            for d, (name, size) in self.entry.plates.items()
            if len(shape) >= -d and shape[d] == size
        }
        return Dims.of(shape, 0, plates)


def at_draws(program: Program, given: Mapping[str, Tensor], num_draws: int) -> dict[str, Site]:
    """Every site of a program at every draw.

    :param given: values of some sites. # shape: (S, *site)
    :raises GuideError: if the sites are others from draw to draw.
    """
    first = program.run(_at(given, 0))
    if num_draws >= FEW:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _together(program, given, num_draws, first)
        except Exception:
            pass
    runs = _Runs(first, num_draws)
    for s in range(num_draws):
        runs.add(s, program.run(_at(given, s)) if s else first)
    return runs.sites()


def _at(given: Mapping[str, Tensor], s: int) -> dict[str, Tensor]:
    return {name: value[s] for name, value in given.items()}


def _together(
    program: Program, given: Mapping[str, Tensor], num_draws: int, first: Sequence[Entry]
) -> dict[str, Site]:
    """All draws under ``vmap``, in parts that fit.

    Whatever ``vmap`` refuses is raised as it is.
    """
    size = max(1, min(num_draws, MOST_NUMBERS // max(1, sum(e.numbers for e in first))))
    nesting = max((_depth(e) for e in first), default=0)
    parts = []
    for start in range(0, num_draws, size):
        count = min(size, num_draws - start)
        own = {n: v[start : start + count] for n, v in given.items()}
        parts.append(_part(program, own, count, nesting, first))
    return {n: _joined([p[n] for p in parts]) for n in parts[0]}


def _depth(entry: Entry) -> int:
    """The dims that its batches and plates take."""
    own = 0 if entry.value is None else entry.value.dim() - entry.event_dim
    return max(own, entry.log_prob.dim(), *(-dim for dim in entry.plates), 0)


def _part(
    program: Program,
    given: Mapping[str, Tensor],
    count: int,
    nesting: int,
    first: Sequence[Entry],
) -> dict[str, Site]:
    """Some draws in one run."""

    def one(given: dict[str, Tensor], _: Tensor) -> dict[str, tuple[Tensor, ...]]:
        return {
            e.name: (e.log_prob, e.scaled.double().sum(), *(() if e.value is None else (e.value,)))
            for e in program.run(given, nesting, checks=False)
        }

    with pyro.validation_enabled(False), WithoutWrites():
        found = torch.vmap(one, randomness="different")(dict(given), torch.arange(count))
    sites = {}
    for entry in first:
        log_prob, total, *values = found[entry.name]
        varies = bool(values) and not _is_constant(values[0])
        kept = values[0] if values else None
        if kept is not None and entry.is_data and not varies:
            kept = kept[0]
        sites[entry.name] = Site(entry, kept, log_prob, total.cpu(), varies)
    return sites


def _is_constant(values: Tensor) -> bool:
    if values.stride(0) == 0 or len(values) < 2:
        return True
    first = values[:1]
    return bool(((values == first) | ((values != values) & (first != first))).all())


def _joined(parts: Sequence[Site]) -> Site:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    values = first.values
    varies = any(p.varies for p in parts)
    if values is not None and first.entry.is_data:
        each = [p.values for p in parts if p.values is not None]
        varies = varies or not all(_same(values, v) for v in each)
    elif values is not None:
        values = torch.cat([p.values for p in parts if p.values is not None])
        varies = not _is_constant(values)
    log_prob = torch.cat([p.log_prob for p in parts])
    return Site(first.entry, values, log_prob, torch.cat([p.total for p in parts]), varies)


def _same(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and _is_constant(torch.stack([left, right]))


# One by one


@dataclass(eq=False)
class _Runs:
    """The sites of runs at one draw each, so that each run can go.

    :param first: the run at the first draw.
    """

    first: Sequence[Entry]
    num_draws: int
    values: dict[str, list[Tensor]] = field(default_factory=dict)
    log_prob: dict[str, list[Tensor]] = field(default_factory=dict)
    total: dict[str, list[Tensor]] = field(default_factory=dict)
    varies: dict[str, bool] = field(default_factory=dict)

    def add(self, s: int, run: Sequence[Entry]) -> None:
        """Take what is needed of a run."""
        known, found = {e.name for e in self.first}, {e.name for e in run}
        if known != found:
            raise errors.GuideError(
                f"at draw {s} the sites {sorted(known ^ found)} are there and at the first draw "
                "they are not, or the other way round, so they have no values at every draw. "
                "Mend: let the model sample the same sites whatever the values of its latents."
            )
        for entry in run:
            name = entry.name
            self.log_prob.setdefault(name, []).append(entry.log_prob)
            self.total.setdefault(name, []).append(entry.scaled.double().sum().cpu())
            if entry.value is None:
                continue
            kept = self.values.setdefault(name, [])
            if kept and not self.varies.get(name):
                self.varies[name] = not _same(kept[0], entry.value)
            if not entry.is_data or not kept:
                kept.append(entry.value)

    def sites(self) -> dict[str, Site]:
        """All draws of each site."""
        result = {}
        for entry in self.first:
            name, values = entry.name, self.values.get(entry.name)
            log_prob, total = torch.stack(self.log_prob[name]), torch.stack(self.total[name])
            kept: Tensor | None = None
            if values is not None:
                kept = values[0] if entry.is_data else torch.stack(values)
            varies = self.varies.get(name, False)
            result[name] = Site(entry, kept, log_prob, total, varies)
        return result

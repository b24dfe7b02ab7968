# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Who was where when: times to an accuracy, and the verdicts, from the records of a problem."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..peers.environments import missing
from ..peers.registry import DEFAULT, FULL, MEAN_FIELD, PEERS, VMP, Peer
from ..rows import Check, Row
from .reasons import REASONS

NAME = "problems"
#: Nats below the best ELBO of a family; verdicts are at HEADLINE.
ACCURACIES, HEADLINE = (1.0, 0.1, 0.01), 0.1
#: BLR may take so many times a dedicated solver's time.
DEDICATED = 3.0
#: Columns of a look, after its seconds and its gradients: the judge's ELBO, and its own bound.
ELBO, OWN = 2, 4

Record = dict[str, Any]
Records = Mapping[str, Record]


@dataclass(frozen=True)
class Arrival:
    """When a side was first within an accuracy.

    :param float seconds: without compilation; of the longest run, if none arrived.
    :param float compiling: what the first fit of a process takes beyond that.
    """

    seconds: float
    compiling: float
    arrived: bool = True

    @property
    def first(self) -> float:
        """Seconds with compilation."""
        return self.seconds + self.compiling

    def __str__(self) -> str:
        return f"{'' if self.arrived else '> '}{self.seconds:.3g} s (first {self.first:.3g})"


def bound_of(look: list[Any], column: int = ELBO) -> float:
    """The ELBO of a look; minus infinity where it is no number."""
    return -math.inf if look[column] is None else float(look[column])


def column_of(family: str) -> int:
    """Message passing is judged by its own bound, which has no noise, everything else by draws."""
    return OWN if family == VMP else ELBO


def looks_of(records: Iterable[Record], family: str) -> list[list[Any]]:
    """Of all runs in a family; BLR's default is one of message passing."""
    allowed = (VMP, DEFAULT) if family == VMP else (family,)
    well = [r for r in records if "error" not in r and r["family"] in allowed]
    return [look for record in well for run in record["runs"] for look in run["looks"]]


def best_of(records: Records, family: str) -> float:
    """The highest ELBO that any run in a family reached.

    By their own bounds it is the highest of the peers: BLR's default joins sites in one block
    where they are conjugate together, which message passing cannot reach.
    """
    if family == "":
        # Pathfinder's Gaussian is of low rank and a diagonal: it is held to the best there is.
        return max(best_of(records, FULL), best_of(records, MEAN_FIELD))
    column = column_of(family)
    considered = [r for r in records.values() if family != VMP or r["family"] == VMP]
    looks = looks_of(considered, family)
    return max((bound_of(look, column) for look in looks), default=-math.inf)


def arrival_of(record: Record, target: float, column: int = ELBO) -> Arrival:
    """The first look of all runs of a record whose ELBO is at least the target."""
    compiling = record["compile"]
    times = [
        look[0]
        for run in record["runs"]
        for look in run["looks"]
        if bound_of(look, column) >= target
    ]
    if times:
        return Arrival(min(times), compiling)
    return Arrival(max(run["looks"][-1][0] for run in record["runs"]), compiling, arrived=False)


def own_arrival(record: Record, nats: float) -> Arrival:
    """Of BLR within so many nats of its last bound."""
    last = record["runs"][0]["looks"][-1]
    column = OWN if last[OWN] is not None else ELBO
    return arrival_of(record, bound_of(last, column) - nats, column)


def ours_at(records: Records, family: str, target: float) -> Arrival | None:
    """BLR's first arrival at an ELBO, in the same family or in its default; in any if ""."""
    families = {r["family"] for r in records.values() if r["peer"] == "blr"}
    allowed = families if family == "" else {family, DEFAULT} & families
    column = column_of(family)
    found = [arrival_of(r, target, column) for r in _blr(records) if r["family"] in allowed]
    arrived = [a for a in found if a.arrived]
    return min(arrived, key=lambda a: a.seconds) if arrived else None


def _blr(records: Records) -> list[Record]:
    return [r for r in records.values() if r["peer"] == "blr" and "error" not in r]


def rows(name: str, content: Mapping[str, Any]) -> Iterator[Row]:
    """A row for each general peer in each family, and for each dedicated solver."""
    records: Records = content["records"]
    for peer in absent(content):
        why = Check("not run", math.nan)
        yield Row(NAME, f"{name}: {peer.title}", why, note=missing(peer.environment))
    for record in records.values():
        peer = PEERS[record["peer"]]
        label = f"{name}: {peer.title} {record['family']}".strip()
        if "error" in record:
            yield Row(NAME, label, Check("failed", math.nan), note=record["error"])
        elif peer.name == "blr":
            yield _own_row(label, record)
        elif peer.kind == "dedicated":
            yield dedicated_row(label, records, record, REASONS.get((name, peer.name), ""))
        elif peer.kind == "general":
            yield general_row(label, records, record)
        else:
            look = record["runs"][record["chosen"]]["looks"][-1]
            yield Row(NAME, label, Check("s", look[0]), moments(record))


def absent(content: Mapping[str, Any]) -> list[Peer]:
    """The problem's peers that have no record, as their environment was not there."""
    there = {record["peer"] for record in content["records"].values()}
    named = content["problem"]["described"].get("peers", ())
    return [PEERS[name] for name in named if name not in there]


def _own_row(label: str, record: Record) -> Row:
    (run,) = record["runs"]
    seconds = {"looks": [look[0] for look in run["looks"]]}
    failed = Check("not converged", not run["converged"], 0)
    note = f"{run['steps']} steps"
    headline = Check("s to converged", run["looks"][-1][0])
    return Row(NAME, label, headline, [failed, *moments(record)], seconds, note)


def met(records: Records, record: Record) -> tuple[Arrival, Arrival | None]:
    """A peer's arrival and BLR's, at HEADLINE below the best of the peer's family.

    One that has a family of its own is met where it ended.
    """
    family = record["family"]
    if family == "":
        last = record["runs"][record["chosen"]]["looks"][-1]
        theirs = Arrival(last[0], record["compile"])
        return theirs, ours_at(records, "", bound_of(last))
    target = best_of(records, family) - HEADLINE
    return arrival_of(record, target, column_of(family)), ours_at(records, family, target)


def general_row(label: str, records: Records, record: Record) -> Row:
    """How many times BLR's time a peer took to the same ELBO, in a first fit and in a later one."""
    theirs, ours = met(records, record)
    first = math.nan if ours is None else theirs.first / ours.first
    later = math.nan if ours is None else theirs.seconds / ours.seconds
    came = "" if theirs.arrived else " at least: it had not arrived"
    note = f"{theirs}; BLR {'did not arrive' if ours is None else ours}"
    checks = [Check("without compilation", later, 1.0, "at least"), *moments(record)]
    headline = Check(f"x BLR's time{came}", first, 1.0, "at least")
    return Row(NAME, label, headline, checks, {}, note)


def dedicated_row(label: str, records: Records, record: Record, why: str) -> Row:
    """How many times a solver's time BLR took."""
    theirs, ours = solved(records, record)
    later = math.nan if ours is None else ours.seconds / theirs.seconds
    first = math.nan if ours is None else ours.first / theirs.first
    note = f"{theirs}; BLR {'failed' if ours is None else ours}"
    headline = Check("x the solver's time", first, DEDICATED)
    later_check = Check("without compilation", later, DEDICATED)
    lost = headline.holds is not True or later_check.holds is not True
    told = f"{note}; {why}" if why and lost else note
    return Row(NAME, label, headline, [later_check, *moments(record)], {}, told)


def solved(records: Records, record: Record) -> tuple[Arrival, Arrival | None]:
    """A solver's time to its end, and BLR's to within the finest accuracy of its own end.

    A solver with the same bound is met at HEADLINE below its best, as a general peer is.
    """
    if record["family"] == VMP:
        return met(records, record)
    last = record["runs"][record["chosen"]]["looks"][-1]
    ours = [r for r in _blr(records) if r["family"] == DEFAULT]
    return Arrival(last[0], record["compile"]), own_arrival(
        ours[0], ACCURACIES[-1]
    ) if ours else None


def moments(record: Record) -> list[Check]:
    """The errors against the reference, where there is one."""
    names = {"mean_error": "error of a mean in sd", "least_sd": "least sd", "largest_sd": "largest"}
    return [Check(text, record[k]) for k, text in names.items() if record.get(k) is not None]

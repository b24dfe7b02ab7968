# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The tables of one problem, in Markdown."""

import math
from collections.abc import Iterator

from ..peers.registry import DEFAULT, FULL, MEAN_FIELD, PEERS, VMP
from .reasons import REASONS, general_reason
from .table import (
    ACCURACIES,
    DEDICATED,
    ELBO,
    HEADLINE,
    Arrival,
    Record,
    arrival_of,
    best_of,
    bound_of,
    column_of,
    met,
    own_arrival,
    solved,
)

TITLES = {
    MEAN_FIELD: "mean-field Gaussian",
    FULL: "full Gaussian",
    VMP: "message passing",
    DEFAULT: "BLR's default",
    "": "its own",
}


def table(records: dict[str, Record], chosen: list[Record], family: str) -> Iterator[str]:
    """One family of one problem."""
    best, column = best_of(records, family), column_of(family)
    told = f", best ELBO {best:.2f} nats" if math.isfinite(best) else ""
    yield f"**{TITLES[family][0].upper()}{TITLES[family][1:]}**{told}\n"
    accuracies = [f"s to {nats:g}" for nats in ACCURACIES]
    heads = ["", "gap, nats", *accuracies, "first, s", "gradients"]
    heads += ["error of a mean", "sds", "MB", "failures", "BLR faster?"]
    yield "| " + " | ".join(heads) + " |"
    yield "| " + " | ".join(["---"] * len(heads)) + " |"
    for record in chosen:
        yield "| " + " | ".join(line(records, record, best, column)) + " |"
    yield ""


def line(records: dict[str, Record], record: Record, best: float, column: int) -> list[str]:
    """A peer's row.

    :param int column: of a look, the bound that the table is about.
    """
    peer = PEERS[record["peer"]]
    if "error" in record:
        return [peer.title, f"failed: {record['error'][:80]}".replace("|", " "), *["-"] * 10]
    run = record["runs"][record["chosen"]]
    last = run["looks"][-1]
    gap = best - bound_of(last, column)
    times = [arrival_of(record, best - nats, column) for nats in ACCURACIES]
    if record["family"] == DEFAULT and column == ELBO:
        times = [own_arrival(record, nats) for nats in ACCURACIES]
    if not math.isfinite(gap):
        times = [Arrival(last[0], record["compile"])]
    shown = [seconds(a) for a in times] if len(times) > 1 else ["-", "-", f"{last[0]:.3g}"]
    return [
        peer.title,
        f"{gap:.3g}" if math.isfinite(gap) else "-",
        *shown,
        f"{times[min(1, len(times) - 1)].first:.3g}",
        f"{gradients(record, best, column)}",
        number(record.get("mean_error")),
        f"{number(record.get('least_sd'))} to {number(record.get('largest_sd'))}"
        if "least_sd" in record
        else "-",
        f"{record['memory']:.0f}" if record.get("memory") is not None else "-",
        failures(record, best, column),
        verdict(records, record),
    ]


def seconds(arrival: Arrival) -> str:
    """Seconds, or that they were not enough."""
    return f"{'' if arrival.arrived else '> '}{arrival.seconds:.3g}"


def number(value: float | None) -> str:
    """Three digits."""
    return "-" if value is None else f"{value:.3g}"


def gradients(record: Record, best: float, column: int) -> int:
    """Up to the look at which the peer arrived, or in its chosen run."""
    inside = [
        look[1]
        for run in record["runs"]
        for look in run["looks"]
        if bound_of(look, column) >= best - HEADLINE
    ]
    return min(inside) if inside else record["runs"][record["chosen"]]["looks"][-1][1]


def failures(record: Record, best: float, column: int) -> str:
    """Runs that did not arrive, of so many."""
    again = record.get("again")
    if not again:
        return "-"
    looks = [record["runs"][record["chosen"]]["looks"][-1], *(a.get("look") for a in again)]
    target = best - HEADLINE if math.isfinite(best) else -math.inf
    if record["family"] == DEFAULT:
        target, column = bound_of(looks[0]) - HEADLINE, ELBO
    failed = [look is None or bound_of(look, column) < target for look in looks]
    return f"{sum(failed)} of {len(failed)}"


def verdict(records: dict[str, Record], record: Record) -> str:
    """Whether BLR is faster, or within its limit of a dedicated solver, first and later."""
    peer = PEERS[record["peer"]]
    if peer.name == "blr" or peer.kind == "other":
        return "-"
    dedicated = peer.kind == "dedicated"
    theirs, ours = solved(records, record) if dedicated else met(records, record)
    if ours is None:
        return "no: BLR did not arrive"
    first, later = theirs.first / ours.first, theirs.seconds / ours.seconds
    least = 1 / DEDICATED if dedicated else 1.0
    word = "yes" if min(first, later) >= least else "no"
    bound = "" if theirs.arrived else "> "
    return f"{word}: {bound}{first:.2g} x first, {bound}{later:.2g} x later"


def losses(name: str, records: dict[str, Record]) -> Iterator[str]:
    """Why BLR loses, where it does."""
    told = []
    for record in records.values():
        peer = PEERS[record["peer"]]
        if "error" in record or not verdict(records, record).startswith("no"):
            continue
        reason = REASONS.get((name, peer.name)) or general_reason(peer, records, record)
        told.append(f"- {peer.title} {record['family']}".rstrip() + f": {reason}")
    if told:
        yield "Where BLR loses, and why:\n"
        yield from told
        yield ""

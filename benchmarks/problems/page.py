# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The page of the documentation: tables and pictures of what is kept, written by code alone."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..machine import ROOT
from ..peers.environments import needs
from ..peers.registry import DEFAULT, FULL, MEAN_FIELD, PEERS, VMP
from . import KEPT
from .catalogue import PROBLEMS
from .lines import losses, table
from .pictures import draw
from .table import DEDICATED, HEADLINE, Record, absent, met, solved

PAGE, PICTURES = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "_static" / "benchmarks"
#: In the order of the tables.
FAMILIES = (MEAN_FIELD, FULL, VMP, DEFAULT, "")

INTRODUCTION = """# Benchmarks

Ten problems, and every peer on each of them: the same model, data, machine and judge. This page is
written by `python -m benchmarks page` from `benchmarks/results/problems/`, which
`python -m benchmarks problems` measures; `make bench` does both.

## How to read it

- **Each peer runs in a process of its own**, held to as many cores as the others have threads, with
  the model as a user of that library would write it; tests hold the log joints to each other. Times
  are seconds of the processor. Imports and reading data are not timed.
- **First** is the first fit in a process, with whatever is compiled or folded then; **later** is
  without. BLR compiles nothing.
- **One judge**: the ELBO of every q is found in one place, on the same draws of the same log joint,
  in PyTorch. **Best** is the highest of any run in a family, by whomever; a peer's time is that of
  its first look within {headline:g} nats of it.
- **Learning rates are searched at no cost to the peer**: {rates} with Adam, each decayed to a
  hundredth of itself over a tenth of the time that is allowed, the better two of them over all of
  it. The first look that is inside counts, luck included. BLR has nothing set.
- **Looks** are a quarter of the steps apart, so a peer's time is known to that.
- **> s** says that no run had arrived in that time, so that the ratio is a lower bound.
- **Errors** are against long chains of NUTS, over all unconstrained coordinates: the largest error
  of a mean in posterior standard deviations, the least and the largest ratio of these.
- **Gradients** are of the log joint on all data, up to where the peer arrived, or to its end.
- **Memory** is the most that a peer took beyond what its process had before, in MB.
- **Failures** are runs over {seeds} that ended in an error, in no number, or outside of
  {headline:g} nats, of so many.

"BLR faster?" says yes where a peer took at least BLR's time, first and later, and where BLR took at
most {dedicated:g} times a dedicated solver's time. BLR's time is that of its first look at the same
ELBO, in the same family or in its default, whichever is there first.
"""


def write(kept: Path = KEPT, page: Path = PAGE, pictures: Path = PICTURES) -> Path:
    """Write the page and its pictures."""
    pictures.mkdir(parents=True, exist_ok=True)
    found = contents(kept)
    for name, content in found.items():
        draw(content, pictures / f"{name}.png")
    page.write_text(text(found))
    return page


def contents(kept: Path = KEPT) -> dict[str, Any]:
    """What is kept of each problem, in the order of the problems."""
    files = {name: kept / f"{name}.json" for name in PROBLEMS}
    every = {name: json.loads(p.read_text()) for name, p in files.items() if p.exists()}
    return {name: content for name, content in every.items() if content.get("records")}


def text(found: dict[str, Any]) -> str:
    """The page; what is not measured is not there, and the page says so."""
    parts = [introduction(), *machines(found), *summary(found)]
    for name, content in found.items():
        parts += section(name, content)
    unmeasured = [name for name in PROBLEMS if name not in found]
    if unmeasured:
        parts.append(f"Not measured: {', '.join(unmeasured)}.\n")
    return "\n".join(parts)


def introduction() -> str:
    """How the page is to be read."""
    from ..peers.stepping import RATES

    rates = ", ".join(f"{rate:g}" for rate in RATES)
    return INTRODUCTION.format(
        headline=HEADLINE, rates=rates, dedicated=DEDICATED, seeds="three seeds (BLR: five)"
    )


def machines(found: dict[str, Any]) -> Iterator[str]:
    """Where it was measured, and with which versions."""
    if not found:
        return
    yield "## Machine\n"
    described = [content["problem"]["described"]["machine"] for content in found.values()]
    told = {
        f"{m['processor']}, {m['cores']} cores, {m['system']}, {m['threads']['torch']} thread(s), "
        f"Python {m['python']}"
        for m in described
    }
    loads = [m["load_average"] for m in described]
    yield "; ".join(sorted(told)) + f". Load average at the start of a problem: {min(loads):g} to"
    yield f"{max(loads):g}.\n"
    versions: dict[str, set[str]] = {}
    for content in found.values():
        for record in content["records"].values():
            for name, version in record.get("versions", {}).items():
                versions.setdefault(name, set()).add(version)
    versions.pop("python", None)
    listed = [f"{n} {' and '.join(sorted(v))}" for n, v in sorted(versions.items())]
    yield f"Versions: {', '.join(listed)}. Seeds: 0 for the search and the tables.\n"


def summary(found: dict[str, Any]) -> Iterator[str]:
    """A line for each problem: where BLR is faster, and where it is not."""
    if not found:
        return
    yield "## In short\n"
    yield f"General peers by the time to {HEADLINE:g} nats, dedicated solvers by theirs.\n"
    yield "| problem | BLR is faster, first fit | later fits | slower than | dedicated solvers |"
    yield "| --- | --- | --- | --- | --- |"
    for name, content in found.items():
        yield summary_row(name, content["records"])
    yield ""


def summary_row(name: str, records: dict[str, Record]) -> str:
    """Of one problem."""
    first, later, total, slower, solvers = 0, 0, 0, [], []
    for record in records.values():
        peer = PEERS[record["peer"]]
        if "error" in record or peer.name == "blr":
            continue
        if peer.kind == "general":
            theirs, ours = met(records, record)
            total += 1
            won = (
                ours is not None and theirs.first >= ours.first,
                ours is not None and (theirs.seconds >= ours.seconds),
            )
            first, later = first + won[0], later + won[1]
            if not all(won):
                slower.append(f"{peer.title} {record['family']}".strip())
        elif peer.kind == "dedicated":
            theirs, ours = solved(records, record)
            ratio = math.nan if ours is None else ours.seconds / theirs.seconds
            solvers.append(f"{peer.title}: {ratio:.2g} x")
    cells = (f"{first} of {total}", f"{later} of {total}", "; ".join(slower), "; ".join(solvers))
    return f"| [{name}](#{name.replace('_', '-')}) | " + " | ".join(c or "-" for c in cells) + " |"


def section(name: str, content: dict[str, Any]) -> Iterator[str]:
    """The tables of one problem, and its picture."""
    described, records = content["problem"]["described"], content["records"]
    yield f"## {name.replace('_', ' ')}\n"
    yield f"{described['title']}: {described['dim']} unconstrained dimensions.\n"
    yield from reference_line(content)
    for family in FAMILIES:
        chosen = [r for r in records.values() if r["family"] == family]
        if chosen and family == VMP:
            chosen = [r for r in records.values() if r["family"] in (VMP, DEFAULT)]
        if chosen:
            yield from table(records, chosen, family)
    yield f"![ELBO against time](_static/benchmarks/{name}.png)\n"
    if absent(content):
        names = [peer.title + needs(peer.environment) for peer in absent(content)]
        yield f"Not run, or not yet: {', '.join(names)}.\n"
    yield from losses(name, records)


def reference_line(content: dict[str, Any]) -> Iterator[str]:
    """Whose draws the errors are against."""
    nuts = content.get("reference", {}).get("nuts")
    if nuts and "mean" in nuts:
        yield (
            f"Reference: NUTS, {nuts['setting']} draws, R-hat at most {nuts['rhat']:.3f}, "
            f"effective sample size at least {nuts['ess']:.0f}, {nuts['seconds']:.0f} s.\n"
        )
    elif "blr" in content.get("reference", {}):
        yield "No reference draws: the errors are distances from BLR's default, which has none.\n"

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The table, and the JSON beside it."""

import json
from pathlib import Path
from typing import Any

from .rows import Check, Row

WIDTHS = (44, 26, 14, 7)


def header() -> str:
    """The head of the table."""
    return line("benchmark: row", "figure", "limit", "verdict", "quality")


def line(*cells: str) -> str:
    """Cells in columns; the last one is as long as it is."""
    padded = [cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=False)]
    return "  ".join([*padded, cells[-1]]).rstrip()


def show(row: Row) -> str:
    """A row of the table."""
    head = row.headline
    limit = "" if head.limit is None else f"{head.sense} {head.limit:g}"
    quality = "; ".join([*map(str, row.quality), *([row.note] if row.note else [])])
    figure = f"{head.value:.4g} {head.name}"
    return line(f"{row.benchmark}: {row.name}", figure, limit, row.verdict, quality)


def write(folder: Path, benchmark: str, machine: dict[str, Any], rows: list[Row]) -> Path:
    """Write the rows of one benchmark as JSON and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{benchmark}.json"
    content = {"benchmark": benchmark, "machine": machine, "rows": [row_as_dict(r) for r in rows]}
    path.write_text(json.dumps(content, indent=1, allow_nan=True) + "\n")
    return path


def row_as_dict(row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    return {
        "name": row.name,
        "headline": check_as_dict(row.headline),
        "verdict": row.verdict,
        "quality": [check_as_dict(c) for c in row.quality],
        "seconds": {k: [float(f"{t:.4g}") for t in ts] for k, ts in row.seconds.items()},
        "note": row.note,
    }


def check_as_dict(check: Check) -> dict[str, Any]:
    """A figure with its limit, if it has one."""
    result: dict[str, Any] = {"name": check.name, "value": float(check.value)}
    if check.limit is not None:
        result |= {"limit": check.limit, "sense": check.sense, "holds": check.holds}
    return result

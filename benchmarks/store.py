# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What has been measured, kept as JSON, so that a run can be broken off.

A comparison takes minutes to hours, nearly all of them of the other sides. Each measurement is
written as soon as it is there, and none is made twice.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def in_lines(content: Any) -> str:
    """JSON with a list of numbers or words on one line."""
    whole = json.dumps(content, indent=1) + "\n"
    # What is in a string has no line break.
    short = re.compile(r"\[\n\s+([^\[\]{}]*?)\n\s+\]")
    return short.sub(lambda found: "[" + re.sub(r",\n\s+", ", ", found[1]) + "]", whole)


class Store:
    """The measurements of one problem: sections of records by key.

    :param Path path: the file, which need not be there yet; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        there = path is not None and path.exists()
        self.content: dict[str, dict[str, Any]] = json.loads(path.read_text()) if there else {}  # type: ignore[union-attr]

    def once(self, section: str, key: str, measure: Callable[[], Any]) -> Any:
        """The record of this key; it is measured where there is none."""
        records = self.content.setdefault(section, {})
        if key not in records:
            records[key] = measure()
            self._write()
        return records[key]

    def put(self, section: str, records: dict[str, Any]) -> None:
        """Write a section anew."""
        self.content[section] = records
        self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".writing")
        scratch.write_text(in_lines(self.content))
        scratch.replace(self.path)

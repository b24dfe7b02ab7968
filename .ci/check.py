# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Run every check of the project, all of them even after a failure, and count the results.

The last line reads ``N passed, N failed`` (with ``, N skipped`` where something was skipped).
A tool (lint, format, types, documentation) counts as one check, each test as one.
The tests are one pytest run: the test-suite, the docstring examples, the examples of README.md
and docs/, and the tutorials.
"""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build" / "check"
REPORT = OUTPUT / "pytest.xml"

TOOLS = {
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    "documentation": [
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "docs",
        "docs/_build/html",
    ],
}

# --dist loadfile: examples of one document share their names, so a file stays in one process.
PYTEST = ["pytest", "--numprocesses=2", "--dist=loadfile", "--doctest-modules", "--nbmake"]
PLACES = ["tests", "pyro_blr", "README.md", "CONTRIBUTING.md", "docs", "tutorials"]


class Count(NamedTuple):
    """How many checks passed, failed and were skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        line = f"{self.passed} passed, {self.failed} failed"
        return f"{line}, {self.skipped} skipped" if self.skipped else line


def run(title: str, command: list[str]) -> int:
    """Run a module of this Python in the root, say how long it took, return its exit status."""
    print(f"== {title}: {' '.join(command)}", flush=True)
    start = time.monotonic()
    # CI shortens the tutorials and tells the documentation that they were executed already.
    environment = os.environ | {"CI": "1"}
    status = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment).returncode
    verdict = "passed" if status == 0 else f"failed (exit status {status})"
    print(f"== {title}: {verdict} in {time.monotonic() - start:.0f} s\n", flush=True)
    return status


def count_report(report: Path, status: int) -> Count:
    """Count the tests of a JUnit report; a run that broke without one is one failure.

    :param report: the file that pytest writes with ``--junitxml``.
    :param status: pytest's exit status: what it says must not be lost where the report is silent.
    """
    if not report.exists():
        return Count(failed=1)
    tests = failed = skipped = 0
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        tests += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    # A test that fails and whose teardown errs too appears once in "tests", twice in the rest.
    passed = max(tests - failed - skipped, 0)
    return Count(passed, max(failed, int(status != 0)), skipped)


def main() -> int:
    """Run all, write the count to build/check/count.txt and print it last."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    REPORT.unlink(missing_ok=True)
    statuses = {title: run(title, command) for title, command in TOOLS.items()}
    places = [place for place in PLACES if (ROOT / place).exists()]
    status = run("tests", [*PYTEST, f"--junitxml={REPORT}", *places, *sys.argv[1:]])
    tests = count_report(REPORT, status)

    broken = [title for title, status in statuses.items() if status != 0]
    total = Count(
        tests.passed + len(statuses) - len(broken), tests.failed + len(broken), tests.skipped
    )
    if broken:
        print(f"failed: {', '.join(broken)}")
    (OUTPUT / "count.txt").write_text(f"{total}\n")
    print(total, flush=True)
    return int(total.failed > 0)


if __name__ == "__main__":
    sys.exit(main())

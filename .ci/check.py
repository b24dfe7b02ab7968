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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build" / "check"
REPORT = OUTPUT / "pytest.xml"

TOOLS = {
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    # -E reads every page again: a second build would not repeat the warnings of the first.
    "documentation": ["sphinx", "-W", "-E", "--keep-going", "-q", "docs", "docs/_build/html"],
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


def run(title: str, command: list[str], output: int | None = None) -> int:
    """Run a module of this Python in the root, say how long it took, return its exit status.

    :param output: ``subprocess.PIPE`` prints all at the end, in one piece; None as it comes.
    """
    head = f"== {title}: {' '.join(command)}"
    if output is None:
        print(head, flush=True)
    start = time.monotonic()
    # CI shortens the tutorials.
    environment = os.environ | {"CI": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        text=True,
    )
    verdict = "passed" if done.returncode == 0 else f"failed (exit status {done.returncode})"
    said = "" if output is None else f"{head}\n{done.stdout}"
    print(f"{said}== {title}: {verdict} in {time.monotonic() - start:.0f} s\n", flush=True)
    return done.returncode


def outcome(case: ElementTree.Element) -> str:
    """Name the outcome of one test case of a JUnit report."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "passed" if case.find("skipped") is None else "skipped"


def count_report(report: Path, status: int) -> Count:
    """Count the tests of a JUnit report; a run that broke without one is one failure.

    A test whose teardown errs stands twice in the report, and so does a file that cannot be
    collected (once a process): each counts once, with its worst outcome.

    :param report: the file that pytest writes with ``--junitxml``.
    :param status: pytest's exit status: what it says must not be lost where the report is silent.
    """
    if not report.exists():
        return Count(failed=1)
    worst: dict[tuple[str, str], str] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = (case.get("classname", ""), case.get("name", ""))
        # "failed" < "passed" < "skipped": a failure wins; no test is both passed and skipped.
        worst[name] = min(outcome(case), worst.get(name, "skipped"))
    found = list(worst.values())
    failed = max(found.count("failed"), int(status != 0))
    return Count(found.count("passed"), failed, found.count("skipped"))


def main() -> int:
    """Run all, write the count to build/check/count.txt and print it last."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    REPORT.unlink(missing_ok=True)
    # Each has one process, so two go side by side; the tests read the documentation they make.
    with ThreadPoolExecutor(2) as pool:
        runs = {title: pool.submit(run, title, c, subprocess.PIPE) for title, c in TOOLS.items()}
    statuses = {title: each.result() for title, each in runs.items()}
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

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The last line of ``make test`` counts what happened, also where pytest itself broke."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "check.py"

OUTCOMES = """
import pytest
def test_passes(): pass
@pytest.mark.parametrize("n", [1, 2])
def test_fails(n): assert n == 0
@pytest.fixture
def broken(): raise RuntimeError
def test_errs(broken): pass
@pytest.fixture
def broken_afterwards():
    yield
    raise RuntimeError
def test_fails_twice(broken_afterwards): assert False
def test_skips(): pytest.skip("no data")
@pytest.mark.xfail(strict=True)
def test_expected_failure(): assert False
@pytest.mark.xfail(strict=True)
def test_unexpected_pass(): pass
"""


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_pytest(folder: Path, source: str, *options: str) -> tuple[Path, int]:
    (folder / "test_inner.py").write_text(source)
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}"]
    result = subprocess.run([*command, *options, "--rootdir", folder, folder], capture_output=True)
    return report, result.returncode


def test_every_outcome_is_counted_once(check: ModuleType, tmp_path: Path) -> None:
    count = check.count_report(*run_pytest(tmp_path, OUTCOMES))
    # Failed: two parameters, an error before, a failure with an error after it, and a strict
    # xfail that passed. Skipped: the skip and the xfail.
    assert count == (1, 5, 2)
    assert str(count) == "1 passed, 5 failed, 2 skipped"


def test_only_passes(check: ModuleType, tmp_path: Path) -> None:
    count = check.count_report(*run_pytest(tmp_path, "def test_passes(): pass\n"))
    assert str(count) == "1 passed, 0 failed"


@pytest.mark.parametrize("source", ["import missing_module\n", "# no test at all\n"])
def test_a_run_that_did_not_test_fails(check: ModuleType, tmp_path: Path, source: str) -> None:
    assert check.count_report(*run_pytest(tmp_path, source)) == (0, 1, 0)


def test_a_file_that_two_processes_cannot_read_fails_once(
    check: ModuleType, tmp_path: Path
) -> None:
    run = run_pytest(tmp_path, "import missing_module\n", "--numprocesses=2")
    assert check.count_report(*run) == (0, 1, 0)


def test_no_report_is_a_failure(check: ModuleType, tmp_path: Path) -> None:
    assert check.count_report(tmp_path / "absent.xml", 0) == (0, 1, 0)

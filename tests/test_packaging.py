# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The house around the package: metadata in one place, pins complete, a wheel that works."""

import ast
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from configparser import RawConfigParser
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pyro_blr

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/install.md"]
CORE = {"pyro-ppl>=1.9.2", "torch>=2.4", "numpy", "opt-einsum", "tqdm"}


def read_setup() -> RawConfigParser:
    setup = RawConfigParser()
    assert setup.read(ROOT / "setup.cfg")
    return setup


def lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def source_version() -> str:
    tree = ast.parse((ROOT / "pyro_blr" / "_version.py").read_text())
    (assigned,) = [node for node in tree.body if isinstance(node, ast.Assign)]
    return ast.literal_eval(assigned.value)


def normal_form(requirement: Requirement) -> str:
    return f"{canonicalize_name(requirement.name)}{requirement.specifier}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, without the network: setuptools is a test requirement."""
    copy = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "pyro_blr", copy / "pyro_blr")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", build],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_pyproject_has_no_project_table() -> None:
    # Beside one, setuptools ignores the metadata of setup.cfg, or fails.
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(tables) == {"build-system", "tool"}


def test_setup_has_no_dead_tool_sections() -> None:
    # pytest, ruff and mypy read pyproject.toml: what stood here would silently do nothing.
    sections = read_setup().sections()
    assert all(section.startswith(("metadata", "options")) for section in sections)


def test_version_is_the_same_everywhere() -> None:
    version = source_version()
    assert pyro_blr.__version__ == version
    assert importlib.metadata.version("pyro-blr") == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_wheel_metadata(metadata: Message) -> None:
    assert metadata["Name"] == "pyro-blr"
    assert metadata["Version"] == source_version()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    core = {normal_form(requirement) for requirement in requirements if not requirement.marker}
    assert core == CORE
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "adapters",
        "arviz",
        "docs",
        "bench",
        "dynamax",
        "render",
        "test",
    }


def test_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [n for n in archive.namelist() if n.endswith("licenses/LICENSE")]
    package = ROOT / "pyro_blr"
    sources = {str(path.relative_to(ROOT)) for path in package.rglob("*.py")}
    assert names == sources | {"pyro_blr/py.typed"}
    assert len(licences) == 1


def test_package_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import pyro_blr, pyro_blr.guides, pyro_blr.families; print(pyro_blr.__file__)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(tmp_path)


def test_every_direct_requirement_is_pinned_to_a_version_it_accepts() -> None:
    setup = read_setup()
    wanted = [Requirement(line) for line in lines(setup["options"]["install_requires"])]
    for extra in setup["options.extras_require"].values():
        wanted += [Requirement(line) for line in lines(extra)]
    pins: dict[str, Requirement] = {}
    for line in lines((ROOT / "constraints.txt").read_text()):
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate():
            assert pin.name not in pins, f"{pin.name} is pinned twice"
            pins[canonicalize_name(pin.name)] = pin
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        if name == "pyro-blr":
            continue
        (exactly,) = pins[name].specifier
        assert exactly.operator == "=="
        assert requirement.specifier.contains(exactly.version), (requirement, exactly)


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "Makefile"),
        *("constraints.txt", "docs/conf.py", "docs/index.md", "pyro_blr/py.typed", ".ci/run"),
    ],
)
def test_file_exists(name: str) -> None:
    assert (ROOT / name).is_file()


def test_build_script_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_documented_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
        assert named <= targets, document


@pytest.mark.parametrize(
    "folder", ["pyro_blr", "tests", "benchmarks", "demo", "docs", "examples", ".ci"]
)
def test_every_source_file_states_its_licence(folder: str) -> None:
    notice = (
        "# Copyright Contributors to the pyro_blr project.\n# SPDX-License-Identifier: Apache-2.0\n"
    )
    bare = [
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*.py")
        if not path.read_text().startswith(notice)
    ]
    assert bare == []


@pytest.mark.parametrize("module", ["pyro_blr", "pyro_blr.guides", "pyro_blr.families"])
def test_public_package_lists_its_names(module: str) -> None:
    # The documentation shows what __all__ lists.
    imported = importlib.import_module(module)
    assert imported.__all__
    assert [name for name in imported.__all__ if not hasattr(imported, name)] == []

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The tutorials as the documentation shows them: complete, in order, legible; how they are stored.

nbmake runs them from top to bottom (``.ci/check.py``); here only what is stored is read.
"""

import ast
import base64
import importlib.util
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nbformat")
pytest.importorskip("jupyter_client")
pytest.importorskip("sklearn")

import matplotlib
import nbformat
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from examples import data, show

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tutorials"
PATHS = sorted(FOLDER.glob("*.ipynb"))
#: The most bytes of a picture, lines of a cell's text, and columns of a line of it.
PICTURE, LINES, COLUMNS = 150_000, 30, 160


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any) -> Iterator[Any]:
    return itertools.chain.from_iterable(cell.outputs for cell in code(notebook))


def prose(notebook: Any) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def pictures(notebook: Any) -> list[bytes]:
    found = (output.get("data", {}).get("image/png") for output in outputs(notebook))
    return [base64.b64decode(picture) for picture in found if picture]


def text_of(output: Any) -> str:
    return output.get("text") or output.get("data", {}).get("text/plain", "")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Any:
    return read(request.param)


def test_they_are_numbered_without_a_gap() -> None:
    numbers = [int(path.name[:2]) for path in PATHS]
    assert numbers == list(range(1, len(PATHS) + 1))


def test_each_says_first_what_the_reader_will_be_able_to_do(notebook: Any) -> None:
    title, *rest = notebook.cells[0].source.splitlines()
    assert re.match(r"# [A-Z]", title)
    assert "fter this notebook you will be able to" in "\n".join(rest)
    assert notebook.cells[-1].source.startswith("## In short")
    assert not re.search(r"^# ", "\n".join(rest), re.MULTILINE)  # one title


def test_each_was_run_from_top_to_bottom(notebook: Any) -> None:
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "Mend: make tutorials"
    assert notebook.metadata.kernelspec.name == "python3"


def test_no_error_and_no_warning_is_stored(notebook: Any) -> None:
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"


def test_outputs_are_stored_and_are_no_dumps(notebook: Any) -> None:
    shown = [output for output in outputs(notebook) if text_of(output)]
    assert shown
    for output in shown:
        lines = text_of(output).splitlines()
        assert len(lines) <= LINES
        assert max(map(len, lines)) <= COLUMNS


def test_pictures_are_there_and_are_small(notebook: Any) -> None:
    found = pictures(notebook)
    assert 1 <= len(found) <= 4
    for picture in found:
        assert len(picture) < PICTURE


def test_nothing_tells_of_the_machine(notebook: Any) -> None:
    stored = nbformat.writes(notebook)
    assert not re.search(r"ipykernel_|site-packages|/home/|/tmp/|\"timestamp|iopub", stored)


def test_what_is_claimed_is_asserted(notebook: Any) -> None:
    trees = [ast.parse(cell.source) for cell in code(notebook)]
    claims = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert len(claims) >= 3


def test_links_lead_somewhere(notebook: Any) -> None:
    text = prose(notebook)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("http"):
            assert (FOLDER / target).exists(), target
            # docs/conf.py makes these links within the documentation, and no others.
            assert re.fullmatch(r"\w+\.ipynb|\.\./docs/\w+\.md", target), target
    assert not re.search(r"\][\n ]\(|\[[^]\n]*\n[^]\n]*\]\(", text), "a link in two lines"


def test_the_documentation_lists_all() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    listed = re.search(r"^tutorials/\*$", index, re.MULTILINE)
    assert listed or all(f"tutorials/{path.stem}" in index for path in PATHS)
    assert (ROOT / "docs" / "tutorials").resolve() == FOLDER


def test_pictures_look_as_those_of_the_examples() -> None:
    style = matplotlib.rc_params_from_file(FOLDER / "tutorial.mplstyle", use_default_template=False)
    assert style["axes.prop_cycle"].by_key()["color"] == list(show.COLOURS)
    assert {key: style[key] for key in show.STYLE} == show.STYLE


def test_the_houses_of_minnesota() -> None:
    rows = np.loadtxt(data.HERE / "radon.csv", delimiter=",", skiprows=1)
    assert rows.shape == (919, 4)
    assert set(rows[:, 0]) == set(range(1, 86))
    assert set(rows[:, 1]) == {0.0, 1.0}
    for county in range(1, 86):  # one value of the soil a county
        assert len(set(rows[rows[:, 0] == county, 3])) == 1


@pytest.mark.data
def test_the_houses_are_those_of_posteriordb(data_folder: Path) -> None:
    theirs = data.posterior("radon_mn-radon_hierarchical_intercept_centered")
    names = ("county_idx", "floor_measure", "log_radon", "log_uppm")
    expected = np.stack([theirs[name] for name in names], -1)
    rows = np.loadtxt(data.HERE / "radon.csv", delimiter=",", skiprows=1)
    rows[:, 2:] = np.log(rows[:, 2:])
    np.testing.assert_allclose(rows, expected, atol=1e-5)


# How they are stored


def test_their_kernel_is_installed() -> None:
    try:
        KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        pytest.fail("the tutorials need the Jupyter kernel python3. Mend: pip install ipykernel")


@pytest.fixture
def storing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script of `make tutorials`."""
    monkeypatch.delenv("CI", raising=False)
    spec = importlib.util.spec_from_file_location("tutorials", ROOT / ".ci" / "tutorials.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small(path: Path, *cells: str) -> Path:
    """A notebook of code cells."""
    v4 = nbformat.v4
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells]), path)
    return path


def test_outputs_are_stored_the_same_twice(storing: ModuleType, tmp_path: Path) -> None:
    path = small(tmp_path / "a.ipynb", "print(1)\nprint(2)", "3")
    storing.run(path)
    first = path.read_text()
    storing.run(path)
    assert path.read_text() == first
    one, two = read(path).cells
    assert [output.text for output in one.outputs] == ["1\n2\n"]
    assert two.outputs[0].data["text/plain"] == "3"


def test_a_warning_is_not_stored(storing: ModuleType, tmp_path: Path) -> None:
    path = small(tmp_path / "a.ipynb", "import warnings\nwarnings.warn('beware')")
    before = path.read_text()
    with pytest.raises(SystemExit, match=r"a.ipynb, cell-00, warns[\s\S]*beware"):
        storing.run(path)
    assert path.read_text() == before


def test_a_kernel_that_is_absent_is_named(
    storing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "KERNEL", "no-such-kernel")
    path = small(tmp_path / "a.ipynb", "1")
    with pytest.raises(SystemExit, match=r"kernel no-such-kernel. Mend: pip install ipykernel"):
        storing.run(path)


def test_the_short_mode_is_not_stored(storing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    with pytest.raises(SystemExit, match="CI is set"):
        storing.main()

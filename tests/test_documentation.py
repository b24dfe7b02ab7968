# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The pages as they are built: every link leads somewhere, every public name is there."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_blr
import pyro_blr.minimal as minimal
from docs.inventories import PROJECTS, role_of
from docs.mathml import mathml
from pyro_blr.draws import draws_of

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "docs" / "_build" / "html"
MODULES = [pyro_blr, *(getattr(pyro_blr, n) for n in pyro_blr.__all__ if not n.startswith("_"))]
MODULES = [m for m in MODULES if isinstance(m, ModuleType)] + [minimal]
#: What a reader opens outside the site.
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]


class Page(HTMLParser):
    """The links of a page, its anchors, and its cross-references that lead nowhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.unresolved: list[str] = []
        self._open: list[str] = []
        self._reference: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        self.links += [given[key] for key in ("href", "src") if key in given]
        if tag == "code" and "xref" in given.get("class", "").split() and "a" not in self._open:
            self._reference = []
        if tag in ("a", "code"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "code" and self._reference is not None:
            self.unresolved.append("".join(self._reference))
            self._reference = None
        if tag in self._open:
            self._open.remove(tag)

    def handle_data(self, data: str) -> None:
        if self._reference is not None:
            self._reference.append(data)


def newest(*places: str) -> float:
    """When something below some places was last written, what was made of it left out."""
    files = (f for place in places for f in (ROOT / place).rglob("*") if f.is_file())
    return max(f.stat().st_mtime for f in files if not {"_build", "__pycache__"} & {*f.parts})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages: those of `make test`, which are built before the tests, or new ones."""
    if (BUILT / "objects.inv").exists():
        made = (BUILT / "objects.inv").stat().st_mtime
        if made > newest("docs", "pyro_blr", "tutorials"):
            return BUILT
    folder = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "docs", str(folder)]
    environment = os.environ | {"CI": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@cache
def page_at(path: Path) -> Page:
    return Page(path.read_text())


def pages(site: Path) -> list[Path]:
    """The pages that have a source: not those of the code, nor what an earlier build has left."""
    found = {p: p.relative_to(site).with_suffix("") for p in site.rglob("*.html")}
    sources = {p: ROOT / "docs" / name for p, name in found.items()}
    made = {Path(name) for name in ("genindex", "search", "py-modindex")}
    return [
        path
        for path, source in sources.items()
        if found[path] in made or any(source.with_suffix(s).exists() for s in (".md", ".ipynb"))
    ]


def test_every_link_and_anchor_of_the_site_exists(site: Path) -> None:
    broken = []
    for path in pages(site):
        for link in page_at(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: {link}")
                continue
            anchor = unquote(parts.fragment) if target.suffix == ".html" else ""
            if anchor and anchor not in page_at(target).anchors:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert sorted(set(broken)) == []


def test_every_cross_reference_leads_somewhere(site: Path) -> None:
    found = {str(p.relative_to(site)): page_at(p).unresolved for p in pages(site)}
    assert {page: names for page, names in found.items() if names} == {}


def test_every_page_is_in_the_navigation(site: Path) -> None:
    listed = {urlsplit(link).path for link in page_at(site / "index.html").links}
    own = {str(p.relative_to(site)) for p in pages(site)}
    made = {"index.html", "genindex.html", "search.html", "py-modindex.html"}
    assert {p for p in own - made if not p.startswith("api/")} <= listed


def public_names(module: ModuleType) -> list[str]:
    """The names that a module offers: those of `__all__`, else the classes that are its own."""
    names = getattr(module, "__all__", None)
    if names is None:
        own = {n: v for n, v in vars(module).items() if inspect.isclass(v)}
        names = [n for n, value in own.items() if value.__module__ == module.__name__]
    return [n for n in names if not isinstance(getattr(module, n), ModuleType | str)]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_every_public_name_is_in_the_reference(module: ModuleType, site: Path) -> None:
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    known = {name for kind in inventory.data.values() for name in kind}
    names = public_names(module)
    assert names
    assert [n for n in names if f"{module.__name__}.{n}" not in known] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_every_public_function_says_what_it_takes_and_raises(module: ModuleType) -> None:
    for name in public_names(module):
        value = getattr(module, name)
        text = inspect.getdoc(value)
        assert text, f"{name} has no docstring"
        if inspect.isfunction(value):
            parameters = [p for p in inspect.signature(value).parameters if p != "kwargs"]
            missing = [p for p in parameters if not re.search(rf":param [^:]*\b{p}:", text)]
            assert missing == [], f"{name} does not document {missing}"


def examples() -> list[tuple[str, str]]:
    """The code under `Example::` in docstrings that is no doctest: those run anyway."""
    found = []
    for path in sorted((ROOT / "pyro_blr").rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "Example::" in text else ():
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            for block in re.findall(r"^Example::\n\n((?:    .*\n|\n)+)", f"{text}\n", re.MULTILINE):
                if ">>>" not in block:
                    found.append((f"{path.stem}: {getattr(node, 'name', '')}", dedent(block)))
    return found


def regression(X: torch.Tensor, y: torch.Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=y)


EXAMPLES = examples()


@pytest.mark.parametrize(("place", "code"), EXAMPLES, ids=[place for place, _ in EXAMPLES])
def test_the_examples_of_docstrings_run(
    place: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with a regression that has been fitted, draws of it, and the names of the package."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"pyro": pyro, "torch": torch, "dist": dist, "model": regression}
    names |= {m.__name__.rpartition(".")[2]: m for m in MODULES}
    for module in MODULES:
        names |= {n: getattr(module, n) for n in public_names(module)}
    data = torch.randn(20, 2), torch.randn(20)
    names |= {"X": data[0], "y": data[1]}
    if "arviz_stats" in code:
        names["arviz_stats"] = pytest.importorskip("arviz_stats")
    blr = pyro_blr.BLR(regression, pyro_blr.guides.AutoNatural(regression))
    fit = blr.fit(*data)
    draws = draws_of(fit, data, {}, 100)
    names |= {"values": draws.latents, "log_p": draws.log_p, "log_q": draws.log_q}
    exec(code, names | {"blr": blr, "guide": blr.guide, "fit": fit})
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")  # a user has them on the screen


def heading_anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_a_document_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = ROOT / parts.path if parts.path else ROOT / document
        assert target.exists(), link
        if parts.fragment:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert parts.fragment in map(heading_anchor, headings), link


def test_the_path_of_a_new_user(tmp_path: Path) -> None:
    """README.md alone, in an empty folder: the extra it installs exists, and its script runs."""
    section = (ROOT / "README.md").read_text().split("## In five minutes\n")[1].split("\n## ")[0]
    (shell,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    (extra,) = re.findall(r"pip install .*\[(\w+)\]", shell)
    assert extra in metadata.metadata("pyro-blr").get_all("Provides-Extra")
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "regression.py").write_text(script)
    command = [sys.executable, "-W", "error", "regression.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^<fit: converged after \d+ steps", done.stdout)
    assert re.search(r"^slope\[1\] +-0\.\d", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("project", PROJECTS)
def test_names_of_other_projects_are_theirs(project: str) -> None:
    """A link's text is a name that a reader can import."""
    if project != "python":
        pytest.importorskip(project)
    for name in PROJECTS[project][2]:
        module, _, attribute = name.rpartition(".")
        value = getattr(importlib.import_module(module or "builtins"), attribute)
        assert (role_of(name) == "py:class") == inspect.isclass(value), name


def test_python_is_shown_only_where_it_is_run() -> None:
    """The pages that conftest.py collects are README.md, CONTRIBUTING.md and docs/*.md."""
    run = {ROOT / d for d in DOCUMENTS} | set((ROOT / "docs").glob("*.md"))
    shown = [
        p for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if "_build" not in str(p)
    ]
    assert [p for p in shown if "```python" in p.read_text() and p not in run] == []


def test_code_beside_code_fits_its_column() -> None:
    """Some 53 characters do, in the widest window; beyond that it is cut, and scrolls."""
    for page in (ROOT / "docs").glob("*.md"):
        columns = re.findall(r"^:::\{container\} side\n(.*?)^:::$", page.read_text(), re.M | re.S)
        long = [line for c in columns for line in c.splitlines() if len(line) > 53]
        assert long == [], page.name


def test_a_formula_that_is_not_understood_is_found() -> None:
    shown, left = mathml(
        r"\begin{aligned} a &= \tfrac{b}{2} \\ c &= \langle d \rangle \end{aligned}", "block"
    )
    assert left == [] and shown.count("<mtr>") == 2
    assert mathml(r"a + \unheardof{b}", "inline")[1] == [r"\unheardof"]

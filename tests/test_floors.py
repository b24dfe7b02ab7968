# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Imports only ever point down, and each floor knows only what the table below lets it know."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pyro_blr"

# Ground floor first. Each floor, and the floors below it that it may import; a name stands for a
# package with all of its files, or for one file. A file that is nowhere in the table fails.
GROUND = ("errors", "_compat", "_version")
FLOORS: dict[str, tuple[str, ...]] = {
    **{name: () for name in GROUND},
    "html_table": (),
    "text_table": (),
    "signatures": (),
    "shapes": (),
    "counts": (),
    "on_host": (),
    "devices": ("errors",),
    "plotting": ("errors",),
    "drawing": ("errors",),
    "families": ("errors", "html_table", "shapes"),
    "linear_algebra": (),
    "lifting": ("errors", "html_table", "shapes", "families", "linear_algebra"),
    "estimators": ("errors", "linear_algebra"),
    "random_state": (),
    "energy": (
        "errors",
        "_compat",
        "html_table",
        "text_table",
        "shapes",
        "families",
        "lifting",
        "estimators",
        "devices",
        "random_state",
    ),
    "conjugate_gradients": ("lifting.host",),
    "guides": (
        *("errors", "_compat", "html_table", "shapes", "counts", "families", "lifting", "energy"),
        *("random_state", "conjugate_gradients"),
    ),
    "refusals": ("errors", "lifting.blocks", "energy", "guides"),
    "structure": ("errors", "_compat", "guides", "random_state"),
    "picture": ("html_table", "drawing", "energy", "structure"),
    # A step sees families and an objective: no trace, no guide, and of lifting the waits alone.
    "steps": ("errors", "families", "lifting.host", "conjugate_gradients"),
    "latent": (
        *("errors", "_compat", "shapes", "families", "energy", "random_state"),
        *("conjugate_gradients", "steps"),
    ),
    # Of latent it has how a model is run and listed, not how it is conjugated.
    "geometry": (
        *("errors", "_compat", "signatures", "shapes", "counts"),
        *("latent.peeling", "latent.probe"),
    ),
    "processes": ("errors",),
    # Of steps it has that of a diagonal Gaussian, which the core takes too.
    "optim": ("errors", "counts", "families", "lifting.host", "steps.diagonal", "processes"),
    "nn": ("errors", "_compat", "counts", "lifting.host", "optim"),
    "skips": ("errors",),
    "objective": ("families", "lifting", "energy"),
    "derivatives": (),
    "profile_objective": (
        *("families", "lifting", "energy", "steps"),
        *("conjugate_gradients", "derivatives", "objective"),
    ),
    "digests": (),
    "kept_sums": ("errors", "digests"),
    "chunks": ("errors", "kept_sums", "random_state"),
    "summed_loss": ("lifting", "derivatives", "objective"),
    "summed_objective": (
        *("families", "lifting", "energy"),
        *("derivatives", "objective", "processes", "chunks", "kept_sums", "summed_loss"),
    ),
    "charted_objective": ("families", "lifting", "energy", "guides", "objective"),
    "rules": (
        *("errors", "_compat", "families", "lifting.host", "lifting.blocks", "estimators"),
        *("energy", "guides", "steps", "random_state"),
    ),
    "seeding": ("families", "lifting", "energy", "steps", "objective"),
    "info": ("families", "lifting", "energy", "steps", "objective"),
    "joint_objective": ("families", "lifting", "energy", "steps", "objective"),
    "sampling": ("energy", "estimators", "lifting.host"),
    "gaps": ("families", "lifting", "steps", "objective", "joint_objective"),
    "mode": ("families", "lifting", "objective", "steps"),
    "fit": ("html_table",),
    "progress": ("fit",),
    "watch": ("steps", "objective", "joint_objective", "sampling", "gaps", "mode", "fit"),
    "loop": ("gaps", "fit", "objective", "progress", "watch"),
    "arguments": ("errors", "signatures", "guides", "steps"),
    "saved_parameters": ("errors", "_compat", "energy"),
    "model_parameters": (
        *("errors", "families", "lifting", "energy", "steps", "objective", "saved_parameters"),
    ),
    "saved_constraints": (),
    "module_parameters": ("_compat", "guides.store"),
    "guide_parameters": (
        *("errors", "_compat", "energy", "saved_parameters", "random_state"),
        *("guides.checkpoint", "guides.store", "module_parameters", "saved_constraints"),
    ),
    "guide_copies": ("guides.natural_guide",),
    "state": (
        *("errors", "_compat", "energy", "guides", "steps", "skips", "random_state"),
        *("guide_copies", "guide_parameters", "model_parameters", "sampling"),
    ),
    "diagnosis": ("errors", "_compat", "devices", "signatures", "energy", "random_state"),
    "part_checks": ("errors", "lifting", "energy", "objective", "state", "refusals", "digests"),
    "parted": (
        *("families", "lifting", "energy", "objective", "part_checks"),
        *("errors", "processes", "chunks", "profile_objective", "summed_objective"),
        *("derivatives", "digests", "kept_sums", "signatures"),
    ),
    "in_parts": ("errors", "chunks", "parted", "processes", "state"),
    "tracing": (
        *("errors", "families", "lifting", "energy", "guides"),
        *("objective", "charted_objective", "in_parts", "random_state", "summed_objective"),
    ),
    "engine": (
        *("errors", "families", "lifting", "energy", "guides", "steps", "objective"),
        *("arguments", "info", "random_state", "sampling", "seeding", "summed_objective"),
        "tracing",
    ),
    "with_rule": (
        *("errors", "guides", "steps", "rules", "arguments", "chunks", "guide_parameters"),
        *("info", "random_state", "refusals", "engine"),
    ),
    "stopwatch": (),
    "isolation": ("guides.leaf", "random_state"),
    "trace_report": ("errors", "html_table", "text_table", "fit"),
    "factor_times": ("lifting", "energy", "objective", "stopwatch", "trace_report"),
    "profiling": (
        *("factor_times", "isolation", "loop", "objective"),
        *("stopwatch", "trace_report", "watch"),
    ),
    "influence": (
        *("errors", "_compat", "families", "lifting", "energy", "estimators", "guides", "steps"),
        *("plotting", "shapes", "objective", "fit", "state", "engine", "refusals", "random_state"),
    ),
    "surrogate": (
        *("errors", "families", "lifting", "energy", "guides", "html_table", "text_table"),
        *("plotting", "objective", "random_state", "refusals"),
    ),
    "streaming": (
        *("errors", "families", "lifting", "energy", "guides"),
        *("objective", "fit", "loop", "state", "engine", "refusals", "chunks", "random_state"),
        *("guide_parameters", "module_parameters"),
    ),
    "model_call": ("arguments", "chunks", "diagnosis"),
    "with_data": ("arguments", "influence", "model_call", "refusals", "streaming", "with_rule"),
    "blr": (
        *("errors", "families", "lifting", "energy", "guides", "steps", "rules"),
        *("arguments", "guide_parameters", "info", "model_parameters", "sampling", "skips"),
        *("chunks", "parted", "processes", "refusals"),
        *("fit", "loop", "engine", "picture", "model_call", "with_data"),
        *("profiling", "trace_report", "surrogate"),
    ),
    "draws": (
        "errors",
        "_compat",
        "shapes",
        "families",
        "energy",
        "guides",
        "rules",
        "fit",
        "diagnosis",
        "blr",
    ),
    "arviz": ("errors", "_version", "arguments", "random_state", "fit", "draws"),
    "diagnostics": (
        *("errors", "_compat", "families", "lifting.blocks", "energy", "guides", "fit", "blr"),
        *("signatures", "plotting", "random_state", "arguments", "draws", "text_table", "on_host"),
    ),
    "command_line": ("errors", "_version", "signatures", "guides", "isolation", "fit", "blr"),
    "__main__": ("command_line",),
    "extend": ("lifting",),
    # Stands apart: the idea in two files, an oracle for the tests.
    "minimal": ("errors",),
    "__init__": (
        *(*GROUND, "families", "guides", "latent", "geometry", "optim", "nn"),
        *("blr", "chunks", "arviz", "diagnostics", "extend"),
    ),
}

# Who may import Pyro. The algebra, the steps and what joins them may not.
PYRO = {
    *(
        "_compat",
        "families",
        "energy.home",
        "lifting.densities",
        "lifting.declared",
        "lifting.distribution",
        "lifting.low_rank_normal",
        "lifting.wrappers",
        "nn.bayesian",
        "nn.trained",
        "nn.likelihoods",
        "energy.at_prior",
        "energy.discrete_marginals",
        "energy.domains",
        "energy.elimination",
        "energy.hidden_gaussian",
        "energy.hidden_markov",
        "energy.log_einsum",
        "energy.trace",
        "geometry.pyro_model",
        "geometry.pyro_sites",
        "influence.weighting",
        "latent.conjugation",
        "latent.evidence_metric",
        "latent.peeling",
        "latent.placing",
        "latent.posterior",
        "latent.probe",
        "latent.spaces",
    ),
    *(
        "guides",
        "structure",
        "isolation",
        "rules",
        "arguments",
        "model_parameters",
        "saved_parameters",
    ),
    *("saved_constraints", "module_parameters", "guide_parameters", "guide_copies"),
    *("diagnosis", "blr", "draws", "minimal", "command_line.known_answers"),
    *("diagnostics.nuts", "diagnostics.pareto", "diagnostics.simulation"),
    "diagnostics.supports",
}

# Files of one floor that need each other. The lower one imports the upper one inside a function.
DEFERRED = {("lifting.tensor", "lifting.dispatch")}

Imports = dict[str, set[str]]


def within(module: str, places: tuple[str, ...] | set[str]) -> bool:
    """Whether a module is one of some places, or a file of one of them."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


def floor_of(module: str) -> str | None:
    """The floor on which a module stands."""
    return next((floor for floor in FLOORS if within(module, {floor})), None)


def module_name(path: Path, package: Path) -> str:
    """The name of a file below the package: ``lifting.axes``; a package's own is the folder's."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def names_in(path: Path, package: Path) -> list[str]:
    """Every absolute name that a file imports, wherever in the file: ``pyro_blr.lifting.axes``."""
    above = [PACKAGE, *path.relative_to(package).parent.parts]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = above[: len(above) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def read_imports(package: Path) -> tuple[Imports, Imports]:
    """What each file imports: files of the package, and the packages outside it."""
    paths = {module_name(path, package): path for path in package.rglob("*.py")}
    inside: Imports = {module: set() for module in paths}
    outside: Imports = {module: set() for module in paths}
    for module, path in paths.items():
        for name in names_in(path, package):
            top, _, rest = name.partition(".")
            if top != PACKAGE:
                outside[module].add(top)
                continue
            # The imported name is a file, or something in the file (or package) above it.
            while rest and rest not in paths:
                rest = rest.rpartition(".")[0]
            inside[module].add(rest or "__init__")
    return inside, outside


def upward(inside: Imports) -> list[str]:
    """Imports from one floor to another that the table does not allow; files on no floor."""
    found = [f"{module} stands on no floor" for module in inside if floor_of(module) is None]
    for module, imported in inside.items():
        floor = floor_of(module)
        if floor is None:
            continue
        found += [
            f"{module} imports {other}"
            for other in sorted(imported)
            if other != module and not within(other, (floor, *FLOORS[floor]))
        ]
    return sorted(found)


def cycle(inside: Imports) -> list[str]:
    """A circle of imports between files, or nothing."""
    graph = {
        module: {o for o in others if o != module and (module, o) not in DEFERRED}
        for module, others in inside.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def imports() -> tuple[Imports, Imports]:
    return read_imports(ROOT / PACKAGE)


def test_the_table_itself_points_down() -> None:
    order = list(FLOORS)
    for floor, below in FLOORS.items():
        assert all(order.index(b.partition(".")[0]) < order.index(floor) for b in below), floor


def test_imports_point_down(imports: tuple[Imports, Imports]) -> None:
    inside, _ = imports
    assert sum(map(len, inside.values())) > 100  # the files were found and read
    assert upward(inside) == []


def test_no_circle_between_files(imports: tuple[Imports, Imports]) -> None:
    inside, _ = imports
    assert cycle(inside) == []
    assert all(upper in inside[lower] for lower, upper in DEFERRED), "no longer needed"


def test_pyro_is_known_only_where_the_table_says(imports: tuple[Imports, Imports]) -> None:
    _, outside = imports
    users = {module for module, packages in outside.items() if "pyro" in packages}
    assert {m for m in users if not within(m, PYRO)} == set()
    assert {place for place in PYRO if not any(within(m, {place}) for m in users)} == set()


def test_the_design_names_every_file(imports: tuple[Imports, Imports]) -> None:
    inside, _ = imports
    text = (ROOT / "docs" / "design.md").read_text()
    named = {name.strip("/") for name in re.findall(r"`([a-z_/]+)`", text)}
    files = {m.rpartition(".")[2] for m in inside if not within(m, {"minimal", "__init__"})}
    assert files - named == set(), "say in docs/design.md what these files hold"


# The checks themselves: each finds what it is there to find.


def planted(folder: Path, files: dict[str, str]) -> Imports:
    for name, text in files.items():
        path = folder / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_imports(folder / PACKAGE)[0]


@pytest.mark.parametrize(
    "statement",
    [
        "from ..energy.trace import Traced",
        "from .. import energy",
        "from pyro_blr.energy import trace",
        "import pyro_blr.energy.trace",
        "def late():\n    from ..energy import trace",
    ],
)
def test_an_import_upwards_is_found(tmp_path: Path, statement: str) -> None:
    files = {"lifting/axes.py": statement, "energy/__init__.py": "", "energy/trace.py": ""}
    (found,) = upward(planted(tmp_path, files))
    assert found.startswith("lifting.axes imports energy")


def test_a_step_that_reads_data_is_found(tmp_path: Path) -> None:
    files = {"steps/sweep.py": "from ..lifting import axes, host"}
    files |= {"lifting/axes.py": "", "lifting/host.py": ""}
    assert upward(planted(tmp_path, files)) == ["steps.sweep imports lifting.axes"]


def test_a_file_on_no_floor_is_found(tmp_path: Path) -> None:
    assert upward(planted(tmp_path, {"attic.py": ""})) == ["attic stands on no floor"]


def test_a_circle_is_found(tmp_path: Path) -> None:
    files = {
        "energy/build.py": "from .factors import A",
        "energy/factors.py": "from . import build",
    }
    assert set(cycle(planted(tmp_path, files))) == {"energy.build", "energy.factors"}

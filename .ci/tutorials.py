# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Run the tutorials in full, and store what the documentation shows of them: `make tutorials`.

    python .ci/tutorials.py [PATH ...]

An error or a warning in a cell ends the run, and leaves that notebook as it was. With CI in the environment the
tutorials are short, so it must not be there.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import NoSuchKernel
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent / "tutorials"
KERNEL = "python3"
#: Seconds that a cell may take; a tutorial is to take less than two minutes.
LIMIT = 300
#: tqdm misses ipywidgets, which no stored output can show.
NO_WIDGETS = "ignore:IProgress not found"


def run(path: Path) -> float:
    """Run a notebook from top to bottom in a new kernel, store its outputs, return the seconds.

    :raises SystemExit: where its kernel is not installed.
    """
    notebook = nbformat.read(path, as_version=4)
    start = time.monotonic()
    client = NotebookClient(
        notebook,
        timeout=LIMIT,
        kernel_name=KERNEL,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
    )
    try:
        client.execute()
    except NoSuchKernel:
        sys.exit(f"{path.name} needs the Jupyter kernel {KERNEL}. Mend: pip install ipykernel")
    clean(notebook)
    refuse_warnings(path, notebook)
    nbformat.write(notebook, path)
    return time.monotonic() - start


def clean(notebook: Any) -> None:
    """Leave out what says of the machine, not of the tutorial, and would differ at each run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": KERNEL},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                output.metadata = {}


def refuse_warnings(path: Path, notebook: Any) -> None:
    """End the run where a cell wrote to the error stream, as warnings do.

    :raises SystemExit: with what was written.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                sys.exit(f"{path.name}, {cell.id}, warns; it is not stored.\n{output.text}")


def main() -> None:
    """Run those that are named, or all."""
    if "CI" in os.environ:
        sys.exit("CI is set: the tutorials would be stored in their short mode. Mend: unset CI")
    os.environ["PYTHONWARNINGS"] = NO_WIDGETS
    paths = [Path(name).resolve() for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        print(f"{path.name}: {run(path):.0f} s", flush=True)


if __name__ == "__main__":
    main()

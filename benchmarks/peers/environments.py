# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The environments of the peers: ``python -m benchmarks environments`` makes those that lack.

They lie in the folder that ``PYRO_BLR_PEERS`` names, by default ``~/.cache/pyro_blr/peers``. None
of what they hold is a dependency of the package; ``ivon`` holds a program under the GPL, which is
run to compare with, in a process of its own.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

#: The environment that the benchmarks themselves run in.
HERE = "here"


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    :param tuple packages: what pip installs.
    :param str python: the interpreter that makes it, if it cannot be the one that runs this.
    """

    packages: tuple[str, ...]
    python: str = ""


ENVIRONMENTS = {
    "jax": Environment(("numpyro==0.22.0", "blackjax==1.7.1")),
    "pymc": Environment(("pymc==5.28.5", "pymc-extras==0.10.0")),
    "gpjax": Environment(("gpjax==1.0.0",)),
    "gpytorch": Environment(("torch", "gpytorch==1.15.2", "laplace-torch==0.3")),
    "ivon": Environment(("torch==2.13.0", "ivon-opt==0.1.3", "numpy")),
    "goal": Environment(("goal-jax==0.0.1",), "python3.12"),
}


def folder() -> Path:
    """Where the environments lie."""
    given = os.environ.get("PYRO_BLR_PEERS")
    return Path(given) if given else Path.home() / ".cache" / "pyro_blr" / "peers"


def interpreter(name: str) -> Path | None:
    """The Python of an environment; None where it was not made."""
    if name == HERE:
        return Path(sys.executable)
    python = folder() / name / "bin" / "python"
    return python if python.exists() else None


def missing(name: str) -> str:
    """Why a peer of an environment has no record, and the mend."""
    if name == HERE:
        return "not measured yet: `python -m benchmarks problems`"
    wanted = ENVIRONMENTS[name].python
    if wanted and shutil.which(wanted) is None:
        return f"needs {wanted}, then `python -m benchmarks environments`"
    return "its environment was not made: `python -m benchmarks environments`"


def needs(name: str) -> str:
    """The interpreter that an environment needs, in brackets; nothing if any will do."""
    python = "" if name == HERE else ENVIRONMENTS[name].python
    return f" (needs {python})" if python else ""


def make() -> int:
    """Make every environment that is not there; how many could not be made."""
    failed = 0
    for name, wanted in ENVIRONMENTS.items():
        if interpreter(name) is not None:
            print(f"{name}: there")
            continue
        try:
            _make(folder() / name, wanted)
            print(f"{name}: made")
        except (OSError, subprocess.CalledProcessError) as error:
            # Half an environment would be taken for a whole one the next time.
            shutil.rmtree(folder() / name, ignore_errors=True)
            print(f"{name}: could not be made: {error}")
            failed += 1
    return failed


def _make(place: Path, wanted: Environment) -> None:
    python = wanted.python or sys.executable
    if shutil.which(python) is None:
        raise FileNotFoundError(f"there is no {python}")
    subprocess.run([python, "-m", "venv", str(place)], check=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, *wanted.packages], check=True)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Record BayesPy's converged answers for two bilinear models, from a start that is recorded too.

Run by hand from the root of a checkout, where BayesPy is installed
(``pip install pyro-blr[bench]``)::

    python -m tests.oracles.record_factor_models

It writes ``tests/data/bayespy_factor_models.json``: data, the means that q starts at, the converged
lower bound in nats and q's natural parameters. The models are those of ``benchmarks/bilinear.py``.
"""

import dataclasses
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bilinear import Problem, factorisation, ppca
from tests.oracles.record_bayespy import converge

OUTPUT = Path(__file__).parents[1] / "data" / "bayespy_factor_models.json"
# The recorded numbers are the data: rounded so, they need no generator to be reproduced.
DECIMALS = 4


def problems() -> dict[str, Problem]:
    """The models with data of the size of a test."""
    return {
        "ppca": ppca(30, 6, 3, noise=0.5),
        "factorisation": factorisation(60, 10, 8, 2, noise=0.5),
        "biased": factorisation(60, 10, 8, 2, biases=True, noise=0.5),
    }


def rounded(problem: Problem) -> Problem:
    """With data and start as the file has them."""
    args = tuple(round_floats(a) if isinstance(a, Tensor) else a for a in problem.args)
    means = {name: round_floats(mean) for name, mean in problem.means.items()}
    return dataclasses.replace(problem, args=args, means=means)


def round_floats(tensor: Tensor) -> Tensor:
    """Indices stay as they are."""
    return tensor.round(decimals=DECIMALS) if tensor.is_floating_point() else tensor


def record_of(problem: Problem) -> dict[str, Any]:
    """BayesPy's answer."""
    engine, nodes = problem.bayespy()
    result = converge(engine)
    naturals = problem.naturals_of(nodes)
    return {
        "model": problem.model.__name__,
        "args": [a.tolist() if isinstance(a, Tensor) else a for a in problem.args],
        "start": {name: mean.tolist() for name, mean in problem.means.items()},
        **result,
        "natural": {name: [n.tolist() for n in natural] for name, natural in naturals.items()},
    }


def main() -> None:
    """Write the file."""
    torch.set_default_dtype(torch.float64)
    record: dict[str, Any] = {
        "recorded_with": {
            "script": "tests/oracles/record_factor_models.py",
            "bayespy": version("bayespy"),
            "numpy": version("numpy"),
            "python": platform.python_version(),
        }
    }
    for name, problem in problems().items():
        record[name] = record_of(rounded(problem))
        print(name, record[name]["sweeps"], "sweeps, lower bound", record[name]["lower_bound"])
    OUTPUT.write_text(json.dumps(record, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

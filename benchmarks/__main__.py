# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The one runner: ``python -m benchmarks [name ...]``.

``environments`` and ``page`` are no benchmarks: the first makes what the ten problems' peers need,
the second writes the page of the documentation.
"""

import argparse
import importlib
import logging
import os
import sys
from pathlib import Path

import pyro
import torch

from . import machine, report
from .rows import Row, Settings, Skipped

OUTPUT = Path("benchmarks/output")
#: Each is a module of this package with ``run(settings) -> Iterator[Row]``.
NAMES = (
    *("regression_large", "regression_bayespy", "ppca", "factorisation"),
    *("logistic", "a1a", "stan", "svi", "posteriordb", "cone"),
    *("gmm", "lda", "hmm", "smoothing", "problems"),
    *("optimisers", "optimisers_gpu", "mean_field", "uci", "out_of_core", "gpu"),
)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = f"of {', '.join(NAMES)}; all if none is given"
    parser.add_argument("names", nargs="*", metavar="name", help=names)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="folder of the JSON")
    parser.add_argument("--threads", type=int, default=1, help="of torch and BLAS, on both sides")
    parser.add_argument("--tiny", action="store_true", help="test the code; figures mean nothing")
    parser.add_argument("--fresh", action="store_true", help="use no result that is kept")
    parser.add_argument("--only", nargs="+", default=(), help="some of the ten problems")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a peer's run, at most")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if options.only:
        from .problems.catalogue import PROBLEMS

        unknown = sorted(set(options.only) - set(PROBLEMS))
        if unknown:
            there = ", ".join(PROBLEMS)
            parser.error(f"no problem is called {', '.join(unknown)}; there are {there}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run, print the table, write the JSON; the exit status is 1 where a limit was missed."""
    given = sys.argv[1:] if arguments is None else arguments
    if given in (["environments"], ["page"]):
        return command(given[0])
    options = parse(arguments)
    folder = os.environ.get("PYRO_BLR_DATA")
    data = Path(folder) if folder else None
    settings = Settings(
        options.threads,
        data,
        options.tiny,
        options.fresh,
        tuple(options.only),
        options.seconds,
    )
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    torch.set_default_dtype(torch.float64)
    # The checks that Pyro's users switch off when they measure; off on both sides.
    pyro.enable_validation(False)
    verdicts: list[str] = []
    with machine.limit_threads(settings.threads):
        described = machine.describe()
        print(", ".join(f"{k} {v}" for k, v in described.items()), report.header(), sep="\n")
        for name in options.names or NAMES:
            rows = run(name, settings)
            verdicts += [row.verdict for row in rows]
            described["load_average_after"] = machine.load_average()
            if rows:
                report.write(options.out, name, described, rows)
    passed, missed = verdicts.count("pass"), verdicts.count("MISS")
    print(f"{passed} passed, {missed} missed; JSON in {options.out}")
    return int("MISS" in verdicts)


def command(name: str) -> int:
    """Make the environments of the peers, or write the page."""
    if name == "environments":
        from .peers.environments import make

        return int(make() > 0)
    from .problems.page import write

    print(write())
    return 0


def run(name: str, settings: Settings) -> list[Row]:
    """The rows of one benchmark, printed as they come."""
    rows = []
    module = importlib.import_module(f"{__package__}.{name}")
    try:
        for row in module.run(settings):
            print(report.show(row), flush=True)
            rows.append(row)
    except Skipped as reason:
        print(f"{name}: skipped: {reason}", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())

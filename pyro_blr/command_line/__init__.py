# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The command line: versions, devices and a self-test; the explanation of a model."""

import argparse
import sys
from collections.abc import Sequence

from .. import errors
from .explaining import explain
from .known_answers import self_test
from .versions import about

DESCRIPTION = (
    "Without a command: the versions and devices of this installation, and a self-test whose exit "
    "status is 0 if it went well."
)
OF_EXPLAIN = (
    "Say how each factor of a model is evaluated, without fitting it. The data are passed to the "
    "model by the names of its arguments."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    :param arguments: those of the command line if left out.
    """
    given = _parser().parse_args(arguments)
    if given.command is None:
        print(about())
        return self_test()
    try:
        return explain(given.model, given.data, given.device, given.dtype)
    except errors.BLRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pyro_blr", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", metavar="{explain}")
    command = commands.add_parser("explain", help=OF_EXPLAIN, description=OF_EXPLAIN)
    command.add_argument(
        "model", metavar="module:model", help="a Pyro model, as in my_models:regression"
    )
    command.add_argument(
        "--data",
        metavar="FILE",
        help=".npz, .pt or .json, by names of arguments; .csv, by columns (X.1, X.2, ... are one)",
    )
    command.add_argument("--device", default="cpu", help="where the data are put; cpu if left out")
    command.add_argument(
        "--dtype", choices=("float32", "float64"), help="of real numbers; torch's if left out"
    )
    return parser

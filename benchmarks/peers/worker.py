# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The process of a peer: ``python -m benchmarks.peers.worker THREADS`` reads jobs by line."""

import importlib
import json
import os
import pickle
import platform
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..memory import begin, risen


def versions(packages: list[str]) -> dict[str, str]:
    """Those of the packages that are installed here."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What the peer found, with the most memory that it took meanwhile beyond what it had, in MB.

    What goes wrong in a peer is its answer too: a comparison tells it, and goes on.
    """
    given = pickle.loads(Path(request["given"]).read_bytes())
    try:
        peer = importlib.import_module(f"benchmarks.peers.{request['peer']}")
        before = begin()
        found = dict(peer.run(given))
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    # A peer that reads the problem itself begins after that, and tells its own.
    found.setdefault("memory", risen(before))
    return {**found, "versions": versions(request["packages"])}


def main(threads: int) -> None:
    """Answer until the input ends."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    # What a library prints is not an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        Path(request["made"]).write_bytes(pickle.dumps(answer(request)))
        print("done", file=answers, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Ten problems, and every peer on each of them side by side: same model, data, machine and judge.

::

    python -m benchmarks environments                     # once: what the peers need
    PYRO_BLR_DATA=folder python -m benchmarks problems    # all ten; kept ones are not run anew
    python -m benchmarks problems --only radon --fresh    # one of them, anew
    python -m benchmarks page                             # docs/benchmarks.md and its pictures

Each peer runs in a process of its own, held to so many cores, and tells its q at looks along the
way; a look stops its clock. One judge finds the ELBO of every q, on the same draws of the same log
joint, in PyTorch. A peer's time to an accuracy is that of its first look within it, at the best of
its learning rates, luck included; the best ELBO of a family is the highest of any run in it, by
whomever.

Another problem is one more maker in ``catalogue``, another peer one more module in
``benchmarks.peers`` and a line in its registry.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..rows import Check, Row, Settings, Skipped
from ..store import Store
from .catalogue import PROBLEMS, load
from .measure import Measuring
from .table import NAME, rows

#: Kept with the code: the page is made of it.
KEPT = Path(__file__).resolve().parent.parent / "results" / NAME
#: Of the ten, and of its peers, to test the code.
SMALL, FEW = ("diabetes",), ("blr", "pyro_svi", "sklearn_ridge")
FAMILIES = ("default", "mean-field")

log = logging.getLogger(__name__)


def run(settings: Settings) -> Iterator[Row]:
    """The rows of every problem."""
    chosen = settings.only or (SMALL if settings.tiny else tuple(PROBLEMS))
    for name in chosen:
        try:
            problem = load(name, settings.data, settings.tiny)
            if settings.tiny and not settings.only:
                problem = replace(problem, peers=FEW, ours=FAMILIES[:1], families=FAMILIES[1:])
        except Skipped as reason:
            yield Row(NAME, name, Check("skipped", 0.0), note=str(reason))
            continue
        store = Store(None if settings.tiny else KEPT / f"{name}.json")
        if settings.fresh:
            # Long chains are the same whatever the package does.
            chains = store.content.get("reference", {}).get("nuts")
            store.content = {"reference": {"nuts": chains}} if chains else {}
        Measuring(problem, store, settings).everything()
        yield from rows(name, store.content)

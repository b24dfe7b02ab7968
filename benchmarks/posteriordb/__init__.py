# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Twenty posteriors of posteriordb: BLR's full Gaussian against tuned SVI, Pyro's and NumPyro's.

``PYRO_BLR_DATA`` is the folder of a clone of posteriordb, or one beside it. Then::

    python -m benchmarks posteriordb

measures BLR, and takes what it does not find in ``benchmarks/results/posteriordb`` hours for: the
best Gaussian (``judge``), SVI of both libraries (``tuning``), NUTS where posteriordb has no
reference draws (``nuts``). It says which of it was kept; ``--fresh`` keeps nothing.

The protocol. All sides have one family, a full Gaussian over the unconstrained space, and one
judge, the ELBO on fixed draws. SVI is tuned at no cost to it, runs to the end of each budget, and
its time is that of its cheapest setting whose median gap over three seeds is below 0.1 nats. Where
no setting gets there that takes less than ``Plan.cap`` a run, its time is that of the longest run,
and the ratio a lower bound. Times are CPU times, in one thread; compiling counts for NumPyro alone,
and apart. BLR has nothing tuned and runs over twenty seeds, or as many as ten minutes hold; a run
that ends in NaN, in an error, or converged and elsewhere, is a failure.

Another posterior is one more function in ``benchmarks.stan_models``; it takes part at once. Its
twin in ``benchmarks.numpyro_models``, of the same name, adds NumPyro's side and NUTS.
"""

from collections.abc import Iterator
from pathlib import Path

from ..rows import Row, Settings
from ..stan import arguments_of
from ..stan_models import EXAMPLES, Example
from ..stan_models.database import find
from ..store import Store
from .measure import Measuring
from .nuts import reference
from .table import NAME, Measured, row, totals
from .tuning import FULL, TINY

#: Kept with the code: what takes hours.
KEPT = Path(__file__).resolve().parent.parent / "results" / NAME
SECTIONS = ("optimum", "pyro_svi", "numpyro_svi", "nuts")
#: Of the twenty, to test the code.
SMALL = ("blr",)


def run(settings: Settings) -> Iterator[Row]:
    """A row for each posterior, then the totals."""
    database = None if settings.tiny else find(settings.data)
    examples = [e for e in EXAMPLES if e.name in SMALL] if settings.tiny else EXAMPLES
    everything = []
    for example in examples:
        measured = measure(example, database, settings)
        everything.append(measured)
        yield row(measured)
    yield from totals(everything)


def measure(example: Example, database: Path | None, settings: Settings) -> Measured:
    """All sides of one posterior.

    :param database: posteriordb, or None for the synthetic data.
    """
    args = arguments_of(example, database)
    store = Store(None if settings.tiny else KEPT / f"{example.name}.json")
    if settings.fresh:
        store.content.clear()
    kept = [
        name for name in ("optimum", "pyro_svi", "numpyro_svi", "nuts") if name in store.content
    ]
    measuring = Measuring(example, args, store, TINY if settings.tiny else FULL)
    pyro, numpyro = measuring.pyro(), measuring.numpyro()
    moments, referred = reference(example, args, database, store)
    blr = measuring.blr((0,)) if settings.tiny else measuring.blr()
    if kept:
        referred += f"; kept, not measured anew: {', '.join(kept)}"
    best = store.content["optimum"]["best"]
    return Measured(example.name, best, blr, pyro, numpyro, moments, referred)

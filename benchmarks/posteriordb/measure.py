# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Everything that is measured of one posterior, side by side."""

from typing import Any

from ..stan_models import Example
from ..unconstrained import LogJoint
from .judge import judge_of, starts
from .pyro_svi import PyroSVI
from .store import Store
from .tuning import Tuning

#: CPU seconds that a run of SVI may be expected to take.
CAP = 300.0


def measure_pyro(example: Example, args: tuple[Any, ...], store: Store, cap: float = CAP) -> None:
    """The best Gaussian, and Pyro's SVI tuned to it."""
    judge = judge_of(example, LogJoint(example.model, args), store)
    side = PyroSVI(example, args)
    tuning = Tuning(side, judge, store, starts(example.name), cap)
    result = tuning.search()
    start = "default" if side.default else "origin"
    store.put("pyro_svi", {**result, "start": start})

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Regression with Gamma noise: one step against one sweep of BayesPy."""

import statistics
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from .regression import RATE, SHAPE, data, model
from .rows import Check, Row, Settings, Skipped
from .timing import fresh, in_turn, ratio

NAME = "regression_bayespy"
D = 10
#: Sweeps before either side is timed: both have folded or allocated by then what they keep.
WARM_SWEEPS = 2


def run(settings: Settings) -> Iterator[Row]:
    """A sweep over (w, tau) with the lower bound that belongs to it, on both sides."""
    fresh()
    N = 1_000 if settings.tiny else 100_000
    X, y = data(N, D)
    theirs = bayespy_engine(X, y)
    engine = BLR(model, AutoNatural(model), blocks="site")
    sides = {
        "BayesPy": lambda: theirs.update(repeat=1, verbose=False, tol=None),
        "BLR": lambda: engine.step(X, y),
    }
    in_turn(WARM_SWEEPS, **sides)
    times = in_turn(3 if settings.tiny else 20, **sides)
    bound = float(theirs.compute_lowerbound())
    fit = engine.fit(X, y)
    error = abs(engine.evaluate_loss(X, y) + bound)
    yield Row(
        NAME,
        f"sweep, N={N} D={D} float64",
        Check("x faster than BayesPy", ratio(times["BayesPy"], times["BLR"]), 10.0, "at least"),
        [
            Check("ELBO difference in nats", error),
            Check("relative", error / abs(bound), 1e-8),
            Check("not converged", not fit.converged, 0),
        ],
        times,
        ", ".join(f"{k} {1e3 * statistics.median(v):.2f} ms" for k, v in times.items()),
    )


def bayespy_engine(X: Tensor, y: Tensor) -> Any:
    """The same model in BayesPy; ``update`` goes over all nodes and computes the bound."""
    try:
        from bayespy.inference import VB
        from bayespy.nodes import Gamma, GaussianARD, SumMultiply
    except ImportError as missing:
        raise Skipped(f"needs BayesPy: pip install pyro-blr[bench] ({missing})") from missing
    w = GaussianARD(0.0, 1.0, shape=(X.shape[1],), name="w")
    tau = Gamma(SHAPE, RATE, name="tau")
    observed = GaussianARD(SumMultiply("i,i", w, X.numpy()), tau, name="y")
    observed.observe(y.numpy())
    engine = VB(observed, w, tau)
    # It would otherwise warn where the bound falls by its own rounding.
    engine.ignore_bound_checks = True
    return engine

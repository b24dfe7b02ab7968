# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Record BayesPy's converged answers for two models of several blocks.

Run by hand, in an environment of its own, since BayesPy is no dependency of the tests::

    python -m venv .venv-bayespy && .venv-bayespy/bin/pip install bayespy==0.6.6
    .venv-bayespy/bin/python tests/oracles/record_bayespy.py

It writes ``tests/data/bayespy.json``: the models' hyperparameters, the data, the converged lower
bound in nats and the posterior moments. Every latent site is one block (variational message
passing); Gamma is (shape, rate) and Normal (mean, precision), as BayesPy has them.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from bayespy.inference import VB
from bayespy.nodes import Gamma, GaussianARD, SumMultiply, Take

OUTPUT = Path(__file__).parents[1] / "data" / "bayespy.json"
# The recorded numbers are the data: rounded so, they need no generator to be reproduced.
DECIMALS = 4


def regression_data(seed: int = 20261120, N: int = 200, D: int = 5) -> dict[str, Any]:
    """Features, coefficients of size one, noise of standard deviation 0.7."""
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(N, D)).round(DECIMALS)
    y = (X @ generator.normal(size=D) + 0.7 * generator.normal(size=N)).round(DECIMALS)
    return {"seed": seed, "X": X.tolist(), "y": y.tolist()}


def hierarchical_data(seed: int = 20261121, N: int = 300, groups: int = 12) -> dict[str, Any]:
    """Group means 1.5 +- 0.8, noise of standard deviation 0.5, groups of unequal size."""
    generator = np.random.default_rng(seed)
    group = np.sort(generator.integers(groups, size=N))
    theta = 1.5 + 0.8 * generator.normal(size=groups)
    y = (theta[group] + 0.5 * generator.normal(size=N)).round(DECIMALS)
    return {"seed": seed, "groups": groups, "group": group.tolist(), "y": y.tolist()}


def converge(engine: VB) -> dict[str, Any]:
    """Sweep until the bound has not moved by 1e-14 of itself for ten sweeps.

    Each bound is computed after a whole sweep, from the current moments of every node, so that
    no node lags behind; ``VB.update`` would stop at the first small change.
    """
    bound, still, sweeps = -np.inf, 0, 0
    while still < 10:
        engine.update(repeat=1, verbose=False, tol=None)
        new = float(engine.compute_lowerbound())
        still = still + 1 if abs(new - bound) <= 1e-14 * abs(new) else 0
        bound, sweeps = new, sweeps + 1
        if sweeps > 5000:
            raise ArithmeticError(f"the bound still moves after {sweeps} sweeps")
    return {"lower_bound": bound, "sweeps": sweeps}


def moments(node: Any) -> dict[str, Any]:
    """The mean parameters, in BayesPy's order: (z, zz') of a Gaussian, (z, log z) of a Gamma."""
    first, second = (np.asarray(u).tolist() for u in node.get_moments())
    if isinstance(node, Gamma):
        return {"mean": first, "mean_log": second}
    return {"mean": first, "mean_square": second}


def regression() -> dict[str, Any]:
    """w ~ N(0, I) as one block, tau ~ Gamma(2, 1), y ~ N(X w, 1 / tau)."""
    data = regression_data()
    X, y = np.array(data["X"]), np.array(data["y"])
    w = GaussianARD(0.0, 1.0, shape=(X.shape[1],), name="w")
    tau = Gamma(2.0, 1.0, name="tau")
    Y = GaussianARD(SumMultiply("i,i", w, X), tau, name="y")
    Y.observe(y)
    result = converge(VB(Y, w, tau))
    return {
        "model": regression.__doc__,
        "data": data,
        **result,
        "posterior": {"w": moments(w), "tau": moments(tau)},
    }


def hierarchical() -> dict[str, Any]:
    """mu ~ N(0, 1 / 0.01), tau_group and tau_noise ~ Gamma(2, 1), theta_g ~ N(mu, 1 / tau_group),
    y_n ~ N(theta[group_n], 1 / tau_noise)."""
    data = hierarchical_data()
    mu = GaussianARD(0.0, 0.01, name="mu")
    tau_group, tau_noise = Gamma(2.0, 1.0, name="tau_group"), Gamma(2.0, 1.0, name="tau_noise")
    theta = GaussianARD(mu, tau_group, plates=(data["groups"],), name="theta")
    Y = GaussianARD(Take(theta, np.array(data["group"])), tau_noise, name="y")
    Y.observe(np.array(data["y"]))
    result = converge(VB(Y, theta, mu, tau_group, tau_noise))
    latents = {"mu": mu, "tau_group": tau_group, "tau_noise": tau_noise, "theta": theta}
    return {
        "model": " ".join((hierarchical.__doc__ or "").split()),
        "data": data,
        **result,
        "posterior": {name: moments(node) for name, node in latents.items()},
    }


def main() -> None:
    """Write the file."""
    record = {
        "recorded_with": {
            "script": "tests/oracles/record_bayespy.py",
            "bayespy": version("bayespy"),
            "numpy": version("numpy"),
            "python": platform.python_version(),
        },
        "regression": regression(),
        "hierarchical": hierarchical(),
    }
    OUTPUT.write_text(json.dumps(record, indent=None, separators=(",", ":")) + "\n")
    for name in ("regression", "hierarchical"):
        print(name, record[name]["sweeps"], "sweeps, lower bound", record[name]["lower_bound"])


if __name__ == "__main__":
    main()

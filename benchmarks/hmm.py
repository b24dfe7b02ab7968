# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A hidden Markov model: a sweep against one of BayesPy, a whole fit against dynamax's EM."""

import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr import BLR

from .bayespy_sides import compare
from .discrete import DiscreteProblem, Nodes
from .dynamax_peer import Dynamax
from .rows import Check, Row, Settings
from .timing import fresh, ratio, seconds

NAME = "hmm"
LIMIT = 15.0
#: Steps and states.
SIZE, TINY = (2_000, 5), (30, 2)
#: Distance of neighbouring means in standard deviations, and the probability of staying.
APART, STAY = 3.0, 0.9
#: Variance of the prior of a mean.
WIDE = 100.0
#: dynamax's EM has a fixed number of iterations: this is how many it needs until one gains less
#: than this of its log likelihood, counted in a run apart that is not timed.
STILL, MOST_ITERATIONS = 1e-9, 500
REPEATS = 3


def run(settings: Settings) -> Iterator[Row]:
    """The sweep, then the fit."""
    T, K = TINY if settings.tiny else SIZE
    yield compare(NAME, problem(T, K), 0.0 if settings.tiny else LIMIT)
    with Dynamax(settings.threads) as peer:
        yield fit_row(problem(T, K), peer, 1 if settings.tiny else REPEATS, settings.tiny)


def model(y: Tensor, K: int) -> None:
    """The state before the first observation is uniform; all else is unknown. # shape of y: (T,)"""
    with pyro.plate("from", K):
        rows = pyro.sample("rows", dist.Dirichlet(torch.ones(K)))
    with pyro.plate("states", K):
        mu = pyro.sample("mu", dist.Normal(0.0, WIDE**0.5))
        tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    emission = dist.Normal(mu, tau.rsqrt())
    # Pyro's chain moves once before it emits: the uniform state is one step in front.
    pyro.sample("y", dist.DiscreteHMM(torch.zeros(K), rows.log(), emission), obs=y)


def nodes(y: Tensor, K: int) -> Nodes:
    """The same in BayesPy, with a step in front whose observation is missing."""
    from bayespy.nodes import CategoricalMarkovChain, Dirichlet, Gamma, GaussianARD, Mixture

    rows = Dirichlet(np.ones(K), plates=(K,))
    z = CategoricalMarkovChain(np.full(K, 1 / K), rows, states=len(y) + 1)
    mu, tau = GaussianARD(0, 1 / WIDE, plates=(K,)), Gamma(1.0, 1.0, plates=(K,))
    observed = Mixture(z, GaussianARD, mu, tau)
    there = np.arange(len(y) + 1) > 0
    observed.observe(np.concatenate([[0.0], y.numpy()]), mask=there)
    return Nodes({"rows": rows, "mu": mu, "tau": tau}, z, observed)


def data(T: int, K: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Observations, and points near the means of the states."""
    make = np.random.default_rng(seed)
    z, states = make.integers(K), []
    for _ in range(T):
        z = z if make.random() < STAY else make.integers(K)
        states.append(z)
    y = APART * np.array(states) + make.normal(size=T)
    near = APART * np.arange(K) + 0.5 * make.normal(size=K)
    return torch.from_numpy(y), torch.from_numpy(near)


def problem(T: int, K: int) -> DiscreteProblem:
    """Both sides start at the points near the means, and at rows that stay."""
    y, near = data(T, K)
    start = {
        "rows": dist.Dirichlet(1 + K * torch.eye(K)),
        "mu": dist.Normal(near, 0.1),
        "tau": dist.Gamma(torch.ones(K), 1.0),
    }
    return DiscreteProblem(f"T={T} K={K}", model, (y, K), start, nodes)


def fit_row(at: DiscreteProblem, peer: Dynamax, repeats: int, tiny: bool) -> Row:
    """Both from the same means to where nothing moves, each with its own weak priors."""
    y, means = at.args[0], at.start["mu"].loc
    iterations = iterations_of(peer, y, means)
    times: dict[str, list[float]] = {"dynamax": [], "BLR": []}
    for _ in range(repeats):
        fresh()
        theirs = em(peer, y, means, iterations)
        times["dynamax"].append(float(theirs["seconds"]))
        elapsed, (guide, fit) = seconds(lambda: fit_of_blr(at))
        times["BLR"].append(elapsed)
    mean_error = (guide.marginal("mu").mean.numpy() - theirs["means"]) / theirs["sds"]
    medians = ", ".join(f"{k} {statistics.median(v):.2f} s" for k, v in times.items())
    return Row(
        NAME,
        f"fit, {at.name}",
        Check("x dynamax's EM", ratio(times["BLR"], times["dynamax"]), None if tiny else 1.0),
        [
            Check("largest distance of the means in sd", float(abs(mean_error).max())),
            Check("not converged", not fit.converged, 0),
        ],
        times,
        f"{medians} with compilation; {iterations} iterations of EM, {fit.steps} steps",
    )


def fit_of_blr(at: DiscreteProblem) -> tuple[Any, Any]:
    """A new guide and a new engine, to `converged`."""
    guide = at.guide()
    return guide, BLR(at.model, guide).fit(*at.args)


def em(peer: Dynamax, y: Tensor, means: Tensor, iterations: int) -> dict[str, np.ndarray]:
    """So many iterations of dynamax, from rows that stay as often as ours."""
    K = len(means)
    stay = (1 + K) / (2 * K)
    given = {"y": y.numpy(), "means": means.numpy(), "stay": stay, "iterations": iterations}
    return peer.job("fit_hmm", **given)


def iterations_of(peer: Dynamax, y: Tensor, means: Tensor) -> int:
    """How many EM needs."""
    bounds = em(peer, y, means, MOST_ITERATIONS)["bounds"]
    gains = np.diff(bounds) / np.abs(bounds[1:])
    still = np.flatnonzero(gains < STILL)
    return int(still[0]) + 2 if len(still) else MOST_ITERATIONS

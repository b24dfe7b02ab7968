# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Smoothing of a long linear Gaussian chain: one step against dynamax, jitted."""

import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from .dynamax_peer import Dynamax
from .rows import Check, Row, Settings
from .timing import fresh, ratio, seconds

NAME = "smoothing"
#: Steps, states, observations of a step.
SIZE, TINY = (10_000, 4, 2), (20, 2, 1)
REPEATS = 10
#: Of what both answer. dynamax adds 1e-9 to the diagonal of every matrix that it factors.
SAME = 1e-7


class Chain(NamedTuple):
    """z_1 ~ N(initial), z_{t+1} = transition z_t + noise, y_t = emission z_t + noise; the data."""

    initial_mean: Tensor  # shape: (D,)
    initial_cov: Tensor  # shape: (D, D)
    transition: Tensor  # shape: (D, D)
    transition_cov: Tensor  # shape: (D, D)
    emission: Tensor  # shape: (E, D)
    emission_cov: Tensor  # shape: (E, E)
    y: Tensor  # shape: (T, E)

    def arrays(self) -> dict[str, np.ndarray]:
        """As NumPy has them."""
        return {name: value.numpy() for name, value in self._asdict().items()}


class Smoothed(NamedTuple):
    """What either side answers."""

    log_evidence: float
    means: np.ndarray  # shape: (T, D)
    variances: np.ndarray  # shape: (T, D)


def run(settings: Settings) -> Iterator[Row]:
    """Both of dynamax's smoothers, of which the quicker counts."""
    chain = draw(*(TINY if settings.tiny else SIZE))
    with Dynamax(settings.threads) as peer:
        yield row(chain, peer, 2 if settings.tiny else REPEATS, settings.tiny)


def row(chain: Chain, peer: Dynamax, repeats: int, tiny: bool) -> Row:
    """In turn; both have compiled, or folded what is constant, before."""
    fresh()
    sides: dict[str, Callable[[Chain], tuple[float, Smoothed]]] = {
        "BLR": smoother_of_blr(chain),
        "dynamax": lambda now: by_dynamax(peer, now, parallel=False),
        "dynamax parallel": lambda now: by_dynamax(peer, now, parallel=True),
    }
    for side in sides.values():
        side(chain)
    times: dict[str, list[float]] = {name: [] for name in sides}
    answers = {}
    for repeat in range(repeats):
        # Other noise each time: nothing that depends on it can be taken from the last time.
        now = chain._replace(emission_cov=(1 + 0.01 * repeat) * chain.emission_cov)
        for name, side in sides.items():
            elapsed, answers[name] = side(now)
            times[name].append(elapsed)
    quicker = min(list(times)[1:], key=lambda name: statistics.median(times[name]))
    ours, theirs = answers["BLR"], answers[quicker]
    error = abs(ours.means - theirs.means) / np.sqrt(theirs.variances)
    T, D = theirs.means.shape
    spread = largest(ours.variances / theirs.variances - 1)
    faster = ratio(times[quicker], times["BLR"])
    limit = None if tiny else 1.0
    return Row(
        NAME,
        f"T={T} D={D}, one step",
        Check(f"x faster than {quicker}", faster, limit, "at least"),
        [
            Check("largest error of a mean in sd", float(error.max()), SAME),
            Check("of a variance, relatively", spread, SAME),
            Check("of the evidence", abs(ours.log_evidence / theirs.log_evidence - 1), SAME),
        ],
        times,
        ", ".join(f"{k} {1e3 * statistics.median(v):.1f} ms" for k, v in times.items()),
    )


def largest(values: np.ndarray) -> float:
    """The largest size."""
    return float(abs(values).max())


def by_dynamax(peer: Dynamax, chain: Chain, parallel: bool) -> tuple[float, Smoothed]:
    """Seconds, and the answer; nothing of the way to the other process is counted."""
    result = peer.job("smooth", parallel=parallel, **chain.arrays())
    variances = np.diagonal(result["covs"], axis1=1, axis2=2)
    smoothed = Smoothed(float(result["log_evidence"]), result["means"], variances)
    return float(result["seconds"]), smoothed


def smoother_of_blr(chain: Chain) -> Callable[[Chain], tuple[float, Smoothed]]:
    """A function that smooths by one step, and returns its seconds and the answer.

    The chain is conjugate: from anywhere one step at rho = 1 arrives at the exact posterior. The
    marginals of where it arrived are counted with it, its evidence is not: a step returns the bound
    of where it began, so that of the posterior is asked for afterwards.
    """
    guide = AutoNatural(model)
    engine = BLR(model, guide)
    engine.step(chain)

    def smooth(now: Chain) -> tuple[float, Smoothed]:
        def step() -> tuple[Tensor, Tensor]:
            engine.step(now)
            law = guide.marginal("z")
            return law.mean, law.variance

        elapsed, (mean, variance) = seconds(step)
        evidence = -engine.evaluate_loss(now)
        return elapsed, Smoothed(evidence, mean.detach().numpy(), variance.detach().numpy())

    return smooth


def model(chain: Chain) -> None:
    """All states are one site without a prior of its own; the moves are one factor."""
    shape = (len(chain.y), len(chain.initial_mean))
    real = constraints.independent(constraints.real, 2)
    z = pyro.sample("z", dist.ImproperUniform(real, (), shape))
    first = dist.MultivariateNormal(chain.initial_mean, chain.initial_cov)
    pyro.sample("first", first, obs=z[..., 0, :])
    with pyro.plate("moves", shape[0] - 1):
        ahead = z[..., :-1, :] @ chain.transition.T
        move = dist.MultivariateNormal(ahead, chain.transition_cov)
        pyro.sample("move", move, obs=z[..., 1:, :])
    with pyro.plate("steps", shape[0]):
        seen = dist.MultivariateNormal(z @ chain.emission.T, chain.emission_cov)
        pyro.sample("y", seen, obs=chain.y)


def draw(T: int, D: int, E: int, seed: int = 0) -> Chain:
    """A stable chain: rotations in planes, damped, seen through random weights."""
    make = np.random.default_rng(seed)
    turn = np.linalg.qr(make.normal(size=(D, D)))[0]
    A, C = 0.95 * turn, make.normal(size=(E, D))
    Q, R = 0.1 * np.eye(D), 0.5 * np.eye(E)
    z, y = make.normal(size=D), np.empty((T, E))
    for t in range(T):
        y[t] = C @ z + np.sqrt(0.5) * make.normal(size=E)
        z = A @ z + np.sqrt(0.1) * make.normal(size=D)
    parts = (np.zeros(D), np.eye(D), A, Q, C, R, y)
    return Chain(*(torch.from_numpy(part) for part in parts))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""State space models in the spellings that Pyro users have, and their data."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor

from tests.oracles.linear_gaussian import StateSpace


def state_space(T: int, D: int = 2, E: int = 2, missing: Any = (), seed: int = 0) -> StateSpace:
    """A stable random model with inputs, correlated noise, and some times not observed."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def spread(size: int) -> Tensor:
        root = 0.3 * randn(size, size) + 0.5 * torch.eye(size)
        return root @ root.T

    seen = torch.ones(T, dtype=torch.bool)
    seen[list(missing)] = False
    rotation = torch.linalg.qr(randn(D, D))[0]
    return StateSpace(
        first_mean=randn(D),
        first_cov=2 * torch.eye(D),
        transition=0.9 * rotation,
        inputs=0.3 * randn(T - 1, D),
        noise=spread(D),
        emission=randn(E, D),
        error=spread(E),
        y=2 * randn(T, E),
        seen=seen,
    )


def _factors(s: StateSpace, z: Tensor) -> None:
    """The walk and what is seen of it, of states along the second but last dim."""
    pyro.sample("first", dist.MultivariateNormal(s.first_mean, s.first_cov), obs=z[..., 0, :])
    if len(s.y) > 1:
        with pyro.plate("steps", len(s.y) - 1):
            ahead = z[..., :-1, :] @ s.transition.T + s.inputs
            pyro.sample("walk", dist.MultivariateNormal(ahead, s.noise), obs=z[..., 1:, :])
    _seen(s, z)


def _seen(s: StateSpace, z: Tensor) -> None:
    """What is seen of the states."""
    with pyro.plate("observed", len(s.y)), poutine.mask(mask=s.seen):
        pyro.sample("y", dist.MultivariateNormal(z @ s.emission.T, s.error), obs=s.y)


def one_event(s: StateSpace) -> None:
    """All times are one event of a site without a prior of its own."""
    shape = (len(s.y), len(s.first_mean))
    real = constraints.independent(constraints.real, 2)
    _factors(s, pyro.sample("z", dist.ImproperUniform(real, (), shape)))


def plate_of_times(s: StateSpace) -> None:
    """Times are a plate, states the event."""
    with pyro.plate("time", len(s.y)):
        flat = dist.Normal(0.0, 1.0).expand([len(s.first_mean)]).to_event(1).mask(False)
        z = pyro.sample("z", flat)
    _factors(s, z)


def two_sites(s: StateSpace) -> None:
    """Each state is a site of its own, all along one plate."""
    with pyro.plate("time", len(s.y)):
        each = [pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0).mask(False)) for i in range(2)]
    _factors(s, torch.stack(each, -1))


def markov_loop(s: StateSpace) -> None:
    """A site for each time."""
    z = None
    for t in pyro.markov(range(len(s.y))):
        law = dist.MultivariateNormal(s.first_mean, s.first_cov)
        if z is not None:
            law = dist.MultivariateNormal(s.transition @ z + s.inputs[t - 1], s.noise)
        z = pyro.sample(f"z_{t}", law)
        if s.seen[t]:
            pyro.sample(f"y_{t}", dist.MultivariateNormal(s.emission @ z, s.error), obs=s.y[t])


def factor_statement(s: StateSpace) -> None:
    """The walk as a factor of whitened steps."""
    with pyro.plate("time", len(s.y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1).mask(False))
    pyro.sample("first", dist.MultivariateNormal(s.first_mean, s.first_cov), obs=z[0])
    root = torch.linalg.cholesky(s.noise)
    white = torch.linalg.inv(root)
    step = (z[1:] - z[:-1] @ s.transition.T - s.inputs) @ white.T
    pyro.factor("walk", dist.Normal(torch.zeros(2), 1.0).log_prob(torch.zeros(2)).sum() * len(step))
    pyro.factor("square", -0.5 * (step**2).sum() - len(step) * root.diagonal().log().sum())
    _seen(s, z)


def state_before(s: StateSpace) -> None:
    """The first state is a site of its own, in front of the others."""
    first = pyro.sample("z0", dist.MultivariateNormal(s.first_mean, s.first_cov))
    if len(s.y) == 1:  # a plate without elements is refused
        return _seen(s, first.unsqueeze(0))
    with pyro.plate("steps", len(s.y) - 1):
        later = pyro.sample("z1", dist.Normal(0.0, 1.0).expand([2]).to_event(1).mask(False))
        ahead = torch.cat([first.unsqueeze(0), later[:-1]]) @ s.transition.T + s.inputs
        pyro.sample("walk", dist.MultivariateNormal(ahead, s.noise), obs=later)
    return _seen(s, torch.cat([first.unsqueeze(0), later]))


SPELLINGS: tuple[Callable[[StateSpace], None], ...] = (
    one_event,
    plate_of_times,
    two_sites,
    markov_loop,
    factor_statement,
    state_before,
)


def counts(T: int) -> tuple[Tensor, Tensor]:
    """Poisson counts and coin tosses along a slow walk."""
    generator = torch.Generator().manual_seed(T)
    z = (0.06 * torch.randn(T, generator=generator)).cumsum(0)
    y = torch.poisson((z + 1).exp(), generator=generator)
    return y, torch.bernoulli((2 * z).sigmoid(), generator=generator)


def poisson_walk(y: Tensor) -> None:
    """Counts whose log rate is a random walk."""
    z = pyro.sample("z", dist.Normal(0.0, 10.0).expand([len(y)]).to_event(1))
    pyro.sample("walk", dist.Normal(z[..., :-1], 0.2).to_event(1), obs=z[..., 1:])
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Poisson(z.exp()), obs=y)


def bernoulli_walk(y: Tensor) -> None:
    """Coin tosses whose log-odds are a random walk."""
    with pyro.plate("time", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 10.0))
        pyro.sample("y", dist.Bernoulli(logits=z), obs=y)
    with pyro.plate("steps", len(y) - 1):
        pyro.sample("walk", dist.Normal(z[..., :-1], 0.2), obs=z[..., 1:])


def smooth_series(T: int, seed: int = 1) -> Tensor:
    """A random walk."""
    generator = torch.Generator().manual_seed(seed)
    return (0.5 * torch.randn(T, generator=generator)).cumsum(0)


def unknown_noise(y: Tensor) -> None:
    """A local level with unknown precisions of its steps and of what is seen."""
    q = pyro.sample("q", dist.Gamma(2.0, 2.0))
    r = pyro.sample("r", dist.Gamma(2.0, 2.0))
    with pyro.plate("time", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 10.0))
        pyro.sample("y", dist.Normal(z, r**-0.5), obs=y)
    with pyro.plate("steps", len(y) - 1):
        pyro.sample("walk", dist.Normal(z[..., :-1], q**-0.5), obs=z[..., 1:])


def unknown_transition(y: Tensor) -> None:
    """Two states with an unknown transition matrix and noise."""
    A = pyro.sample("A", dist.Normal(0.0, 1.0).expand([2, 2]).to_event(2))
    q = pyro.sample("q", dist.Gamma(2.0, 2.0).expand([2]).to_event(1))
    z = pyro.sample("z", dist.Normal(0.0, 10.0).expand([len(y), 2]).to_event(2))
    pyro.sample("walk", dist.Normal(z[:-1] @ A.mT, q**-0.5).to_event(2), obs=z[1:])
    pyro.sample("y", dist.Normal(z, 0.5).to_event(2), obs=y)


def sequences(y: Tensor) -> None:
    """A batch of local levels."""
    with pyro.plate("sequences", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 10.0).expand([y.shape[1]]).to_event(1))
        pyro.sample("walk", dist.Normal(z[..., :-1], 0.3).to_event(1), obs=z[..., 1:])
        pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y)


def between_times(y: Tensor, kind: str) -> None:
    """A series seen between its times, and several times at some."""
    T = len(y) // 2
    generator = torch.Generator().manual_seed(3)
    where = torch.randint(0, T - 1, (len(y),), generator=generator)
    share = torch.rand(len(y), generator=generator)
    with pyro.plate("time", T):
        z = pyro.sample("z", dist.Normal(0.0, 10.0))
    with pyro.plate("steps", T - 1):
        pyro.sample("walk", dist.Normal(z[:-1], 0.3), obs=z[1:])
    with pyro.plate("seen", len(y)):
        f = (1 - share) * z[where] + share * z[where + 1]
        law = dist.Normal(f, 0.5) if kind == "normal" else dist.Bernoulli(logits=f)
        pyro.sample("y", law, obs=y)


def second_order(y: Tensor) -> None:
    """A walk whose steps depend on two states before: no neighbours alone."""
    z = pyro.sample("z", dist.Normal(0.0, 10.0).expand([len(y)]).to_event(1))
    pyro.sample("walk", dist.Normal(2 * z[1:-1] - z[:-2], 0.3).to_event(1), obs=z[2:])
    pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y)


def autoregression(y: Tensor) -> None:
    """A loop with an unknown coefficient and precision."""
    phi = pyro.sample("phi", dist.Normal(0.5, 1.0))
    q = pyro.sample("q", dist.Gamma(2.0, 2.0))
    z = torch.tensor(0.0)
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Normal(phi * z, q**-0.5))
        pyro.sample(f"y_{t}", dist.Normal(z, 0.5), obs=y[t])


def autoregression_in_a_plate(y: Tensor) -> None:
    """The same in one tensor."""
    phi = pyro.sample("phi", dist.Normal(0.5, 1.0))
    q = pyro.sample("q", dist.Gamma(2.0, 2.0))
    with pyro.plate("time", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 5.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)
    with pyro.plate("steps", len(y) - 1):
        pyro.sample("walk", dist.Normal(phi * z[:-1], q**-0.5), obs=z[1:])


def trend(y: Tensor) -> None:
    """A loop of a level and its slope."""
    level = slope = None
    for t in pyro.markov(range(len(y))):
        ahead = dist.Normal(0.0, 10.0) if level is None else dist.Normal(level + slope, 0.3)
        steady = dist.Normal(0.0, 1.0) if slope is None else dist.Normal(slope, 0.1)
        level, slope = pyro.sample(f"level_{t}", ahead), pyro.sample(f"slope_{t}", steady)
        pyro.sample(f"y_{t}", dist.Normal(level, 0.5), obs=y[t])


def second_order_loop(y: Tensor) -> None:
    """A loop whose states depend on the two before: two successive ones are a time."""
    z = before = torch.tensor(0.0)
    for t in pyro.markov(range(len(y)), history=2):
        z, before = pyro.sample(f"z_{t}", dist.Normal(0.5 * z + 0.3 * before, 0.5)), z
        pyro.sample(f"y_{t}", dist.Normal(z, 0.5), obs=y[t])


def poisson_loop(y: Tensor) -> None:
    """A loop with counts, whose expectations are exact, and one coin by quadrature."""
    z = torch.tensor(0.0)
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Normal(z, 0.3))
        pyro.sample(f"y_{t}", dist.Poisson((z / 4).exp()), obs=y[t].abs().round())
    pyro.sample("coin", dist.Bernoulli(logits=z), obs=torch.tensor(1.0))


def seasons(y: Tensor) -> None:
    """Level and season of a batch of sequences, both vectors along time."""
    with pyro.plate("sequences", 3):
        with pyro.plate("time", len(y)):
            level = pyro.sample("level", dist.Normal(0.0, 5.0))
            season = pyro.sample("season", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(level + season, 0.5), obs=y.unsqueeze(-1).expand(-1, 3))
        with pyro.plate("steps", len(y) - 1):
            pyro.sample("walk", dist.Normal(level[:-1], 0.3), obs=level[1:])
            pyro.sample("turn", dist.Normal(-0.9 * season[:-1], 0.2), obs=season[1:])


ALIKE: tuple[Callable[[Tensor], None], ...] = (
    autoregression,
    autoregression_in_a_plate,
    trend,
    second_order_loop,
    poisson_loop,
    seasons,
)


def gaussian_hmm(y: Tensor) -> None:
    """Pyro's own distribution of a series whose states are integrated out, with unknown noise."""
    q = pyro.sample("q", dist.Gamma(3.0, 1.0))
    first = dist.Normal(torch.zeros(1), 10.0).to_event(1)
    step = dist.Normal(torch.zeros(1), q**-0.5).to_event(1)
    error = dist.Normal(torch.zeros(1), 0.5 * torch.ones(1)).to_event(1)
    law = dist.GaussianHMM(first, torch.eye(1), step, torch.eye(1), error, duration=len(y))
    pyro.sample("y", law, obs=y.unsqueeze(-1))

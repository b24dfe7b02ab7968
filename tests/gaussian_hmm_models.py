# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""State space models by `dist.GaussianHMM`, and the same models with their states as a latent."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

T, D, E, N = 9, 2, 3, 4
Law = Callable[[Any], Any]


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TURN = torch.tensor([[0.8, 0.3], [-0.3, 0.8]])
SEEN = randn(0, D, E)


def unit(size: int, scale: Any = 1.0) -> Law:
    """Independent noise around a location."""
    ones = torch.ones(size)
    return lambda loc: dist.Normal(loc, scale * ones).to_event(1)


@dataclass(frozen=True, eq=False)
class Space:
    """The parameters of a state space model.

    :param move: from rows of states to rows of the next ones. # shape: (..., T or 1, D, D)
    :param see: from states to what is seen. # shape: (..., T or 1, D, E)
    :param step, error: the law of noise around a location.
    """

    first: Any = field(default_factory=lambda: unit(D, 1.5)(torch.zeros(D)))
    move: Any = TURN
    step: Law = field(default_factory=lambda: unit(D, 0.7))
    see: Any = SEEN
    error: Law = field(default_factory=lambda: unit(E, 0.6))
    step_loc: Any = field(default_factory=lambda: torch.zeros(D))
    error_loc: Any = field(default_factory=lambda: torch.zeros(E))


Parameters = Callable[[], Space]


def gamma(name: str, *shape: int) -> Any:
    return pyro.sample(name, dist.Gamma(3.0, 2.0).expand(shape).to_event(len(shape)))


def normal(name: str, loc: Tensor, scale: float = 0.4) -> Any:
    return pyro.sample(name, dist.Normal(loc, scale).to_event(loc.dim()))


def wishart(name: str, size: int) -> Any:
    return pyro.sample(name, dist.Wishart(torch.tensor(size + 3.0), torch.eye(size) / (size + 3)))


def noises() -> Space:
    q, r = gamma("q"), gamma("r", E)
    return Space(step=unit(D, q.rsqrt()), error=lambda loc: dist.Normal(loc, r**-0.5).to_event(1))


def transition() -> Space:
    return Space(move=normal("A", TURN), step_loc=torch.tensor([0.3, -0.2]))


def everything() -> Space:
    """Rows of A in a plate, the emission, both noises, offsets, and the first state's law."""
    with pyro.plate("rows", D):
        a = pyro.sample("A", dist.MultivariateNormal(torch.zeros(D), torch.eye(D) / 2))
    c, q, r, p = normal("C", SEEN), gamma("q", D), gamma("r"), gamma("p")
    b, d, m = normal("b", randn(1, D)), normal("d", randn(2, E)), normal("m", randn(3, D))
    return Space(
        dist.Normal(m, p.rsqrt()).to_event(1),
        a,
        lambda loc: dist.Normal(loc, q.rsqrt()).to_event(1),
        c,
        unit(E, r.rsqrt()),
        b,
        d,
    )


def matrices() -> Space:
    """Correlated noise of unknown precision matrices, of the first state too."""
    p, w, r = (wishart(n, size) for n, size in (("P", D), ("W", D), ("R", E)))
    vector = dist.MultivariateNormal
    return Space(
        vector(torch.ones(D), precision_matrix=p),
        normal("A", TURN),
        lambda loc: vector(loc, precision_matrix=w),
        normal("C", SEEN),
        lambda loc: vector(loc, precision_matrix=r),
    )


def scaled_matrices() -> Space:
    """A covariance with an unknown factor, and a Cholesky factor with one."""
    v = pyro.sample("v", dist.InverseGamma(3.0, 2.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 0.3))
    spread = torch.tensor([[1.0, 0.4], [0.4, 0.8]])
    root = torch.linalg.cholesky(torch.eye(E) + 0.3)
    return Space(
        step=lambda loc: dist.MultivariateNormal(loc, v * spread),
        error=lambda loc: dist.MultivariateNormal(loc, scale_tril=s * root),
        step_loc=normal("b", torch.zeros(D)),
    )


def each_step() -> Space:
    """Moves, emissions, noise and inputs of their own at each step; one is hardly seen."""
    a, u, q = normal("a", torch.tensor(0.5)), normal("u", torch.zeros(D)), gamma("q")
    wide = torch.ones(T, 1)
    wide[4] = 1e3
    return Space(
        move=a * randn(4, T, D, D),
        see=randn(5, T, D, E),
        step=lambda loc: dist.Normal(loc, q.rsqrt() * torch.ones(T, D)).to_event(1),
        error=lambda loc: dist.Normal(loc, wide * torch.ones(E)).to_event(1),
        step_loc=u * randn(6, T, 1),
    )


def scaled_transition() -> Space:
    """The prior of the transition has the noise's precision: one joint law of both."""
    q = gamma("q")
    a = pyro.sample("A", dist.Normal(TURN, 0.5 * q.rsqrt()).to_event(2))
    return Space(move=a, step=unit(D, q.rsqrt()))


ONE: tuple[Parameters, ...] = (
    *(noises, transition, everything, matrices, scaled_matrices, each_step, scaled_transition),
)


def hmm(space: Space, y: Tensor) -> None:
    """The states integrated out by the distribution."""
    law = dist.GaussianHMM(
        space.first,
        space.move,
        space.step(space.step_loc),
        space.see,
        space.error(space.error_loc),
        duration=y.shape[-2],
    )
    pyro.sample("y", law, obs=y)


def states(space: Space, y: Tensor) -> None:
    """The states as a latent, of which q is a chain."""
    batch, steps = y.shape[:-2], y.shape[-2]
    real = constraints.independent(constraints.real, 2)
    z = pyro.sample("z", dist.ImproperUniform(real, batch, (steps + 1, D)))
    pyro.sample("first", space.first, obs=z[..., 0, :])
    ahead = (z[..., :-1, :].unsqueeze(-2) @ space.move).squeeze(-2) + space.step_loc
    pyro.sample("walk", space.step(ahead).to_event(1), obs=z[..., 1:, :])
    seen = (z[..., 1:, :].unsqueeze(-2) @ space.see).squeeze(-2) + space.error_loc
    pyro.sample("y", space.error(seen).to_event(1), obs=y)


Likelihood = Callable[[Space, Tensor], None]


def one(parameters: Parameters, likelihood: Likelihood) -> Callable[[Tensor], None]:
    """A model of one sequence."""

    def model(y: Tensor) -> None:
        likelihood(parameters(), y)

    return model


def sequences(parameters: Parameters, likelihood: Likelihood) -> Callable[[Tensor], None]:
    """A model of sequences in a plate that have their parameters in common. # (N, T, E)"""

    def model(y: Tensor) -> None:
        space = parameters()
        with pyro.plate("sequences", len(y)):
            likelihood(space, y)

    return model


def of_their_own(likelihood: Likelihood) -> Callable[[Tensor], None]:
    """A model of sequences each of which has its own transition and noise. # (N, T, E)"""

    def model(y: Tensor) -> None:
        r = gamma("r")
        with pyro.plate("sequences", len(y)):
            a = pyro.sample("A", dist.Normal(TURN, 0.4).to_event(2))
            q = pyro.sample("q", dist.Gamma(3.0, 2.0))
            scale = q.rsqrt().unsqueeze(-1).unsqueeze(-1) * torch.ones(D)
            space = Space(
                move=a.unsqueeze(-3),
                step=lambda loc: dist.Normal(loc, scale).to_event(1),
                error=unit(E, r.rsqrt()),
            )
            likelihood(space, y)

    return model

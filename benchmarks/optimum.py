# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The best q of a family, by L-BFGS on fixed draws, and how far it is from the true best."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .draws import FixedDraws
from .family import Family, State

#: A loss in nats that no start has.
WALL = 1e12
#: Runs of L-BFGS end when one has gained less than this, in nats.
GAIN = 1e-6
#: Fresh draws for each draw of the optimum: their own noise is then half of what they measure.
FRESH = 2
#: Draws to begin with, and to end with where the error stays above what is allowed.
FEWEST, MOST = 4096, 65536
#: A gap on few draws above so many times a bound is above the bound on many.
FEW, PLAINLY = 512, 5.0


@dataclass(frozen=True)
class Optimum:
    """The best q on the draws.

    The gap of another q of the family is ``elbo - family.elbo(q, draws)``: near the optimum the
    errors of the two cancel, which leaves that of this q.

    :param float error: an estimate in nats of what this q falls short of the true optimum.
    """

    family: Family
    q: State
    draws: FixedDraws
    elbo: float
    error: float

    def gap(self, q: State) -> float:
        """Nats that another q is below this one, on the same draws."""
        with torch.no_grad():
            return self.elbo - float(self.family.elbo(q, self.draws))

    @cached_property
    def _few(self) -> FixedDraws:
        return self.family.draws(FEW, seed=2)

    @cached_property
    def _few_elbo(self) -> float:
        with torch.no_grad():
            return float(self.family.elbo(self.q, self._few))

    def is_within(self, nats: float, q: State) -> bool:
        """Whether the gap of another q is at most so many nats; quick where it plainly is not."""
        with torch.no_grad():
            far = self._few_elbo - float(self.family.elbo(q, self._few))
        return far <= PLAINLY * nats and self.gap(q) <= nats


def optimum(
    family: Family,
    allowed_error: float,
    start: State | None = None,
    fewest: int = FEWEST,
    most: int = MOST,
) -> Optimum:
    """Maximise the ELBO on ever more draws, until the error is at most what is allowed.

    :param fewest: draws to begin with.
    :param most: draws that end it, whatever the error.
    """
    count, q = fewest, start or family.start()
    while True:
        draws = family.draws(count, seed=0)
        q, elbo = _optimise(family, draws, q)
        error = _decrement(family, q, family.draws(FRESH * count, seed=1))
        if error <= allowed_error or count >= most:
            return Optimum(family, q, draws, elbo, error)
        count *= 2


def glance(family: Family, start: State, count: int) -> tuple[float, State]:
    """Where one run of L-BFGS on so many draws leads, and its ELBO there."""
    draws = family.draws(count, seed=0)
    q = _maximise(family, draws, start)
    with torch.no_grad():
        return float(family.elbo(q, draws)), q


def _optimise(family: Family, draws: FixedDraws, q: State) -> tuple[State, float]:
    """Run L-BFGS until a run gains nothing; each is whitened by the q of the last."""
    elbo = -math.inf
    while True:
        q, previous = _maximise(family, draws, q), elbo
        with torch.no_grad():
            elbo = float(family.elbo(q, draws))
        if elbo - previous < GAIN:
            return q, elbo


class Relative:
    """Coordinates about a q, in which its family's Fisher information is simple.

    ``loc + scale a`` and ``scale (exp(diagonal of b) + b below it)``; Gammas move by c.
    """

    def __init__(self, family: Family, q: State) -> None:
        self.q, self.mask = q, family.mask
        self.a, self.b, self.c = (torch.zeros_like(t, requires_grad=True) for t in q)

    @property
    def leaves(self) -> list[Tensor]:
        """The unknowns."""
        return [self.a, self.b, self.c]

    def state(self) -> State:
        """The q at these coordinates."""
        inner = self.b * self.mask + self.b.diagonal().exp().diag()
        q = self.q
        return State(q.loc + q.scale @ self.a, q.scale @ inner, q.gammas + self.c)


def _maximise(family: Family, draws: FixedDraws, q: State) -> State:
    """One run of L-BFGS."""
    at = Relative(family, q)
    optimiser = torch.optim.LBFGS(
        at.leaves, max_iter=100, history_size=50, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -family.elbo(at.state(), draws)
        if not torch.isfinite(loss):
            # The line search would go on for ever at NaN; from this wall it turns back.
            return torch.tensor(WALL)
        loss.backward()
        return loss.detach()

    optimiser.step(closure)
    return State(*(t.detach() for t in at.state()))


def _decrement(family: Family, q: State, draws: FixedDraws) -> float:
    """g' F^-1 g / 2 for the gradient of the ELBO at q on other draws.

    At an optimum in the whitened coordinates the expected Hessian of -log p is I, so that -ELBO
    has second derivatives 1 along a and b, 2 along the diagonal of b, and F of a Gamma along c.
    """
    at = Relative(family, q)
    elbo = family.elbo(at.state(), draws)
    a, b, c = torch.autograd.grad(elbo, at.leaves, materialize_grads=True)
    total = a.square().sum() + b.tril(-1).square().sum() + b.diagonal().square().sum() / 2
    for gradient, log_shape in zip(c, q.gammas[:, 0], strict=True):
        shape = log_shape.exp()
        curvature = shape * torch.polygamma(1, shape)
        fisher = shape * torch.stack(
            [torch.stack([curvature, shape.new_tensor(-1.0)]), shape.new_tensor([-1.0, 1.0])]
        )
        total = total + gradient @ torch.linalg.solve(fisher, gradient)
    return float(total) / 2

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""``dist.GaussianHMM`` with lifted arguments: its states integrated out of expected log factors.

Given q of the arguments, the expected log joint density of data and states is quadratic in the
states: its coefficients are expectations of products of the arguments, and the log of its integral
is the log-partition of a chain (Beal 2003, chapter 5).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ..families import ChainNormal, Natural
from ..families.normal import LOG_TWO_PI
from ..lifting.distribution import LiftedDistribution
from ..lifting.gaussian_form import GaussianForm, double, gaussian_form
from ..lifting.tensor import LiftedTensor
from ..lifting.terms import NotPolynomial
from ..shapes import broadcast_shapes
from .hidden_markov import Sequences


@dataclass(frozen=True, eq=False)
class GaussianChain:
    """The coefficients of a chain of Gaussian states, lifted where their arguments are.

    The chain makes a transition before each observation, as in Pyro.

    :param coefficients: by law (initial, transition, observation) and name, as `_of_law` has them;
        those that are 0 are left out. # shapes: (*batch, ...) and (*batch, T or 1, ...)
    :param value: what is observed. # shape: (*batch, T, E)
    """

    coefficients: Mapping[tuple[str, str], Any]
    value: Tensor

    @property
    def log_factors(self) -> tuple[Any, ...]:
        """What expectations are taken of."""
        return tuple(self.coefficients.values())


def gaussian_chain(fn: Any, value: Any) -> GaussianChain | str | None:
    """The chain of a site, if its distribution is a GaussianHMM with lifted arguments.

    :returns: a reason if there is no quadratic form of it.
    """
    if not isinstance(fn, LiftedDistribution) or fn.distribution is not dist.GaussianHMM:
        return None
    if fn.reinterpreted or fn.masks or isinstance(value, LiftedTensor):
        return None
    given = fn.arguments
    try:
        laws = {
            "initial": _of_law(gaussian_form(given["initial_dist"])),
            "transition": _of_law(
                gaussian_form(given["transition_dist"]), double(given["transition_matrix"])
            ),
            "observation": _of_law(
                gaussian_form(given["observation_dist"]), double(given["observation_matrix"])
            ),
        }
    except NotPolynomial as error:
        return str(error)
    named = {(law, name): c for law, own in laws.items() for name, c in own.items()}
    for c in named.values():
        # Not kept for the others: q of all arguments is chosen for one and the same factor.
        if isinstance(c, LiftedTensor) and c.poly is None:
            return c.reason
    return GaussianChain(named, double(value))


def _of_law(form: GaussianForm, matrix: Any = None) -> dict[str, Any]:
    """The coefficients of log N(x; z A + b, P^-1) in x and z: A P, A P A', P b, A P b, b'P b.

    :param matrix: A; None if there is no z. # shape: (*batch, D, E)
    """
    found = {"half_log_det": form.half_log_det, "precision": form.matrix}
    gain = None
    if matrix is not None:
        found["gain"] = gain = form.weighed(matrix)
        found["outer"] = gain @ matrix.mT
    if form.loc is not None:
        shift = form.weighed(form.loc.unsqueeze(-2)).squeeze(-2)
        found |= {"shift": shift, "level": (shift * form.loc).sum(-1)}
        if gain is not None:
            found["pull"] = form.along(gain)
    return found


class ChainIntegral:
    """The log of the integral over the states of a Gaussian chain, from its coefficients.

    :param chain: whose coefficients come in their order.
    :param count: from the integral of each sequence to that of all.
    """

    def __init__(self, chain: GaussianChain, count: Sequences) -> None:
        self.names = tuple(chain.coefficients)
        self.value, self.count = chain.value, count

    def __call__(self, *coefficients: Tensor) -> Tensor:
        """In nats. # shape: ()"""
        return self.count(self._log_integral(*coefficients))

    def _log_integral(self, *coefficients: Tensor) -> Tensor:
        """Of each sequence. # shape: (*batch)"""
        constant, natural = self._of_states(*coefficients)
        return constant + ChainNormal().log_partition(natural)

    def states(self, *coefficients: Tensor) -> Any:
        """The marginals of the states after each transition. # shape: (*batch, T), (D,)"""
        _, natural = self._of_states(*coefficients)
        mean, (covariance, _) = ChainNormal().moments(natural)
        shape = broadcast_shapes(mean.shape[:-2], self.count.shape)
        states = dist.MultivariateNormal(mean[..., 1:, :], covariance[..., 1:, :, :])
        return states.expand((*shape, mean.shape[-2] - 1))

    def _of_states(self, *coefficients: Tensor) -> tuple[Tensor, Natural]:
        """The log joint density as a constant, and natural parameters of the states."""
        known = dict(zip(self.names, coefficients, strict=True))
        start, move, see = (_quadratic(known, law) for law in LAWS)
        # Of the data the observation's own law is a constant, and pulls at the states.
        y = self.value
        seen = (see.linear - 0.5 * _apply(see.precision, y)).mul(y).sum(-1) + see.constant
        pull = _apply(see.gain, y) + see.pull
        steps = broadcast_shapes(
            *(t.shape for t in (seen, move.constant, start.constant)),
            *(t.shape[:-1] for t in (pull, move.linear, move.pull, start.linear)),
            *(t.shape[:-2] for t in (see.outer, *move[1:3], move.gain, start.precision)),
        )
        linear = _chained(start.linear, pull + move.linear, move.pull, steps, 1)
        precision = _chained(start.precision, see.outer + move.precision, move.outer, steps, 2)
        gain = move.gain.expand(*steps, *move.gain.shape[-2:])
        constant = (seen + move.constant).expand(steps).sum(-1)
        constant = constant + start.constant.squeeze(-1)
        return constant, (linear, -0.5 * precision, gain)


LAWS = ("initial", "transition", "observation")


class _Quadratic(NamedTuple):
    """``constant + x'linear - x'precision x / 2 + z'pull - z'outer z / 2 + z'gain x``.

    Each has a dim of steps, of size 1 where all are alike.
    """

    constant: Tensor
    precision: Tensor
    outer: Tensor
    gain: Tensor
    linear: Tensor
    pull: Tensor


def _quadratic(known: Mapping[tuple[str, str], Tensor], law: str) -> _Quadratic:
    """The log density of one law."""
    own = {n: c for (of, n), c in known.items() if of == law}
    if law == "initial":  # it has no steps
        own = {n: c.unsqueeze(-1 - EVENT_DIMS[n]) for n, c in own.items()}
    precision = own["precision"]
    zero, D = precision.new_zeros(()), precision.shape[-1]
    gain = own.get("gain", zero.expand(1, 0, D))
    constant = own["half_log_det"] - 0.5 * own.get("level", zero) - 0.5 * LOG_TWO_PI * D
    return _Quadratic(
        constant.expand(broadcast_shapes(constant.shape, (1,))),
        precision,
        own.get("outer", zero.expand(1, 0, 0)),
        gain,
        own.get("shift", zero.expand(1, D)),
        -own.get("pull", zero.expand(1, gain.shape[-2])),
    )


EVENT_DIMS = {
    "half_log_det": 0,
    "precision": 2,
    "shift": 1,
    "level": 0,
    "gain": 2,
    "outer": 2,
    "pull": 1,
}


def _chained(start: Tensor, own: Tensor, before: Tensor, steps: torch.Size, dims: int) -> Tensor:
    """Of each state: the start, or what its step says of it; and what the step after it says.

    :param dims: the number of event dims.
    # shape: (*batch, T + 1, ...)
    """
    event = own.shape[own.dim() - dims :]
    first = start.expand(*steps[:-1], 1, *event)
    later = torch.cat([first, own.expand(*steps, *event)], -1 - dims)
    earlier = before.expand(*steps, *event)
    return later + torch.cat([earlier, torch.zeros_like(first)], -1 - dims)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)

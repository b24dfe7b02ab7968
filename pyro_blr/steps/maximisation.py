# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The M-step: each parameter to the mode of its message, given q and the other parameters.

After the E-step (a sweep over the blocks of q) the parameters follow block by block, each from the
newest values of the others. Each block's step is a maximum of the ELBO over that block, so that the
ELBO never falls; with one block of q and one of parameters it is EM, with several expectation
conditional maximisation (Meng & Rubin 1993).

With rho < 1 the messages of the steps are averaged, ``average <- (1 - rho) average + rho message``,
and the parameter is the mode of the average. From ``average = message_at(theta)``, the message of
the same size whose mode is theta, that is a natural-gradient step of size rho in the metric of the
joint complete-data Fisher information (arXiv 2011.01170); over minibatches it is online EM.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import errors
from ..families import Natural
from ..lifting import host
from .cone import plain
from .objective import Block, Naturals, Objective


@dataclass
class Averages:
    """The average message of each point, and the point that is its mode."""

    held: dict[str, tuple[Natural, Natural]] = field(default_factory=dict)

    def at(self, block: Block, natural: Natural, message: Natural) -> Natural:
        """The average so far; where the point is not its mode, one that starts at the point."""
        average, point = self.held.get(_name(block), ((), ()))
        if _shapes(average) == _shapes(message) and _shapes(point) == _shapes(natural):
            average, point = (tuple(t.to(natural[0]) for t in n) for n in (average, point))
            if host.truth(_is_close(point, natural)):
                return average
        started: Natural = block.point.message_at(message, natural[0])
        return started

    def keep(self, block: Block, message: Natural, natural: Natural) -> None:
        """Remember the average of a block and the point that is its mode."""
        self.held[_name(block)] = (message, natural)

    def state(self) -> dict[str, dict[str, list[Tensor]]]:
        """The averages and the points, to be saved."""
        return {n: {"average": list(a), "point": list(p)} for n, (a, p) in self.held.items()}

    def load_state(self, state: Mapping[str, Mapping[str, Sequence[Tensor]]]) -> None:
        """Take up saved averages."""
        self.held = {n: (tuple(s["average"]), tuple(s["point"])) for n, s in state.items()}


def _name(block: Block) -> str:
    """What an average is of: a block as a point of one kind."""
    return f"{block.name}: {block.point!r}"


def _shapes(natural: Natural) -> list[torch.Size]:
    return [tensor.shape for tensor in natural]


def _is_close(first: Natural, second: Natural) -> torch.Tensor:
    """Whether a point is the one that was written, but for the rounding of its transform."""
    return torch.isclose(first[0], second[0], rtol=ROUND_TRIP, atol=ROUND_TRIP).all()


#: Relative change of a value on its way through a constraint's transform and the leaf's dtype
#: (float32: 6e-8, times the log of a value up to 1e40): whoever moves a parameter moves it further.
ROUND_TRIP = 1e-5


def maximise(
    objective: Objective,
    current: Naturals,
    points: tuple[Block, ...],
    step_size: float,
    averages: Averages,
) -> dict[Block, Natural]:
    """The new values of all points, ``(point,)`` each.

    :param current: natural parameters of the blocks of q after the E-step, and the points.
    :param step_size: rho in (0, 1].
    :raises ImproperPosteriorError: if the ELBO has no maximum over a parameter.
    """
    moved: dict[Block, Natural] = dict(current)
    for block in points:
        message = objective.messages(moved, block)[block]
        natural = moved[block]
        if step_size != 1.0:
            message = plain(averages.at(block, natural, message), message, step_size)
        mode = block.point.mode(message, natural[0])
        if not host.truth(torch.isfinite(mode).all()):
            raise no_maximum(block)
        moved[block] = (mode,)
        averages.keep(block, message, (mode,))
    return {block: moved[block] for block in points}


def no_maximum(block: Block) -> errors.BLRError:
    """The error for a parameter whose likelihood is largest at the edge of its support."""
    names = " and ".join(repr(s.name) for s in block.sites)
    return errors.ImproperPosteriorError(
        f"the expected log joint has no maximum over the parameter {names} inside its support "
        f"(its {block.point.name} is improper): a count or a sum of squares is 0, or a design is "
        "singular. Mend: give it a prior by making it a latent, pyro.sample instead of pyro.param, "
        'or leave it to an optimiser, params="optim".'
    )

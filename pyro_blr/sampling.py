# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How many draws sampled factors get, and when they are renewed.

As long as they are not, the estimated ELBO is a function without noise, and steps on it can be
searched and converge. What is left then is the error of the draws themselves: the optimum on S
draws is short of the true one by some N nats, N ~ 1 / S. The messages of S fresh draws at that
optimum have a residual ``d'Fd/2`` of about 2 N (their own noise, and the way back), which measures
it. Where N is too large there are more draws, renewed.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from .energy.draws import Draws
from .energy.energy import Energy
from .energy.latents import Latents
from .energy.sampled import HELD_NUMBERS
from .estimators.hessians import EXACT
from .lifting import host

#: Draws to begin with; in a dozen dimensions they cost less than the trace of a model.
FIRST_DRAWS = 64
#: Numbers of an operation up to which calling it takes longer than computing them: so many draws of
#: a program of scalars (a loop over a time series) cost as much as one.
FREE_NUMBERS = 256
#: Where Hessians are dear: eight antithetic pairs, whose error is still measured and met with more.
FEWEST_DRAWS = 16
#: Draws for each element of q: with four their second moments are exact (two antithetic pairs an
#: element), and with as many as there are elements covariances are seen in every direction.
DRAWS_PER_ELEMENT = 4
#: Numbers of a step's Hessians up to which there are more than the fewest draws: a few seconds.
FIRST_NUMBERS = 2**30
#: Draws of a step that is not searched (minibatches, jumps), five antithetic pairs.
NOISY_DRAWS = 10
#: The most draws, and the most numbers of the programs at all of them: some ten seconds a step.
MOST_DRAWS = 2**14
MOST_NUMBERS = 2**31
#: What the draws may cost the fit in nats where nothing else is asked for.
SAMPLED_TOL = 0.01
#: A residual on the same draws of less than this share of their error has converged on them.
SETTLED = 0.1
#: The draws' error is first looked at once the residual is below this, in nats.
FIRST_LOOK = 0.1
#: Fewer new draws would not be worth the steps that they take.
LEAST_GROWTH = 4
#: At most so many times as many draws: the error is an estimate.
MOST_GROWTH = 16


class Sampling:
    """The draws of one engine.

    :param count: the number of draws that the user asked for, or None to find it.
    :param least: the fewest draws, as a loss asks for.
    """

    def __init__(self, count: int | None, least: int) -> None:
        self.fixed = count
        self.least = least
        self.count = count or max(FIRST_DRAWS, least)
        self.noisy_count = count or max(NOISY_DRAWS, least)
        #: The draws' error in nats, as last estimated; infinite before that.
        self.error: float = math.inf
        self._common: Draws | None = None
        self._look = FIRST_LOOK
        self._has_begun = False
        #: The seed of common draws that go on from a saved state.
        self._seed: int | None = None
        #: Where seeds come from; where the data are in parts, all parts have the same.
        self.new_seed: Callable[[], int] = host.seed

    def fresh(self, latents: Latents, noisy: bool = False) -> Draws:
        """New draws.

        :param noisy: as many as for a step that is not searched.
        """
        count = self.noisy_count if noisy else self.count
        return Draws(latents, count, self.new_seed(), matched=not noisy)

    def begin(self, latents: Latents, energy: Energy) -> None:
        """Set the number of draws for a model: once, before the first step."""
        if self._has_begun or self.fixed:
            return
        self._has_begun = True
        elements = _elements(latents, energy)
        wanted = 2 ** math.ceil(math.log2(max(1, DRAWS_PER_ELEMENT * elements)))
        columns = 1 + elements if elements <= EXACT else 1
        numbers = max(1, energy.at_draws.numbers)
        room = max(FEWEST_DRAWS, 2 ** int(math.log2(FIRST_NUMBERS / (numbers * columns))))
        # Fewer than wanted are no better than the first: second moments are then not exact.
        first = max(FIRST_DRAWS, wanted) if wanted <= min(room, MOST_DRAWS) else FIRST_DRAWS
        free = 2 ** int(math.log2(1 + FREE_NUMBERS * energy.at_draws.operations / numbers))
        self.count = max(self.least, min(max(first, free), room))

    def common(self, latents: Latents) -> Draws:
        """The draws of the last step, if they were not renewed."""
        if self._common is None or self._common.latents is not latents:
            seed = self.new_seed() if self._seed is None else self._seed
            self._common, self._seed = Draws(latents, self.count, seed), None
        return self._common

    def are_common(self, draws: Draws) -> bool:
        """Whether these are the draws that steps have in common."""
        return draws is self._common

    def most(self, energy: Energy) -> int:
        """The most draws of an energy's sampled factors."""
        limit = MOST_NUMBERS if energy.is_in_parts else HELD_NUMBERS
        room = max(FIRST_DRAWS, limit // max(energy.at_draws.numbers, 1))
        return self.fixed or max(self.count, min(MOST_DRAWS, 2 ** int(math.log2(room))))

    def has_settled(self, residual: float, measured: Callable[[], float], tol: float) -> bool:
        """Whether steps on the common draws gain nothing beside the draws' own error.

        :param residual: of the last step on the common draws, in nats.
        :param measured: the residual on fresh draws at the same state.
        """
        if residual > self._look:
            return False
        error = 0.5 * measured()
        enough = SETTLED * max(error, tol)
        if residual > enough:
            self._look = min(enough, 0.5 * residual)
            return False
        self.error = error
        return True

    def grow(self, tol: float, energy: Energy, growth: float = MOST_GROWTH) -> bool:
        """Renew the draws, as many as make their error less than half of tol; False at the most.

        :param growth: at most so many times as many.
        """
        most = self.most(energy)
        if self.count >= most:
            return False
        wanted = min(growth, max(LEAST_GROWTH, 2 * self.error / tol))
        self.count = min(most, self.count * 2 ** math.ceil(math.log2(wanted)))
        self.error, self._common, self._look = math.inf, None, FIRST_LOOK
        return True

    def state(self) -> dict[str, Any]:
        """The number of draws, and the seed of the common ones, to be saved."""
        return {
            "count": self.count,
            "error": self.error,
            "look": self._look,
            "has_begun": self._has_begun,
            "seed": -1 if self._common is None else self._common.seed,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self.count, self.error = int(state["count"]), float(state["error"])
        self._look, self._has_begun = float(state["look"]), bool(state["has_begun"])
        self._seed = None if state["seed"] < 0 else int(state["seed"])
        self._common = None


def _elements(latents: Latents, energy: Energy) -> int:
    """The elements of q whose covariances draws are to see.

    Independent weights of a network are left out where they are many: each variance is seen by few
    draws, and no number of them that memory holds would make all products exact.
    """
    elements = sum(math.prod(latent.site.shape) for latent in latents.values())
    scalars = sum(math.prod(b.batch_shape) for b in energy.blocks if b.event_size is None)
    return elements - (scalars if scalars > EXACT and energy.at_draws.have_network else 0)

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
from collections.abc import Callable

from .energy.draws import Draws
from .energy.latents import Latents

#: Draws to begin with: in a dozen dimensions few enough to be cheaper than the trace of a model.
FIRST_DRAWS = 64
#: Draws of a step that is not searched (minibatches, jumps), five antithetic pairs.
NOISY_DRAWS = 10
#: The most draws, and the most numbers that the programs may hold for all of them (1 GB).
MOST_DRAWS = 2**14
MOST_NUMBERS = 2**27
#: What the draws may cost the fit in nats where nothing else is asked for.
SAMPLED_TOL = 0.01
#: A residual on the same draws of less than this share of their error has converged on them.
SETTLED = 0.1
#: Before the draws' error is known it is looked at once the residual is below this, in nats.
FIRST_LOOK = 1.0
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
        self.count = count or max(FIRST_DRAWS, least)
        self.noisy_count = count or max(NOISY_DRAWS, least)
        #: The draws' error in nats, as last estimated; infinite before that.
        self.error: float = math.inf
        self._common: Draws | None = None

    def fresh(self, latents: Latents, noisy: bool = False) -> Draws:
        """New draws.

        :param noisy: as many as for a step that is not searched.
        """
        return Draws(latents, self.noisy_count if noisy else self.count)

    def common(self, latents: Latents) -> Draws:
        """The draws of the last step, if they were not renewed."""
        if self._common is None or self._common.latents is not latents:
            self._common = Draws(latents, self.count)
        return self._common

    def are_common(self, draws: Draws) -> bool:
        """Whether these are the draws that steps have in common."""
        return draws is self._common

    def most(self, numbers: int) -> int:
        """The most draws of programs that hold so many numbers each."""
        room = max(FIRST_DRAWS, MOST_NUMBERS // max(numbers, 1))
        return self.fixed or max(self.count, min(MOST_DRAWS, 2 ** int(math.log2(room))))

    def has_settled(self, residual: float, measured: Callable[[], float], tol: float) -> bool:
        """Whether steps on the common draws gain nothing beside the draws' own error.

        :param residual: of the last step on the common draws, in nats.
        :param measured: the residual on fresh draws at the same state.
        """
        known = min(self.error, FIRST_LOOK)
        if residual > SETTLED * max(known, tol):
            return False
        if not math.isfinite(self.error):
            self.error = max(0.5 * measured() - residual, 0.0)
        return residual <= SETTLED * max(self.error, tol)

    def grow(self, tol: float, numbers: int) -> bool:
        """Renew the draws, as many as make their error less than half of tol; False at the most."""
        most = self.most(numbers)
        if self.count >= most:
            return False
        wanted = min(MOST_GROWTH, max(LEAST_GROWTH, 2 * self.error / tol))
        self.count = min(most, self.count * 2 ** math.ceil(math.log2(wanted)))
        self.error, self._common = math.inf, None
        return True

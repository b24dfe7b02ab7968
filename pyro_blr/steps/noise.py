# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The step size of noisy messages, from how much of a step is signal and how much is noise.

Let D be the expected direction ``E[message] - natural`` and e its noise, in the Fisher metric. A
step of size rho leaves ``E|D - rho (D + e)|^2 = (1 - rho)^2 |D|^2 + rho^2 E|e|^2``, the least at

    rho = |D|^2 / (|D|^2 + E|e|^2),

1 without noise. Where the noise does not change, that is Kalman's gain, and |D|^2 falls as 1/t;
where it is in proportion to D (it vanishes at the optimum), rho is constant and D falls
geometrically.
Both terms are seen in two directions ``d = D + e`` in a row, whose noises are independent: with
``d_t = message_t - natural_t`` and ``natural_t = natural_{t-1} + rho d_{t-1}``,

    <d_t, d_{t-1}> + rho |d_{t-1}|^2 = <message_t - natural_{t-1}, d_{t-1}>,

of mean ``|D|^2``, while ``|d|^2`` has mean ``|D|^2 + E|e|^2``. If a full step overshoots, ``D_t =
(1 - rho h) D_{t-1}`` with h > 1, the first is ``(1 - rho (h - 1)) |D|^2`` without noise, and the
fixed point of "rho is the ratio of the means" is rho = 1 / h, the step that does not.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ..families import Natural
from ..lifting import host
from .cone import TRUST, inner, minus
from .objective import Block, Naturals
from .schedule import decreasing

#: The least and the largest weight of the newest pair in the running means. Between them it is rho,
#: as what a step of size rho changes is forgotten in ``1 / rho`` steps; 64 pairs are needed to tell
#: a ratio of 1/10 from noise in a handful of dimensions.
LEAST_WEIGHT, MOST_WEIGHT = 1 / 64, 0.5

#: The longest step in nats where the signal dominates: beyond, the ELBO is not the quadratic that
#: its derivatives describe.
MOST_TRUST = 8.0

#: A ratio above this is signal; below it noise dominates, and the step counts for the schedule.
SIGNAL = 0.5


class NoiseControl:
    """Sizes of steps on noisy messages under ``step_size="auto"``.

    The size is the ratio of the running means. Where noise dominates it is at most that of the
    schedule at as many noisy steps n, and at least ``2 / (n + 7)``, which begins at the schedule's
    first size: so whatever chance does to the ratio, sizes sum to infinity and their squares do not
    (Robbins & Monro 1951), and steps that the signal dominates do not count (Kesten 1958). With 2/n
    alone the start is forgotten as ``n^-2`` and the variance is 4/3 of the least one.
    """

    def __init__(self) -> None:
        self._natural: dict[str, Natural] = {}
        self._direction: dict[str, Natural] = {}
        self._signal = self._total = 0.0
        self._size = decreasing(0)
        self._noisy_steps = 0

    def size(
        self, naturals: Naturals, messages: Mapping[Block, Natural], partial: Collection[Block] = ()
    ) -> float:
        """The size of the next step, in (0, 1].

        :param naturals: where the step begins.
        :param messages: noisy messages there.
        :param partial: blocks of which the messages see some rows, other ones in each step.
        """
        seen = [b for b in messages if b not in partial]
        if self._is_comparable(seen, naturals):
            self._compare(seen, messages)
            ratio = self._ratio if self._total > 0 else 1.0
            if ratio <= SIGNAL:
                self._noisy_steps += 1
            self._size = self._limited(ratio)
        else:
            self._size = decreasing(self._noisy_steps)
        self._natural = {b.name: naturals[b] for b in seen}
        self._direction = {b.name: minus(messages[b], naturals[b]) for b in seen}
        return self._size

    @property
    def is_signal(self) -> bool:
        """Whether the last steps were more signal than noise: iterates still come nearer."""
        return self._ratio > SIGNAL

    @property
    def trust(self) -> float:
        """How long the next step may be, in nats: the share that is noise within :data:`TRUST`."""
        if not self.is_signal:
            return TRUST
        return min(MOST_TRUST, TRUST / max(1.0 - self._ratio, TRUST / MOST_TRUST))

    @property
    def _ratio(self) -> float:
        return self._signal / self._total if self._total > 0 else 0.0

    def _limited(self, ratio: float) -> float:
        if ratio > SIGNAL:
            return min(1.0, ratio)
        most = decreasing(self._noisy_steps)
        return min(most, max(ratio, 2.0 / (self._noisy_steps + 7)))

    def _is_comparable(self, seen: list[Block], naturals: Naturals) -> bool:
        """Whether the last step was one of the same blocks."""
        if not seen or [b.name for b in seen] != list(self._natural):
            return False
        return all(
            [t.shape for t in naturals[b]] == [t.shape for t in self._natural[b.name]] for b in seen
        )

    def _compare(self, seen: list[Block], messages: Mapping[Block, Natural]) -> None:
        """Take a pair of directions into the running means."""
        signal = total = 0.0
        for block in seen:
            natural, direction = self._natural[block.name], self._direction[block.name]
            product = block.family.fisher(natural, direction)
            signal += host.number(inner(product, minus(messages[block], natural)))
            total += host.number(inner(product, direction))
        weight = min(MOST_WEIGHT, max(LEAST_WEIGHT, self._size)) if self._total else 1.0
        self._signal += weight * (signal - self._signal)
        self._total += weight * (total - self._total)

    def state(self) -> dict[str, Any]:
        """What the next size depends on, to be saved."""
        return {
            "natural": {name: [t.clone() for t in n] for name, n in self._natural.items()},
            "direction": {name: [t.clone() for t in d] for name, d in self._direction.items()},
            "signal": self._signal,
            "total": self._total,
            "size": self._size,
            "noisy_steps": self._noisy_steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self._natural = {name: tuple(n) for name, n in state["natural"].items()}
        self._direction = {name: tuple(d) for name, d in state["direction"].items()}
        self._signal, self._total = float(state["signal"]), float(state["total"])
        self._size, self._noisy_steps = float(state["size"]), int(state["noisy_steps"])

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""From calls of a model to energies: what they have in common, and what is said of them once."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import errors
from ..lifting import constants
from ..lifting.expectation import Layout
from ..lifting.mends import mend_of
from ..lifting.points import PointBlock
from ..random_state import random_state
from .energy import Energy
from .enumeration import DEEPEST
from .hidden_gaussian import GaussianChain
from .latents import Latents
from .parameters import LiftedParameter
from .sampled import SampledFactor
from .trace import HasDiscrete, trace_model
from .traced import Traced
from .work import Work

NOTHING_LIFTED: Mapping[str, LiftedParameter] = {}


class EnergyBuilder:
    """Traces the model at every call and keeps what was computed from constants.

    :param model: the user's model.
    :param on_sampled: ``"warn"``, ``"error"`` or ``"ignore"`` for factors that need draws.
    :param temperature: what the log densities of observed sites are divided by.
    :param estimator: of sampled factors' messages.
    :param discrete: how discrete latents are summed out, ``"mean_field"`` or ``"marginal"``.
    :param nesting: the depth of the model's plates; None if a run has to tell.
    :param kept: the latents that q leaves at their prior given the others.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        on_sampled: str = "warn",
        temperature: float = 1.0,
        estimator: str = "auto",
        discrete: str = "mean_field",
        nesting: int | None = None,
        kept: Collection[str] = (),
    ) -> None:
        self.model = model
        self.kept = kept
        self.on_sampled = on_sampled
        self.temperature = temperature
        self.estimator = estimator
        self.discrete = discrete
        self.nesting = nesting
        self.cache = constants.ConstantCache()
        self.work = Work()
        #: The plates whose elements are spread over parts of the data, of a run; None if none are.
        self.sharded: Callable[[Traced], Collection[str]] | None = None
        #: Whether a run may have to be repeated as it was, whatever it drew: then where it began.
        self.remembers_randomness = False
        self.randomness: dict[str, Any] | None = None
        self._enumerates = False
        self._noisy: tuple[tuple[Any, ...], Latents] = (), {}
        self._warned: set[str] = set()

    def fresh(self) -> "EnergyBuilder":
        """One for the same model that has no cache and does not warn."""
        fresh = EnergyBuilder(
            *(self.model, "ignore", self.temperature, self.estimator, self.discrete, self.nesting),
            self.kept,
        )
        fresh._enumerates = self._enumerates
        return fresh

    def invalidate(self) -> None:
        """Forget everything that was computed from constants."""
        self.cache.clear()

    def trace(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        latents: Latents,
        lifted: Mapping[str, LiftedParameter] = NOTHING_LIFTED,
    ) -> Traced:
        """Run the model once on lifted latents, and on the lifted parameters that are named."""
        self.cache.next_trace()
        with constants.using(self.cache):
            traced = self._trace(args, kwargs, latents, lifted)
        if self.sharded is not None:
            plates = self.sharded(traced)
            for name, latent in latents.items():
                own = (d for d, (plate, _) in latent.plates.items() if plate in plates)
                traced.sharded[name] = frozenset(own)
        if self.discrete == "marginal":
            # At draws a chain of Gaussian states is one density, for which families are chosen.
            traced.sites = [
                replace(s, chain=None) if isinstance(s.chain, GaussianChain) else s
                for s in traced.sites
            ]
        return traced

    def _trace(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        latents: Latents,
        lifted: Mapping[str, LiftedParameter],
    ) -> Traced:
        """A run; more of them where the first meets discrete latents or deeper plates."""

        def run(nesting: int | None = None) -> Traced:
            if self.remembers_randomness:
                self.randomness = random_state()
            about = (self.model, args, kwargs, latents, lifted, self.temperature)
            return trace_model(*about, nesting, self.kept)

        try:
            if not self._enumerates:
                return run()
        except HasDiscrete:
            self._enumerates = True
        traced = run(DEEPEST if self.nesting is None else self.nesting)
        if self.nesting is None or traced.nesting > self.nesting:
            self.nesting = traced.nesting
            traced = run(self.nesting)
        return traced

    def build(
        self,
        traced: Traced,
        latents: Latents,
        layout: Layout,
        points: Sequence[PointBlock] = (),
        discrete: str = "",
    ) -> Energy:
        """The energy of a traced call under a layout of blocks.

        :param points: the blocks of the lifted parameters.
        :param discrete: how discrete latents are summed out, if not as the builder has it.
        """
        with constants.using(self.cache):
            how = discrete or self.discrete
            latents = self._with_noise(latents, traced)
            energy = Energy(traced, latents, layout, points, self.estimator, how)
        energy.work = self.work
        return energy

    def _with_noise(self, latents: Latents, traced: Traced) -> Latents:
        """The latents and the noise of those at their prior, the same as long as these are."""
        parts = (latents, *traced.noise.values())
        known = self._noisy[0]
        if len(known) != len(parts) or any(a is not b for a, b in zip(known, parts, strict=True)):
            self._noisy = parts, {**latents, **traced.noise} if traced.noise else latents
        return self._noisy[1]

    def report_sampled(self, energy: Energy) -> None:
        """Warn of (or refuse) sampled factors, once a site.

        :raises SampledFactorError: under ``on_sampled="error"``.
        """
        for factor in energy.factors:
            if not isinstance(factor, SampledFactor) or factor.name in self._warned:
                continue
            text = (
                f"factor {factor.name!r} has no deterministic expectation and is sampled: "
                f"{_sentence(factor.reason)} Its part of the loss and of the messages is a Monte "
                "Carlo estimate."
            )
            mend = mend_of(factor.reason)
            if mend is not None:
                text += f" A spelling that needs no draws, where it fits: {mend}."
            if self.on_sampled == "error":
                raise errors.SampledFactorError(
                    text + ' Mend: rewrite the operation, or allow it by on_sampled="warn".'
                )
            self._warned.add(factor.name)
            if self.on_sampled == "warn":
                errors.warn(text, errors.SampledFactorWarning)

    def refuse_draws(self, reason: str) -> None:
        """Refuse a guide whose rule always draws.

        :raises SampledFactorError: under ``on_sampled="error"``.
        """
        if self.on_sampled == "error":
            raise errors.SampledFactorError(
                f"every factor is sampled from the guide: {_sentence(reason)} Mend: use "
                'AutoNatural, or on_sampled="ignore".'
            )

    def report_drawn(self, reason: str) -> None:
        """Warn of (or refuse) a guide that is known by its draws alone, once.

        :param reason: why; empty where nothing is drawn.
        :raises SampledFactorError: under ``on_sampled="error"``.
        """
        text = f"every factor is sampled from the guide: {_sentence(reason)}"
        if reason and self.on_sampled == "error":
            raise errors.SampledFactorError(text + ' Mend: use AutoNatural, or on_sampled="warn".')
        if reason and self.on_sampled == "warn":
            errors.warn(text, errors.SampledFactorWarning)


def _sentence(reason: str) -> str:
    """A reason with one full stop at its end; a refusal's ends with a mend, which has one."""
    return reason.rstrip(".") + "."

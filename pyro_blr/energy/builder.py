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
from .energy import Energy, Work
from .enumeration import DEEPEST
from .hidden_gaussian import GaussianChain
from .latents import Latents
from .parameters import LiftedParameter
from .sampled import SampledFactor
from .trace import HasDiscrete, Traced, trace_model

NOTHING_LIFTED: Mapping[str, LiftedParameter] = {}


class EnergyBuilder:
    """Traces the model at every call and keeps what was computed from constants.

    :param model: the user's model.
    :param on_sampled: ``"warn"``, ``"error"`` or ``"ignore"`` for factors that need draws.
    :param temperature: what the log densities of observed sites are divided by.
    :param estimator: of sampled factors' messages.
    :param discrete: how discrete latents are summed out, ``"mean_field"`` or ``"marginal"``.
    :param nesting: the depth of the model's plates; None if a run has to tell.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        on_sampled: str = "warn",
        temperature: float = 1.0,
        estimator: str = "auto",
        discrete: str = "mean_field",
        nesting: int | None = None,
    ) -> None:
        self.model = model
        self.on_sampled = on_sampled
        self.temperature = temperature
        self.estimator = estimator
        self.discrete = discrete
        self.nesting = nesting
        self.cache = constants.ConstantCache()
        self.work = Work()
        #: The plates whose elements are spread over parts of the data, of a run; None if none are.
        self.sharded: Callable[[Traced], Collection[str]] | None = None
        self._enumerates = False
        self._warned: set[str] = set()

    def fresh(self) -> "EnergyBuilder":
        """One for the same model that has no cache and does not warn."""
        return EnergyBuilder(
            *(self.model, "ignore", self.temperature, self.estimator, self.discrete, self.nesting)
        )

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
        run = (self.model, args, kwargs, latents, lifted, self.temperature)
        try:
            if not self._enumerates:
                return trace_model(*run)
        except HasDiscrete:
            self._enumerates = True
        traced = trace_model(*run, DEEPEST if self.nesting is None else self.nesting)
        if self.nesting is None or traced.nesting > self.nesting:
            self.nesting = traced.nesting
            traced = trace_model(*run, self.nesting)
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
            energy = Energy(traced, latents, layout, points, self.estimator, how)
        energy.work = self.work
        return energy

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

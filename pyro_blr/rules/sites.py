# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The sites of one run of a guide and of its model: whether they fit, and fit their plates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer.elbo import ELBO
from pyro.poutine.messenger import Messenger

from .. import errors
from .._compat import site_is_subsample
from ..energy.enumeration import discrete_site
from ..families.registry import unwrap

#: Particles of the trial run that looks at shapes: no plate of a model is likely to have this size.
PARTICLES = 7


class TemperMessenger(Messenger):
    """Divides the log densities of observed sites and of ``pyro.factor`` by the temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] and not site_is_subsample(msg):
            msg["scale"] = msg["scale"] / self.temperature


def tempered(model: Callable[..., Any], temperature: float) -> Callable[..., Any]:
    """The model of generalised Bayes; the model itself at temperature 1."""
    if temperature == 1:
        return model

    def run(*args: Any, **kwargs: Any) -> Any:
        with TemperMessenger(temperature):
            return model(*args, **kwargs)

    return run


@dataclass(frozen=True, eq=False)
class Sites:
    """The traces of a guide and of the model replayed against it.

    :param vectorized: the model's trace under an outer plate of particles, if the loss has one.
    """

    guide: poutine.Trace
    model: poutine.Trace
    vectorized: poutine.Trace | None

    @property
    def of_guide(self) -> dict[str, Any]:
        """The guide's sites that stand for latents of the model."""
        return {
            n: s for n, s in latents_of(self.guide).items() if not s["infer"].get("is_auxiliary")
        }

    @property
    def laws(self) -> tuple[str, ...]:
        """The name of the law that the guide gives each of these sites."""
        return tuple(type(unwrap(s["fn"])).__name__ for s in self.of_guide.values())

    @property
    def is_point_mass(self) -> bool:
        """Whether everything that the guide samples is a Delta."""
        drawn = latents_of(self.guide).values()
        return bool(self.of_guide) and all(isinstance(unwrap(s["fn"]), Delta) for s in drawn)

    @property
    def of_model(self) -> dict[str, Any]:
        """Every sample site of the model but those of subsamples."""
        return _samples(self.model)

    @property
    def model_densities(self) -> dict[str, Callable[[], Any]]:
        """What computes the log density of each site of the model at the guide's draw, by name."""
        return {n: partial(s["fn"].log_prob, s["value"]) for n, s in self.of_model.items()}

    def check(self) -> None:
        """Refuse a guide and a model that do not fit.

        :raises GuideError: naming a site that only one of them has.
        :raises ShapeError: naming a site whose log density has other dims than its plates.
        """
        self.check_names()
        for trace in (self.model, self.vectorized):
            for site in [] if trace is None else _samples(trace).values():
                _check_shape(site, trace is self.vectorized)

    @property
    def summed_out(self) -> list[str]:
        """The discrete latents that the guide does not sample and that can be enumerated."""
        latents = latents_of(self.model).items()
        return sorted(n for n, s in latents if n not in self.of_guide and _is_enumerated(s))

    def check_names(self) -> None:
        """Refuse a site that only the guide or only the model has.

        :raises GuideError: naming it; a ``DiscreteLatentError`` for a discrete latent of the model.
        """
        latents = latents_of(self.model)
        extra = sorted(set(self.of_guide) - set(latents))
        if extra:
            raise errors.GuideError(
                f"the guide samples {extra}, which the model does not have as latents in this "
                f"call; it has {sorted(latents)}. Mend: name the guide's sites as the model's, or "
                'give an auxiliary one infer={"is_auxiliary": True}.'
            )
        missing = sorted(set(latents) - set(self.of_guide) - set(self.summed_out))
        for name in missing:
            if getattr(latents[name]["fn"].support, "is_discrete", False):
                raise discrete_site(name)
        if missing:
            raise errors.GuideError(
                f"the model has latents {missing} that the guide does not sample. Mend: sample "
                "them in the guide, observe them, or hide them by poutine.block(model, "
                f"hide={missing})."
            )


def find_sites(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    loss: ELBO,
) -> Sites:
    """Run the guide, and the model against it, without gradients."""
    with torch.no_grad(), poutine.block(), pyro.validation_enabled(False):
        own = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = poutine.trace(poutine.replay(model, trace=own)).get_trace(*args, **kwargs)
        vectorized = None
        if loss.vectorize_particles and loss.num_particles > 1:
            particles = pyro.plate("particles", PARTICLES, dim=-1 - _nesting(own, replayed))
            drawn = poutine.trace(particles(guide)).get_trace(*args, **kwargs)
            vectorized = poutine.trace(poutine.replay(particles(model), trace=drawn)).get_trace(
                *args, **kwargs
            )
    return Sites(own, replayed, vectorized)


def _nesting(*traces: poutine.Trace) -> int:
    """The dims that plates take."""
    frames = [
        f
        for trace in traces
        for site in trace.nodes.values()
        if site["type"] == "sample"
        for f in site["cond_indep_stack"]
        if f.vectorized
    ]
    return max((-f.dim for f in frames), default=0)


def _samples(trace: poutine.Trace) -> dict[str, Any]:
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not site_is_subsample(site)
        and not site["infer"].get("_deterministic")
    }


def latents_of(trace: poutine.Trace) -> dict[str, Any]:
    """The sample sites of a trace that are not observed, without those of subsamples."""
    return {name: site for name, site in _samples(trace).items() if not site["is_observed"]}


def _is_enumerated(site: Any) -> bool:
    return bool(site["infer"].get("enumerate")) or bool(
        getattr(site["fn"], "has_enumerate_support", False)
    )


def _check_shape(site: Any, is_vectorized: bool) -> None:
    """Refuse a site whose log density has dims that are none of its plates'."""
    frames = {f.dim: f for f in site["cond_indep_stack"] if f.vectorized}
    with torch.no_grad(), pyro.validation_enabled(False):
        shape = tuple(site["fn"].log_prob(site["value"]).shape)
    if not frames:
        return
    for dim in range(-len(shape), 0):
        size = frames[dim].size if dim in frames else 1
        if shape[dim] not in (1, size):
            plates = ", ".join(f"{f.name!r} (dim {d}, size {f.size})" for d, f in frames.items())
            under = " under vectorized particles" if is_vectorized else ""
            mend = (
                "let its operations keep the dims to the left of the plates (index and reshape "
                "from the right: x[..., 0], .unsqueeze(-1)), or leave out vectorize_particles"
                if is_vectorized
                else "drop the dim that broadcasts, or declare dims that belong together by "
                ".to_event(1)"
            )
            raise errors.ShapeError(
                f"the log density of site {site['name']!r} has the shape {shape}{under}, but its "
                f"plates are {plates}. Mend: {mend}."
            )

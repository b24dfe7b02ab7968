# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of q, the model's log densities at each, and what they lie along."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import errors
from .dims import Dims
from .fitted import fitted
from .guides import GuideDraws, guide_draws
from .program import Program
from .together import Site, at_draws


@dataclass(frozen=True, eq=False)
class Draws:
    """Independent draws of q with everything that is known of each; log densities in nats.

    :param latents: the values of the model's latents, by site. # shape: (S, *site)
    :param deterministic: those of its ``pyro.deterministic`` sites. # shape: (S, *site)
    :param log_p: the log joint that q was fitted to, in float64. # shape: (S,)
    :param log_q_parts: the log density of each part of q, by the sites that it holds, given the
        parts before; parts of a guide in natural coordinates are independent. # shape: (S,)
    :param points: the sites that q holds as points, without a density.
    :param log_prior: of each latent. # shape: (S, *batch)
    :param log_likelihood: of each datum of each observed site; masked data have 0, and a
        ``poutine.scale`` is not applied. # shape: (S, *batch)
    :param observed: the data, by site. # shape: (*site)
    :param dims: how the value of each site lies.
    :param prior_dims: how each log prior lies.
    :param likelihood_dims: how each log likelihood lies.
    :param plates: the size of each plate.
    :param auxiliary: what the guide draws beside the latents; they have no density of their own
        then, as it is the integral over these.
    """

    latents: Mapping[str, Tensor]
    deterministic: Mapping[str, Tensor]
    log_p: Tensor
    log_q_parts: Mapping[tuple[str, ...], Tensor]
    points: frozenset[str]
    log_prior: Mapping[str, Tensor]
    log_likelihood: Mapping[str, Tensor]
    observed: Mapping[str, Tensor]
    dims: Mapping[str, Dims]
    prior_dims: Mapping[str, Dims]
    likelihood_dims: Mapping[str, Dims]
    plates: Mapping[str, int]
    auxiliary: frozenset[str] = frozenset()

    @property
    def data_sites(self) -> frozenset[str]:
        """The sites whose values are data."""
        return frozenset(self.observed)

    @property
    def num_samples(self) -> int:
        """S."""
        return len(self.log_p)

    @cached_property
    def log_q(self) -> Tensor | None:
        """The log density of q at each draw, in float64; None where all of q is a point.

        It is None as well where it is not known, beside ``auxiliary`` sites.

        Where a part of q is a point, it is the density of the rest. # shape: (S,)
        """
        parts = list(self.log_q_parts.values())
        return torch.stack(parts).sum(0) if parts else None

    @property
    def log_weights(self) -> Tensor:
        """``log_p - log_q``, whose mean is the ELBO. # shape: (S,)

        :raises GuideError: if q is a point, or its density is not known.
        """
        if self.auxiliary:
            raise errors.GuideError(f"{no_density(self.auxiliary)} {WITHOUT_AUXILIARY}")
        if self.log_q is None:
            raise errors.GuideError(
                f"q holds {sorted(self.points)} as points and has no density, so its draws have no "
                "weights. Mend: use a guide with a density, AutoNatural(model)."
            )
        return self.log_p - self.log_q


WITHOUT_AUXILIARY = "Mend: use a guide without them, such as AutoNatural(model)."


def no_density(auxiliary: frozenset[str]) -> str:
    """Why there is no log q."""
    return (
        f"the guide draws {sorted(auxiliary)} beside the latents (infer={{'is_auxiliary': True}}), "
        "so that the density of the latents alone is an integral that is not known, and log_p - "
        "log_q would be no ratio of densities of the same latents."
    )


def draws_of(
    fit: Any,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    num_samples: int = 1000,
    caller: str = "to_arviz",
) -> Draws:
    """Draws of any fit, with the log densities of model and guide at each.

    Discrete latents that the guide does not hold are summed out: the log likelihood is that of each
    row of a mixture, of each sequence of a hidden Markov model.

    :param fit: what :meth:`~pyro_blr.BLR.fit` returned, a :class:`~pyro_blr.BLR`, or an ``SVI``
        with any guide.
    :param args: the arguments of the model, with all of the data.
    :param str caller: the function that the user called, for errors.
    :raises ArgumentError: if ``fit`` or ``num_samples`` cannot be used.
    :raises DiscreteLatentError: if a discrete latent cannot be summed out.
    :raises GuideError: if the guide and the model do not hold the same latents.
    :raises NonFiniteError: if a draw or its log density is NaN or infinite, naming the site.
    :raises PlateSizeError: if the model takes a subsample of a plate.
    """
    if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples < 1:
        raise errors.ArgumentError(
            f"num_samples must be a positive integer, not {num_samples!r}. Mend: "
            f"{caller}(fit, *args, num_samples=1000)."
        )
    own, kwargs = fitted(fit, caller, args, kwargs), kwargs or {}
    drawn = guide_draws(own, args, kwargs, num_samples, caller)
    for name, value in drawn.values.items():
        _check_finite(value, f"site {name!r} in the guide", FEED)
    for names, log_q in drawn.log_q.items():
        what = f"the guide's log density of {', '.join(map(repr, names))}"
        _check_finite(log_q, what, FEED, drawn.values)
    program = Program(own.target, args, kwargs, caller, must_know=True)
    sites = at_draws(program, drawn.values, num_samples)
    for name, site in sites.items():
        what = f"the model's log density of site {name!r}"
        _check_finite(site.total, what, SUPPORT, drawn.values)
    return _draws(drawn, sites)


#: Mends of values that are not finite.
FEED = "the guide's parameters have diverged: fit again from another start, or with smaller steps"
SUPPORT = (
    "give q a law inside the support of the model's (a guide for that site on its own support), or "
    "keep arguments that overflow (exp) in bounds"
)


def _check_finite(
    value: Tensor, what: str, mend: str, draws: Mapping[str, Tensor] | None = None
) -> None:
    """Refuse values that are not finite at every draw.

    :param draws: the draws that they are computed of, which rounding may have moved to an edge.
    """
    if not value.is_floating_point():
        return
    bad = ~torch.isfinite(value).reshape(len(value), value[0].numel()).all(-1)
    if bad.any():
        first = int(bad.nonzero()[0])
        mend = _edge(draws or {}, bad) or mend
        raise errors.NonFiniteError(
            f"{what} is not finite at {int(bad.sum())} of {len(value)} draws (the first is draw "
            f"{first}). Mend: {mend}."
        )


def _edge(draws: Mapping[str, Tensor], bad: Tensor) -> str:
    """The mend of draws that are rounded onto 0 or 1, which no continuous law has; or nothing."""
    for name, value in draws.items():
        own = value[bad.to(value.device)]
        # The least number that the generators of gamma laws give stands for 0.
        tiny = torch.finfo(own.dtype).tiny if own.is_floating_point() else 0.0
        if not own.is_floating_point() or not bool(((own.abs() <= tiny) | (own == 1)).any()):
            continue
        rounded = f"draws of site {name!r} are rounded to 0 or 1 in {str(own.dtype)[6:]}"
        if own.dtype != torch.float64:
            return f"use float64, torch.set_default_dtype(torch.float64), since {rounded}"
        return f"use a larger concentration in the prior, since {rounded} already"
    return ""


def _draws(drawn: GuideDraws, sites: Mapping[str, Site]) -> Draws:
    kinds: dict[str, dict[str, Site]] = {}
    plates: dict[str, int] = {}
    for name, site in sites.items():
        kinds.setdefault(site.kind, {})[name] = site
        plates.update(site.entry.plates.values())
    latent, observed = kinds.get("latent", {}), kinds.get("observed", {})
    computed, data = kinds.get("deterministic", {}), {**observed, **kinds.get("datum", {})}
    return Draws(
        drawn.values,
        {n: s.values for n, s in computed.items() if s.values is not None},
        torch.stack([s.total for s in sites.values()]).sum(0),
        drawn.log_q,
        drawn.points,
        {n: s.log_prob for n, s in latent.items()},
        {n: s.log_prob for n, s in observed.items()},
        {n: s.values for n, s in data.items() if s.values is not None},
        {n: s.dims for n, s in sites.items()},
        {n: s.dims_of_log_prob for n, s in latent.items()},
        {n: s.dims_of_log_prob for n, s in observed.items()},
        plates,
        drawn.auxiliary,
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The posterior of latents that were summed out, one by one, as Pyro distributions."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..lifting.distribution import LiftedDistribution
from ..lifting.tensor import LiftedTensor, replay
from .components import Component, components
from .delta import DeltaFactor, MeanDraws
from .draws import Draws
from .eliminated import EliminatedFactor, Part, summed
from .elimination import Elimination
from .energy import Energy
from .factors import MomentsMap
from .hidden_gaussian import ChainIntegral
from .sampled import SampledFactor


def discrete_marginals(energy: Energy, moments: MomentsMap, draws: Draws | None) -> dict[str, Any]:
    """The marginal of each discrete latent under the q that the bound implies.

    Of a sum inside the draws it is the mean over draws of the posterior at each. The states of a
    Gaussian chain that were integrated out are among them.
    """
    _, joined = components(energy.traced.sites)
    found: dict[str, Any] = {}
    for factor in energy.factors:
        component = next((c for c in joined if c.name == factor.name), None)
        if isinstance(factor, EliminatedFactor) and isinstance(factor.sum_out, ChainIntegral):
            with torch.no_grad():
                found[f"{factor.name}.states"] = factor.sum_out.states(*factor.expected(moments))
            continue
        if isinstance(factor, EliminatedFactor):
            weights = _expected_weights(factor, moments)
            if component is None:
                found[factor.latents[0]] = _classes(weights[-1])
                continue
        elif isinstance(factor, DeltaFactor) and component is not None:
            weights = _mean_weights(factor.program, moments, MeanDraws(energy.latents))
        elif isinstance(factor, SampledFactor) and component is not None:
            assert draws is not None
            weights = _mean_weights(factor, moments, draws)
        else:
            continue
        found.update(_by_site(component, weights))
    return found


def _expected_weights(factor: EliminatedFactor, moments: MomentsMap) -> list[Tensor]:
    """The weights of q, also of a latent that the bound leaves out as nothing observed follows."""
    with torch.no_grad():
        values = [_whole(p, moments) for p in factor.parts]
    return summed(factor.sum_out, values).weights


def _whole(part: Part, moments: MomentsMap) -> Tensor:
    """The expected log factor of each row, where one may stand for all; of a prior in all rows."""
    if not part.role.is_prior:
        return part.expected(moments)
    value: Tensor = part.raw(moments).double() * part.role.times
    return value


def _mean_weights(factor: SampledFactor, moments: MomentsMap, draws: Draws) -> list[Tensor]:
    """The mean over draws of the weights at each."""
    call = factor.summed.node.call
    assert call is not None
    assert isinstance(call.function, Elimination)
    with torch.no_grad():
        drawn = draws.by_site(draws.of_blocks(moments, factor.blocks))
    total: list[Tensor] = []
    sites = {s.name: s for s in factor.summed.node.sites}
    for i in range(draws.count):
        with torch.no_grad():
            given: dict[Any, Tensor] = {s: drawn[name][i] for name, s in sites.items()}
            lifted = iter(replay(call.inputs, given))
            values = [next(lifted) if isinstance(a, LiftedTensor) else a for a in call.args]
        weights = summed(call.function, [v.double() for v in values]).weights
        total = [t + w for t, w in zip(total, weights, strict=True)] if total else weights
    return [t / draws.count for t in total]


def _by_site(component: Component, weights: list[Tensor]) -> dict[str, Any]:
    found = {}
    for site, weight in zip(component.sites, weights, strict=True):
        if site.choice is None:
            continue
        weight = weight / component.scale
        own = site.choice.dim
        others = [d for d in site.dims.choices if d != own and len(weight.shape) >= -d]
        weight = weight.sum(others, keepdim=True) if others else weight
        probs = weight.movedim(weight.dim() + own, -1)
        probs = probs.reshape(probs.shape[probs.dim() - 1 - site.dims.depth :])
        found[site.name] = _distribution(site.choice.fn, probs)
    return found


def _distribution(fn: Any, probs: Tensor) -> Any:
    """A distribution of the latent's own class; over the places in its support for other ones."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    kind = fn.distribution if isinstance(fn, LiftedDistribution) else type(fn)
    if issubclass(kind, dist.Bernoulli):
        return dist.Bernoulli(probs=probs[..., 1])
    if issubclass(kind, dist.OneHotCategorical):
        return dist.OneHotCategorical(probs=probs)
    return _classes(probs)


def _classes(probs: Tensor) -> Any:
    return dist.Categorical(probs=probs)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The points about which the components of a mixture are spread: the prior's, and the start's."""

import math
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ..families import Natural
from ..guides.mixture_guide import AutoNaturalMixture
from ..lifting import host
from ..steps.cone import Safety
from ..steps.mixture import Gradient, Mixture, State
from ..steps.mixture_search import searched_step
from ..steps.mixture_start import spread
from .differentiated import Differentiated

#: Steps by which starts are compared: most of what a start costs is then gone.
STEPS = 8

#: Draws of the prior, each a run of the model, and points about the start.
PRIOR_DRAWS, NEARBY = 128, 512

#: From the guide's own scale up to so many times it, and at least up to so much, points lie about
#: where it starts: evenly in the logarithm, since how far the posterior reaches is not known. The
#: second is the prior's in a model whose latents are of order 1, and only that.
TIMES, WIDEST = 100.0, 10.0


def spread_start(
    guide: AutoNaturalMixture,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    log_joint: Differentiated,
    mixture: Mixture,
) -> Natural:
    """Where the components of a new guide start: the best of several, after a few steps of each.

    :param mixture: about where to look, with the points of the steps.
    """
    means = mixture.means
    generator = torch.Generator("cpu").manual_seed(host.seed())
    centre, count = means.mean(0), max(NEARBY, 16 * len(means))
    own: Any = {"dtype": means.dtype, "device": "cpu", "generator": generator}
    noise = torch.randn(count, means.shape[-1], **own)
    ratio = max(TIMES, WIDEST / guide.init_scale)
    scale = ratio ** torch.rand(count, 1, **own)
    near = centre + guide.init_scale * (scale * noise).to(means)
    pool = torch.cat([near, *prior_draws(guide, args, kwargs, means)])
    with torch.no_grad():
        starts = spread(pool, log_joint.own, len(means), generator)
    states = [settled(Mixture(start, mixture.noise), log_joint) for start in starts]
    finite = [s for s in states if math.isfinite(s.elbo)] or states
    return max(finite, key=lambda s: s.elbo).mixture.coordinates


def settled(mixture: Mixture, log_joint: Differentiated) -> State:
    """A mixture after a few steps, or where it was if one cannot be taken."""
    state, safety = State.at(mixture, log_joint), Safety()
    sizes = torch.ones_like(mixture.log_weights)
    for _ in range(STEPS):
        gradient = Gradient.of(state)
        if not host.truth(torch.isfinite(gradient.steps(state.mixture)).all()):
            return state
        found = searched_step(state, gradient, sizes, log_joint, safety)
        if found is None:
            return state
        state, sizes = found.state, (2 * found.sizes).clamp(0.01, 1.0)
    return state


def prior_draws(
    guide: AutoNaturalMixture, args: tuple[Any, ...], kwargs: Mapping[str, Any], like: Tensor
) -> list[Tensor]:
    """Draws of the prior as latent vectors; none where a prior has none. # shape: (N, D)"""
    rows = []
    with torch.no_grad(), pyro.validation_enabled(False), poutine.block():
        for _ in range(PRIOR_DRAWS):
            try:
                trace = poutine.trace(guide.model).get_trace(*args, **kwargs)
            except NotImplementedError:  # ImproperUniform
                return []
            except (ValueError, RuntimeError):  # a draw that the model cannot be run at
                continue
            parts = []
            for name, latent in guide.latents.items():
                value = trace.nodes[name]["value"]
                transform = latent.transform
                variable = value if transform is None else transform.inv(value)
                parts.append(variable.to(like).reshape(-1))
            rows.append(torch.cat(parts))
    return [torch.stack([r for r in rows if host.truth(torch.isfinite(r).all())])] if rows else []

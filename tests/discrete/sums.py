# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Sums over discrete latents one joint value at a time: the bound, and the posterior of each."""

import itertools
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import pyro
import torch
from torch import Tensor

from tests.checks import engine, expected_log_joint, random_like, total_entropy
from tests.discrete.models import Model, Small


def laws_of(model: Model, args: tuple[Any, ...], **keywords: Any) -> dict[str, Any]:
    """The marginal of each latent at the start of a fit: its family and shape."""
    blr, guide = engine(model, **keywords)
    blr.evaluate_loss(*args)
    return {name: guide.marginal(name) for b in guide.blocks for name in [s.name for s in b.sites]}


def random_start(model: Model, args: tuple[Any, ...], seed: int = 0, **kw: Any) -> dict[str, Any]:
    """A random q of each latent."""
    laws = laws_of(model, args, blocks="site", **kw)
    return {name: random_like(law, seed + i) for i, (name, law) in enumerate(laws.items())}


def assignments(small: Small) -> Iterator[dict[str, Tensor]]:
    """Each joint value of the discrete latents."""
    spaces = [
        itertools.product(range(values), repeat=prod(shape))
        for shape, values in small.discrete.values()
    ]
    for joint in itertools.product(*map(list, spaces)):
        yield {
            name: torch.tensor(values).reshape(shape)
            for (name, (shape, _)), values in zip(small.discrete.items(), joint, strict=True)
        }


def bound_by_hand(small: Small, q: Mapping[str, Any]) -> tuple[float, dict[str, Tensor]]:
    """The bound, and the probability of each value of each discrete latent.

    Of each model with its discrete latents observed the package says E_q[log p] itself: nothing
    is summed out there.
    """
    logs, weighed = [], []
    for chosen in assignments(small):
        typed = {k: v.double() if k in small.binary else v for k, v in chosen.items()}
        known = pyro.poutine.condition(small.model, data=typed)
        blr, _ = engine(known, q, blocks="site", on_sampled="error")
        logs.append(expected_log_joint(blr, q, *small.args))
        weighed.append(chosen)
    stacked = torch.stack(logs)
    posterior = stacked.softmax(0)
    marginals = {}
    for name, (_, values) in small.discrete.items():
        one_hot = torch.stack([torch.eye(values)[w[name]] for w in weighed], 0)
        marginals[name] = torch.tensordot(posterior, one_hot, 1)
    return float(stacked.logsumexp(0) + total_entropy(q)), marginals

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""ELBOs under a factorised q of discrete latents, by listing every joint value."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor


def expected_log_joint(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    probs: Mapping[str, Tensor],
    levels: Mapping[str, Tensor],
    given: Mapping[str, Tensor] | None = None,
) -> float:
    """E_q[log p] at given values of the continuous latents.

    :param probs: of each value of each element, by site. # shape: (*batch, K)
    :param levels: the values. # shape: (K, *event)
    """
    sites = [(n, place) for n, p in probs.items() for place in _places(p.shape[:-1])]
    counts = [range(probs[n].shape[-1]) for n, _ in sites]
    total = 0.0
    for values in itertools.product(*counts):
        weight, condition = 1.0, dict(given or {})
        chosen = {n: torch.zeros(p.shape[:-1], dtype=torch.long) for n, p in probs.items()}
        for (name, place), value in zip(sites, values, strict=True):
            weight *= float(probs[name][place][value])
            chosen[name][place] = value
        condition |= {n: levels[n][index] for n, index in chosen.items()}
        trace = poutine.trace(poutine.condition(model, data=condition)).get_trace(*args)
        total += weight * float(trace.log_prob_sum())
    return total


def entropy(probs: Mapping[str, Tensor]) -> float:
    """The entropy of q."""
    return float(sum(-torch.xlogy(p, p).sum() for p in probs.values()))


def _places(shape: torch.Size) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(n) for n in shape)))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The log joint density of a plain Pyro model at given values of its latents."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

# Rows evaluated together: bounds the memory, (rows, data) being the largest tensor of most models.
CHUNK = 2000


def log_joints(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    values: Mapping[str, Tensor],  # each of shape (num, *batch, *event)
    *,
    kwargs: Mapping[str, Any] | None = None,
    vectorise: bool = True,
) -> Tensor:  # shape: (num,)
    """Evaluate log p(data, values[i]) for every row i, scales and masks included.

    The model needs no batching of its own: ``torch.vmap`` runs it once for all rows, or, with
    ``vectorise=False``, a loop runs it once a row, for models that need numbers (``float(z)``).
    The first row is always run by itself with Pyro's validation on.

    :raises ValueError: if a latent of the model has no values.
    """
    num = len(next(iter(values.values())))

    def row(i: int) -> dict[str, Tensor]:
        return {site: value[i] for site, value in values.items()}

    first = _log_joint(model, args, kwargs, row(0), check=True)
    if not vectorise:
        rest = [_log_joint(model, args, kwargs, row(i)) for i in range(1, num)]
        return torch.stack([first, *rest])
    with pyro.validation_enabled(False):  # it branches on values, which vmap cannot
        return torch.vmap(
            lambda row: _log_joint(model, args, kwargs, row), chunk_size=min(num, CHUNK)
        )(dict(values))


def _log_joint(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    row: Mapping[str, Tensor],
    check: bool = False,
) -> Tensor:
    conditioned = poutine.condition(model, data=dict(row))
    trace = poutine.trace(conditioned).get_trace(*args, **(kwargs or {}))
    if check:
        _check_every_latent_has_a_value(trace)
    return torch.as_tensor(trace.log_prob_sum())


def _check_every_latent_has_a_value(trace: poutine.Trace) -> None:
    # ``condition`` turns a latent into an observation, so what is still latent was left out.
    missing = [site for site in trace.stochastic_nodes if not site_is_subsample(trace.nodes[site])]
    if missing:
        raise ValueError(f"no values for the latent sites {missing}")

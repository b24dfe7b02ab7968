# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log-odds of the parameters that a distribution was given, of which torch clamps the others."""

from typing import Any

import torch
from torch import Tensor


def _logits_were_given(distribution: Any) -> bool:
    """Tell whether logits were given: whichever was not appears once it has been asked for."""
    given = vars(distribution).get("logits")
    return given is not None and getattr(distribution, "_param", given) is given


def log_odds(distribution: Any) -> Tensor:
    """Return log p - log(1 - p) of a torch distribution of 0/1 trials.

    Where probabilities were given, its own ``.logits`` would be clamped to +-36.

    :param distribution: with ``probs`` and ``logits``, one of which was given.
    """
    logits: Tensor
    logits = distribution.logits if _logits_were_given(distribution) else distribution.probs.logit()
    return logits


def class_log_odds(categorical: torch.distributions.Categorical) -> Tensor:
    """Return log p_k - log p_(K-1) for k < K - 1, of classes  # shape: (*batch, K - 1)

    :param categorical: with ``probs`` and ``logits``, one of which was given.
    """
    given = _logits_were_given(categorical)
    logits: Tensor = categorical.logits if given else categorical.probs.log()
    free = logits.shape[-1] - 1
    return logits.narrow(-1, 0, free) - logits.narrow(-1, free, 1)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Data times the logarithm of what may be 0: ``Bernoulli(z * p)`` at z = 0.

With a 0-1 constant m, ``y log(m p)`` is ``m y log(p)`` where y or 1 - m is 0, and -inf elsewhere.
"""

import torch
from torch import Tensor

from . import constants
from .choices import has_zeros, shown_masks, split_masks
from .polynomial import Numeric, Polynomial, polynomial


def times_log(value: Numeric, of: Numeric) -> Polynomial:
    """``value log(of)``, where ``of`` may be a 0-1 constant times what has a logarithm."""
    of = polynomial(of)
    term = of.terms[0] if len(of.terms) == 1 and set(of.terms[0].axes) <= set(of.out) else None
    masks, rest = split_masks(term) if term is not None else ((), None)
    is_data = isinstance(value, Tensor) and not value.requires_grad
    if rest is None or not is_data or not any(map(has_zeros, masks)):
        return of.log() * value
    mask = shown_masks(masks, of.dims)
    impossible = polynomial(constants.memo(_impossible, (mask, value)))  # type: ignore[arg-type]
    return Polynomial(of.dims, (rest,)).log() * value * polynomial(mask) + impossible


def _impossible(mask: Tensor, value: Tensor) -> Tensor:
    """-inf where what has no probability was seen, else 0."""
    return torch.where((mask == 0) & (value.to(mask.device) != 0), -torch.inf, 0.0)

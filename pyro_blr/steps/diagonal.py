# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The step of a diagonal Gaussian: of its precisions, which stay positive, and of its means.

With S the precisions and ``G = S - E[hess l]`` (Lin, Schmidt & Khan, arXiv 2002.10060):

    S <- S - rho G + rho^2 G^2 / (2 S) = S (1 + x^2) / 2,     x = 1 - rho G / S
    m <- m - rho E[grad l] / S_new

It is on lists of tensors, so that the weights of a network, millions of numbers in dozens of
tensors, and the one tensor of a block go through the same lines. Returned is what is to be added:
a short step keeps digits that ``S (1 + x^2) / 2`` would round away.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = Sequence[Tensor]
#: torch's operations on lists of tensors, which have no types.
each: Any = torch


def retraction(
    gaps: Tensors, precisions: Tensors, rho: float, linear: float = math.inf
) -> list[Tensor]:
    """What a step of size rho adds to precisions: never less than ``-S / 2``.

    :param gaps: G, one tensor for each of ``precisions``.
    :param linear: the ``|x|`` beyond which ``(1 + x^2) / 2`` goes on along its tangent.
    """
    relative: list[Tensor] = each._foreach_div(gaps, precisions)
    each._foreach_mul_(relative, rho)
    changes = relative_changes(relative, linear)
    each._foreach_mul_(changes, precisions)
    return changes


def relative_changes(lengths: Tensors, linear: float = math.inf) -> list[Tensor]:
    """``(1 + x^2) / 2 - 1`` of ``x = 1 - u``, and its tangents beyond ``|x| = linear``.

    :param lengths: u.
    """
    inner = lengths
    if linear < math.inf:
        inner = each._foreach_clamp_min(lengths, 1 - linear)
        each._foreach_clamp_max_(inner, 1 + linear)
    changes: list[Tensor] = each._foreach_mul(inner, 0.5)
    each._foreach_sub_(changes, 1.0)
    each._foreach_mul_(changes, inner)
    if linear < math.inf:
        beyond = each._foreach_sub(lengths, inner)
        each._foreach_abs_(beyond)
        each._foreach_add_(changes, beyond, alpha=linear)
    return changes


def newton_directions(gradients: Tensors, precisions: Tensors) -> list[Tensor]:
    """``S^-1 gradient``: the natural gradient of the means where S is the new precision."""
    directions: list[Tensor] = each._foreach_div(gradients, precisions)
    return directions

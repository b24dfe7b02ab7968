# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where gradients are taken: at a draw of q, at its mean (the delta method), or masked."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .absent import option_of
from .draws import Draws, State
from .noise import Noise

#: The places of a diagonal Gaussian's gradients.
PLACES = ("draw", "mean", "masked")


def place_of_gradients(group: State, counts: bool) -> str:
    """Where the weights of a group are put.

    A draw that does not count for a step is one of q, if its width is known.

    :param counts: whether the draw counts.
    """
    at: str = option_of(group, "at")
    is_drawn = at == "mean" and not counts and group["ess"] is not None
    return "draw" if is_drawn else at


def multiplies(group: State) -> bool:
    """Whether a gradient in q's parameter is a factor times that at the weights."""
    return bool(option_of(group, "at") == "masked")


def put_masked(
    parameters: Sequence[Tensor], points: Sequence[Tensor], draws: Draws, noise: Noise, group: Any
) -> None:
    """Multiply means by masks of 0 and 1, and keep the masks as factors.

    A unit is what has one index along ``mask_dim``; a parameter without that dim is not masked.
    With None each weight has a mask of its own.
    """
    for parameter, point in zip(parameters, points, strict=True):
        mask = _mask(point, noise, group["keep"], group["mask_dim"])
        draws.factors[parameter] = mask
        point.mul_(mask)


def _mask(point: Tensor, noise: Noise, keep: float, dim: int | None) -> Tensor:
    if dim is not None and not -point.dim() <= dim < point.dim():
        return torch.ones_like(point)
    one = point
    if dim is not None:
        shape = [1] * point.dim()
        shape[dim] = point.shape[dim]
        one = point.new_empty(shape)
    (level,) = noise.uniform_like([one], ())
    return (level < keep).to(point.dtype).expand_as(point).contiguous()

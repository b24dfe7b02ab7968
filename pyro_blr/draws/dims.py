# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What the dims of a site's value are: the plates of its batch dims, and its event dims."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dims:
    """How a value lies without the dims of size 1 that Pyro puts outside any plate.

    :param tuple shape: batch dims, then event dims.
    :param int event_dim: how many of them are event dims.
    :param tuple plates: the plate of each batch dim; ``None`` for a dim outside any plate.
    """

    shape: tuple[int, ...]
    event_dim: int
    plates: tuple[str | None, ...]

    @classmethod
    def of(cls, shape: torch.Size, event_dim: int, plates: Mapping[int, str]) -> "Dims":
        """:param plates: the plate names by batch dim, counted from the right as Pyro does."""
        batch = len(shape) - event_dim
        names = [plates.get(d - batch) for d in range(batch)]
        kept = [d for d in range(batch) if names[d] or shape[d] != 1]
        sizes = (*(shape[d] for d in kept), *shape[batch:])
        return cls(sizes, event_dim, tuple(names[d] for d in kept))

    @property
    def batch(self) -> "Dims":
        """Those of a log density."""
        return Dims(self.shape[: len(self.plates)], 0, self.plates)


def along(value: Tensor, dim: int, size: int) -> bool:
    """Whether a value runs along a plate at a dim, counted from the right."""
    return value.dim() >= -dim and value.shape[dim] == size

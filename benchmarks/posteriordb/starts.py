# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where the runs of a side start, and how many starts a run has."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from ..stan_models import Example

#: Posteriors with more than one mode: a run of any side is the best of so many starts.
STARTS = 5
MULTIMODAL = ("low_dim_gauss_mix", "ldaK2", "irt_2pl")
#: Seeds of a run's starts are so far apart.
APART = 100


def count_of(example: Example) -> int:
    """From how many starts each run begins."""
    return STARTS if example.name in MULTIMODAL else 1


def seeds_of(seed: int, count: int) -> list[int]:
    """A seed for each start of the run of a seed; all but the first are scattered."""
    return [APART * start + seed for start in range(count)]


def is_scattered(seed: int) -> bool:
    """Whether this start is not the side's own."""
    return seed >= APART


def scattered(site: Any) -> Tensor:
    """Stan's start: uniform within 2 of the origin of the unconstrained space."""
    fn = site["fn"]
    transform = biject_to(fn.support)
    value: Tensor = transform(4 * torch.rand(transform.inverse_shape(fn.shape())) - 2)
    return value

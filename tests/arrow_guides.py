# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Guides with an arrow-head precision, and the parts of what belongs to a dense one."""

from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.energy.latents import cut
from pyro_blr.families import Natural
from pyro_blr.guides import AutoNaturalMultivariateNormal
from pyro_blr.lifting.arrow_blocks import ArrowBlock
from pyro_blr.lifting.blocks import Block
from tests.arrow_models import Model


def made(
    model: Model, structure: str, on_sampled: str = "error", **options: Any
) -> tuple[BLR, Any]:
    """An engine with a joint Gaussian guide of a structure; both start anew."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)  # q starts at medians of draws
    guide = AutoNaturalMultivariateNormal(model, structure=structure)
    return BLR(model, guide, on_sampled=on_sampled, **options), guide


def arrow_of(guide: Any) -> ArrowBlock:
    """The arrow-head block of a guide."""
    (block,) = (b for b in guide.blocks if isinstance(b, ArrowBlock))
    return block


def parts_of(dense: Natural, held: Block, block: ArrowBlock) -> tuple[Natural, Tensor]:
    """The parts of a message to a dense block that an arrow-head has, and the rest of its matrix.

    :param held: the dense block.
    """
    index = torch.arange(block.event_size or 0)
    places = torch.empty_like(index)
    for site in block.sites:
        # From the place in the arrow's own order to the place in the dense vector.
        places[cut(block, site, index, 0).flatten()] = index[held.event_slice(site)]
    linear, square = dense[0][places], dense[1][places][:, places]
    own, left = slice(block.global_size), square.clone()
    cross, each = [], []
    for n in range(block.groups):
        start = block.global_size + n * block.local_size
        place = slice(start, start + block.local_size)
        cross.append(2 * square[own, place])
        each.append(square[place, place])
        left[own, place], left[place, own], left[place, place] = 0.0, 0.0, 0.0
    left[own, own] = 0.0
    local = block.part(True, linear)
    parts = (linear[own], local, square[own, own], torch.stack(cross), torch.stack(each))
    return parts, left

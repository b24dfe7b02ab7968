# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The sample statements of a guide: one a block, which the model does not have, and one a site."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor

from ..energy.latents import Latent, Latents, block_values
from ..families import Natural
from ..lifting.blocks import Block
from .rows import under_plates


def sample_block(name: str, block: Block, natural: Natural, latents: Latents) -> dict[str, Tensor]:
    """A draw of a block, as an auxiliary site: the variables of its sites, in full size.

    :param name: the auxiliary site's.
    """
    base = block.family.distribution(natural)
    draw = pyro.sample(name, base.to_event(len(base.batch_shape)), infer={"is_auxiliary": True})
    lead = draw.shape[: draw.dim() - len(base.batch_shape) - len(base.event_shape)]
    values = block_values(block, latents, draw)
    return {s.name: under_plates(v, lead, latents[s.name]) for s, v in values.items()}


def sample_site(latent: Latent, variable: Tensor, plates: Mapping[str, Any]) -> Tensor:
    """The site of a latent inside its plates, at the value that belongs to its variable.

    :param variable: the rows that the plates hold.
    """
    with ExitStack() as stack:
        for name, _ in latent.plates.values():
            stack.enter_context(plates[name])
        value = latent.value_of(variable)
        density: Any = 0.0
        if latent.transform is not None and poutine.get_mask() is not False:
            density = -latent.transform.log_abs_det_jacobian(variable, value)
            extra = density.dim() - (value.dim() - latent.value_event_dim)
            density = density.sum(tuple(range(-extra, 0))) if extra > 0 else density
        delta = dist.Delta(value, log_density=density, event_dim=latent.value_event_dim)
        result: Tensor = pyro.sample(latent.name, delta)
    return result

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A guide in natural coordinates as a table for notebooks: families, blocks, means."""

import math
from typing import Any

import torch
from torch import Tensor

from ..html_table import html_table
from ..lifting.blocks import Block

#: Numbers of a site up to which they are written out, and of a block up to which they are computed.
FEW, CHEAP = 4, 2000

HEAD = ("site", "family", "block", "shape", "plates", "mean", "sd")


def guide_table(guide: Any) -> str:
    """The table of a :class:`~pyro_blr.guides.NaturalGuide`; it changes nothing of the guide."""
    title = f"Guide {type(guide).__name__}"
    if not guide.is_set_up:
        return html_table(title, (), (), ["It has not seen the model yet: take a step."])
    is_stored = not guide._held  # what it starts with is stored when it is first asked for
    rows = [_row(guide, name, latent, is_stored) for name, latent in guide.latents.items()]
    return html_table(title, HEAD, rows)


def _row(guide: Any, name: str, latent: Any, is_stored: bool) -> tuple[str, ...]:
    block = guide.layout[name]
    shape = tuple(latent.site.shape)
    law = guide.marginal(name) if is_stored and _is_small(block, shape) else None
    family = block.family.name if latent.transform is None else f"{block.family.name}, transformed"
    return (
        *(name, family, "{" + ", ".join(s.name for s in block.sites) + "}"),
        " x ".join(map(str, shape)) or "one number",
        ", ".join(plate for plate, _ in latent.plates.values()) or "-",
        *(_numbers(law, "mean"), _numbers(law, "stddev")),
    )


def _is_small(block: Block, shape: tuple[int, ...]) -> bool:
    return math.prod(shape) <= FEW and block.numel <= CHEAP


def _numbers(law: Any, moment: str) -> str:
    """A moment of a marginal, a few numbers; not every law has it in closed form."""
    if law is None:
        return "..."
    try:
        with torch.no_grad():
            value: Tensor = getattr(law, moment)
    except NotImplementedError:
        return "-"
    return ", ".join(f"{number:.4g}" for number in value.flatten().tolist())

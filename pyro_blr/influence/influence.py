# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What each datum did to a posterior."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..engine import detached
from ..families import Natural
from .data import data_of
from .removal import Removal
from .response import Response
from .terms import CopiedExact, ExactTerm, terms_of


class Influence:
    """What each datum did."""

    def __init__(self, blr: Any, objective: Any, site: str | None, plate: str | None) -> None:
        energy = objective.energy
        self._blr, self._objective = blr, objective
        self._data = data_of(energy.traced, site, plate)
        factors = {f.name: f for f in energy.factors}
        self._terms = terms_of(self._data, factors)
        naturals = detached(objective.by_block(blr.view.naturals()))
        self._naturals = naturals
        self._removal = Removal(
            self._data, self._terms, naturals, energy.moments(naturals), None, energy.layout
        )

    def __len__(self) -> int:
        return self._data.count

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    def position(self, datum: int) -> tuple[int, ...]:
        return self._data.position(datum)

    @cached_property
    def messages(self) -> dict[str, Natural]:
        found = [p.messages() for p in self._removal.parts()]
        return {
            b.name: tuple(torch.cat(ts) for ts in zip(*(m[b] for m in found), strict=True))
            for b in found[0]
        }

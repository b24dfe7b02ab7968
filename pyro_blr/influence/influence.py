# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What each datum did to a posterior."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.factors import ConstantFactor, ExactFactor
from ..energy.sampled import SampledFactor
from ..families import Natural
from ..lifting import host
from ..lifting.blocks import Block
from ..steps.cone import residual
from .data import data_of
from .prediction import Prediction, prediction_of
from .removal import Part, Removal
from .response import MAX_NUMBERS, Response, not_at_optimum
from .coordinates import Coordinates
from .terms import terms_of

#: The residual in nats above which a guide is not at an optimum.
RESIDUAL = 1e-3


class Influence:
    """What each datum did."""

    def __init__(self, blr: Any, objective: Any, site: str | None, plate: str | None) -> None:
        energy = objective.energy
        self._blr, self._objective = blr, objective
        self._data = data_of(energy.traced, site, plate)
        factors = {f.name: f for f in energy.factors}
        self._terms = terms_of(self._data, factors)
        self.is_exact = is_exact(energy)
        given = {b: tuple(t.detach() for t in n) for b, n in blr.view.naturals().items()}
        messages = objective.natural_messages(given)
        naturals = messages if self.is_exact else given
        if not self.is_exact and residual(given, messages) > RESIDUAL:
            raise not_at_optimum(f"a step would move it by {residual(given, messages):.3g} nats")
        response = None
        if not self.is_exact and Coordinates(naturals).size <= MAX_NUMBERS:
            response = Response(objective, naturals)
        moments = energy.moments(naturals)
        self._removal = Removal(
            self._data, self._terms, naturals, moments, response, energy.layout, self.is_exact, objective.natural_messages
        )
        self._prediction = prediction_of(self._terms, self._removal, blr.view.latents, blr.quad_tol)

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

    @cached_property
    def _pass(self) -> tuple[Tensor, Tensor]:
        loo, shift = [], []
        for part in self._removal.parts():
            leaving = self._removal.leaving(part)
            self.passes = getattr(self,'passes',0)+leaving.passes
            loo.append(self._prediction.log_density(part, leaving))
            total = torch.zeros(part.copies.count)
            for b, n in leaving.naturals.items():
                kl = b.family.kl(n, tuple(x.expand(y.shape) for x, y in zip(self._removal.naturals[b], n)))
                total = total + kl.reshape(len(kl), -1).sum(-1)
            shift.append(total)
        return torch.cat(loo), torch.cat(shift)

    @property
    def loo(self) -> Tensor:
        return self._pass[0]

    @property
    def shift(self) -> Tensor:
        return self._pass[1]


def is_exact(energy: Any) -> bool:
    """Whether no message of the model depends on q."""
    for f in energy.factors:
        if isinstance(f, ConstantFactor):
            continue
        if not isinstance(f, ExactFactor):
            return False
        for p in f.plan.products:
            if len(p.stats) > 1 or not all(f.plan.is_linear_in(b) for b in p.blocks):
                return False
    return not energy.points

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What q without each datum in turn is like: what it says of the datum, how far it has moved."""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from .conjugate import Prediction
from .parts import Part, with_gradients
from .removal import Leaving, Removal


class WithoutEach:
    """Functions of q without each datum, from passes over parts of the data.

    What depends on a removal that was not solved is NaN.

    :param removal: takes single data out.
    :param prediction: the log density of a datum under q without it.
    """

    def __init__(self, removal: Removal, prediction: Prediction) -> None:
        self.removal, self.prediction = removal, prediction
        #: Flat positions of data that no pass has solved so far.
        self.seen_unsettled: list[int] = []

    @with_gradients
    def map(self, function: Callable[[Part, Leaving], Tensor]) -> Tensor:
        """A function of q without each datum. # shape: (*plates, *result)"""
        found = []
        for part in self.removal.parts():
            leaving = self.removal.leaving(part)
            value = function(part, leaving).detach()
            if leaving.unsettled:
                unsettled = torch.tensor(leaving.unsettled, device="cpu")
                wrong = torch.isin(part.copies.rows[: len(value)], unsettled)
                value[wrong.to(value.device)] = math.nan
            found.append(value)
        every = torch.cat(found)
        return every.reshape(*self.removal.data.shape, *every.shape[1:])

    @cached_property
    def log_densities(self) -> Tensor:
        """The log density of each datum under q without it; NaN where it is masked."""
        removal = self.removal
        found = self.map(self.prediction.log_density) if removal.is_exact else self._both[0]
        return torch.where(removal.data.is_observed.to(found.device), found, math.nan)

    @cached_property
    def divergences(self) -> Tensor:
        """KL(q without a datum, q), of each."""
        return self.map(self._divergence) if self.removal.is_exact else self._both[1]

    @property
    def unsettled(self) -> list[int]:
        """Flat positions of data whose removal is not solved, or whose log density not known."""
        if not self.removal.is_exact:
            _ = self._both
        return self.seen_unsettled

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        """The log densities and the divergences, from one pass."""
        self.seen_unsettled = []

        def each(part: Part, leaving: Leaving) -> Tensor:
            self.seen_unsettled += leaving.unsettled
            predicted = self.prediction.log_density(part, leaving)
            return torch.stack((predicted, self._divergence(part, leaving)), -1)

        found = self.map(each)
        predicted, moved = found[..., 0], found[..., 1]
        # Those whose predictions no rule and no number of draws has are not known either.
        lost = predicted.isnan() & self.removal.data.is_observed.to(predicted.device)
        more = lost.reshape(-1).nonzero().flatten().tolist()
        self.seen_unsettled = sorted({*self.seen_unsettled, *more})
        return predicted, moved

    def _divergence(self, part: Part, leaving: Leaving) -> Tensor:
        total = []
        for block, own in leaving.naturals.items():
            held = self.removal.naturals[block]
            every = tuple(n.expand(o.shape) for n, o in zip(held, own, strict=True))
            each = block.family.kl(own, every)
            total.append(each.reshape(len(each), -1).sum(-1))
        return torch.stack(total).sum(0).clamp_min(0.0)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What each datum did to a posterior."""

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.energy import Energy
from ..engine import detached
from ..families import Natural
from ..lifting.blocks import Block
from .checks import check_optimum, check_served
from .coordinates import Coordinates
from .data import Data, data_of
from .parts import with_gradients
from .plots import plot
from .prediction import prediction_of
from .prior import PriorEffect, effects
from .quantities import Mean, Quantity
from .removal import Removal
from .response import MAX_NUMBERS, Response
from .terms import terms_of
from .weighting import Reweighted, checked_weights, refitted, reweighted, with_rows_apart
from .without_each import WithoutEach

#: The numbers of all messages that are handed out at once: 1 GB.
MOST_NUMBERS = 2**27

#: Data that are shown where none are asked for.
SHOWN = 10


class Influence:
    r"""What each datum did to the posterior of a fit; :meth:`~pyro_blr.BLR.influence` makes it.

    At an optimum the natural parameters of q are the sum of the messages of all factors (Khan & Rue
    2023), and the observed site's message is a sum over data. So a datum is taken out again by
    subtracting its message, and, where the other messages depend on q, by what these become, at
    first order (Nickl et al. 2023; Giordano, Broderick & Jordan 2018). Data that move q by more
    than 0.03 nats then get the others' messages anew, and those for which that does not settle are
    refitted without, 20 at most. What is not solved is NaN, and listed in :attr:`unsettled`.

    A datum is an element of the plates that the observed site is in. Results have the shape of
    these plates, and numbers are in nats unless said otherwise.

    Example::

        blr.fit(X, y)
        data = blr.influence(X, y)
        data.elpd, data.ranked(20)
        data.without(data.ranked(1)).guide.median()

    :ivar bool is_exact: whether no message of the model depends on q, so that everything here is
        what refits would give, to rounding.
    """

    def __init__(self, blr: Any, objective: Any, site: str | None, plate: str | None) -> None:
        self._data: Data = data_of(objective.energy.traced, site, plate)
        if any(b.row_dims for b in objective.energy.blocks):
            blr, objective = with_rows_apart(blr, self._data, objective.call)
            self._data = data_of(objective.energy.traced, site, plate)
        energy: Energy = objective.energy
        self._blr, self._objective = blr, objective
        check_served(blr, energy)
        terms = terms_of(self._data, {f.name: f for f in energy.factors})
        self.is_exact = energy.has_constant_messages
        given = detached(blr.view.naturals())
        energy.check_finite(objective.value(given), None)
        messages = objective.natural_messages(given)
        naturals = messages if self.is_exact else given
        check_optimum(given, messages, self.is_exact)
        response = None
        if not self.is_exact and Coordinates(naturals).size <= MAX_NUMBERS:
            response = Response(objective, naturals)
        self._removal = Removal(
            *(self._data, terms, naturals, energy.moments(naturals), response, energy.layout),
            *(self.is_exact, objective.natural_messages, self._refit),
        )
        latents = blr.view.latents
        self._prediction = prediction_of(terms, self._removal, latents, blr.quad_tol)
        self._without_each = WithoutEach(self._removal, self._prediction)

    def _refit(self, datum: int) -> dict[Block, Natural] | None:
        found = refitted(self._blr, self._data, self._objective.call, datum)
        return None if found is None else {b: found[b.name] for b in self._removal.naturals}

    # What it is of

    def __len__(self) -> int:
        return self._data.count

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the plates that tell data apart."""
        return self._data.shape

    @property
    def plates(self) -> tuple[str, ...]:
        """The names of these plates."""
        return tuple(self._data.plates.values())

    @property
    def sites(self) -> tuple[str, ...]:
        """The observed sites that a datum is made of."""
        return tuple(s.name for s in self._data.sites)

    @property
    def how(self) -> str:
        """How data are taken out and predicted, in words."""
        if self.is_exact:
            removed = "exactly, as no message depends on q"
        elif self._removal.response is None:
            removed = (
                f"with the other messages held, since q has more than {MAX_NUMBERS} numbers; those "
                "that matter with messages taken anew"
            )
        else:
            removed = "at first order in what is left, those that matter with messages taken anew"
        open_ = len(self._without_each.seen_unsettled)
        left = f"; {open_} that are not solved are NaN" if open_ else ""
        return f"removed {removed}{left}; predicted {self._prediction.how}"

    def position(self, datum: int) -> tuple[int, ...]:
        """The place of a datum along the plates, from its flat position."""
        return self._data.position(datum)

    # Messages

    @cached_property
    def messages(self) -> dict[str, Natural]:
        """The message of each datum, by block of q. # shape of each: ``(N, *natural)``

        Their sum over data is the observed site's part of :meth:`~pyro_blr.BLR.messages`.

        :raises MemoryLimitError: if they are more than 1 GB; :meth:`messages_of` has some.
        """
        numbers = self._data.count * sum(
            t.numel() for n in self._removal.naturals.values() for t in n
        )
        if numbers > MOST_NUMBERS:
            raise errors.MemoryLimitError(
                f"the messages of {self._data.count} data are {numbers} numbers, "
                f"{8 * numbers / 1e9:.1f} GB. Mend: messages_of(index) has those of some data; "
                "loo, scores and without(index) hold a part at a time."
            )
        return self._messages(None)

    def messages_of(self, index: Any) -> dict[str, Natural]:
        """The messages of some data. # shape of each: ``(k, *natural)``

        :param index: positions, a list of them, a slice or a mask.
        """
        return self._messages(self._data.flat(index))

    @with_gradients
    def _messages(self, rows: Tensor | None) -> dict[str, Natural]:
        found = [part.messages() for part in self._removal.parts(rows)]
        blocks = self._removal.naturals
        return {
            b.name: tuple(torch.cat(parts) for parts in zip(*(m[b] for m in found), strict=True))
            for b in blocks
        }

    # Predictions and scores

    @property
    def loo(self) -> Tensor:
        """``log p(y_n | all other data)``, the leave-one-out log predictive density in nats.

        NaN where a datum is masked. # shape: that of the plates

        :raises ImproperPosteriorError: if the posterior without some datum is improper.
        """
        return self._without_each.log_densities

    @property
    def scores(self) -> Tensor:
        """By how much each datum moved q: KL(q without it, q), in nats.

        # shape: that of the plates
        """
        return self._without_each.divergences

    @property
    def unsettled(self) -> list[int]:
        """Flat positions of data whose removal was not solved, by passes or by a refit.

        Their scores, predictions and effects on quantities are NaN: ``without(n)`` with its ``fit``
        has what there is.
        """
        return self._without_each.unsettled

    @property
    def elpd(self) -> float:
        """The sum of :attr:`loo` over observed data: the expected log predictive density.

        NaN where some data are :attr:`unsettled`, or none are observed.
        """
        own = self._observed
        return float(own.sum()) if len(own) else math.nan

    @property
    def elpd_error(self) -> float:
        """The standard error of :attr:`elpd` over data."""
        own = self._observed
        return float(own.std() * math.sqrt(len(own))) if len(own) > 1 else math.nan

    @property
    def _observed(self) -> Tensor:
        return self.loo[self._data.is_observed.to(self.loo.device)]

    def on(self, quantity: Quantity) -> Tensor:
        """What each datum did to the posterior mean of a quantity: with it, less without it.

        Draws of all q have their noise in common, so that means and second moments of Gaussians
        have no error, and smooth functions a small one.

        Example::

            data = blr.influence(X, y)
            data.on(lambda z: z["w"][0])
            data.on(lambda z: torch.sigmoid(X[0] @ z["w"]))

        :param quantity: a torch function of a dict of the latents' values, by site, in one draw.
        :return: # shape: (*plates, *quantity)
        """
        mean = Mean(quantity, self._removal, self._blr.view.latents)
        before = mean.of_all()
        return self._without_each.map(
            lambda part, leaving: before - mean.without(part, leaving.naturals)
        )

    def ranked(self, count: int | None = None, by: Any = "scores") -> Tensor:
        """The flat positions of the most influential data, the first one first.

        :param count: how many; all if None.
        :param by: ``"scores"``, ``"surprise"`` (the least :attr:`loo` first: outliers and labels
            that are wrong), or a tensor with a number for each datum, whose size counts.
        :raises ArgumentError: for another word or shape.
        """
        size = self._size_of(by).reshape(-1)
        size = torch.where(size.isnan(), -math.inf, size)
        if self.unsettled:  # they matter, and come first
            size[self.unsettled] = math.inf
        if count is not None and (
            not isinstance(count, int) or isinstance(count, bool) or count < 1
        ):
            raise errors.ArgumentError(
                f"count must be a positive integer or None, not {count!r}. Mend: ranked(20)."
            )
        return size.argsort(descending=True, stable=True)[:count]

    def _size_of(self, by: Any) -> Tensor:
        if isinstance(by, str) and by in ("scores", "surprise"):
            return self.scores if by == "scores" else -self.loo
        if isinstance(by, Tensor) and by.shape == self.shape:
            return by.abs()
        given = f"one of {tuple(by.shape)}" if isinstance(by, Tensor) else repr(by)
        raise errors.ArgumentError(
            f'by must be "scores", "surprise" or a tensor of the shape {self.shape}, not {given}. '
            'Mend: ranked(by=data.on(lambda z: z["w"][0])).'
        )

    # Other data, other priors

    def without(self, index: Any) -> Reweighted:
        """The posterior without some data, exact or stepped from first order; its ``fit`` goes on.

        :param index: positions, a list of them, a slice or a mask.
        :raises ArgumentError: for data that there are not.
        :raises ImproperPosteriorError: if the data that are left have no proper posterior.
        """
        weights = torch.ones(self._data.count, dtype=torch.float64)
        weights[self._data.flat(index)] = 0.0
        return self.weighted(weights)

    @with_gradients
    def weighted(self, weights: Any) -> Reweighted:
        """The posterior with the log density of each datum times its weight.

        :param weights: not negative; 1 for what is left as it is. # shape: that of the plates
        :raises ArgumentError: for other weights.
        """
        given = checked_weights(weights, self._data)
        return reweighted(self._blr, self._removal, self._objective.call, given)

    @with_gradients
    def prior(self) -> dict[str, PriorEffect]:
        """The effect of each prior, whose message is one more message; by latent site."""
        return effects(self._objective.energy, self._removal)

    # To look at

    def plot(self, by: Any = "scores", count: int = SHOWN, ax: Any = None) -> Any:
        """Draw the influence of data against their positions, the largest labelled.

        :param by: as in :meth:`ranked`; a tensor is drawn with its signs.
        :param count: how many are labelled.
        :param ax: a matplotlib axes; a new one if None.
        :return: the axes.
        :raises ArgumentError: if matplotlib is missing.
        """
        words = {
            "scores": "KL(without datum, with all) / nats",
            "surprise": "-log p(datum | others) / nats",
        }
        drawn = by if isinstance(by, Tensor) else self._size_of(by)
        label = words[by] if isinstance(by, str) else "with the datum, less without it"
        return plot(self._data, drawn, self.ranked(count, by), label, ax)

    def __repr__(self) -> str:
        names, sizes = ", ".join(self.sites), " x ".join(map(str, self.shape))
        return f"<influence of {sizes} data of {names}: {self.how}>"

    def __str__(self) -> str:
        lines = [f"{'datum':>12}  {'scores':>10}  {'loo':>10}   (nats)"]
        for n in self.ranked(SHOWN).tolist():
            place = self.position(n)
            name = str(place[0]) if len(place) == 1 else str(place)
            lines.append(f"{name:>12}  {self.scores[place]:>10.3g}  {self.loo[place]:>10.4g}")
        if self.unsettled:
            lines.append(f"unsettled, NaN here, see without(n).fit(): {self.unsettled}")
        total = f"elpd {self.elpd:.2f} +- {self.elpd_error:.2f} nats over {len(self)} data"
        if not len(self._observed):
            total = "all data are masked: there is nothing to predict"
        return "\n".join([*lines, total, self.how])

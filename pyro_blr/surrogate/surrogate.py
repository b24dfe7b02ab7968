# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The conjugate surrogate of the loss that a step minimises."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.energy import Energy
from ..energy.latents import Latent
from ..families import Natural
from ..html_table import html_table
from ..lifting import host
from ..lifting.blocks import Block
from ..text_table import text_table
from .asked import Asked, asked, latent_of
from .loss import Loss
from .plots import Curves, plot
from .values import Given, Values

HEAD = ("block", "family", "surrogate", "minimiser")


class Surrogate:
    r"""The surrogate of the loss at the guide's state; :meth:`~pyro_blr.BLR.surrogate` makes it.

    A step replaces the loss ``l(z) = -log p(x, z)`` by one that is linear in the sufficient
    statistics of q, block by block,

    .. math:: s(z) = c - \langle (1 - \rho) \lambda_t + \rho\, m, T(z) \rangle, \qquad
        m = \frac{d}{d\mu} E_{q_t}[\log p(x, z)],

    a quadratic where q is Gaussian, and else of the shape of -log q. The next q minimises
    ``E_q[s] - H(q)``, with which ``E_q[l] - H(q)`` agrees at q_t in its value and, at step size 1,
    in its gradient (Khan & Rue 2023). At a step size rho < 1 it is the surrogate of the regularised
    step: rho times the loss and (1 - rho) times -log q_t. The constant c makes ``E_q[s]`` and
    ``E_q[l]`` equal at q_t.

    Values of some latents are asked for; both losses are averaged over all others, and over what is
    left of a latent whose one element is plotted, as independent under q (on the same draws). Of a
    latent that q holds on an unconstrained space both are functions of the variable there, with the
    Jacobian. All blocks are as at q_t, also after later steps; a step that takes them in turn sees
    the others' new values.

    A pickle of it has no loss, whose program need not be one that a pickle can hold; copies have.

    Example::

        surrogate = blr.surrogate(X, y)
        surrogate(values), surrogate.loss(values)  # a dict of latents by site
        surrogate.plot()

    :ivar dict natural: what minimises it, by block: the natural parameters of the next q.
    :ivar dict messages: dE_q[log p]/dmean_params, by block.
    :ivar float step_size: rho.
    """

    def __init__(
        self,
        energy: Energy,
        naturals: Mapping[Block, Natural],
        messages: Mapping[Block, Natural],
        expected_loss: float,
        step_size: float,
    ) -> None:
        self.step_size = step_size
        self.expected_loss = expected_loss
        self._latents, self._layout = energy.latents, energy.layout
        # Copies, since later steps write in place: q_t stays what it was.
        self._naturals = {b: tuple(t.detach().clone() for t in n) for b, n in naturals.items()}
        self._moments = energy.moments(self._naturals)
        self._next = {b: _between(self._naturals[b], messages[b], step_size) for b in energy.blocks}
        self.natural = {b.name: n for b, n in self._next.items()}
        self.messages = {b.name: messages[b] for b in energy.blocks}
        self._loss = Loss(energy)

    # Values

    def __call__(self, values: Mapping[str, Any]) -> Tensor:
        """The surrogate at values of some latents, in nats.

        :param values: by site. # shape of each: ``(*batch, *site)``
        :return: +inf outside of q's support and on its boundary. # shape: ``(*batch,)``
        :raises NonFiniteError: for NaN.
        :raises UnknownNameError: for sites that q does not hold.
        :raises ShapeError: for values of other shapes.
        """
        found = self._asked(values)
        return found.placed(self._surrogate(self._values(found.given)))

    def loss(self, values: Mapping[str, Any]) -> Tensor:
        """The loss itself at values of some latents, -log p(x, z) in nats.

        :param values: by site. # shape of each: ``(*batch, *site)``
        :return: +inf outside of q's support and on its boundary. # shape: ``(*batch,)``
        :raises NonFiniteError: for NaN.
        :raises UnknownNameError: for sites that q does not hold.
        :raises ShapeError: for values of other shapes.
        """
        found = self._asked(values)
        return found.placed(self._true(self._values(found.given)))

    def plot(self, sites: Sequence[str] | str | None = None, axes: Any = None) -> Any:
        """Draw both losses against each scalar element, one panel each, with q and the next q.

        :param sites: the latents to draw; all of them if None.
        :param axes: a matplotlib Axes, or several, to draw the first elements in; new ones, for
            sixteen elements at most, if None.
        :return: the matplotlib Figure.
        :raises ArgumentError: if matplotlib is missing, or there is nothing to draw or to draw in;
            for positive definite matrices, of which no element moves alone.
        :raises UnknownNameError: for sites that q does not hold.
        """
        latents, layout = self._latents, self._layout
        curves = Curves(
            self._chosen(sites), self._naturals, self._next, latents, layout, self._both
        )
        return plot(curves, axes)

    def _both(self, name: str, element: int, variables: Tensor) -> tuple[Tensor, Tensor]:
        """The surrogate and the loss at values of one element's variable."""
        values = self._values({name: Given(variables, element)})
        return self._surrogate(values), self._true(values)

    # How they are computed

    def _values(self, given: Mapping[str, Given]) -> Values:
        return Values(self._latents, self._moments, given)

    def _surrogate(self, values: Values) -> Tensor:
        total = torch.zeros(values.count, dtype=torch.float64)
        if not values.count:
            return total
        for block, natural in self._next.items():
            if not values.touches(block):
                continue
            family, drawn = block.family, values.block(block).double()
            there = family.inner(natural, family.sufficient_statistics(drawn, natural))
            there = there.reshape(len(drawn), -1).sum(-1)
            mean = family.inner(natural, family.mean_params(self._naturals[block])).sum()
            total = total.to(there) + mean - values.averaged(there)
        return self.expected_loss + total.detach()

    def _true(self, values: Values) -> Tensor:
        if not values.count:
            return torch.zeros(0, dtype=torch.float64)
        return values.averaged(self._loss.at(values.variables(), values.draws))

    # What is asked for

    def _asked(self, values: Mapping[str, Any]) -> Asked:
        return asked(values, self._held)

    @property
    def _held(self) -> dict[str, Latent]:
        """The latents whose values may be given: the continuous ones."""
        sites = [s.name for b in self._next for s in b.sites if not s.is_discrete]
        return {name: self._latents[name] for name in sites}

    def _chosen(self, sites: Sequence[str] | str | None) -> list[Latent]:
        """The latents to draw.

        :raises ArgumentError: if there are none, or an element of one does not move alone.
        """
        held = self._held
        if sites is None:
            chosen = [latent for latent in held.values() if latent.family.event_dim < 2]
        else:
            chosen = [latent_of(n, held) for n in ([sites] if isinstance(sites, str) else sites)]
        matrices = [latent.name for latent in chosen if latent.family.event_dim == 2]
        if matrices or (held and sites is None and not chosen):
            raise errors.ArgumentError(
                f"{matrices or list(held)} cannot be drawn by element: of a positive definite "
                'matrix no element moves alone. Mend: give whole values, surrogate({"L": L}).'
            )
        if not held:
            raise errors.ArgumentError(
                "q holds no continuous latent, against which losses could be drawn. Mend: see "
                "blr.discrete_marginals(*args) for the discrete ones."
            )
        if not chosen:
            raise errors.ArgumentError(
                f"no latents to draw were named. Mend: some of {list(held)}, or plot() for all."
            )
        return chosen

    # To read

    @property
    def _rows(self) -> list[tuple[str, ...]]:
        inside = host.truths([b.family.in_domain(n).all() for b, n in self._next.items()])
        return [
            (
                "{" + ", ".join(s.name for s in block.sites) + "}",
                block.family.name,
                "quadratic" if block.gaussian else f"as -log of a {block.family.name}",
                f"a {block.family.name}: the next q" if has_one else NO_MINIMISER,
            )
            for block, has_one in zip(self._next, inside, strict=True)
        ]

    def __repr__(self) -> str:
        return f"{self._title}\n{text_table(HEAD, self._rows)}"

    def _repr_html_(self) -> str:
        return html_table(self._title, HEAD, self._rows)

    @property
    def _title(self) -> str:
        return (
            f"surrogate of the loss at step size {self.step_size:g}; E_q[loss] "
            f"{self.expected_loss:.6g} nats"
        )


NO_MINIMISER = "none, it is not bounded: a step is shortened"


def _between(natural: Natural, message: Natural, rho: float) -> Natural:
    """The natural parameters that a step of a size leads to."""
    pairs = zip(natural, message, strict=True)
    return tuple(((1 - rho) * n + rho * m).detach() for n, m in pairs)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How far a model is from conjugated."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .design import Design
from .harmonium import Harmonium, Layout, Term
from .probe import prior_draws
from .reading import Reading
from .setting import Setting

#: A residual of this many units of rounding of the numbers that it is a difference of is nothing.
ROUNDING = 256


@dataclass(frozen=True)
class Residuals:
    """The conjugation equation at random values of the latents.

    :param conjugation: sup of | psi_x(nx + W s(z)) - r.s(z) - c |, in nats.
    :param linearity: sup of | eta(z) - nx - W s(z) |, of the natural parameters of x given z; and
        the same of log densities that are in no family, and of priors that are not in their own.
    :param sizes: the largest numbers that each of these is a difference of.
    :param points: how many values there were.
    :param constant: c. # shape: (states, *batch)
    :param slope: r. # shape: (states, *batch, statistics)
    :param eps: the rounding of the model's numbers.
    :param is_elementwise: whether each element of the data is conjugated by itself, so that some
        may be missing; else only the sum over all of them is.
    """

    conjugation: float
    linearity: float
    sizes: tuple[float, float]
    points: int
    constant: Tensor
    slope: Tensor
    eps: float
    is_elementwise: bool

    @property
    def is_rounding(self) -> bool:
        """Whether they are nothing but rounding errors."""
        pairs = zip((self.conjugation, self.linearity), self.sizes, strict=True)
        return all(_is_rounding(gap, size, self.eps) for gap, size in pairs)

    @property
    def verdict(self) -> str:
        """In words."""
        at = f"at {self.points} random values of the latents"
        if self.is_rounding and self.conjugation > NOTICED:
            return (
                f"conjugated, but numbers of size {self.sizes[0]:.1e} are subtracted, and their "
                f"rounding is {self.conjugation:.1e} nats {at}. Mend: centre and rescale the data"
            )
        if self.is_rounding:
            return f"exact to rounding ({self.conjugation:.1e} {at})"
        if self.linearity > self.conjugation:
            return (
                f"off by {self.linearity:.1e} {at}: the natural parameters of the data are not "
                "linear in the statistics of the latents"
            )
        return f"off by {self.conjugation:.1e} nats {at}"


#: Rounding errors from this on, in nats, are said: data far from the origin for their spread.
NOTICED = 1e-6


@dataclass
class _Sums:
    """The two sides of the conjugation equation, summed over the data of a datum's latents."""

    psi: Tensor
    fit: Tensor
    size: Tensor
    c: Tensor
    r: Tensor

    def add(self, layout: Layout, term: Term, pair: tuple[Tensor, Tensor], fn: Any) -> None:
        """Add a site's elements and plates.

        :param pair: psi_x and what was fitted to it.
        """
        psi, fit = pair
        sizes = layout.sizes_of(fn)
        self.psi = self.psi + layout.total(psi, sizes)
        self.fit = self.fit + layout.total(fit, sizes)
        self.size = self.size + layout.total(psi.abs(), sizes)
        self.c = self.c + layout.total(term.c, sizes)
        self.r = self.r + layout.total(term.r.movedim(-1, 0), sizes).movedim(0, -1)


def residuals_of(setting: Setting, found: Harmonium, points: int) -> Residuals:
    """The residuals of a harmonium of the model, at other points than it was fitted to."""
    census, used, data = setting.census, setting.design.size, setting.data()
    draws = {n: v[used:] for n, v in prior_draws(census, used + points).items()}
    design = Design.at(setting.space, draws, census.device)
    reading = Reading(census, setting.space, setting.layout, design)
    eps = _eps([*draws.values(), *(census.sites[name].value for name in census.observed)])
    zero = torch.zeros((), dtype=torch.float64, device=census.device)
    sums = _Sums(zero, zero, zero, torch.zeros_like(found.level), torch.zeros_like(found.prior))
    linearity, size, elementwise = 0.0, 0.0, True
    likelihoods = reading.likelihoods()
    for term in found.terms:
        own = likelihoods[term.name]
        assert own is not None
        gap = own.natural - design.predict(term.nx, term.weights)
        linearity, size = max(linearity, _largest(gap)), max(size, _size(own.natural))
        pair = own.log_partition, design.predict(term.c, term.r)
        elementwise &= _is_rounding(_largest(pair[0] - pair[1]), _size(pair[0]), eps)
        if term.name in data and bool((data[term.name].weight == 0.0).any()):
            seen = (data[term.name].weight > 0.0).double()
            pair = pair[0] * seen, pair[1] * seen
        sums.add(setting.layout, term, pair, census.sites[term.name].fn)
    for values, fit in _fitted_densities(reading, design, found):
        # A state of probability 0 is one at every value of the latents.
        gap = torch.where(values == -torch.inf, 0.0, values - fit)
        linearity, size = max(linearity, _largest(gap)), max(size, _size(values))
    gaps, sizes = (_largest(sums.psi - sums.fit), linearity), (_size(sums.size), size)
    return Residuals(*gaps, sizes, len(design.basis), sums.c, sums.r, eps, elementwise)


def _fitted_densities(
    reading: Reading, design: Design, found: Harmonium
) -> Iterator[tuple[Tensor, Tensor]]:
    """Log densities in no family, and priors that are not in their own, with their fits."""
    prior = reading.prior()
    yield (
        prior.fitted,
        design.predict(found.level - prior.level, found.prior - prior.natural),
    )
    for part in found.direct:
        yield reading.density(part.name), design.predict(part.constant, part.slope)


def _eps(numbers: list[Any]) -> float:
    """The rounding of the coarsest floating tensor."""
    real = [v.dtype for v in numbers if isinstance(v, Tensor) and v.is_floating_point()]
    return max(torch.finfo(d).eps for d in (real or [torch.get_default_dtype()]))


def _is_rounding(gap: float, size: float, eps: float) -> bool:
    return gap <= ROUNDING * eps * max(1.0, size)


def _largest(gap: Tensor) -> float:
    """Infinite where there is a NaN."""
    return float(gap.abs().nan_to_num(torch.inf).max()) if gap.numel() else 0.0


def _size(value: Tensor) -> float:
    """The largest finite number."""
    return float(value.abs().nan_to_num(0.0, 0.0).max()) if value.numel() else 0.0

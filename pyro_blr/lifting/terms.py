# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The products that polynomials are sums of: numbers, constants and atoms of latents."""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import constants, host
from .axes import Address, Axis, Gather, Renaming, all_axes, rename, same_address


class NotPolynomial(Exception):
    """An operation left the algebra; the message says which, for the explanation."""


@dataclass(frozen=True, eq=False)
class LatentSite:
    """A latent of the model, as the algebra sees it.

    :param str name: the Pyro site's name.
    :param tuple shape: batch shape and event shape of the variable that q describes.
    :param int event_dim: the number of its event dims.
    :param bool gaussian: whether q is Gaussian in this variable (it may be the unconstrained one).
    :param tuple levels: the values of a discrete latent, in order; of one-hot vectors the places of
        the 1. Empty for a continuous one.
    """

    name: str
    shape: tuple[int, ...]
    event_dim: int
    gaussian: bool
    levels: tuple[float, ...] = ()

    @property
    def is_discrete(self) -> bool:
        """Whether its values are listed."""
        return bool(self.levels)

    def values_at(self, places: Tensor) -> Tensor:
        """The values at places in the list: of one-hot vectors (event dim) the vectors."""
        count = len(self.levels)
        table = torch.eye(count) if self.event_dim else torch.tensor(self.levels)
        return table.double().to(places.device)[places.long()]


@dataclass(frozen=True, eq=False, slots=True)
class Atom:
    """One statistic of the elements of a latent: ``z ** power``, or a logarithm.

    :param kind: ``"power"``, ``"log"``, ``"log1m"``, which is log(1 - z), ``"logdet"`` of a
        matrix, which is addressed by the batch dims alone, or ``"is"`` of a discrete latent: 1
        where it has a value, by the batch dims and the value's place in the list.
    :param where: the addresses of the latent's dims.
    """

    site: LatentSite
    kind: str
    power: float
    where: tuple[Address, ...]

    def renamed(self, renaming: Renaming) -> "Atom":
        if not self.where:
            return self
        return Atom(
            self.site, self.kind, self.power, tuple(rename(w, renaming) for w in self.where)
        )


@dataclass(frozen=True, eq=False, slots=True)
class Constant:
    """A constant tensor and the addresses of its dims; dims of size 1 have none and are dropped."""

    tensor: Tensor
    where: tuple[Address, ...]

    def renamed(self, renaming: Renaming) -> "Constant":
        if not self.where:
            return self
        return Constant(self.tensor, tuple(rename(w, renaming) for w in self.where))


@dataclass(frozen=True, eq=False, slots=True)
class Affine:
    """A tensor that is affine in Gaussian latents: the f of ``exp(f)``.

    Its axes are its own: it is addressed from outside, as a latent is.

    :param dims: an axis for each dim.
    :param terms: products of a number, constants and one Gaussian variable.
    """

    dims: tuple[Axis, ...]
    terms: tuple["Term", ...]

    @property
    def sites(self) -> tuple[LatentSite, ...]:
        """The latents that occur, each once."""
        return tuple(dict.fromkeys(a.site for t in self.terms for a in t.atoms))

    def at(self, where: tuple[Address, ...], times: float = 1.0) -> tuple["Term", ...]:
        """The terms of ``times f`` at the elements that addresses name, on new inner axes."""
        inner = {a for t in self.terms for a in t.axes if a not in self.dims}
        renaming: dict[Axis, Address] = {a: Axis(a.size) for a in inner}
        renaming |= dict(zip(self.dims, where, strict=True))
        renamed = (t.renamed(renaming) for t in self.terms)
        return tuple(Term(t.number * times, t.constants, t.atoms) for t in renamed)


@dataclass(frozen=True, eq=False, slots=True)
class Exponential:
    """``exp(power f)`` at elements of an affine expression f of Gaussian latents.

    :param where: the addresses of f's dims.
    """

    exponent: Affine
    power: float
    where: tuple[Address, ...]

    def renamed(self, renaming: Renaming) -> "Exponential":
        where = tuple(rename(w, renaming) for w in self.where)
        return Exponential(self.exponent, self.power, where)

    @property
    def terms(self) -> tuple["Term", ...]:
        """The terms of ``power f`` at these elements."""
        return self.exponent.at(self.where, self.power)


@dataclass(frozen=True, eq=False, slots=True)
class Term:
    """A product: number times constants, atoms and exponentials.

    Axes outside the expression are summed.
    """

    number: float
    constants: tuple[Constant, ...]
    atoms: tuple[Atom, ...]
    exponentials: tuple[Exponential, ...] = ()

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Every axis of the product, each once."""
        factors: tuple[Constant | Atom | Exponential, ...] = (
            *self.constants,
            *self.atoms,
            *self.exponentials,
        )
        return all_axes(w for f in factors for w in f.where)

    @property
    def is_constant(self) -> bool:
        """Whether no latent occurs."""
        return not self.atoms and not self.exponentials

    @property
    def sites(self) -> tuple[LatentSite, ...]:
        """The latents that occur."""
        own = tuple(a.site for a in self.atoms)
        return own + tuple(s for e in self.exponentials for s in e.exponent.sites)

    def renamed(self, renaming: Renaming) -> "Term":
        return Term(
            self.number,
            tuple(c.renamed(renaming) for c in self.constants),
            tuple(a.renamed(renaming) for a in self.atoms),
            tuple(e.renamed(renaming) for e in self.exponentials),
        )

    def times(self, other: "Term") -> "Term":
        return Term(
            self.number * other.number,
            self.constants + other.constants,
            self.atoms + other.atoms,
            self.exponentials + other.exponentials,
        )

    def scaled(self, number: float) -> "Term":
        """The term times a number."""
        return Term(self.number * number, self.constants, self.atoms, self.exponentials)


def same_atoms(first: Atom, second: Atom) -> bool:
    """Whether two atoms are of the same element of the same latent everywhere."""
    return first.site is second.site and all(
        same_address(v, w) for v, w in zip(first.where, second.where, strict=True)
    )


def with_one_number(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Join the terms that are plain numbers, so that ``1 - (1 - p)`` is ``p`` again."""
    plain = [t for t in terms if not t.constants and t.is_constant]
    if len(plain) < 2:
        return terms
    number = sum(t.number for t in plain)
    rest = tuple(t for t in terms if t.constants or not t.is_constant)
    return (Term(number, (), ()), *rest) if number else rest


def with_fixed_numbers(term: Term) -> Term:
    """The term with small constants at fixed positions turned into numbers."""
    number, left = term.number, []
    for constant in term.constants:
        fixed = all(isinstance(w, Gather) and isinstance(w.index, int) for w in constant.where)
        tensor = constant.tensor
        if fixed and not tensor.requires_grad and _may_be_read(tensor):
            number *= host.number(tensor[tuple(w.index for w in constant.where)])  # type: ignore[union-attr]
        else:
            left.append(constant)
    return Term(number, tuple(left), term.atoms, term.exponentials)


def _may_be_read(tensor: Tensor) -> bool:
    """Whether an element of a constant may be read: on a device only of what is read anyway."""
    return host.readable(tensor) and (
        tensor.device.type == "cpu" or tensor.numel() <= constants.SMALL
    )


def are_alike(first: Term, second: Term) -> bool:
    """Whether two terms of numbers and atoms alone are the same up to their number."""
    if first.constants or second.constants or first.exponentials or second.exponentials:
        return False
    if len(first.atoms) != len(second.atoms):
        return False
    return all(
        a.kind == b.kind and a.power == b.power and same_atoms(a, b)
        for a, b in zip(first.atoms, second.atoms, strict=True)
    )

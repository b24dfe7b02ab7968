# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The products that polynomials are sums of: numbers, constants and atoms of latents."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import constants, host
from .axes import Address, Axis, Gather, Renaming, all_axes, rename, same_address, take


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


def is_variable(atom: Atom) -> bool:
    """Whether an atom is a Gaussian variable itself."""
    return atom.kind == "power" and atom.power == 1 and atom.site.gaussian


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


def real_power(number: float, power: float) -> float:
    """A power of a number, if it is real."""
    result = number**power
    if isinstance(result, complex):
        raise NotPolynomial(f"power {power:g} of a negative number")
    return float(result)


def log_of_number(number: float) -> float:
    """The logarithm of a number, if it is real."""
    if number <= 0:
        raise NotPolynomial("log of a number that is not positive")
    return math.log(number)


def atom_power(atom: Atom, power: float) -> Atom:
    """A power of an atom, if it is an atom."""
    if atom.kind != "power":
        raise NotPolynomial(f"power {power:g} of {atom.kind}")
    if atom.site.gaussian:
        total = atom.power * power
        if total < 0 or total != int(total):
            raise NotPolynomial(f"power {power:g} of a variable with both signs")
        if atom.power % 2 == 0 and power != int(power):  # sqrt(z ** 2) is |z|, not z
            raise NotPolynomial(f"power {power:g} of an even power")
    return Atom(atom.site, atom.kind, atom.power * power, atom.where)


def atom_log(atom: Atom) -> Term:
    """The logarithm of an atom, if it is a term."""
    if atom.site.event_dim == 2:
        if atom.kind != "power" or atom.power != 1 or atom.site.shape[-2:] != (1, 1):
            raise NotPolynomial(f"log of an entry of the matrix {atom.site.name}")
        return Term(1.0, (), (Atom(atom.site, "logdet", 1, atom.where[:-2]),))
    if atom.kind != "power" or atom.site.gaussian:
        raise NotPolynomial(f"log of {'a Gaussian' if atom.site.gaussian else atom.kind}")
    return Term(float(atom.power), (), (Atom(atom.site, "log", 1, atom.where),))


def exp_of(terms: tuple[Term, ...], out: tuple[Axis, ...]) -> Term:
    """``exp`` of a sum: the product of its terms' exponentials.

    A single Gaussian variable is an exponential of its own, so that ``exp(a)[group]`` costs one a
    group; the other Gaussian terms are one affine expression together.
    """
    result = Term(1.0, (), ())
    gaussian: list[Term] = []
    for term in terms:
        if term.is_constant:
            result = result.times(_exp_of_constant(term, out))
        elif len(term.atoms) != 1 or term.exponentials:
            raise NotPolynomial("`exp` of a product of latents")
        elif is_variable(term.atoms[0]):
            gaussian.append(term)
        else:
            result = result.times(_exp_of_log(term, out))
    single = [t for t in gaussian if not t.constants and set(t.axes) <= set(out)]
    joint = [t for t in gaussian if not any(t is s for s in single)]
    exponentials = tuple(_exp_of_variable(t) for t in single)
    if joint:
        dims = tuple(a for a in out if any(a in t.axes for t in joint))
        exponentials += (Exponential(Affine(dims, tuple(joint)), 1.0, dims),)
    return result.times(Term(1.0, (), (), exponentials))


def _exp_of_variable(term: Term) -> Exponential:
    (atom,) = term.atoms
    axes = tuple(Axis(size) for size in atom.site.shape if size != 1)
    left = iter(axes)
    own = tuple(next(left) if size != 1 else Gather(0, ()) for size in atom.site.shape)
    where = tuple(w for w, size in zip(atom.where, atom.site.shape, strict=True) if size != 1)
    leaf = Term(1.0, (), (Atom(atom.site, "power", 1, own),))
    return Exponential(Affine(axes, (leaf,)), term.number, where)


def _exp_of_log(term: Term, out: tuple[Axis, ...]) -> Term:
    """``exp(c log z)`` is ``z ** c``."""
    (atom,) = term.atoms
    if atom.kind != "log" or term.constants or not set(term.axes) <= set(out):
        what = "a power of a Gaussian" if atom.site.gaussian else "a latent that is not Gaussian"
        raise NotPolynomial(f"`exp` of {what}")
    return Term(1.0, (), (Atom(atom.site, "power", term.number, atom.where),))


def _exp_of_constant(term: Term, out: tuple[Axis, ...]) -> Term:
    """``exp`` of a number or of constant tensors that nothing is summed over."""
    if not term.constants:
        return Term(math.exp(term.number), (), ())
    if not set(term.axes) <= set(out):
        raise NotPolynomial("`exp` of a sum over a dim of a constant that stands apart")
    axes = term.axes
    given = tuple(take(c.tensor, c.where) for c in term.constants)
    places = tuple(tuple(axes.index(a) for a in own) for _, own in given)
    tensors = tuple(t for t, _ in given)
    value = constants.memo(_exp_of_product, tensors, places, len(axes), term.number)
    return Term(1.0, (Constant(value, axes),), ())


def _exp_of_product(*given: Any) -> Tensor:
    """``exp(number * product of tensors)``, each tensor's dims at their places among all."""
    *tensors, places, count, number = given
    product: Any = number
    for tensor, own in zip(tensors, places, strict=True):
        order = sorted(range(len(own)), key=own.__getitem__)
        shape = [1] * count
        for place, size in zip(sorted(own), tensor.permute(order).shape, strict=True):
            shape[place] = size
        product = product * tensor.permute(order).reshape(shape)
    result: Tensor = torch.exp(product)
    return result

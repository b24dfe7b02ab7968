# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The products that polynomials are sums of: numbers, constants and atoms of latents."""

import math
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
    """

    name: str
    shape: tuple[int, ...]
    event_dim: int
    gaussian: bool


@dataclass(frozen=True, eq=False, slots=True)
class Atom:
    """One statistic of the elements of a latent: ``z ** power``, ``exp(power z)`` or ``log``.

    :param kind: ``"power"``, ``"exp"`` (Gaussian latents only), ``"log"``, or ``"log1m"``, which
        is log(1 - z).
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
class Term:
    """A product: number times constants times atoms. Axes outside the expression are summed."""

    number: float
    constants: tuple[Constant, ...]
    atoms: tuple[Atom, ...]

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Every axis of the product, each once."""
        factors: tuple[Constant | Atom, ...] = (*self.constants, *self.atoms)
        return all_axes(w for f in factors for w in f.where)

    def renamed(self, renaming: Renaming) -> "Term":
        return Term(
            self.number,
            tuple(c.renamed(renaming) for c in self.constants),
            tuple(a.renamed(renaming) for a in self.atoms),
        )

    def times(self, other: "Term") -> "Term":
        return Term(
            self.number * other.number,
            self.constants + other.constants,
            self.atoms + other.atoms,
        )


def is_host_number(core: Tensor) -> bool:
    """Whether a constant may be read without waiting for a device."""
    return core.device.type == "cpu" and host.readable(core)


def same_atoms(first: Atom, second: Atom) -> bool:
    """Whether two atoms are of the same element of the same latent everywhere."""
    return first.site is second.site and all(
        same_address(v, w) for v, w in zip(first.where, second.where, strict=True)
    )


def with_one_number(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Join the terms that are plain numbers, so that ``1 - (1 - p)`` is ``p`` again."""
    plain = [t for t in terms if not t.constants and not t.atoms]
    if len(plain) < 2:
        return terms
    number = sum(t.number for t in plain)
    rest = tuple(t for t in terms if t.constants or t.atoms)
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
        if fixed and not tensor.requires_grad and is_host_number(tensor):
            number *= host.number(tensor[tuple(w.index for w in constant.where)])  # type: ignore[union-attr]
        else:
            left.append(constant)
    return Term(number, tuple(left), term.atoms)


def are_alike(first: Term, second: Term) -> bool:
    """Whether two terms without constants are the same up to their number."""
    if first.constants or second.constants or len(first.atoms) != len(second.atoms):
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
    if atom.kind not in ("power", "exp"):
        raise NotPolynomial(f"power {power:g} of {atom.kind}")
    if atom.site.gaussian and atom.kind == "power":
        total = atom.power * power
        if total < 0 or total != int(total):
            raise NotPolynomial(f"power {power:g} of a variable with both signs")
        if atom.power % 2 == 0 and power != int(power):  # sqrt(z ** 2) is |z|, not z
            raise NotPolynomial(f"power {power:g} of an even power")
    return Atom(atom.site, atom.kind, atom.power * power, atom.where)


def atom_log(atom: Atom) -> Term:
    """The logarithm of an atom, if it is a term."""
    if atom.kind == "exp":
        return Term(atom.power, (), (Atom(atom.site, "power", 1, atom.where),))
    if atom.kind != "power" or atom.site.gaussian:
        raise NotPolynomial(f"log of {'a Gaussian' if atom.site.gaussian else atom.kind}")
    return Term(float(atom.power), (), (Atom(atom.site, "log", 1, atom.where),))


def exp_of_constant(term: Term) -> Term:
    """``exp`` of a number or of one constant tensor."""
    if not term.constants:
        return Term(math.exp(term.number), (), ())
    if len(term.constants) > 1 or term.number != 1.0:
        raise NotPolynomial("exp of a product")
    (constant,) = term.constants
    value = constants.memo(torch.exp, (constant.tensor,))
    return Term(1.0, (Constant(value, constant.where),), ())

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Polynomials in functions of latents: what flows through a model in the place of tensors."""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pyro_blr.errors import BLRError


class NotConjugate(BLRError, NotImplementedError):
    """The log density is no polynomial in the sufficient statistics of the latents."""


class Atom(NamedTuple):
    """A function of one latent: "z", "log z" or "log(1-z)"."""

    site: str
    domain: str  # of the latent: "real", "positive" or "unit"
    function: str = "z"


# A product of powers of atoms; a set, so that equal products are equal keys. ONE is the empty one.
Term = frozenset[tuple[Atom, float]]
ONE: Term = frozenset()


class Polynomial:
    """A sum of numbers times terms: what a latent is while the model runs.

    Data enter through the numbers only. Terms that meet again are added up at once, so after the
    run there are as many terms as the latents call for, whatever the number of data.
    """

    __array_ufunc__ = None  # NumPy leaves ``array * z`` to us

    def __init__(self, terms: Mapping[Term, float]) -> None:
        self.terms = {term: number for term, number in terms.items() if number != 0}

    def __add__(self, other: Any) -> "Polynomial":
        terms = dict(self.terms)
        for term, number in lift(other).terms.items():
            terms[term] = terms.get(term, 0.0) + number
        return Polynomial(terms)

    def __mul__(self, other: Any) -> "Polynomial":
        terms: dict[Term, float] = {}
        for a, x in self.terms.items():
            for b, y in lift(other).terms.items():
                powers = dict(a)
                for atom, power in b:
                    powers[atom] = powers.get(atom, 0) + power
                term = frozenset((atom, power) for atom, power in powers.items() if power != 0)
                terms[term] = terms.get(term, 0.0) + x * y
        return Polynomial(terms)

    def __pow__(self, power: Any) -> "Polynomial":
        power = lift(power).number()
        if power >= 1 and power.is_integer():
            return self if power == 1 else self * self ** (power - 1)
        if not power.is_integer():  # (z**2)**0.5 is abs(z), not z
            self._check_positive(f"the power {power}")
        if len(self.terms) != 1:
            raise NotConjugate(f"the power {power} of a sum of latents is no polynomial")
        ((term, number),) = self.terms.items()
        return Polynomial({frozenset((a, k * power) for a, k in term if power): number**power})

    def log(self) -> "Polynomial":
        """log(c z^k ...) = log c + k log z + ..., and log(1 - z) for z in the unit interval."""
        for atom in {atom for term in self.terms for atom, _ in term}:
            if atom.domain == "unit" and self.terms == {ONE: 1.0, frozenset({(atom, 1)}): -1.0}:
                return symbol(atom.site, atom.domain, "log(1-z)")
        self._check_positive("the logarithm")
        ((term, number),) = self.terms.items()
        logarithms = (power * symbol(a.site, a.domain, "log z") for a, power in term)
        return sum(logarithms, start=lift(math.log(number)))

    def _check_positive(self, what: str) -> None:
        """Roots and logarithms need one term that is positive whatever the latents are."""
        atoms = {atom for term in self.terms for atom, _ in term}
        good = all(a.function == "z" and a.domain != "real" for a in atoms)
        if len(self.terms) != 1 or not good or min(self.terms.values()) <= 0:
            raise NotConjugate(f"{what} needs a positive product, not {[a.site for a in atoms]}")

    def number(self) -> float:
        """The value, if no latent is in it."""
        if self.terms.keys() - {ONE}:
            raise NotConjugate("a latent stands where the log density is no polynomial in it")
        return self.terms.get(ONE, 0.0)

    def __bool__(self) -> bool:
        raise NotConjugate("a latent has no value while the model runs, so `if` cannot use it")

    def __eq__(self, other: object) -> bool:
        return bool(self)

    __hash__ = None  # type: ignore[assignment]
    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Polynomial":
        return self * -1.0

    def __sub__(self, other: Any) -> "Polynomial":
        return self + -lift(other)

    def __rsub__(self, other: Any) -> "Polynomial":
        return lift(other) - self

    def __truediv__(self, other: Any) -> "Polynomial":
        return self * lift(other) ** -1

    def __rtruediv__(self, other: Any) -> "Polynomial":
        return lift(other) / self

    def sqrt(self) -> "Polynomial":
        """The square root of a positive product."""
        return self**0.5

    def rsqrt(self) -> "Polynomial":
        """One over the square root of a positive product."""
        return self**-0.5

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> "Polynomial":
        """``torch.log(z)`` and ``tensor * z`` arrive here."""
        operation = TORCH_OPERATIONS.get(function.__name__.strip("_"))
        if kwargs or operation is None:
            raise NotConjugate(f"torch.{function.__name__} of a latent is no polynomial")
        return operation(*(lift(x) for x in args))


TORCH_OPERATIONS: dict[str, Callable[..., Polynomial]] = {
    "add": operator.add,
    "sub": operator.sub,
    "rsub": lambda a, b: b - a,
    "mul": operator.mul,
    "div": operator.truediv,
    "truediv": operator.truediv,
    "rdiv": lambda a, b: b / a,
    "rtruediv": lambda a, b: b / a,
    "pow": operator.pow,
    "neg": operator.neg,
    "square": lambda a: a**2,
    "log": Polynomial.log,
    "sqrt": Polynomial.sqrt,
    "rsqrt": Polynomial.rsqrt,
}


def lift(x: Any) -> Polynomial:
    """A number, or a tensor with one element, as a polynomial without latents."""
    return x if isinstance(x, Polynomial) else Polynomial({ONE: float(x)})


def symbol(site: str, domain: str, function: str = "z") -> Polynomial:
    """One latent, or a function of it."""
    return Polynomial({frozenset({(Atom(site, domain, function), 1)}): 1.0})

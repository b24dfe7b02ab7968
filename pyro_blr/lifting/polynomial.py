# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Polynomials in the statistics of latents, with named axes: the exact tier's algebra.

A :class:`Polynomial` is a sum of products. Each product has a number, some constant tensors and
some atoms (:class:`Atom`: a power or a logarithm of the elements of one latent) and exponentials of
affine Gaussian expressions, each addressed by named axes. Sums, products, contractions and indexing
stay in this form by construction, without rewriting: it is canonical from the start (the form of
Autoconj, Hoffman, Johnson & Tran 2018). Operations that leave it raise
:class:`~pyro_blr.lifting.terms.NotPolynomial`, which the caller turns into another tier.
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Union

import torch
from torch import Tensor

from . import constants
from .axes import Address, Axis, Gather, Renaming, take
from .contraction import along, together
from .functions import exp_of, is_product, log_complement_of, log_of, power_of, with_indices
from .terms import (
    Atom,
    Constant,
    LatentSite,
    Term,
    are_alike,
    with_fixed_numbers,
    with_one_number,
)

Numeric = Union["Polynomial", Tensor, float, int]

Dims = tuple[Axis | None, ...]


class Polynomial:
    """A tensor of polynomials.

    :param dims: an axis for each tensor dim, ``None`` for a dim of size 1.
    :param terms: the products; none of them is the polynomial 0.
    """

    __slots__ = ("_axes", "dims", "is_kept", "terms")

    def __init__(self, dims: Iterable[Axis | None], terms: Iterable[Term]) -> None:
        self.dims: Dims = tuple(dims)
        self.terms = tuple(terms)
        self._axes: frozenset[Axis] | None = None
        #: Whether the cache holds it, so that its identity names it (see ``recall``).
        self.is_kept = False

    @property
    def shape(self) -> torch.Size:
        """The shape of the tensor that this stands for."""
        return torch.Size([axis.size if axis else 1 for axis in self.dims])

    @property
    def ndim(self) -> int:
        """The number of dims."""
        return len(self.dims)

    @property
    def out(self) -> tuple[Axis, ...]:
        """The axes that are not summed over."""
        return tuple(axis for axis in self.dims if axis)

    @property
    def axes(self) -> frozenset[Axis]:
        """Every axis, of the result or summed over."""
        if self._axes is None:
            own = [a for a in self.dims if a]
            for term in self.terms:
                own.extend(term.axes)
            self._axes = frozenset(own)
        return self._axes

    @property
    def is_constant(self) -> bool:
        """Whether no latent occurs."""
        return all(term.is_constant for term in self.terms)

    def constant_value(self) -> Tensor:
        """The tensor that it is, where no latent occurs, in float64."""
        total = torch.zeros(self.shape, dtype=torch.float64)
        for term in self.terms:
            factors = [take(c.tensor.double(), c.where) for c in term.constants]
            if factors:
                value = along(together(factors), self.out).reshape(self.shape)
                total = total.to(value) + term.number * value
            else:
                total = total + term.number
        return total

    @property
    def is_integral(self) -> bool:
        """Whether it is a sum of discrete latents whose values are integers, times integers."""
        return all(
            term.number == int(term.number)
            and not (term.constants or term.exponentials)
            and all(_is_integral(a) for a in term.atoms)
            for term in self.terms
        )

    @property
    def sites(self) -> tuple[LatentSite, ...]:
        """The latents that occur, each once."""
        return tuple(dict.fromkeys(s for term in self.terms for s in term.sites))

    def renamed(self, renaming: Renaming) -> "Polynomial":
        """Rename axes; an axis among the dims may only become another axis."""
        if not renaming:
            return self
        dims = [renaming.get(a, a) if a else None for a in self.dims]
        return Polynomial(dims, (t.renamed(renaming) for t in self.terms))  # type: ignore[arg-type]

    def fresh(self) -> "Polynomial":
        """The same polynomial on new axes."""
        return self.renamed({axis: Axis(axis.size) for axis in self.axes})

    def with_dims(self, dims: Iterable[Axis | None]) -> "Polynomial":
        """The same terms seen along other dims."""
        return Polynomial(dims, self.terms)

    # Arithmetic. Operands broadcast from the right, as tensors do.

    def __add__(self, other: Numeric) -> "Polynomial":
        if isinstance(other, int | float):
            if other == 0:
                return self
            return Polynomial(self.dims, with_one_number((*self.terms, Term(float(other), (), ()))))
        left, right, dims = align(self, polynomial(other))
        return Polynomial(dims, with_one_number(left.terms + right.terms))

    __radd__ = __add__

    def __neg__(self) -> "Polynomial":
        return self * -1.0

    def __sub__(self, other: Numeric) -> "Polynomial":
        return self + (-other if isinstance(other, int | float) else -polynomial(other))

    def __rsub__(self, other: Numeric) -> "Polynomial":
        return -self + other

    def __mul__(self, other: Numeric) -> "Polynomial":
        if isinstance(other, int | float):
            scaled = (t.scaled(other) for t in self.terms)
            return Polynomial(self.dims, scaled if other != 0 else ())
        left, right, dims = align(self, polynomial(other))
        return Polynomial(dims, (s.times(t) for s in left.terms for t in right.terms))

    __rmul__ = __mul__

    def __truediv__(self, other: Numeric) -> "Polynomial":
        if isinstance(other, int | float):
            return self * (1.0 / other)
        return self * polynomial(other) ** -1.0

    def __rtruediv__(self, other: Numeric) -> "Polynomial":
        return self**-1.0 * other

    def __pow__(self, power: float) -> "Polynomial":
        if power == 1:
            return self
        if power == 0:
            return Polynomial(self.dims, (Term(1.0, (), ()),))
        if power in (2, 3):
            base = Polynomial(self.dims, with_indices(self.terms, self.out))
            if not is_product(base.terms, base.out):
                return base * base if power == 2 else base * base * base
        return Polynomial(self.dims, power_of(self.terms, self.out, power))

    def simplified(self) -> "Polynomial":
        """Small constants at fixed positions become numbers, like terms join, zeros go."""
        merged: list[Term] = []
        for term in map(with_fixed_numbers, self.terms):
            for i, other in enumerate(merged):
                if are_alike(term, other):
                    merged[i] = Term(other.number + term.number, other.constants, other.atoms)
                    break
            else:
                merged.append(term)
        return Polynomial(self.dims, (t for t in merged if t.number))

    # Functions; where the result is no polynomial they raise NotPolynomial.

    def log(self) -> "Polynomial":
        """The logarithm of a product is a sum; that of a sum is not in the algebra."""
        return Polynomial(self.dims, log_of(self.terms, self.out))

    def log_complement(self) -> "Polynomial":
        """``log(1 - value)``, of a choice that of what is chosen."""
        return Polynomial(self.dims, log_complement_of(self.terms, self.out))

    def exp(self) -> "Polynomial":
        """The exponential of a sum of affine Gaussian terms, constants and logarithms."""
        return Polynomial(self.dims, exp_of(self.terms, self.out))

    # Sums over dims, and broadcasting.

    def sum(self, dims: Sequence[int], keepdim: bool = False) -> "Polynomial":
        """Sum over dims: drop their axes; an axis that a term lacks multiplies it by its size."""
        gone = {d % self.ndim for d in dims}
        summed = [self.dims[d] for d in gone if self.dims[d]]
        terms = []
        for term in self.terms:
            present = set(term.axes)
            times = prod(a.size for a in summed if a and a not in present)
            terms.append(term if times == 1 else term.times(Term(float(times), (), ())))
        left = [
            None if i in gone else a for i, a in enumerate(self.dims) if keepdim or i not in gone
        ]
        return Polynomial(left, terms)

    def sum_all(self) -> "Polynomial":
        """The sum over every dim."""
        return self.sum(range(self.ndim)) if self.ndim else self

    def expanded(self, dims: Dims) -> "Polynomial":
        """Broadcast to the axes of ``dims`` (dims of size 1 and missing dims take theirs)."""
        own = (None,) * (len(dims) - self.ndim) + self.dims
        return Polynomial(
            (mine or theirs for mine, theirs in zip(own, dims, strict=True)), self.terms
        )

    def expand_to(self, shape: Sequence[int]) -> "Polynomial":
        """Broadcast to a shape."""
        own = (None,) * (len(shape) - self.ndim) + self.dims
        return Polynomial(
            (a or (Axis(s) if s not in (1, -1) else None) for a, s in zip(own, shape, strict=True)),
            self.terms,
        )


def _is_integral(atom: Atom) -> bool:
    powers = atom.kind == "is" or (atom.kind == "power" and atom.power in (1, 2, 3))
    return powers and atom.site.is_discrete and all(v == int(v) for v in atom.site.levels)


def leaf(site: LatentSite) -> Polynomial:
    """The variable of a site itself."""
    dims = [Axis(size) if size != 1 else None for size in site.shape]
    where = tuple(axis or Gather(0, ()) for axis in dims)
    return Polynomial(dims, (Term(1.0, (), (Atom(site, "power", 1, where),)),))


def polynomial(value: Numeric) -> Polynomial:
    """A number or a constant tensor as a polynomial; dims expanded with stride 0 cost nothing.

    :param value: a number, a tensor, or a polynomial, which is returned as it is.
    """
    if isinstance(value, Polynomial):
        return value
    if isinstance(value, int | float):
        return Polynomial((), (Term(float(value), (), ()),) if value else ())
    dims = [Axis(size) if size != 1 else None for size in value.shape]
    kept = [i for i, a in enumerate(dims) if a and (value.stride(i) != 0 or not a.size)]
    core = value
    for i in reversed(range(value.dim())):
        core = core if i in kept else core.select(i, 0)
    content = constants.small_content(core)
    if content is not None:
        if not content:  # no element: any number stands for all of them
            return Polynomial(dims, (Term(1.0, (), ()),))
        if not any(content):  # a prior's zero mean is no term
            return Polynomial(dims, ())
        if core.dim() == 0:
            return Polynomial(dims, (Term(float(content[0]), (), ()),))
    core = constants.own(core)
    return Polynomial(dims, (Term(1.0, (Constant(core, tuple(dims[i] for i in kept)),), ()),))  # type: ignore[misc]


def align(left: Polynomial, right: Polynomial) -> tuple[Polynomial, Polynomial, Dims]:
    """Broadcast two polynomials: unify their axes dim by dim from the right; rename clashes."""
    if not left.axes.isdisjoint(right.axes):
        right = right.fresh()
    count = max(left.ndim, right.ndim)
    a = (None,) * (count - left.ndim) + left.dims
    b = (None,) * (count - right.ndim) + right.dims
    renaming: dict[Axis, Address] = {}
    for x, y in zip(a, b, strict=True):
        if x and y:
            if x.size != y.size:
                raise ValueError(
                    f"shapes {tuple(left.shape)} and {tuple(right.shape)} do not broadcast"
                )
            renaming[y] = x
    right = right.renamed(renaming)
    return left, right, tuple(x or y for x, y in zip(a, b, strict=True))

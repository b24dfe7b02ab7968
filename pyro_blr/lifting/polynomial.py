# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Polynomials in the statistics of latents, with named axes: the exact tier's algebra.

A :class:`Polynomial` is a sum of products. Each product has a number, some constant tensors and
some atoms (:class:`Atom`: a power or a logarithm of the elements of one latent) and exponentials of
affine Gaussian expressions, each addressed by named axes. Sums, products, contractions and indexing
stay in this form by construction, without rewriting: it is canonical from the start (the form of
Autoconj, Hoffman, Johnson & Tran 2018). Operations that leave it raise :class:`NotPolynomial`,
which the caller turns into another tier.
"""

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Union

import torch
from torch import Tensor

from . import constants
from .axes import Address, Axis, Gather, Renaming, address_key
from .choices import Piece, choice, has_zeros, indexed, split_masks
from .terms import (
    Atom,
    Constant,
    Exponential,
    LatentSite,
    NotPolynomial,
    Term,
    are_alike,
    atom_log,
    atom_power,
    exp_of,
    log_of_number,
    real_power,
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
            return Polynomial((None,) * self.ndim, (Term(1.0, (), ()),)).expanded(self.dims)
        if (by_index := self._indexed()) is not self:
            return by_index**power
        if power == 2 and not self._is_monomial:
            return self * self
        if power == 3 and not self._is_monomial:
            return self * self * self
        if not self._is_monomial and (parts := choice(self.terms, self.out)):
            return self._chosen(parts, lambda piece: piece**power)
        term = self._monomial(f"power {power:g} of a sum")
        number = real_power(term.number, power)
        atoms = tuple(atom_power(a, power) for a in term.atoms)
        consts = tuple(
            Constant(constants.memo(torch.pow, (c.tensor,), power), c.where) for c in term.constants
        )
        exponentials = tuple(
            Exponential(e.exponent, e.power * power, e.where) for e in term.exponentials
        )
        return Polynomial(self.dims, (Term(number, consts, atoms, exponentials),))

    def log(self) -> "Polynomial":
        """The logarithm of a product is a sum; that of a sum is not in the algebra."""
        if (by_index := self._indexed()) is not self:
            return by_index.log()
        complement = self._complement()
        if complement is not None:
            return Polynomial(self.dims, (Term(1.0, (), (complement,)),))
        if not self._is_monomial and (parts := choice(self.terms, self.out)):
            return self._chosen(parts, lambda piece: piece.log())
        term = self._monomial("log of a sum")
        if any(map(has_zeros, split_masks(term)[0])):
            raise NotPolynomial("log of what may be 0")
        total = polynomial(log_of_number(term.number))
        pieces = [
            Term(1.0, (Constant(constants.memo(torch.log, (c.tensor,)), c.where),), ())
            for c in term.constants
        ] + [atom_log(a) for a in term.atoms]
        pieces += [t for e in term.exponentials for t in e.terms]
        terms = (*total.terms, *pieces) if term.number != 1.0 else tuple(pieces)
        return Polynomial(self.dims, terms)

    def log_complement(self) -> "Polynomial":
        """``log(1 - value)``, of a choice that of what is chosen."""
        if (by_index := self._indexed()) is not self:
            return by_index.log_complement()
        if not self._is_monomial and (parts := choice(self.terms, self.out, elsewhere=0.0)):
            return self._chosen(parts, lambda piece: piece.log_complement())
        term = self.terms[0] if self._is_monomial else None
        if term is not None and (masked := split_masks(term))[0]:
            return self._chosen([masked], lambda piece: piece.log_complement())
        if term is None or not term.is_constant or len(term.constants) > 1:
            return (1 - self).log()
        if not term.constants:
            return polynomial(log_of_number(1 - term.number)).expanded(self.dims)
        (own,) = term.constants
        value = constants.memo(_log_complement, (own.tensor,), term.number)
        return Polynomial(self.dims, (Term(1.0, (Constant(value, own.where),), ()),))

    def exp(self) -> "Polynomial":
        """The exponential of a sum of affine Gaussian terms, constants and logarithms."""
        return Polynomial(self.dims, (exp_of(self.terms, self.out),))

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

    @property
    def _is_monomial(self) -> bool:
        return len(self.terms) == 1 and set(self.terms[0].axes) <= set(self.out)

    def _indexed(self) -> "Polynomial":
        """Itself, or with sums over one-hot constants as indices, if there are any."""
        out = set(self.out)
        if all(set(t.axes) <= out for t in self.terms):
            return self
        terms = tuple(indexed(t, self.out) for t in self.terms)
        same = all(a is b for a, b in zip(terms, self.terms, strict=True))
        return self if same else Polynomial(self.dims, terms)

    def _monomial(self, what: str) -> Term:
        if not self._is_monomial:
            raise NotPolynomial(what)
        return self.terms[0]

    def _chosen(
        self, pieces: list[Piece], function: Callable[["Polynomial"], "Polynomial"]
    ) -> "Polynomial":
        """A function of a sum whose terms exclude each other: of each, where it is chosen."""
        terms: list[Term] = []
        for masks, rest in pieces:
            mask = Term(1.0, masks, ())
            terms += [mask.times(t) for t in function(Polynomial(self.dims, (rest,))).terms]
        return Polynomial(self.dims, terms)

    def _complement(self) -> Atom | None:
        """The atom ``log(1 - z)`` if this is ``1 - z`` with z in the unit interval."""
        if len(self.terms) != 2:
            return None
        one, rest = sorted(self.terms, key=lambda t: len(t.atoms))
        if not one.is_constant or one.constants or one.number != 1.0 or len(rest.atoms) != 1:
            return None
        (atom,) = rest.atoms
        plain = rest.number == -1.0 and not rest.constants and not rest.exponentials
        plain = plain and set(rest.axes) <= set(self.out)
        if plain and atom.kind == "power" and atom.power == 1 and not atom.site.gaussian:
            return Atom(atom.site, "log1m", 1, atom.where)
        return None


def _is_integral(atom: Atom) -> bool:
    powers = atom.kind == "is" or (atom.kind == "power" and atom.power in (1, 2, 3))
    return powers and atom.site.is_discrete and all(v == int(v) for v in atom.site.levels)


def _log_complement(value: Tensor, times: float) -> Tensor:
    return (-times * value.double()).log1p()


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


def key_of(value: Polynomial) -> tuple[object, tuple[Tensor, ...]]:
    """A hashable name of a polynomial up to the names of its axes, and its free constants.

    Constants that require a gradient are named by their place only, and are returned: the same plan
    serves whatever they are.
    """
    free: list[Tensor] = []
    return _key(value.dims, value.terms, free), tuple(free)


def _key(dims: Dims, terms: tuple[Term, ...], free: list[Tensor]) -> object:
    numbers: dict[Axis, int] = {}

    def number(axis: Axis) -> tuple[int, int]:
        return numbers.setdefault(axis, len(numbers)), axis.size

    def address(where: tuple[Address, ...]) -> tuple[object, ...]:
        return tuple(address_key(w, number) for w in where)

    head = tuple(number(a) if a else None for a in dims)
    body = tuple(
        (
            t.number,
            tuple((_tensor_key(c.tensor, free), *address(c.where)) for c in t.constants),
            tuple((a.site.name, a.kind, a.power, *address(a.where)) for a in t.atoms),
            tuple(
                (_key(e.exponent.dims, e.exponent.terms, free), e.power, *address(e.where))
                for e in t.exponentials
            ),
        )
        for t in terms
    )
    return head, body


def _tensor_key(tensor: Tensor, free: list[Tensor]) -> object:
    if not tensor.requires_grad:
        return constants.key_of(tensor)
    if not any(t is tensor for t in free):
        free.append(tensor)
    slot = next(i for i, t in enumerate(free) if t is tensor)
    return ("free", slot, tensor.shape, tensor.dtype, tensor.device)


def constants_of(terms: Iterable[Term]) -> tuple[Tensor, ...]:
    """Every constant tensor of some terms, those inside exponents among them."""
    found: tuple[Tensor, ...] = ()
    for term in terms:
        found += tuple(c.tensor for c in term.constants)
        for exponential in term.exponentials:
            found += constants_of(exponential.exponent.terms)
    return found

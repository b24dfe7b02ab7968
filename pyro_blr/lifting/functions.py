# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Powers, logarithms and exponentials of sums of products that are sums of products again.

Each takes the terms of a :class:`~pyro_blr.lifting.polynomial.Polynomial` and the axes ``out`` that
it is not summed over, and gives the terms of the result along the same dims. What is no sum of
products raises :class:`NotPolynomial` with the reason.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import constants
from .axes import Axis, Gather, take
from .choices import Piece, choice, has_zeros, indexed, split_masks
from .terms import (
    Affine,
    Atom,
    Constant,
    Exponential,
    NotPolynomial,
    Term,
    with_one_number,
)

Terms = tuple[Term, ...]


def is_product(terms: Terms, out: tuple[Axis, ...]) -> bool:
    """Whether a sum is one product, of which no axis is summed over."""
    return len(terms) == 1 and set(terms[0].axes) <= set(out)


def with_indices(terms: Terms, out: tuple[Axis, ...]) -> Terms:
    """The terms, with sums over one-hot constants as indices."""
    known = set(out)
    if all(set(t.axes) <= known for t in terms):
        return terms
    return tuple(indexed(t, out) for t in terms)


def power_of(terms: Terms, out: tuple[Axis, ...], power: float) -> Terms:
    """A power of a product, or of a choice that of what is chosen; that of a sum is none."""
    terms = with_indices(terms, out)
    if not is_product(terms, out) and (parts := choice(terms, out)):
        return _chosen(parts, lambda piece: power_of((piece,), out, power))
    term = _product(terms, out, f"power {power:g} of a sum")
    number = _real_power(term.number, power)
    atoms = tuple(_atom_power(a, power) for a in term.atoms)
    consts = tuple(
        Constant(constants.memo(torch.pow, (c.tensor,), power), c.where) for c in term.constants
    )
    exponentials = tuple(
        Exponential(e.exponent, e.power * power, e.where) for e in term.exponentials
    )
    return (Term(number, consts, atoms, exponentials),)


def log_of(terms: Terms, out: tuple[Axis, ...]) -> Terms:
    """The logarithm of a product is a sum; that of a sum is not in the algebra."""
    terms = with_indices(terms, out)
    if (complement := _complement(terms, out)) is not None:
        return (Term(1.0, (), (complement,)),)
    if not is_product(terms, out) and (parts := choice(terms, out)):
        return _chosen(parts, lambda piece: log_of((piece,), out))
    term = _product(terms, out, "log of a sum")
    if any(map(has_zeros, split_masks(term)[0])):
        raise NotPolynomial("log of what may be 0")
    total = _number(_log_of_number(term.number))
    consts = (Constant(constants.memo(torch.log, (c.tensor,)), c.where) for c in term.constants)
    return (
        *total,
        *(Term(1.0, (c,), ()) for c in consts),
        *(_atom_log(a) for a in term.atoms),
        *(t for e in term.exponentials for t in e.terms),
    )


def log_complement_of(terms: Terms, out: tuple[Axis, ...]) -> Terms:
    """``log(1 - value)``, of a choice that of what is chosen."""
    terms = with_indices(terms, out)
    if not is_product(terms, out) and (parts := choice(terms, out, elsewhere=0.0)):
        return _chosen(parts, lambda piece: log_complement_of((piece,), out))
    term = terms[0] if is_product(terms, out) else None
    if term is not None and (masked := split_masks(term))[0]:
        return _chosen([masked], lambda piece: log_complement_of((piece,), out))
    if term is None or not term.is_constant or len(term.constants) > 1:
        negative = (t.scaled(-1.0) for t in terms)
        return log_of(with_one_number((*negative, Term(1.0, (), ()))), out)
    if not term.constants:
        return _number(_log_of_number(1 - term.number))
    (own,) = term.constants
    value = constants.memo(_log_complement, (own.tensor,), term.number)
    return (Term(1.0, (Constant(value, own.where),), ()),)


def exp_of(terms: Terms, out: tuple[Axis, ...]) -> Terms:
    """The exponential of a sum of affine Gaussian terms, constants and logarithms: one product.

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
        elif _is_variable(term.atoms[0]):
            gaussian.append(term)
        else:
            result = result.times(_exp_of_log(term, out))
    single = [t for t in gaussian if not t.constants and set(t.axes) <= set(out)]
    joint = [t for t in gaussian if not any(t is s for s in single)]
    exponentials = tuple(_exp_of_variable(t) for t in single)
    if joint:
        dims = tuple(a for a in out if any(a in t.axes for t in joint))
        exponentials += (Exponential(Affine(dims, tuple(joint)), 1.0, dims),)
    return (result.times(Term(1.0, (), (), exponentials)),)


def _product(terms: Terms, out: tuple[Axis, ...], what: str) -> Term:
    if not is_product(terms, out):
        raise NotPolynomial(what)
    return terms[0]


def _number(number: float) -> Terms:
    return (Term(number, (), ()),) if number else ()


def _chosen(pieces: list[Piece], function: Callable[[Term], Terms]) -> Terms:
    """A function of a sum whose terms exclude each other: of each, where it is chosen."""
    terms: list[Term] = []
    for masks, rest in pieces:
        mask = Term(1.0, masks, ())
        terms += [mask.times(t) for t in function(rest)]
    return tuple(terms)


def _complement(terms: Terms, out: tuple[Axis, ...]) -> Atom | None:
    """The atom ``log(1 - z)`` if a sum is ``1 - z`` with z in the unit interval."""
    if len(terms) != 2:
        return None
    one, rest = sorted(terms, key=lambda t: len(t.atoms))
    if not one.is_constant or one.constants or one.number != 1.0 or len(rest.atoms) != 1:
        return None
    (atom,) = rest.atoms
    plain = rest.number == -1.0 and not rest.constants and not rest.exponentials
    plain = plain and set(rest.axes) <= set(out)
    if plain and atom.kind == "power" and atom.power == 1 and not atom.site.gaussian:
        return Atom(atom.site, "log1m", 1, atom.where)
    return None


def _log_complement(value: Tensor, times: float) -> Tensor:
    return (-times * value.double()).log1p()


def _real_power(number: float, power: float) -> float:
    """A power of a number, if it is real and no more than a float holds."""
    try:
        result = number**power
    except OverflowError as error:
        raise NotPolynomial(f"power {power:g} of {number:g}, which overflows") from error
    if isinstance(result, complex):
        raise NotPolynomial(f"power {power:g} of a negative number")
    return float(result)


def _log_of_number(number: float) -> float:
    """The logarithm of a number, if it is real."""
    if number <= 0:
        raise NotPolynomial("log of a number that is not positive")
    return math.log(number)


def _atom_power(atom: Atom, power: float) -> Atom:
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


def _atom_log(atom: Atom) -> Term:
    """The logarithm of an atom, if it is a term."""
    if atom.site.event_dim == 2:
        if atom.kind != "power" or atom.power != 1 or atom.site.shape[-2:] != (1, 1):
            raise NotPolynomial(f"log of an entry of the matrix {atom.site.name}")
        return Term(1.0, (), (Atom(atom.site, "logdet", 1, atom.where[:-2]),))
    if atom.kind != "power" or atom.site.gaussian:
        raise NotPolynomial(f"log of {'a Gaussian' if atom.site.gaussian else atom.kind}")
    return Term(float(atom.power), (), (Atom(atom.site, "log", 1, atom.where),))


def _is_variable(atom: Atom) -> bool:
    """Whether an atom is a Gaussian variable itself."""
    return atom.kind == "power" and atom.power == 1 and atom.site.gaussian


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

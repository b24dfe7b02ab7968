# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities as sums over the values of the few discrete elements that each one depends on.

Where an element of a log density depends on the elements ``z_1, ..., z_m`` of discrete latents,

    log p = sum_k [z_1 = k_1] ... [z_m = k_m] log p(k_1, ..., k_m),

whatever the program did with them: an index, a comparison, a product. So the recorded program is
run again with the values in the place of the discrete elements, each along a dim of its own in
front, and with everything else still lifted. Where the log density at given values is a polynomial
of the other latents, the sum is one too, and its expectation is exact under a factorised q.

Where the dims of an element stand among those of the log density is known by counting from the
right, as for every broadcast. A program that goes another way (the elements of ``W[:, z]``) is
refused, and so is one that reads several elements: both show when the sum is compared with the
program itself, at values drawn at random.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from .agreement import agrees, agrees_at_values
from .axes import Axis
from .discrete_elements import Element, Refused, at_values, cut, is_expected, place
from .memory import BYTES, available_bytes
from .polynomial import Polynomial, polynomial
from .recorded import LogDensity, density_dtype, doubled, realised
from .tensor import LiftedTensor, lifted_in, program, taken_apart
from .terms import NotPolynomial, Term
from .wrappers import log_density


@dataclass(frozen=True, eq=False)
class Enumeration:
    """A log density as a sum over values of discrete elements.

    :param given: the log density at each joint value. # shape: (K_1, ..., K_m, *log density)
    :param weights: the product of indicators. # shape: that of ``given`` in full
    :param depth: m.
    """

    given: Any
    weights: Polynomial
    depth: int

    def summed(self) -> Polynomial:
        """The sum, where the log density at given values is a polynomial.

        :raises NotPolynomial: if it is none.
        """
        given = self.given
        if isinstance(given, LiftedTensor):
            if given.poly is None:
                raise NotPolynomial(given.reason)
            given = given.poly
        given = given if isinstance(given, Polynomial) else polynomial(given)
        return (self.weights * given).sum(range(self.depth))


def over_values(node: LiftedTensor) -> LiftedTensor:
    """A log density of discrete latents as a sum over their values, where it can be one.

    One that has a polynomial is left as it is. The recorded program is kept in any case.
    """
    if not any(s.is_discrete for s in node.sites) or is_expected(node.poly):
        return node
    try:
        found = _enumeration(node)
        return _summed(node, found)
    except Refused as error:
        return _by_inputs(node, str(error))


def _summed(node: LiftedTensor, found: Enumeration) -> LiftedTensor:
    """The sum as a polynomial; where it is none, the log density with its enumeration.

    :raises Refused: if the sum is not what the program says.
    """
    result = _copy(node, None, "")
    try:
        result.poly = found.summed()
        right = agrees(node, result.poly)
    except NotPolynomial as error:
        result.reason, result.enumeration = str(error), found
        right = agrees_at_values(node, found.weights, found.given)
    if not right:
        names = ", ".join(s.name for s in node.sites if s.is_discrete)
        raise Refused(f"an element of it depends on several elements of {names}")
    return result


def _by_inputs(node: LiftedTensor, reason: str) -> LiftedTensor:
    """A log density whose own inputs are sums over values: it may itself be a sum of them."""
    call = node.call
    if call is None or isinstance(call.function, LogDensity):
        return _copy(node, None, reason)
    summed = {id(n): over_values(n) for n in call.inputs}
    if any(not is_expected(n.poly) for n in summed.values()):
        return _copy(node, None, reason)
    outer = _run(node, summed)
    known = isinstance(outer, LiftedTensor) and is_expected(outer.poly)
    return _copy(node, outer.poly if known else None, "" if known else reason)


def _copy(node: LiftedTensor, poly: Polynomial | None, reason: str) -> LiftedTensor:
    shape, _ = node.kind
    dtype = density_dtype(node)
    own = {"site": node.site, "call": node.call, "output": node.output, "reason": reason}
    return LiftedTensor(shape, dtype, node.device, poly=poly, **own)  # type: ignore[arg-type]


def _enumeration(density: LiftedTensor) -> Enumeration:
    """The log density at every joint value of its discrete elements."""
    axes = tuple(Axis(n) if n != 1 else None for n in density.shape)
    elements: list[Element] = []
    placed = [(node, *place(node, axes, elements)) for node in cut(density)]
    _check_size(density, elements)
    given = {id(node): at_values(poly, pad, node, elements) for node, poly, pad in placed}
    try:
        value = _run(density, given)
    except Exception as error:  # the program's own, at dims that it does not expect
        raise Refused(f"{_named(elements)} by a program that does not broadcast: {error}") from None
    sizes = tuple(e.count for e in elements)
    full = (*sizes, *density.shape)
    if not _fits(tuple(value.shape), full):
        raise Refused(f"{_named(elements)} by a program that does not broadcast")
    dims = (*(e.axis for e in elements), *axes)
    weights = Polynomial(dims, (Term(1.0, (), tuple(e.indicator for e in elements)),))
    return Enumeration(value, weights, len(elements))


def _fits(own: tuple[int, ...], full: tuple[int, ...]) -> bool:
    behind = full[len(full) - len(own) :] if len(own) <= len(full) else ()
    return len(own) <= len(full) and all(a in (1, b) for a, b in zip(own, behind, strict=True))


def _named(elements: Iterable[Element]) -> str:
    names = dict.fromkeys(e.site.name for e in elements)
    return f"it depends on the discrete latents {', '.join(names)}"


def _check_size(density: LiftedTensor, elements: list[Element]) -> None:
    # Constants along values and elements are folded with the rest where other latents are lifted.
    is_constant = all(s.is_discrete for s in density.sites)
    count = prod(e.count for e in elements) * (density.numel() if is_constant else 1)
    free = available_bytes(density.device)
    if free is not None and 3 * BYTES * count > free:
        raise Refused(f"{_named(elements)}, {len(elements)} elements at once: {count} joint values")


def _run(density: LiftedTensor, given: Mapping[int, Any]) -> Any:
    """The recorded program with values in the place of some nodes, all else as it was lifted."""
    done: dict[int, Any] = dict(given)
    calls: dict[int, list[Any]] = {}

    for node in program([density], given=given):
        call = node.call
        if id(node) in done or call is None or not any(id(n) in done for n in call.inputs):
            continue
        if id(call) not in calls:
            args = [_valued(a, done) for a in call.args]
            kwargs = {k: _valued(v, done) for k, v in call.kwargs.items()}
            calls[id(call)] = taken_apart(_called(call.function, args, kwargs))[0]
        done[id(node)] = calls[id(call)][node.output]
    return done[id(density)]


def _valued(item: Any, done: Mapping[int, Any]) -> Any:
    """An argument with what is done in the places of nodes."""
    if isinstance(item, LiftedTensor):
        return done.get(id(item), item)
    if isinstance(item, slice):
        return slice(*(_valued(i, done) for i in (item.start, item.stop, item.step)))
    if isinstance(item, list | tuple) and lifted_in(item):
        return type(item)(_valued(i, done) for i in item)
    return item


def _called(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if not isinstance(function, LogDensity):
        return function(*args, **kwargs)
    wide = any(isinstance(t, Tensor) and t.dtype == torch.float64 for t in args)
    value, *parts = (doubled(a) if wide else a for a in args)
    values = {id(t): v for t, v in zip(function.lifted, parts, strict=True)}
    return log_density(realised(function.fn, values, doubled if wide else None), value)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Expectations under a joint block: a Gaussian z and the precision that scales its covariance.

With a precision tau (NormalGamma) or a variance s2 = 1/tau (NormalInverseGamma), z is normal given
tau with mean m and covariance P^-1/tau, so that ``tau z`` and ``tau z z'`` are mean parameters, and

    E[tau^p z] = m E[tau^p],        E[tau^p z z'] = m m' E[tau^p] + P^-1 E[tau^(p-1)].

With a precision matrix L (NormalWishart) the mean parameters are ``L z`` and ``z'L z``.
"""

from ..families import NormalInverseGamma, NormalWishart
from .axes import Address, Axis, all_axes, same_address
from .blocks import Block
from .plan import Stat
from .statistics import LOCATION, LOG, LOGDET, MEAN, SCALED, SCALED_SECOND, SPREAD
from .terms import Atom, Constant, Exponential, NotPolynomial, Term


def joint_moment(
    block: Block, atoms: list[Atom], term: Term, out: tuple[Axis, ...]
) -> list[tuple[Stat, ...]]:
    """The expectation of a product of a joint block's atoms: a sum of products of statistics.

    :param term: the product that the atoms are of.
    :raises NotPolynomial: if it has no closed form here.
    """
    batch = block.batch_of(atoms[0])
    for atom in atoms[1:]:
        if not all(map(same_address, batch, block.batch_of(atom))):
            raise NotPolynomial(f"a product of different elements of {block.name}")
    scale = [a for a in atoms if a.site is block.scale]
    location = [a for a in atoms if a.site is not block.scale for _ in range(int(a.power))]
    if len(location) > 2:
        raise NotPolynomial(f"degree {len(location)} in {location[0].site.name}")
    if isinstance(block.family, NormalWishart):
        return [_with_matrix(block, scale, location, term, out)]
    return _with_number(block, scale, location)


def _event(block: Block, atom: Atom) -> Address:
    event = block.place(atom)[1]
    assert event is not None
    return event


def _with_number(block: Block, scale: list[Atom], location: list[Atom]) -> list[tuple[Stat, ...]]:
    """Powers of tau (or of s2) times at most two elements of z."""
    batch = block.batch_of((scale or location)[0])
    if any(a.kind != "power" for a in scale):
        if len(scale) > 1 or location or scale[0].kind != "log":
            raise NotPolynomial(f"a product with a logarithm of {block.scale.name}")
        return [(Stat(block, LOG, batch),)]
    power = sum(a.power for a in scale)
    # The power of the variable that makes a precision, and the statistics at another power.
    unit = -1 if isinstance(block.family, NormalInverseGamma) else 1
    events = tuple(_event(block, a) for a in location)
    if location and power == unit:
        which = SCALED if len(location) == 1 else SCALED_SECOND
        return [(Stat(block, which, (*batch, *events)),)]
    means = tuple(Stat(block, LOCATION, (*batch, e)) for e in events)
    products = [(*_power(block, power, batch), *means)]
    if len(location) == 2:
        spread = Stat(block, SPREAD, (*batch, *events))
        products.append((*_power(block, power - unit, batch), spread))
    return products


def _power(block: Block, power: float, batch: tuple[Address, ...]) -> tuple[Stat, ...]:
    return (Stat(block, ("power", power), batch),) if power else ()


def _with_matrix(
    block: Block, scale: list[Atom], location: list[Atom], term: Term, out: tuple[Axis, ...]
) -> tuple[Stat, ...]:
    """The mean parameters log|L|, L, L z and z'L z."""
    if len(scale) != 1:
        raise NotPolynomial(f"{block.name} in a product that its joint law has no moment for")
    (matrix,) = scale
    batch = block.batch_of(matrix)
    if matrix.kind == "logdet" and not location:
        return (Stat(block, LOGDET, batch),)
    if matrix.kind != "power" or matrix.power != 1:
        raise NotPolynomial(f"power {matrix.power:g} of the matrix {block.scale.name}")
    entries = list(matrix.where[-2:])
    if not location:
        return (Stat(block, MEAN, (*batch, *entries)),)
    for atom in location:
        event = _event(block, atom)
        single = block.location_size == 1  # where no axis is left to sum along
        shared = [
            e
            for e in entries
            if single or (e is event and _is_summed_here(event, term, out, matrix))
        ]
        if not shared:
            raise NotPolynomial(f"{block.name} in a product that its joint law has no moment for")
        entries.remove(shared[0])
    which = SCALED if len(location) == 1 else SCALED_SECOND
    return (Stat(block, which, (*batch, *entries)),)


def _is_summed_here(address: Address, term: Term, out: tuple[Axis, ...], matrix: Atom) -> bool:
    """Whether an axis of the matrix meets one element of z and nothing else of the product."""
    if not isinstance(address, Axis) or address in out:
        return False
    factors: tuple[Constant | Atom | Exponential, ...] = (
        *term.constants,
        *term.atoms,
        *term.exponentials,
    )
    runs = [f for f in factors if address in all_axes(f.where)]
    return len(runs) == 2 and any(f is matrix for f in runs)

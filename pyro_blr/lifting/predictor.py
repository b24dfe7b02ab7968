# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Finding the one or two Gaussian scalars per element that a log density depends on.

The recorded program of a log density is walked from its result towards the latents, through
elementwise operations only, until the values are affine in Gaussian latents. These values are a
*cut* of the program; an affine value that was computed element by element from others may give way
to them, which makes the next cut. Where a cut has one distinct affine expression f, the density is
elementwise a function of the Gaussian scalar f, and quadrature on the marginal mean and variance of
f is its expectation; where it has two, f and g, quadrature is on the joint law of (f, g). The cut
with the fewest is taken: ``z`` and ``2 z + 1`` are one, ``f``, ``g`` and ``f + g`` two.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..shapes import broadcast_shapes
from .commuting import commuted
from .elementwise import LINEAR_TAIL, functions_of, is_affine, is_elementwise, name_of, rearranges
from .keys import key_of
from .tensor import LiftedTensor, program

#: The most Gaussian scalars an element that quadrature is built for.
MOST = 2

Nodes = tuple[LiftedTensor, ...]


@dataclass(frozen=True, eq=False)
class Predictor:
    """The one or two Gaussian scalars of an elementwise log density.

    :param density: the node of the elementwise log density.
    :param program: a node of the same value, computed from the scalars; the density itself, or one
        whose rearrangements were moved in front.
    :param scalars: for each scalar the nodes that it is (equal as polynomials).
    :param rearranges: whether the program from the scalars to the density moves elements.
    :param aligned: whether each element of the density depends on elements of both scalars that
        broadcast against each other.
    """

    density: LiftedTensor
    program: LiftedTensor
    scalars: tuple[Nodes, ...]
    rearranges: bool
    aligned: bool = True

    @property
    def values(self) -> Nodes:
        """The scalars themselves."""
        return tuple(nodes[0] for nodes in self.scalars)


def find_predictor(density: LiftedTensor) -> Predictor | str:
    """The predictor of a log density, or the reason why there is none."""
    while density.call is not None and _is_tail(density):
        (density,) = density.call.inputs
    found = _search(density, density)
    if isinstance(found, _Scattered) or (
        isinstance(found, Predictor) and found.rearranges and len(found.scalars) > 1
    ):
        program = commuted(density)
        again = found if program is None else _search(density, program)
        found = again if isinstance(again, Predictor) else found
    return found


class _Scattered(str):
    """The reason where an element depends on several elements of one expression."""


def _is_tail(node: LiftedTensor) -> bool:
    assert node.call is not None
    return name_of(node) in LINEAR_TAIL and len(node.call.inputs) == 1 and not is_affine(node)


def _search(density: LiftedTensor, program: LiftedTensor) -> Predictor | str:
    """The predictor of the cut with the fewest scalars, each of which one element depends on."""
    frontier = _frontier(program)
    if frontier is None:
        return _without_rule(density, "several elements")
    cuts = [cut for cut in _cuts(frontier) if len(cut) <= MOST]
    if not cuts:
        return _without_rule(density, f"more than {MOST} Gaussian scalars per element")
    found: Predictor | str = ""
    for cut in sorted(cuts, key=len):
        found = _found(density, program, cut)
        if isinstance(found, Predictor):
            return found
    return found


def _without_rule(density: LiftedTensor, what: str) -> str:
    """The reason where no rule serves: the functions, and what they depend on together."""
    functions = functions_of(density)[:LISTED]
    if not functions:
        return f"it depends on {what}"
    return f"{', '.join(f'`{f}`' for f in functions)} of {what}"


#: Functions that a reason lists, the outermost first.
LISTED = 3


def _frontier(density: LiftedTensor) -> list[LiftedTensor] | None:
    """The nearest affine nodes on every path, through elementwise operations; None if another
    operation, or a latent that is not Gaussian, lies on one.
    """
    frontier: dict[int, LiftedTensor] = {}
    seen: set[int] = set()
    stack = [density]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if is_affine(node):
            frontier[id(node)] = node
        elif node.call is None or not is_elementwise(node):
            return None
        else:
            stack.extend(node.call.inputs)
    return list(frontier.values())


def _cuts(frontier: list[LiftedTensor]) -> Iterator[tuple[Nodes, ...]]:
    """The cuts of a program, the nearest first, up to one with a single scalar.

    The node recorded last gives way first, so that every cut along the program's order is met.
    """
    keys: dict[int, object] = {}
    while True:
        scalars: dict[object, list[LiftedTensor]] = {}
        for node in frontier:
            key = keys[id(node)] if id(node) in keys else keys.setdefault(id(node), _key(node))
            scalars.setdefault(key, []).append(node)
        yield tuple(tuple(nodes) for nodes in scalars.values())
        last = max(filter(_gives_way, frontier), key=_order, default=None)
        if len(scalars) == 1 or last is None:
            return
        assert last.call is not None
        rest = (n for n in frontier if n is not last)
        frontier = list({id(n): n for n in (*rest, *last.call.inputs)}.values())


def _key(node: LiftedTensor) -> object:
    assert node.poly is not None
    structure, free = key_of(node.poly)
    return structure, tuple(id(t) for t in free)


def _order(node: LiftedTensor) -> int:
    return -1 if node.call is None else node.call.order


def _gives_way(node: LiftedTensor) -> bool:
    """Whether an affine node was computed element by element from affine nodes."""
    call = node.call
    return call is not None and is_elementwise(node) and all(is_affine(n) for n in call.inputs)


def _found(
    density: LiftedTensor, program: LiftedTensor, scalars: tuple[Nodes, ...]
) -> Predictor | str:
    """The predictor, if every element of the density depends on one element of each scalar."""
    between = _between(program, [n for nodes in scalars for n in nodes])
    if not any(rearranges(n) for n in between):
        return Predictor(density, program, scalars, False)
    numbers = [_elements(program, nodes, between) for nodes in scalars]
    if any(n is None for n in numbers):
        return _Scattered("it depends on several elements of one Gaussian expression")
    first, *others = ((nodes[0].shape, n) for nodes, n in zip(scalars, numbers, strict=True))
    aligned = all(first[0] == shape and _agree(first[1], n) for shape, n in others)
    return Predictor(density, program, scalars, True, aligned)


def _agree(left: Tensor | None, right: Tensor | None) -> bool:
    assert left is not None
    assert right is not None
    return not bool(((left != right) & (left >= 0) & (right >= 0)).any())


def _between(density: LiftedTensor, frontier: list[LiftedTensor]) -> list[LiftedTensor]:
    """The nodes from the frontier (left out) to the density, inputs first."""
    stop = {id(n) for n in frontier}
    return [n for n in program([density], given=stop) if id(n) not in stop and n.call is not None]


def _elements(density: LiftedTensor, frontier: Nodes, between: list[LiftedTensor]) -> Tensor | None:
    """Which element of a scalar each element of the density depends on; None if on several.

    The program is run on element numbers: ``p[0] * p[1]`` meets two, ``p[group]`` one. -1 numbers
    what depends on no element of the scalar.
    """
    numbers = {id(n): torch.arange(n.numel(), device=n.device).reshape(n.shape) for n in frontier}
    for node in between:
        assert node.call is not None
        if rearranges(node):
            numbers[id(node)] = _rearranged(node, numbers)
            continue
        merged = torch.full((), -1, device=density.device)
        for own in _numbers(node.call.inputs, numbers):
            merged, own = torch.broadcast_tensors(merged, own)
            if bool(((merged != own) & (merged >= 0) & (own >= 0)).any()):
                return None
            merged = torch.maximum(merged, own)
        numbers[id(node)] = merged.expand(broadcast_shapes(merged.shape, node.shape))
    return numbers[id(density)]


def _numbers(nodes: Iterable[LiftedTensor], numbers: dict[int, Tensor]) -> Iterator[Tensor]:
    for node in nodes:
        if id(node) not in numbers:
            numbers[id(node)] = torch.full(node.shape, -1, device=node.device)
        yield numbers[id(node)]


def _rearranged(node: LiftedTensor, numbers: dict[int, Tensor]) -> Tensor:
    call = node.call
    assert call is not None
    joins = name_of(node) in ("stack", "cat", "broadcast_tensors")

    def number(value: Any) -> Any:
        if isinstance(value, LiftedTensor):
            return next(_numbers([value], numbers))
        if isinstance(value, Tensor) and joins:
            return torch.full_like(value, -1, dtype=torch.long)
        if isinstance(value, list | tuple):
            return type(value)(number(v) for v in value)
        return value

    kwargs = {k: number(v) for k, v in call.kwargs.items()}
    outputs = pytree.tree_leaves(call.function(*(number(a) for a in call.args), **kwargs))
    return outputs[node.output]  # type: ignore[no-any-return]

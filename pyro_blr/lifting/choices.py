# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Sums whose terms exclude each other: ``torch.where``, ``torch.stack([a, b])[group]``.

Where exactly one of the 0-1 constants ``m_k`` is 1 in each element, any function goes inside,

    f(sum_k m_k z_k) = sum_k m_k f(z_k),

so that powers and logarithms of a choice among latents stay in the algebra.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from . import constants, host
from .axes import Axis, Gather, take
from .contraction import Operand, contract, together
from .terms import Constant, Term

#: The most pieces of a choice; each costs a pass over the rows. More are an indexed vector latent.
MAX_PIECES = 32

Piece = tuple[tuple[Constant, ...], Term]


def choice(
    terms: tuple[Term, ...], out: tuple[Axis, ...], elsewhere: float = 1.0
) -> list[Piece] | None:
    """The terms as masks and what they choose, or None if they do not exclude each other.

    :param elsewhere: what is chosen is this in the places of other pieces, so that a function of it
        is finite there.
    """
    if not 1 < len(terms) <= MAX_PIECES or any(not set(t.axes) <= set(out) for t in terms):
        return None
    split = [split_masks(term) for term in terms]
    if not all(masks for masks, _ in split):
        return None
    shown = [_product(masks, out) for masks, _ in split]
    if not constants.memo(_choose_one, tuple(t for t, _ in shown), tuple(_places(shown, out))):
        return None
    return [
        (masks, _filled(rest, mask, out, elsewhere))
        for (masks, rest), mask in zip(split, shown, strict=True)
    ]


def indexed(term: Term, out: tuple[Axis, ...]) -> Term:
    """A product whose sums over one-hot constants, ``sum_k one_hot[n, k] z[k]``, are indices."""
    for constant in term.constants:
        for place, axis in enumerate(constant.where):
            others = constant.where[:place] + constant.where[place + 1 :]
            known = all(isinstance(a, Axis) for a in others) and not constant.tensor.requires_grad
            if isinstance(axis, Gather) or axis in out or not known:
                continue
            if constants.memo(_is_one_hot, (constant.tensor,), place):
                index = constants.memo(_place_of_one, (constant.tensor,), place)
                rest = tuple(c for c in term.constants if c is not constant)
                short = Term(term.number, rest, term.atoms, term.exponentials)
                return indexed(short.renamed({axis: Gather(index, others)}), out)  # type: ignore[arg-type]
    return term


def _is_one_hot(tensor: Tensor, dim: int) -> bool:
    return _has_zeros_and_ones(tensor) and host.truth((tensor.sum(dim) == 1).all())


def _place_of_one(tensor: Tensor, dim: int) -> Tensor:
    return tensor.double().argmax(dim)


def split_masks(term: Term) -> tuple[tuple[Constant, ...], Term]:
    """The 0-1 constants of a term, and the rest."""
    masks = tuple(c for c in term.constants if _is_mask(c.tensor))
    rest = tuple(c for c in term.constants if not any(c is m for m in masks))
    return masks, Term(term.number, rest, term.atoms, term.exponentials)


def has_zeros(mask: Constant) -> bool:
    """Whether a 0-1 constant is 0 anywhere."""
    return bool(constants.memo(_has_zeros, (mask.tensor,)))


def _has_zeros(tensor: Tensor) -> bool:
    return host.truth((tensor == 0).any())


def _is_mask(tensor: Tensor) -> bool:
    return not tensor.requires_grad and bool(constants.memo(_has_zeros_and_ones, (tensor,)))


def _has_zeros_and_ones(tensor: Tensor) -> bool:
    return host.readable(tensor) and host.truth(((tensor == 0) | (tensor == 1)).all())


def _product(factors: tuple[Constant, ...], out: tuple[Axis, ...]) -> Operand:
    """A product of constants along those of the result's axes that it runs along."""
    operands = together([take(c.tensor.double(), c.where) for c in factors])
    present = {a for _, axes in operands for a in axes}
    axes = tuple(a for a in out if a in present)
    return contract(operands, axes), axes


def shown_masks(masks: tuple[Constant, ...], dims: tuple[Axis | None, ...]) -> Tensor:
    """The product of masks as a tensor that broadcasts to the dims."""
    mask, axes = _product(masks, tuple(a for a in dims if a))
    return mask.reshape([a.size if a in axes else 1 for a in dims])


def _places(shown: list[Operand], out: tuple[Axis, ...]) -> Iterator[tuple[int, ...]]:
    for _, axes in shown:
        yield tuple(a.size if a in axes else 1 for a in out)


def _choose_one(*masks_and_shapes: object) -> bool:
    """Whether the masks, in their broadcast shapes, sum to 1 everywhere."""
    *masks, shapes = masks_and_shapes
    assert isinstance(shapes, tuple)
    spread = [m.reshape(s) for m, s in zip(masks, shapes, strict=True)]  # type: ignore[attr-defined]
    total = torch.stack(torch.broadcast_tensors(*spread)).sum(0)
    return host.truth((total == 1).all())


def _filled(rest: Term, mask: Operand, out: tuple[Axis, ...], elsewhere: float) -> Term:
    """The chosen term with its constants replaced where it is not chosen."""
    if not rest.constants or any(c.tensor.requires_grad for c in rest.constants):
        return rest
    own, axes = _product(rest.constants, out)
    both = tuple(a for a in out if a in axes or a in mask[1])
    shapes = tuple(tuple(a.size if a in x else 1 for a in both) for x in (axes, mask[1]))
    value = constants.memo(_replaced, (own, mask[0]), (shapes, elsewhere))
    return Term(rest.number, (Constant(value, both),), rest.atoms, rest.exponentials)


def _replaced(own: Tensor, mask: Tensor, how: tuple[tuple[tuple[int, ...], ...], float]) -> Tensor:
    shapes, elsewhere = how
    own, mask = (t.reshape(s) for t, s in zip((own, mask), shapes, strict=True))
    return torch.where(mask.to(own.device) == 1, own, elsewhere).contiguous()

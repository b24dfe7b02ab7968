# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Some of the data with copies of q for each: their messages and values."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..families import Natural
from ..lifting.blocks import Block
from ..lifting.moments import Moments, differentiated
from ..lifting.points import statistics_of
from ..lifting.statistics import sufficient_statistics, sum_of_coefficients
from .copies import Copies
from .terms import CopiedTerm

Naturals = Mapping[Block, Natural]
Method = TypeVar("Method", bound=Callable[..., Any])


def with_gradients(method: Method) -> Method:
    """A method that takes messages: gradients, also where the caller has switched them off."""

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            return method(*args, **kwargs)

    return cast(Method, wrapped)


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the data, with copies of q for each.

    :param copies: their copies of the latents.
    :param terms: their terms.
    :param expanded: the moments of every copy at the optimum with all data.
    """

    copies: Copies
    terms: Sequence[CopiedTerm]
    expanded: Mapping[Block, Moments]

    def messages(self, moments: Mapping[Block, Moments] | None = None) -> dict[Block, Natural]:
        """The message of each datum at its copy of q, scaled. # shape of each: (C, *natural)

        :param moments: of the copies; those at the optimum with all data if None.
        """
        moments = self.expanded if moments is None else moments
        return messages_of(self.terms, self.copies, moments, self.copies.blocks)

    def values(self, moments: Mapping[Block, Moments]) -> Tensor:
        """The expected log densities of the data, scaled. # shape: (C,)"""
        each = [t.values(moments)[: self.copies.count] for t in self.terms]
        return torch.stack(each).sum(0).detach()

    def moments(self, naturals: Naturals) -> dict[Block, Moments]:
        """The moments of the copies at natural parameters of their own. # shape: (C, *natural)"""
        found = {}
        for block, copied in self.copies.blocks.items():
            natural = naturals[block]
            if self.copies.count == 1:  # whose axis has two elements
                natural = tuple(n.expand(2, *n.shape[1:]) for n in natural)
            found[copied] = statistics_of(copied, tuple(n.detach() for n in natural))
        held = {b: m for b, m in self.expanded.items() if b not in found}
        return {**held, **found}


def messages_of(
    terms: Sequence[CopiedTerm],
    copies: Copies,
    moments: Mapping[Block, Moments],
    blocks: Iterable[Block],
) -> dict[Block, Natural]:
    """The messages of data to blocks, each at its copy of q. # shape of each: (C, *natural)

    Where every term is linear in a block they are its coefficients; else they are differentiated.
    Graphs are kept, since statistics are, and gradients must be on all along: a statistic that was
    made without serves no derivative later.
    """
    blocks, count = tuple(blocks), copies.count
    found: dict[Block, Natural] = {}
    for block in blocks:
        own = _coefficients(terms, copies.blocks[block], moments)
        if own is not None:
            found[block] = own
    left = [b for b in blocks if b not in found]
    if left:
        found |= _differentiated(terms, copies, moments, left)
    return {b: tuple(t[:count].detach() for t in found[b]) for b in blocks}


def _coefficients(
    terms: Sequence[CopiedTerm], block: Block, moments: Mapping[Block, Moments]
) -> Natural | None:
    total = sum_of_coefficients(term.coefficients(moments, block) for term in terms)
    if total is None:
        return None
    return moments[block].of_coefficients([total.get(s) for s in sufficient_statistics(block)])


def _differentiated(
    terms: Sequence[CopiedTerm],
    copies: Copies,
    moments: Mapping[Block, Moments],
    blocks: Sequence[Block],
) -> dict[Block, Natural]:
    total = torch.stack([t.values(moments)[: copies.count].sum() for t in terms]).sum()
    own = [moments[copies.blocks[b]] for b in blocks]
    return dict(zip(blocks, differentiated(total, own), strict=True))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Discrete latents summed out of log factors, by Pyro's tensor variable elimination."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import opt_einsum
import torch
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from torch import Tensor

from .. import errors
from ..lifting.memory import BYTES, available_bytes
from .enumeration import Dims
from .log_einsum import StableLogRing


@dataclass(frozen=True, eq=False)
class Indexed:
    """The dims of one log factor by symbols: plates, and discrete latents.

    :param ordinal: the symbols of the plates that the factor is in.
    :param symbols: the symbol of each dim, counted from the right.
    """

    ordinal: frozenset[str]
    symbols: Mapping[int, str]


class Elimination:
    """``log sum_z exp(sum of log factors)``: plates multiply, discrete latents add up.

    The same function serves expected log factors and log factors at draws of q. It is not
    elementwise in any of them.

    :param dims: what the dims of each factor are.
    :param shapes: the shape of each.
    :param scale: what the result is multiplied by, along plates where it is a tensor.
    :raises MemoryLimitError: if a table of joint values would not fit.
    """

    __name__ = "sum_product"
    elementwise = False

    def __init__(
        self, dims: Sequence[Dims], shapes: Sequence[tuple[int, ...]], scale: Any, names: str
    ) -> None:
        self._symbols: dict[Any, str] = {}
        self.factors = [self._indexed(d) for d in dims]
        self.sums = {self._symbol(which) for d in dims for which in d.choices.values()}
        self._check_memory(shapes, names)
        plates = {k: v for f in self.factors for k, v in f.symbols.items() if v not in self.sums}
        is_tensor = isinstance(scale, Tensor) and scale.dim() > 0
        self.scale: Any = packed.pack(scale.double(), plates) if is_tensor else float(scale)

    def _symbol(self, what: str | int) -> str:
        return self._symbols.setdefault(what, opt_einsum.get_symbol(len(self._symbols)))

    def _indexed(self, dims: Dims) -> Indexed:
        plates = {dim: self._symbol(name) for dim, name in dims.plates.items()}
        choices = {dim: self._symbol(which) for dim, which in dims.choices.items()}
        return Indexed(frozenset(plates.values()), {**plates, **choices})

    def _check_memory(self, shapes: Sequence[tuple[int, ...]], names: str) -> None:
        """Ask for the largest table before it is made; plates are not summed out before the end."""
        kept = [
            [(i - len(shape), size) for i, size in enumerate(shape) if size > 1] for shape in shapes
        ]
        inputs = [
            [indexed.symbols[dim] for dim, _ in own]
            for own, indexed in zip(kept, self.factors, strict=True)
        ]
        plates = "".join(dict.fromkeys(s for own in inputs for s in own if s not in self.sums))
        equation = ",".join(map("".join, inputs)) + "->" + plates
        needed = BYTES * _largest_table(equation, *(tuple(n for _, n in own) for own in kept))
        free = available_bytes(torch.device("cpu"))
        if free is not None and needed > free:
            raise errors.MemoryLimitError(
                f"summing out {names} makes a table of {needed / 1e9:.3g} GB, and "
                f"{free / 1e9:.3g} GB of memory are free: too many of these latents meet in one "
                "factor. Mend: vectorise a Python loop over a plate, `with pyro.plate(...)`, so "
                "that each element is summed out alone; loop over pyro.markov(...) where each "
                "depends on the one before; or give each its own probabilities, "
                'BLR(..., discrete="factorised").'
            )

    def __call__(self, *log_factors: Tensor) -> Tensor:
        """The log of the sum, in nats. # shape: ()"""
        scaled = [packed.mul(t, self.scale) for t in self.terms(*log_factors)]
        return torch.stack([t.sum() for t in scaled]).sum()

    def _plates(self) -> list[str]:
        return [repr(what) for what in self._symbols if isinstance(what, str)]

    def plates_of(self, term: Tensor) -> list[str]:
        """The plate of each dim of one of the terms."""
        names = {symbol: what for what, symbol in self._symbols.items() if isinstance(what, str)}
        return [names[symbol] for symbol in term._pyro_dims]  # type: ignore[attr-defined]

    def terms(self, *log_factors: Tensor) -> list[Tensor]:
        """The logs of the sums of each independent part, along its plates."""
        tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        for tensor, indexed in zip(log_factors, self.factors, strict=True):
            term = packed.pack(tensor, indexed.symbols)
            tree.setdefault(indexed.ordinal, []).append(term)
        try:
            found = contract_tensor_tree(tree, set(self.sums), ring=StableLogRing())
        except NotImplementedError as error:  # Pyro's, on plates of which none is in the other
            raise errors.DiscreteLatentError(
                f"discrete latents of plates that cross ({', '.join(self._plates())}) meet in one "
                "site, so that summing them out takes a time that grows exponentially with the "
                "size of a plate. Mend: write one of these plates as a loop, `for i in "
                "pyro.plate(...)`, where it is short."
            ) from error
        return [term for terms in found.values() for term in terms]


@lru_cache(maxsize=512)
def _largest_table(equation: str, *shapes: tuple[int, ...]) -> int:
    """The numbers of the largest table that a sum of products makes; found once for its shapes."""
    _, path = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize="auto")
    return max(int(path.largest_intermediate), *map(prod, shapes))

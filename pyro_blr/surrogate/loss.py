# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The loss itself, ``-log p(x, z)``, at values of the latents: the recorded model, run again."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.draws import Draws
from ..energy.eliminated import EliminatedFactor
from ..energy.energy import Energy
from ..energy.factors import ConstantFactor, Summed
from ..lifting.tensor import LiftedTensor, program, replay


class Loss:
    """``-log p(x, z)`` in nats; of a latent with a transform that of the variable q describes.

    Discrete latents that q does not hold are summed out.

    :param energy: of a traced call.
    """

    def __init__(self, energy: Energy) -> None:
        sites = {s.name: s for s in energy.traced.sites}
        traced = energy.traced
        self._points = {
            n: lifted.variable(traced.parameters[n].value).clone()
            for n, lifted in traced.lifted.items()
        }
        self._terms: list[Summed] = []
        self._constant = 0.0
        for factor in energy.factors:
            if isinstance(factor, ConstantFactor):
                self._constant += float(factor.value)
                continue
            if isinstance(factor, EliminatedFactor):
                factor = factor.at_draws("")
            summed = getattr(factor, "summed", None)
            if summed is None:
                site = sites[factor.name]
                summed = Summed(site.log_prob, site.mask, site.scale)
            self._terms.append(summed)
        self._held = _copies(self._nodes, [p.leaf for p in traced.parameters.values()])

    @property
    def numbers(self) -> int:
        """The numbers that the programs hold for one value of the latents."""
        return sum(math.prod(node.shape) for node in program(self._nodes))

    @property
    def _nodes(self) -> Sequence[LiftedTensor]:
        return [term.node for term in self._terms]

    def at(self, variables: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """The loss at values of the variables of all latents.

        :param variables: # shape of each: (values, *variable)
        :return: # shape: (values,)
        """

        def one(variables: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            every = {**self._points, **variables}
            known = {s: every[s.name] for node in self._nodes for s in node.sites}
            results = replay(list(self._nodes), {**known, **self._held})
            sums = [term(r)[0].double() for term, r in zip(self._terms, results, strict=True)]
            return (torch.stack(sums).sum(),)

        with torch.no_grad():
            (total,) = draws.mapped(one, dict(variables), numbers=self.numbers)
        return -(total + self._constant)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Loss":
        return self  # nothing in it changes

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # Programs of any functions, closures among them, which a pickle need not be able to hold.
        return NoLoss, ()


def _copies(nodes: Sequence[LiftedTensor], leaves: Sequence[Tensor]) -> dict[Any, Tensor]:
    """Copies of what programs hold of parameters, by ``id``: later steps write these in place."""
    own = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    constants = (
        t
        for node in program(nodes)
        if node.call is not None
        for t in node.call.tensors
        if not isinstance(t, LiftedTensor)
    )
    return {id(t): t.detach().clone() for t in constants if _storage(t) in own}


def _storage(constant: Tensor) -> int:
    """Where the numbers of a constant lie; of a sparse one those that it has."""
    if constant.layout != torch.strided:
        is_coo = constant.layout == torch.sparse_coo
        constant = constant._values() if is_coo else constant.values()
    return constant.untyped_storage().data_ptr()


class NoLoss:
    """In the place of the loss of a surrogate that came from a pickle."""

    def at(self, variables: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """There is none.

        :raises ArgumentError: always.
        """
        raise errors.ArgumentError(
            "this surrogate came from a pickle, without the program of the model that its loss "
            "runs. Mend: blr.surrogate(*args), at the same state of the guide."
        )

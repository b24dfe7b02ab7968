# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How the parameters of a hand-written guide and the natural parameters of a site hang together."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from ...energy.explanation import ParameterExplanation
from ...energy.parameters import Parameter
from ...families import ExponentialFamily, Natural
from ..natural_param import NaturalParam
from .run import GuideRun
from .view import exactly


class ExactMap(ABC):
    """A map that has every member of the family in its image: natural parameters are written."""

    @abstractmethod
    def write(self, natural: Natural) -> None:
        """Set the guide's parameters from natural parameters of the distribution's shapes."""

    @abstractmethod
    def explain(self) -> dict[str, ParameterExplanation]:
        """How the parameters move."""


@dataclass(frozen=True, eq=False)
class ArgumentMap(ExactMap):
    """The parameters are the distribution's own arguments, such as ``Beta(a, b)``."""

    family: ExponentialFamily
    parameters: Mapping[str, Parameter]

    def write(self, natural: Natural) -> None:
        law = self.family.distribution(natural)
        for argument, parameter in self.parameters.items():
            value = getattr(law, argument)
            parameter.write(value.reshape(parameter.value.shape))

    def explain(self) -> dict[str, ParameterExplanation]:
        return {
            p.name: exactly(p.name, f"it is the {argument} of a {self.family.name}")
            for argument, p in self.parameters.items()
        }


@dataclass(frozen=True, eq=False)
class NaturalMap(ExactMap):
    """The parameters are natural ones, from ``natural_param``."""

    held: NaturalParam

    def write(self, natural: Natural) -> None:
        for leaf, value in zip(self.held.leaves, natural, strict=True):
            leaf.copy_(value.reshape(leaf.shape))

    def explain(self) -> dict[str, ParameterExplanation]:
        names = [f"{self.held.name}.natural_{k}" for k in range(len(self.held.leaves))]
        return {n: exactly(n, "it is one of them") for n in names}


def exact_map(
    run: GuideRun, name: str, family: ExponentialFamily, natural: Natural
) -> ExactMap | None:
    """The exact map of a site, or None where there is none.

    :param natural: natural parameters of the site's distribution, with their graph.
    """
    for held in run.naturals:
        if held.family == family and _is_identity(held.leaves, natural):
            return NaturalMap(held)
    law = family.distribution(tuple(n.detach() for n in natural))
    given = run.arguments.get(name, {})
    parameters = {argument: run.parameter_of(value) for argument, value in given.items()}
    found = {a: p for a, p in parameters.items() if p is not None and _holds(law, a, p)}
    distinct = {id(p.leaf) for p in found.values()}
    if not found or not len(found) == len(given) == len(distinct):
        return None
    return ArgumentMap(family, found)


def _is_identity(leaves: Natural, natural: Natural) -> bool:
    """Whether natural parameters are the leaves: of the same values, and the Jacobian is 1."""
    if [n.numel() for n in natural] != [leaf.numel() for leaf in leaves]:
        return False
    if not all(n.requires_grad for n in natural):
        return False
    probe = [torch.linspace(0.5, 1.5, n.numel()).reshape(n.shape).to(n) for n in natural]
    probe = [0.5 * (p + p.mT) if _is_square(p) else p for p in probe]
    pulled = torch.autograd.grad(natural, leaves, probe, retain_graph=True, allow_unused=True)
    close = [
        a is not None and torch.allclose(a.reshape(b.shape).to(b), b, rtol=1e-3, atol=1e-5)
        for pair in (
            zip(leaves, natural, strict=True),
            zip([_symmetric(p) for p in pulled], probe, strict=True),
        )
        for a, b in pair
    ]
    return all(close)


def _is_square(value: Tensor) -> bool:
    return value.dim() > 1 and value.shape[-1] == value.shape[-2]


def _symmetric(value: Tensor | None) -> Tensor | None:
    if value is None or not _is_square(value):
        return value
    return 0.5 * (value + value.mT)


def _holds(law: Any, argument: str, parameter: Parameter) -> bool:
    """Whether a parameter can hold each value of an argument, element by element."""
    value = getattr(law, argument, None)
    if not isinstance(value, Tensor) or value.numel() != parameter.value.numel():
        return False
    wanted = type(law).arg_constraints.get(argument)
    own = parameter.constraint
    while isinstance(own, constraints.independent):
        own = own.base_constraint
    while isinstance(wanted, constraints.independent):
        wanted = wanted.base_constraint
    if own in (constraints.real, constraints.real_vector):
        return True
    low = getattr(own, "lower_bound", None)
    if low is not None and getattr(own, "upper_bound", None) is None:
        return bool(low == 0) and getattr(wanted, "lower_bound", None) == 0
    return wanted is not None and isinstance(own, type(wanted))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a run of the model leaves of a ``pyro.param``, and how one is lifted as a latent is."""

import math
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints, transform_to

from ..lifting.tensor import LiftedTensor
from ..lifting.terms import LatentSite


@dataclass(frozen=True, eq=False)
class Parameter:
    """A ``pyro.param`` as one run of the model met it.

    :param leaf: the unconstrained tensor in the param store.
    :param value: the constrained one at that run, detached.
    :param constraint: what lies between them.
    """

    name: str
    leaf: Tensor
    value: Tensor
    constraint: Any

    @property
    def now(self) -> Tensor:
        """The constrained value as it is now, detached."""
        value: Tensor = transform_to(self.constraint)(self.leaf.detach())
        return value

    @property
    def is_free(self) -> bool:
        """Whether it may be moved."""
        return self.leaf.requires_grad

    def write(self, value: Tensor) -> None:
        """Set the constrained value, in place: whoever holds the leaf sees it."""
        with torch.no_grad():
            unconstrained = transform_to(self.constraint).inv(value.to(self.leaf.dtype))
            self.leaf.copy_(unconstrained)


@dataclass(frozen=True, eq=False)
class LiftedParameter:
    """A parameter that is given to the model as a lifted tensor.

    :param site: the variable that it is a function of, as the algebra sees it.
    :param kind: ``"real"``, ``"positive"``, ``"proportion"`` or ``"simplex"``, the support of that
        variable; or ``"log"``, a real parameter as the logarithm of a positive variable, for one
        that enters through ``exp``.
    """

    site: LatentSite
    kind: str

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self.site.name

    def lift(self, parameter: Parameter) -> LiftedTensor:
        """The tensor that the model gets in the place of the parameter's value."""
        value = parameter.value
        variable = LiftedTensor.of_site(self.site, value.dtype, value.device)
        lifted: Any = variable.log() if self.kind == "log" else variable
        # A subsampled plate asks for the leaf of a parameter of which it takes rows.
        lifted.unconstrained = weakref.ref(parameter.leaf)
        return lifted  # type: ignore[no-any-return]

    def variable(self, value: Tensor) -> Tensor:
        """The variable from the parameter's value, in float64."""
        value = value.detach().double()
        return value.exp() if self.kind == "log" else value

    def value(self, variable: Tensor) -> Tensor:
        """The parameter's value from the variable."""
        return variable.log() if self.kind == "log" else variable


def lifted_forms(parameter: Parameter) -> tuple[LiftedParameter, ...]:
    """The variables that a parameter may be lifted as, by its constraint; none for another."""
    base = parameter.constraint
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    shape = tuple(parameter.value.shape)

    def form(kind: str) -> LiftedParameter:
        event_dim = 1 if kind == "simplex" else 0
        return LiftedParameter(LatentSite(parameter.name, shape, event_dim, kind == "real"), kind)

    if base in (constraints.real, constraints.real_vector):
        return form("real"), form("log")
    if base is constraints.simplex:
        return (form("simplex"),)
    bounds = getattr(base, "lower_bound", None), getattr(base, "upper_bound", math.inf)
    if base.is_discrete or bounds not in ((0, math.inf), (0, 1)):
        return ()
    return (form("positive" if bounds[1] == math.inf else "proportion"),)

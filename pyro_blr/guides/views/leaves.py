# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The parameters of a user's guide: read as they are now, written in place."""

from operator import attrgetter

import torch
from pyro.distributions import constraints
from pyro.nn.module import PyroModule
from torch import Tensor

from ...energy.parameters import Parameter
from ..leaf import leaf_of


def parameter_of(module: PyroModule, path: str) -> Parameter:
    """A parameter of a guide that is a module, as its own code would read it.

    It is found by its attribute and not by the param store, which stays empty under Pyro's setting
    ``module_local_params``.

    :param path: the attribute, dots included: ``"locs.weight"``.
    """
    owner_path, _, name = path.rpartition(".")
    with module._pyro_context:
        owner = attrgetter(owner_path)(module) if owner_path else module
        value = getattr(owner, name)
        constraint = owner._pyro_params.get(name, (constraints.real,))[0]
        return Parameter(owner._pyro_get_fullname(name), leaf_of(value), value.detach(), constraint)


def symmetric_inverse(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of a positive definite matrix, and the Cholesky factor of that inverse."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return inverse, torch.linalg.cholesky(inverse)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The names of Pyro that are not in its public interface, in one place."""

from typing import Any

import pyro
from pyro.distributions import constraints
from pyro.infer.autoguide.guides import prototype_hide_fn
from pyro.infer.autoguide.initialization import InitMessenger, init_to_median
from pyro.ops.tensor_utils import periodic_repeat
from pyro.poutine.util import site_is_subsample

__all__ = [
    "InitMessenger",
    "constraint_of",
    "init_to_median",
    "periodic_repeat",
    "prototype_hide_fn",
    "site_is_subsample",
]


def constraint_of(name: str, stated: Any) -> Any:
    """The constraint of a parameter: the store's, which a later statement need not repeat.

    :param stated: that of the statement, for a parameter that is not in the store.
    """
    held = pyro.get_param_store()._constraints.get(name)
    return held or stated or constraints.real

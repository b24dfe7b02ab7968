# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The names of Pyro that are not in its public interface, in one place."""

from pyro.infer.autoguide.guides import prototype_hide_fn
from pyro.infer.autoguide.initialization import InitMessenger, init_to_median
from pyro.ops.tensor_utils import periodic_repeat
from pyro.poutine.util import site_is_subsample

__all__ = [
    "InitMessenger",
    "init_to_median",
    "periodic_repeat",
    "prototype_hide_fn",
    "site_is_subsample",
]

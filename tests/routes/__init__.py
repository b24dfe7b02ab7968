# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Ways past the lifted tensors, each a small use of three latents; importing registers them."""

from tests.routes import control_flow, conversions, distributions, in_place, transforms
from tests.routes.registry import ROUTES, Q, Route, Y, model_of

__all__ = [
    "ROUTES",
    "Q",
    "Route",
    "Y",
    "control_flow",
    "conversions",
    "distributions",
    "in_place",
    "model_of",
    "transforms",
]

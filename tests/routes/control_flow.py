# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Latents that decide what runs, and loops over them."""

from typing import Any

import torch
from torch import Tensor

from tests.routes.registry import X, observe, route


@route("error")
def if_of_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(1.0 if z > 0 else -1.0)


@route("error")
def bool_of_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(float(bool(z)))


@route("error")
def while_of_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    steps = 0
    while z > steps and steps < 3:
        steps += 1
    observe(float(steps))


@route("error")
def largest_by_python(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(max(w[0], w[1]))


@route("error")
def if_of_an_unknown_function(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(1.0 if torch.sin(w).sum() > 0 else -1.0)


@route("error")
def assertion_about_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    assert torch.isfinite(w).all()
    observe(z)


@route("error")
def membership(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(1.0 if 0.5 in w else -1.0)


@route("value")
def where_on_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.where(z > X, z, -z))


@route("value")
def maximum_by_torch(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.maximum(w[0], w[1]) + w.max())


@route("value")
def unpacking(z: Tensor, w: Tensor, t: Tensor) -> None:
    a, b = w
    observe(a + b * X)


@route("value")
def loop_over_a_vector(z: Tensor, w: Tensor, t: Tensor) -> None:
    total: Any = 0.0
    for i, element in enumerate(w):
        total = total + (i + 1) * element
    observe(total * X / len(w))


@route("value")
def comprehension_over_a_vector(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.stack([element * z for element in w]).sum() * X)


@route("either")
def index_by_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(X[(z > 0).long()])


@route("either")
def index_by_the_largest(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(w[w.argmax()] * X)

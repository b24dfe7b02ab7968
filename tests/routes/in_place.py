# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Latents that are written to, or written into other tensors."""

import torch
from torch import Tensor

from tests.routes.registry import X, observe, route


@route("error")
def add_in_place(z: Tensor, w: Tensor, t: Tensor) -> None:
    w.add_(1.0)
    observe(w.sum())


@route("either")
def augmented_assignment(z: Tensor, w: Tensor, t: Tensor) -> None:
    loc = z * X
    loc += 1.0
    loc *= 2.0
    observe(loc)


@route("either")
def augmented_assignment_of_data(z: Tensor, w: Tensor, t: Tensor) -> None:
    loc = X.clone()
    loc += z
    observe(loc)


@route("either")
def assignment_into_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    w[0] = 1.0
    observe(w.sum() * X)


@route("either")
def assignment_into_a_tensor(z: Tensor, w: Tensor, t: Tensor) -> None:
    out = torch.zeros(3)
    out[0] = z
    out[1:] = w
    observe(out)


@route("either")
def assignment_in_a_loop(z: Tensor, w: Tensor, t: Tensor) -> None:
    out = torch.zeros(3)
    for i in range(3):
        out[i] = torch.sin(z) * X[i]
    observe(out)


@route("either")
def out_argument(z: Tensor, w: Tensor, t: Tensor) -> None:
    buffer = torch.zeros(3)
    torch.mul(z, X, out=buffer)
    observe(buffer)


@route("either")
def copy_into_a_tensor(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.zeros(3).copy_(z * X))


@route("either")
def fill_a_tensor(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.full((3,), z))

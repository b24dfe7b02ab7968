# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Latents that leave for plain Python, NumPy or C."""

import copy
import math

import numpy as np
import torch
from torch import Tensor

from tests.routes.registry import X, observe, route


@route("either")
def tensor_of_a_list(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.tensor([1.0, z, w[0]]))


@route("either")
def as_tensor_of_a_list(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.as_tensor([z, w[0], z]))


@route("either")
def as_tensor_of_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.as_tensor(z) * X)


@route("either")
def numpy_function(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(np.exp(z) * X)


@route("either")
def numpy_array_of_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.as_tensor(np.asarray(w)).sum() * X)


@route("either")
def latent_times_a_numpy_array(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(z * np.array([0.5, -1.0, 2.0]))


@route("value")
def latent_times_a_numpy_number(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(z * np.float64(0.5) + X)


@route("error")
def dot_numpy(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.from_numpy(w.numpy()).sum())


@route("error")
def detach_numpy(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.from_numpy(w.detach().cpu().numpy()).sum())


@route("error")
def dot_item(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(z.item())


@route("error")
def dot_tolist(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(sum(w.tolist()))


@route("error")
def float_of_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(float(z))


@route("error")
def int_of_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(int(z * 3))


@route("error")
def math_function(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(math.exp(z))


@route("error")
def float_of_an_expression(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(float(torch.sin(z) + w[0]))


@route("error")
def range_over_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(float(sum(range(t.long()))))


@route("either")
def dot_data(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(z.data * X)


@route("either")
def dot_detach(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(z.detach() * X)


@route("either")
def deep_copy(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(copy.deepcopy(z) * X)


@route("either")
def memory_address(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(z * X + 0.0 * (z.data_ptr() % 2))


@route("value")
def printed(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(z * X + 0.01 * (len(f"{z} {w!r} {t!s}") > 0))


@route("value")
def key_of_a_dict(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe({z: X}[z] * z)


@route("value")
def attributes(z: Tensor, w: Tensor, t: Tensor) -> None:
    zeros = torch.zeros(w.shape, dtype=w.dtype, device=w.device)
    assert isinstance(w, Tensor)
    assert (w.dim(), w.ndim, w.numel(), w.size(0), z.dim()) == (1, 1, 2, 2, 0)
    assert w.is_floating_point()
    observe((w + zeros).sum() + w.new_zeros(3) + torch.zeros_like(z))

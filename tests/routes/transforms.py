# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Function transforms, compiled and custom functions, networks and linear algebra."""

from typing import Any

import torch
from torch import Tensor

from tests.routes.registry import X, observe, route


@route("either")
def vmap_over_data(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.func.vmap(lambda x: x * z)(X))


@route("either")
def vmap_over_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.func.vmap(torch.sin)(w).sum() * X)


@route("either")
def gradient_in_data(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.func.grad(lambda x: (x * z).sum())(X))


@route("either")
def forward_derivative_in_data(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.func.jvp(lambda x: x * z, (X,), (X,))[1])


@route("either")
def backward_derivative_in_data(z: Tensor, w: Tensor, t: Tensor) -> None:
    _, pull_back = torch.func.vjp(lambda x: (x * z).sum(), X)
    observe(pull_back(torch.ones(()))[0])


@route("either")
def jacobian_in_data(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.func.jacrev(lambda x: (x * z).sum())(X))


@route("either")
def hessian_in_data(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.func.hessian(lambda x: (x**3 * z).sum())(X).sum(0))


@route("either")
def autograd_in_data(z: Tensor, w: Tensor, t: Tensor) -> None:
    with torch.enable_grad():
        x = X.clone().requires_grad_()
        (slope,) = torch.autograd.grad((x**2 * z).sum(), x)
    observe(slope)


@route("either")
def gradient_in_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.func.grad(lambda v: v**2 + v)(z) * X)


@route("either")
def autograd_in_a_latent(z: Tensor, w: Tensor, t: Tensor) -> None:
    with torch.enable_grad():
        v = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad((v**2).sum(), v)
    observe(slope * X)


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


@route("either")
def custom_autograd_function(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(_Double.apply(z) * X)


def _scripted(x: Tensor) -> Tensor:
    return torch.sin(x) + x


@route("either")
def scripted_function(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.jit.script(_scripted)(z) * X)


@route("either")
def traced_function(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(torch.jit.trace(_scripted, torch.zeros(()))(z) * X)


@route("value")
def without_gradient_mode(z: Tensor, w: Tensor, t: Tensor) -> None:
    with torch.no_grad():
        loc = torch.sin(z) * X
    observe(loc)


# A fixed network: the rows must be the same at every run of the model.
_NETWORK = torch.nn.Sequential(
    torch.nn.Linear(2, 4, dtype=torch.float64),
    torch.nn.Tanh(),
    torch.nn.Linear(4, 3, dtype=torch.float64),
).requires_grad_(False)
with torch.no_grad():
    for _k, _p in enumerate(_NETWORK.parameters()):
        _p.copy_(torch.linspace(-1 + 0.1 * _k, 1, _p.numel(), dtype=_p.dtype).reshape(_p.shape))


@route("value")
def neural_network(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(_NETWORK(w))


@route("value")
def linear_algebra(z: Tensor, w: Tensor, t: Tensor) -> None:
    matrix = torch.eye(2) + 0.3 * torch.outer(w, w)
    observe(torch.linalg.cholesky(matrix).sum() + torch.logdet(matrix))


@route("value")
def one_latent_twice(z: Tensor, w: Tensor, t: Tensor) -> None:
    observe(z, torch.nn.functional.softplus(z) + 0.3)

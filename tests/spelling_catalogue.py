# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The ways to write the predictor `X @ w` and the standard deviation of a precision."""

import pyro
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.spelling_data import FIRST, PERMUTATION, D, N, Predict, X


def _functional_linear(w: Tensor) -> Tensor:
    layer = torch.nn.Linear(D, 1, bias=False, dtype=torch.float64)
    return torch.func.functional_call(layer, {"weight": w[None]}, X).squeeze(-1)


def _unbind(w: Tensor) -> Tensor:
    a, b, c = w.unbind(-1)
    return a * X[:, 0] + b * X[:, 1] + X[:, 2] * c


def _split(w: Tensor) -> Tensor:
    head, tail = w.split([1, D - 1])
    return X[:, :1] @ head + X[:, 1:] @ tail


def _chunk(w: Tensor) -> Tensor:
    return sum(X[:, i : i + 1] @ c for i, c in enumerate(w.chunk(D)))  # type: ignore[return-value]


def _out_of_cumsum(w: Tensor) -> Tensor:
    # Summation by parts: sum_d x_d w_d = sum_d (x_d - x_{d+1}) cumsum(w)_d with x_{D+1} = 0.
    return (X - F.pad(X[:, 1:], (0, 1))) @ w.cumsum(0)


def _where(w: Tensor) -> Tensor:
    return X @ torch.where(FIRST, w, torch.zeros(())) + X @ torch.where(FIRST, 0.0, w)


PREDICTORS: dict[str, Predict] = {
    "X @ w": lambda w: X @ w,
    "w @ X.T": lambda w: w @ X.T,
    "w @ X.t()": lambda w: w @ X.t(),
    "(X * w).sum(-1)": lambda w: (X * w).sum(-1),
    "torch.sum(torch.mul(X, w), dim=1)": lambda w: torch.sum(torch.mul(X, w), dim=1),
    "einsum nd,d->n": lambda w: torch.einsum("nd,d->n", X, w),
    "einsum with an ellipsis": lambda w: torch.einsum("...d,d->...", X, w),
    "einsum of one letter each": lambda w: torch.einsum("d,nd->n", w, X),
    "F.linear": lambda w: F.linear(X, w),
    "F.linear with a row": lambda w: F.linear(X, w.unsqueeze(0)).squeeze(-1),
    "functional nn.Linear": _functional_linear,
    "torch.mv": lambda w: torch.mv(X, w),
    "torch.addmv": lambda w: torch.addmv(torch.zeros(N), X, w),
    "torch.inner": lambda w: torch.inner(X, w),
    "torch.tensordot": lambda w: torch.tensordot(X, w, dims=1),
    "matmul with unsqueeze": lambda w: torch.matmul(X, w.unsqueeze(-1)).squeeze(-1),
    "matmul with None": lambda w: (X @ w[:, None])[:, 0],
    "slices": lambda w: w[0] * X[:, 0] + X[:, 1:] @ w[1:],
    "negative indices": lambda w: X[:, :-1] @ w[:-1] + X[:, -1] * w[-1],
    "select and narrow": lambda w: w.select(0, 0) * X[:, 0] + X[:, 1:] @ w.narrow(0, 1, D - 1),
    "unbind": _unbind,
    "split": _split,
    "chunk": _chunk,
    "loop over columns": lambda w: sum(X[:, d] * w[d] for d in range(D)),  # type: ignore[arg-type,return-value]
    "cat": lambda w: X @ torch.cat([w[:1], w[1:]]),
    "stack of elements": lambda w: X @ torch.stack([w[0], w[1], w[2]]),
    "index_select": lambda w: X[:, PERMUTATION] @ w.index_select(0, PERMUTATION),
    "index by a tensor": lambda w: X[:, PERMUTATION] @ w[PERMUTATION],
    "index by a list": lambda w: X[:, [2, 0, 1]] @ w[[2, 0, 1]],
    "boolean index": lambda w: X[:, FIRST] @ w[FIRST] + X[:, ~FIRST] @ w[~FIRST],
    "flip": lambda w: X.flip(-1) @ w.flip(-1),
    "roll": lambda w: X.roll(1, -1) @ w.roll(1, -1),
    "reshape, view and flatten": lambda w: X @ w.reshape(D, 1).view(1, D).flatten(),
    "expand": lambda w: (X * w.expand(N, D)).sum(1),
    "transpose": lambda w: (X.T * w.unsqueeze(-1)).transpose(0, 1).sum(-1),
    "permute": lambda w: (w[None, :] * X).permute(1, 0).sum(0),
    "outer": lambda w: (X * torch.outer(torch.ones(N), w)).sum(-1),
    "mean": lambda w: D * (X * w).mean(-1),
    "cumsum": _out_of_cumsum,
    "where on a constant mask": _where,
    "constant mask": lambda w: X @ (w * FIRST) + X @ (w * ~FIRST),
    "two shares": lambda w: 0.3 * (X @ w) + (X @ w) * 0.7,
    "lerp": lambda w: torch.lerp(X @ w, 3 * (X @ w), 0.25) / 1.5,
    "torch.add with alpha": lambda w: torch.add(X[:, :1] @ w[:1], X[:, 1:] @ w[1:], alpha=1.0),
    "two signs": lambda w: -(X @ -w),
    "subtraction": lambda w: 2 * (X @ w) - X @ w,
    "there and back": lambda w: (X @ (w / 4 + 1.5) - 1.5 * X.sum(-1)) * 4,
    "division": lambda w: torch.div(X @ (2 * w), 2.0),
    "clone and contiguous": lambda w: X @ w.clone().contiguous().to(torch.float64).double(),
    "deterministic": lambda w: pyro.deterministic("f", X @ w),
}

SCALES: dict[str, Predict] = {
    "tau.rsqrt()": lambda tau: tau.rsqrt(),
    "torch.rsqrt(tau)": torch.rsqrt,
    "tau ** -0.5": lambda tau: tau**-0.5,
    "1 / tau.sqrt()": lambda tau: 1 / tau.sqrt(),
    "1.0 / torch.sqrt(tau)": lambda tau: 1.0 / torch.sqrt(tau),
    "(1 / tau).sqrt()": lambda tau: (1 / tau).sqrt(),
    "(1 / tau) ** 0.5": lambda tau: (1 / tau) ** 0.5,
    "tau.pow(-0.5)": lambda tau: tau.pow(-0.5),
    "torch.pow(tau, -0.5)": lambda tau: torch.pow(tau, -0.5),
    "tau.reciprocal().sqrt()": lambda tau: tau.reciprocal().sqrt(),
    "tau.sqrt().reciprocal()": lambda tau: tau.sqrt().reciprocal(),
    "torch.div(1, tau.sqrt())": lambda tau: torch.div(torch.ones(()), tau.sqrt()),
    "scaled": lambda tau: 2 * (4 * tau).rsqrt(),
    "expanded": lambda tau: tau.rsqrt().expand(N),
    "times ones": lambda tau: tau.rsqrt() * torch.ones(N),
}

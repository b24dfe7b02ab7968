# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The mean Hessian of f over draws: exact, by probes of random signs, or in Stein's form.

For a quadratic f every Hessian is the same, so the mean of exact ones has no error. Stein's form
``E[hess f] = E[S (z - m) grad f']`` costs no more than the gradients but has the noise of D numbers
in each entry, of a quadratic too: with few draws it is as likely to leave the cone as not, and must
be made symmetric (unsymmetric, it leaves the cone in most runs).
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from ..linear_algebra import at_draws

#: Elements of a variable up to which Hessians are exact. With D elements the mean Hessian of S
#: draws takes S D gradients, and leaves q short by some E / S nats; Stein's form on S D draws, as
#: many gradients, by about E / (2 S). So exact Hessians pay while a pass through the program costs
#: more in its operations than in their elements, D S of each.
EXACT = 128

#: Columns of a Hessian that go through one backward pass.
TOGETHER = 16

#: The largest event whose columns are taken one by one where the batch is probed.
COLUMNS = 64


def exact_hessian(gradient: Tensor, variable: Any) -> Tensor | None:
    """The mean Hessian within each event. # shape: that of the variable's covariance

    :param gradient: of the sum of f over draws, with its graph. # shape: (draws, *mean)
    :param variable: a :class:`~pyro_blr.estimators.Variable`.
    """
    if not gradient.requires_grad:
        return None  # f is linear in the variable
    return _summed_rows(_exact(gradient, variable), variable)


def probed_hessian(gradient: Tensor, variable: Any) -> Tensor | None:
    """The same by Hessian-vector products, one a column of an event; all events at once."""
    if not gradient.requires_grad:
        return None
    return _summed_rows(_probed(gradient, variable), variable)


def _exact(gradient: Tensor, variable: Any) -> Tensor:
    """Column by column, each batch element for itself. # shape: (*mean[, D])"""
    mean, count = variable.mean, len(gradient)
    size = 1 if variable.scalar else mean.shape[-1]
    rows = []
    basis = torch.eye(mean.numel(), dtype=gradient.dtype, device=gradient.device)
    for first in range(0, mean.numel(), TOGETHER):
        some = basis[first : first + TOGETHER]
        directions = some.unsqueeze(1).expand(-1, count, -1).reshape(-1, *gradient.shape)
        columns = _products(gradient, variable.draws, directions)
        columns = columns.reshape(len(some), count, -1).mean(1)
        for place, column in enumerate(columns, first):
            start = place - place % size
            rows.append(column[start : start + size])
    full = torch.stack(rows).to(mean.dtype)
    return full.reshape(mean.shape) if variable.scalar else full.reshape(*mean.shape, size)


def _products(gradient: Tensor, draws: Tensor, directions: Tensor) -> Tensor:
    """The Hessians times several directions. # shape: that of the directions

    One backward pass of a batch of directions takes the time of one where the program has many
    small operations; an operation that cannot be batched is passed through direction by direction.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of operations without a batching rule
            (product,) = torch.autograd.grad(
                *(gradient, draws, directions),
                retain_graph=True,
                is_grads_batched=True,
                allow_unused=True,
            )
    except (RuntimeError, UserWarning, NotImplementedError):
        return torch.stack([_times(gradient, draws, d) for d in directions])
    return torch.zeros_like(directions) if product is None else product


def _probed(gradient: Tensor, variable: Any) -> Tensor:
    """Columns of all batch elements at once, each with a random sign s: ``s_b (H s e_j)_b``.

    Unbiased, as ``E[s_b s_c]`` is 0 for two elements (Hutchinson 1990); exact where f does not
    couple them.
    """
    event = 0 if variable.scalar else 1
    batch = gradient.shape[: gradient.dim() - event]
    signs = torch.Generator().manual_seed(variable.seed)
    sign = (2 * torch.randint(2, batch, generator=signs, device="cpu") - 1).to(gradient)
    if variable.scalar:
        return (sign * _times(gradient, variable.draws, sign)).mean(0).to(variable.mean.dtype)
    columns = []
    for j in range(gradient.shape[-1]):
        direction = torch.zeros_like(gradient)
        direction[..., j] = sign
        product = _times(gradient, variable.draws, direction)
        columns.append((sign.unsqueeze(-1) * product).mean(0))
    return torch.stack(columns, -1).to(variable.mean.dtype)


def stein_hessian(gradient: Tensor, variable: Any) -> Tensor:
    """The mean of ``S (z - m) grad f'``, made symmetric. # shape: that of the covariance

    Draws in antithetic pairs take the mean gradient out of it, which is most of its noise.

    :param gradient: at each draw. # shape: (draws, *mean)
    """
    residual = gradient.detach().to(variable.mean.dtype)
    away = variable.draws.detach().to(residual.dtype) - variable.mean.detach()
    count = len(away)
    if variable.scalar:
        return variable.precision * (away * residual).sum(0) / count  # type: ignore[no-any-return]
    if variable.has_rows:
        outer = torch.einsum("s...ni,s...nj->...ij", away @ variable.precision, residual)
    else:
        whitened = at_draws(variable.precision, away)
        outer = torch.einsum("s...i,s...j->...ij", whitened, residual)
    return 0.5 * (outer + outer.mT) / count


def _times(gradient: Tensor, draws: Tensor, direction: Tensor) -> Tensor:
    """The Hessian at each draw times a direction."""
    (product,) = torch.autograd.grad(
        gradient, draws, direction, retain_graph=True, allow_unused=True
    )
    return torch.zeros_like(draws) if product is None else product


def _summed_rows(hessian: Tensor, variable: Any) -> Tensor:
    """The sum over rows that share a covariance, whose derivative is the sum of theirs."""
    if not variable.scalar:
        hessian = 0.5 * (hessian + hessian.mT)
    return hessian.sum(-3) if variable.has_rows else hessian

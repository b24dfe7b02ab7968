# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Newton's step of parameters that have no M-step in closed form, by the expected information."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..lifting import host

#: Elements of all such parameters together: each costs one Hessian-vector product a step.
MAX_ELEMENTS = 128


def information_step(
    expected_log_joint: Tensor, leaves: Sequence[Tensor]
) -> tuple[Tensor, ...] | None:
    """``information^-1 dL/dtheta``, with the expected complete-data information.

    The information is ``-d^2 L / dtheta^2 = -E_q[d^2 log p(x, z) / dtheta^2]``, of all leaves
    together, in their unconstrained coordinates: the observed, not the Fisher, information of the
    complete data, averaged over q.

    :param expected_log_joint: L, twice differentiable in the leaves.
    :returns: None if the information is not positive definite, or has too many elements.
    """
    if sum(leaf.numel() for leaf in leaves) > MAX_ELEMENTS:
        return None
    gradient = torch.autograd.grad(expected_log_joint, leaves, create_graph=True)
    flat = torch.cat([g.reshape(-1).double() for g in gradient])
    rows = []
    for element in flat:
        row: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if element.requires_grad:
            row = torch.autograd.grad(element, leaves, retain_graph=True, allow_unused=True)
        filled = (torch.zeros_like(x) if r is None else r for r, x in zip(row, leaves, strict=True))
        rows.append(torch.cat([r.reshape(-1).double() for r in filled]))
    hessian = torch.stack(rows)
    factor, failed = torch.linalg.cholesky_ex(-0.5 * (hessian + hessian.mT))
    if not host.truth((failed == 0) & torch.isfinite(flat).all()):
        return None
    step = torch.cholesky_solve(flat.detach().unsqueeze(-1), factor).squeeze(-1)
    parts = step.split([leaf.numel() for leaf in leaves])
    return tuple(p.reshape(x.shape).to(x.dtype) for p, x in zip(parts, leaves, strict=True))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Newton's step of parameters that have no M-step in closed form, by the expected information."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..lifting import host
from .hessian import dense_hessian, flat, gradient_graph, unflat

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
    graph = gradient_graph(expected_log_joint, leaves)
    gradient = flat(graph)
    factor, failed = torch.linalg.cholesky_ex(-dense_hessian(graph, leaves))
    if not host.truth((failed == 0) & torch.isfinite(gradient).all()):
        return None
    step = torch.cholesky_solve(gradient.detach().unsqueeze(-1), factor).squeeze(-1)
    return unflat(step, leaves)

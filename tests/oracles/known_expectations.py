# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""E_q[log p(data, z)] of a textbook problem at any q of the posterior's family, in closed form.

By the definition of the ELBO,  E_q[log p] = log p(data) - KL(q || posterior) - H(q).
"""

import pyro.distributions as dist
import torch
from torch import Tensor

from tests.oracles.textbook import Problem

Marginals = dict[str, dist.Distribution]


def random_marginals(problem: Problem, seed: int) -> tuple[Marginals, list[Tensor]]:
    """Choose a q of the posterior's families far from it, and the leaves it is built from."""
    generator = torch.Generator().manual_seed(seed)
    marginals, leaves = {}, []
    for site, posterior in problem.posterior.items():
        q, own = _random_like(posterior, generator)
        marginals[site] = q
        leaves += own
    return marginals, leaves


def expected_log_joint(problem: Problem, q: Marginals) -> Tensor:
    """E_q[log p(data, z)] in nats, differentiable in the parameters of q."""
    total = torch.tensor(problem.log_evidence, dtype=torch.float64)
    for site, fn in q.items():
        divergence = torch.distributions.kl_divergence(fn, problem.posterior[site])
        total = total - divergence.sum() - fn.entropy().sum()
    return total


def _random_like(
    q: dist.Distribution, generator: torch.Generator
) -> tuple[dist.Distribution, list[Tensor]]:
    def normal(like: Tensor) -> Tensor:
        x = torch.randn(like.shape, generator=generator, dtype=like.dtype)
        return x.requires_grad_()

    def positive(like: Tensor) -> Tensor:
        x = 0.7 + 4 * torch.rand(like.shape, generator=generator, dtype=like.dtype)
        return x.requires_grad_()

    match q:
        case dist.Normal():
            leaves = [normal(q.loc), positive(q.loc)]
        case dist.MultivariateNormal():
            root = torch.randn(q.scale_tril.shape, generator=generator, dtype=q.loc.dtype)
            factor = torch.linalg.cholesky(root @ root.mT + torch.eye(root.shape[-1]).to(root))
            leaves = [normal(q.loc), factor.requires_grad_()]
            return dist.MultivariateNormal(leaves[0], scale_tril=leaves[1].tril()), leaves
        case dist.Gamma():
            leaves = [positive(q.concentration), positive(q.concentration)]
        case dist.Beta():
            leaves = [positive(q.concentration1), positive(q.concentration1)]
        case dist.Dirichlet():
            leaves = [positive(q.concentration)]
        case _:
            raise NotImplementedError(type(q).__name__)
    return type(q)(*leaves), leaves

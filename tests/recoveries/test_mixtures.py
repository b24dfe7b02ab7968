# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Multimodal optimisation with mixtures of Gaussians (arXiv 2107.04562, Table 1; 1906.02914)."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.estimators import gaussian_points
from pyro_blr.guides import AutoNaturalMixture

POINTS, RHO, STEPS = 32, 0.05, 100


def log_p(z: Tensor) -> Tensor:
    """Two modes along a bent valley, not normalised."""
    valley = -0.5 * ((z[..., 1] - 0.3 * z[..., 0] ** 2) / 0.6) ** 2
    return valley - 0.1 * (z[..., 0] ** 2 - 2.0) ** 2


def model() -> None:
    z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    pyro.factor("target", log_p(z))


def start() -> tuple[Tensor, Tensor, Tensor]:
    means = torch.tensor([[-1.5, 0.5], [0.2, 0.0], [1.0, 1.0]])
    precisions = torch.stack(
        [torch.eye(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]]), 3 * torch.eye(2)]
    )
    return torch.tensor([0.5, 0.2, 0.3]).log(), means, precisions


def log_q(z: Tensor, log_weights: Tensor, means: Tensor, precisions: Tensor) -> Tensor:
    each = [
        w + dist.MultivariateNormal(m, precision_matrix=s).log_prob(z)
        for w, m, s in zip(log_weights, means, precisions, strict=True)
    ]
    return torch.stack(each).logsumexp(0)


def updated(
    state: tuple[Tensor, Tensor, Tensor], noise: list[Tensor], rho: float
) -> tuple[Tensor, Tensor, Tensor]:
    """S_k += rho E_k[hess r], m_k -= rho S_k^-1 E_k[grad r], log-odds -= rho (E_k[r] - E_K[r]),
    r = log q - log p, E_k[hess r] being 2 dE_k[r]/dC along the draws z = m + chol(C) e.
    """
    log_weights, means, precisions = state
    new_means, new_precisions, expected = [], [], []
    for mean, precision, e in zip(means, precisions, noise, strict=True):
        leaf = mean.clone().requires_grad_()
        covariance = torch.linalg.inv(precision).requires_grad_()
        z = leaf + e @ torch.linalg.cholesky(covariance).mT
        r = (log_q(z, *state) - log_p(z)).mean()
        gradient, slope = torch.autograd.grad(r, (leaf, covariance))
        hessian = slope + slope.mT
        new = precision + rho * hessian
        assert torch.linalg.eigvalsh(new)[0] > 0  # no step of this run leaves the cone
        new_precisions.append(new)
        new_means.append(mean - rho * torch.linalg.solve(new, gradient))
        expected.append(r.detach())
    r = torch.stack(expected)
    odds = log_weights - log_weights[-1] - rho * (r - r[-1])
    return odds.log_softmax(-1), torch.stack(new_means), torch.stack(new_precisions)


def test_multimodal_optimisation_with_mixtures_of_gaussians() -> None:
    pyro.set_rng_seed(0)
    guide = AutoNaturalMixture(model, components=3)
    blr = BLR(model, guide, step_size=RHO, num_draws=POINTS)
    guide()
    state = start()
    components = dist.MultivariateNormal(state[1], precision_matrix=state[2])
    guide.set_posterior(dist.MixtureSameFamily(dist.Categorical(logits=state[0]), components))
    noise: list[Tensor] = []
    for _ in range(STEPS):
        blr.step()
        seed = blr.state_dict()["mixture"]["seed"]
        noise = noise or [gaussian_points(POINTS, 2, seed + k).to(state[1]) for k in range(3)]
        state = updated(state, noise, RHO)
        (natural,) = guide.naturals().values()
        for mine, own in zip(natural, state, strict=True):
            torch.testing.assert_close(mine.detach(), own, rtol=1e-10, atol=1e-10)
    assert state[0].exp().min() > 1e-3  # no component was on its way out

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""-ELBO of SVI's Gaussian guides without noise, and the best that their family can do.

Trace_ELBO gives a new random number at each call. To see hundredths of a nat the same standard
normal draws are used for every q, in antithetic pairs whose second moments are made exact: an ELBO
that is quadratic in z is then exact too, and the optimum on the draws does not overfit them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

from .models import Problem

#: Independent sets of draws; their scatter gives the standard error.
NUM_SETS = 8
SET_SIZE = 512


@dataclass(frozen=True)
class Gaussian:
    """q on the unconstrained space: loc + scale @ standard normal.

    :param scale: lower triangular, zero between the groups of the guide.
    """

    loc: Tensor
    scale: Tensor

    @classmethod
    def of_guide(cls, guide: Any) -> "Gaussian":
        """The state of SVI's guide, copied."""
        parts = list(guide) if isinstance(guide, torch.nn.ModuleList) else [guide]
        with torch.no_grad():
            posteriors = [part.get_posterior() for part in parts]
            loc = torch.cat([p.loc for p in posteriors])
            return cls(loc.clone(), torch.block_diag(*(p.scale_tril for p in posteriors)))

    def entropy(self) -> Tensor:
        """In nats."""
        constant = 0.5 * len(self.loc) * math.log(2 * math.pi * math.e)
        return constant + self.scale.diagonal().log().sum()


class FixedDraws:
    """-ELBO of a problem at Gaussians on the unconstrained space.

    :param problem: the problem; its latents are laid out group by group.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        nodes = poutine.trace(problem.model).get_trace(*problem.args).nodes
        self.sites = [name for group in problem.groups for name in group]
        self.shapes = [nodes[name]["value"].shape for name in self.sites]
        self.transforms = {name: biject_to(nodes[name]["fn"].support) for name in self.sites}
        self.sizes = [shape.numel() for shape in self.shapes]
        self.noise = torch.cat([_whitened_pairs(sum(self.sizes)) for _ in range(NUM_SETS)])

    def loss(self, q: Gaussian) -> Tensor:
        """-ELBO on each set of draws. # shape: (NUM_SETS,)"""
        z = q.loc + self.noise @ q.scale.mT
        parts = {
            name: part.reshape(-1, *shape)
            for name, part, shape in zip(
                self.sites, z.split(self.sizes, -1), self.shapes, strict=True
            )
        }
        with pyro.validation_enabled(False):
            log_joint = torch.func.vmap(self._log_joint)(parts)
        return -log_joint.reshape(NUM_SETS, -1).mean(-1) - q.entropy()

    def _log_joint(self, unconstrained: dict[str, Tensor]) -> Tensor:
        """The log joint of the real model at one draw, over the unconstrained space."""
        values = {name: self.transforms[name](z) for name, z in unconstrained.items()}
        model = poutine.condition(self.problem.model, data=values)
        total = poutine.trace(model).get_trace(*self.problem.args).log_prob_sum()
        for name, z in unconstrained.items():
            total = total + self.transforms[name].log_abs_det_jacobian(z, values[name]).sum()
        return total

    def optimum(self, start: Gaussian, report: Callable[[float], None] | None = None) -> Gaussian:
        """The best Gaussian of the family on these draws, by L-BFGS.

        The unknowns are relative to the start, q = start.loc + start.scale (shift + factor noise),
        in which the optimum is near the standard normal and the problem is well conditioned.
        """
        size = len(start.loc)
        mask = torch.block_diag(*(torch.ones(n, n) for n in self._group_sizes())).tril(-1)
        shift, lower, log_diagonal = (
            torch.zeros(shape, requires_grad=True) for shape in ((size,), (size, size), (size,))
        )

        def current() -> Gaussian:
            factor = lower * mask + torch.diag(log_diagonal.exp())
            return Gaussian(start.loc + start.scale @ shift, start.scale @ factor)

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = self.loss(current()).mean()
            loss.backward()
            if report is not None:
                report(loss.item())
            return loss

        optimiser = torch.optim.LBFGS(
            [shift, lower, log_diagonal],
            max_iter=100,
            history_size=30,
            tolerance_grad=1e-5,
            tolerance_change=1e-8,
            line_search_fn="strong_wolfe",
        )
        optimiser.step(closure)
        best = current()
        return Gaussian(best.loc.detach(), best.scale.detach())

    def marginals(self, q: Gaussian) -> dict[str, Any]:
        """The posterior of each site, element by element, as a Pyro distribution."""
        deviations = q.scale.square().sum(-1).sqrt()
        result = {}
        parts = zip(
            self.sites,
            self.shapes,
            q.loc.split(self.sizes),
            deviations.split(self.sizes),
            strict=True,
        )
        for name, shape, loc, deviation in parts:
            normal = dist.Normal(loc.reshape(shape), deviation.reshape(shape))
            result[name] = dist.TransformedDistribution(normal, [self.transforms[name]])
        return result

    def _group_sizes(self) -> list[int]:
        size = dict(zip(self.sites, self.sizes, strict=True))
        return [sum(size[name] for name in group) for group in self.problem.groups]


def _whitened_pairs(dimension: int) -> Tensor:
    """Draws z, -z whose second moment is exactly the identity. # shape: (SET_SIZE, dimension)"""
    half = torch.randn(SET_SIZE // 2, dimension)
    second = half.mT @ half / len(half)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(second), half.mT, upper=False).mT
    return torch.cat([half, -half])

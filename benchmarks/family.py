# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Families of q over the unconstrained space, and their ELBO on fixed draws."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .draws import FixedDraws, GammaQuantile
from .unconstrained import LogJoint

LOG_2PI_E = math.log(2 * math.pi) + 1
#: Draws that go through the model at a time: larger chunks leave the cache.
CHUNK = 128


class State(NamedTuple):
    """A q: Gaussian blocks in the family's order, then the Gammas.

    The latents of the Gaussians are ``loc + scale @ normal``. # shape: (G,), (G, G)
    ``gammas`` has a row (log shape, log rate) for each. # shape: (K, 2)
    """

    loc: Tensor
    scale: Tensor
    gammas: Tensor


class MeanOverDraws(torch.autograd.Function):
    """The mean of a function over draws, in the memory of one chunk: each is differentiated then.

    It takes functions without any parameter of their own. # shape: (draws, dim) -> ()
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        total, gradients = u.new_zeros(()), []
        for part in u.split(CHUNK):
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                leaf = part.detach().requires_grad_(ctx.needs_input_grad[0])
                value = function(leaf).sum()
            if ctx.needs_input_grad[0]:
                gradients += torch.autograd.grad(value, leaf)
            total += value.detach()
        ctx.gradient = torch.cat(gradients) / len(u) if gradients else None
        return total / len(u)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.gradient, None


@dataclass
class Family:
    """Which latents are jointly Gaussian on the unconstrained space, and which are a Gamma.

    :param Sequence gaussian: the sites of each Gaussian block.
    :param Sequence gamma: the sites that have a Gamma distribution.
    """

    log_joint: LogJoint
    gaussian: Sequence[Sequence[str]]
    gamma: Sequence[str] = ()

    def __post_init__(self) -> None:
        blocks = [[i for site in block for i in self._places(site)] for block in self.gaussian]
        gaussian = [i for block in blocks for i in block]
        self.size = len(gaussian)
        #: Where in the unconstrained space each column of the draws belongs.
        self.order = torch.tensor(
            gaussian + [i for site in self.gamma for i in self._places(site)]
        ).argsort()
        #: Which elements of the scale below its diagonal are free.
        self.mask = torch.block_diag(*(torch.ones(len(b), len(b)) for b in blocks)).tril(-1)

    def _places(self, site: str) -> range:
        return range(*self.log_joint.slices[site].indices(self.log_joint.dim))

    def draws(self, count: int, seed: int) -> FixedDraws:
        """Points for this family."""
        return FixedDraws(count, self.size, len(self.gamma), seed)

    def elbo(self, q: State, draws: FixedDraws) -> Tensor:
        """E_q[log p - log q] in nats."""
        columns = list((q.loc + draws.normal @ q.scale.T).unbind(1))
        entropy = q.scale.diagonal().abs().log().sum() + self.size * LOG_2PI_E / 2
        for levels, (log_shape, log_rate) in zip(draws.levels.T, q.gammas, strict=True):
            shape = log_shape.exp()
            value = GammaQuantile.apply(shape, levels)
            columns.append(value.log() - log_rate)
            # -log q of log z, on the draws too: where q is the posterior the errors cancel.
            entropy = entropy + torch.lgamma(shape) + (value - shape * value.log()).mean()
        u = torch.stack(columns, 1)[:, self.order]
        mean: Tensor = MeanOverDraws.apply(u, self.log_joint)
        return mean + entropy

    def start(self) -> State:
        """Where nothing is known: 0 +- 0.1, as guides start, and Gamma(1, 1)."""
        return State(
            torch.zeros(self.size), 0.1 * torch.eye(self.size), torch.zeros(len(self.gamma), 2)
        )


def state_of_autoguide(guide: Any) -> State:
    """The state of Pyro's AutoMultivariateNormal, or of an AutoGuideList of them."""
    parts = list(guide) if isinstance(guide, torch.nn.ModuleList) else [guide]
    with torch.no_grad():
        posteriors = [part.get_posterior() for part in parts]
        loc = torch.cat([p.loc for p in posteriors])
        scale = torch.block_diag(*(p.scale_tril for p in posteriors))
    return State(loc, scale, torch.zeros(0, 2))


def family_of_natural_guide(log_joint: LogJoint, guide: Any) -> Family:
    """The family of an AutoNatural guide whose blocks are Gaussians and Gammas."""
    sites = {block: [site.name for site in block.sites] for block in guide.blocks}
    gammas = [block for block in guide.blocks if block.family.name == "Gamma"]
    gaussians = [block for block in guide.blocks if block not in gammas]
    return Family(log_joint, [sites[b] for b in gaussians], [sites[b][0] for b in gammas])


def state_of_natural_guide(guide: Any) -> State:
    """The state of an AutoNatural guide, in the order of its family."""
    locs, scales, gammas = [], [], []
    for block, natural in guide.naturals().items():
        first, second = (part.detach() for part in natural)
        if block.family.name == "Gamma":
            gammas.append(torch.stack([(first + 1).log(), (-second).log()]))
            continue
        precision = -2 * second.reshape(first.numel(), -1)
        covariance = torch.linalg.inv(precision)
        locs.append(covariance @ first.reshape(-1))
        scales.append(torch.linalg.cholesky(covariance))
    rows = torch.stack(gammas).reshape(-1, 2) if gammas else torch.zeros(0, 2)
    return State(torch.cat(locs), torch.block_diag(*scales), rows)

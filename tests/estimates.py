# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""ELBO and its gradient, by the engine and by plain Monte Carlo, in the same coordinates.

The coordinates are the usual parameters of q (mean and sd, shape and rate), the leaves: the engine
reaches them through its messages and the chain rule, Monte Carlo through draws of q.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr import BLR
from tests.oracles import monte_carlo


def engine_value_and_messages(
    blr: BLR, *args: Any, **kwargs: Any
) -> tuple[Tensor, dict[str, tuple[Tensor, ...]]]:
    """The one place that knows how the engine gives its ELBO and dL/dmean_params per site."""
    return torch.tensor(-blr.evaluate_loss(*args, **kwargs)), blr.messages(*args, **kwargs)


def _normal(loc: Tensor, scale: Tensor) -> tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]:
    precision = scale**-2
    return dist.Normal(loc, scale), (loc, loc**2 + scale**2), (precision * loc, -precision / 2)


def _multivariate(loc: Tensor, root: Tensor) -> tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]:
    covariance = root @ root.mT
    precision = torch.linalg.inv(covariance)
    mean_params = (loc, covariance + loc.unsqueeze(-1) * loc.unsqueeze(-2))
    natural = ((precision @ loc.unsqueeze(-1)).squeeze(-1), -precision / 2)
    return dist.MultivariateNormal(loc, covariance_matrix=covariance), mean_params, natural


def _gamma(shape: Tensor, rate: Tensor) -> tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]:
    mean_params = (torch.digamma(shape) - rate.log(), shape / rate)
    return dist.Gamma(shape, rate), mean_params, (shape - 1, -rate)


def _beta(a: Tensor, b: Tensor) -> tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]:
    total = torch.digamma(a + b)
    mean_params = (torch.digamma(a) - total, torch.digamma(b) - total)
    return dist.Beta(a, b), mean_params, (a - 1, b - 1)


def _dirichlet(a: Tensor) -> tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]:
    mean_params = torch.digamma(a) - torch.digamma(a.sum(-1, keepdim=True))
    return dist.Dirichlet(a), (mean_params,), (a - 1,)


KINDS = {
    "normal": _normal,
    "multivariate": _multivariate,
    "gamma": _gamma,
    "beta": _beta,
    "dirichlet": _dirichlet,
}


class Site:
    """The q of one latent: its kind and its leaves.

    :param kind: a key of ``KINDS``.
    :param leaves: the usual parameters, numbers or tensors.
    """

    def __init__(self, kind: str, *leaves: Any) -> None:
        self.kind = kind
        self.leaves = tuple(
            torch.as_tensor(x, dtype=torch.float64).clone().requires_grad_() for x in leaves
        )

    @property
    def distribution(self) -> Any:
        return KINDS[self.kind](*self.leaves)[0]

    @property
    def detached(self) -> Any:
        return KINDS[self.kind](*(x.detach() for x in self.leaves))[0]

    def pull_back(self, message: tuple[Tensor, ...]) -> list[Tensor]:
        """d ELBO / d leaf, from dL/dmean_params: the ELBO's own is that less `natural`."""
        _, mean_params, natural = KINDS[self.kind](*self.leaves)
        covector = [m.detach() - n.detach() for m, n in zip(message, natural, strict=True)]
        return list(torch.autograd.grad(mean_params, self.leaves, covector))


@dataclass
class Estimates:
    """ELBO first, then its derivative in every leaf, with standard errors."""

    names: list[str]
    values: list[Tensor]
    errors: list[Tensor]


def by_engine(
    blr: BLR, sites: Mapping[str, Site], repeats: int, *args: Any, **kwargs: Any
) -> Estimates:
    """Mean and standard error over `repeats` independent evaluations; no error if all are equal."""
    rows: list[list[Tensor]] = []
    for _ in range(repeats):
        value, messages = engine_value_and_messages(blr, *args, **kwargs)
        pulled = [g for name, site in sites.items() for g in site.pull_back(messages[name])]
        rows.append([value.double(), *pulled])
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    errors = [
        c.std(0) / math.sqrt(repeats) if repeats > 1 else torch.zeros_like(c[0]) for c in columns
    ]
    return Estimates(_names(sites), [c.mean(0) for c in columns], errors)


def by_monte_carlo(
    model: Callable[..., Any],
    sites: Mapping[str, Site],
    *args: Any,
    num_draws: int = 20_000,
    seed: int = 11,
    vectorise: bool = True,
) -> Estimates:
    """Draws of the real model; the entropies and their derivatives are known."""
    leaves = [leaf for site in sites.values() for leaf in site.leaves]
    q = {name: site.distribution for name, site in sites.items()}
    found = monte_carlo.expected_log_joint(
        model, args, q, num_draws, seed, leaves=leaves, num_batches=50, vectorise=vectorise
    )
    entropy = torch.stack([d.entropy().sum() for d in q.values()]).sum()
    slopes = torch.autograd.grad(entropy, leaves, allow_unused=True, materialize_grads=True)
    gradients = [g + s for g, s in zip(found.gradients, slopes, strict=True)]
    return Estimates(
        _names(sites),
        [torch.tensor(found.value) + entropy.detach(), *gradients],
        [torch.tensor(found.standard_error), *found.gradient_standard_errors],
    )


def assert_agree(ours: Estimates, truth: Estimates, bound: float = 5.0) -> None:
    """Every component within `bound` standard errors of the difference."""
    for name, a, b, da, db in zip(
        ours.names, ours.values, truth.values, ours.errors, truth.errors, strict=True
    ):
        try:
            # Pathwise derivatives of Gamma and Beta draws are themselves good to about 1e-3.
            slack = 0.0 if name == "ELBO" else 1e-3 * float(b.abs().max())
            monte_carlo.z_test(a, b, torch.hypot(da, db) + slack / bound, bound, rounding=1e-9)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def _names(sites: Mapping[str, Site]) -> list[str]:
    return ["ELBO"] + [f"dELBO/d {n}[{i}]" for n, s in sites.items() for i in range(len(s.leaves))]

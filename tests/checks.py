# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What the acceptance tests share: starts, comparisons of posteriors, quantities of the engine.

Nothing here uses the formulas of the package: natural parameters, moments and entropies come from
the Pyro distributions, so that a mistake in `pyro_blr.families` can't hide itself.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

Model = Callable[..., Any]


def bare(distribution: Any) -> Any:
    """The distribution below all `Independent` and expansion wrappers."""
    while hasattr(distribution, "base_dist") and not hasattr(distribution, "transforms"):
        distribution = distribution.base_dist
    return distribution


def is_gaussian(distribution: Any) -> bool:
    return isinstance(
        bare(distribution), torch.distributions.Normal | torch.distributions.MultivariateNormal
    )


def gaussian_moments(distribution: Any) -> tuple[Tensor, Tensor]:
    """Mean and covariance over the event; over a scalar event the variance."""
    base = bare(distribution)
    if isinstance(base, torch.distributions.MultivariateNormal):
        return base.loc, base.covariance_matrix
    event_dim = len(distribution.event_shape)
    if event_dim == 0:
        return distribution.mean, distribution.variance
    mean = distribution.mean.flatten(-event_dim)
    return mean, torch.diag_embed(distribution.variance.flatten(-event_dim))


def assert_same_distribution(actual: Any, expected: Any, rtol: float) -> None:
    """Equal up to rtol in units of the posterior itself: means in sd, shapes relative."""
    if is_gaussian(expected):
        assert is_gaussian(actual), f"{actual} is not Gaussian"
        mean, cov = gaussian_moments(actual)
        true_mean, true_cov = gaussian_moments(expected)
        assert mean.shape == true_mean.shape
        assert cov.shape == true_cov.shape
        scalar = true_cov.dim() == true_mean.dim()
        sd = (true_cov if scalar else true_cov.diagonal(dim1=-2, dim2=-1)).sqrt()
        scale = sd**2 if scalar else sd.unsqueeze(-1) * sd.unsqueeze(-2)
        worst = max(
            ((mean - true_mean).abs() / (true_mean.abs() + sd)).max().item(),
            ((cov - true_cov).abs() / scale).max().item(),
        )
    else:
        actual, expected = bare(actual), bare(expected)
        assert isinstance(actual, type(expected)), f"{actual} is not a {type(expected).__name__}"
        names = list(type(expected).arg_constraints)
        if "concentration1" in names:  # a Beta: torch keeps both concentrations
            names = ["concentration1", "concentration0"]
        pairs = [(getattr(actual, name), getattr(expected, name)) for name in names]
        assert all(a.shape == e.shape for a, e in pairs)
        worst = max(((a - e).abs() / e.abs()).max().item() for a, e in pairs)
    assert worst <= rtol, f"relative error {worst:.3e} > {rtol:.1e}"


def random_like(distribution: Any, seed: int) -> Any:
    """A random member of the same family and shape: a start that knows nothing of the posterior."""
    generator = torch.Generator().manual_seed(seed)
    base = bare(distribution)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    if is_gaussian(distribution):
        mean, cov = gaussian_moments(distribution)
        loc = 3 * noise(mean)
        if cov.dim() == mean.dim():
            return dist.Normal(loc, noise(mean).exp())
        root = noise(cov)
        eye = torch.eye(mean.shape[-1], dtype=mean.dtype)
        return dist.MultivariateNormal(loc, covariance_matrix=root @ root.mT + 0.1 * eye)
    if isinstance(base, torch.distributions.Gamma):
        return dist.Gamma(noise(base.concentration).exp(), noise(base.rate).exp())
    if isinstance(base, torch.distributions.Beta):
        return dist.Beta(noise(base.concentration1).exp(), noise(base.concentration0).exp())
    if isinstance(base, torch.distributions.Dirichlet):
        return dist.Dirichlet(noise(base.concentration).exp())
    raise NotImplementedError(f"no random start for {distribution}")


def total_entropy(q: Mapping[str, Any]) -> Tensor:
    """Entropy of independent sites in nats."""
    return torch.stack([d.entropy().sum() for d in q.values()]).sum()


def engine(
    model: Model, start: Mapping[str, Any] | None = None, **keywords: Any
) -> tuple[BLR, AutoNatural]:
    """An engine whose guide stands at `start`; `families` goes to the guide, the rest to BLR.

    Guides of one name share their entries of the store: it is emptied, so that none is inherited.
    """
    pyro.clear_param_store()
    guide = AutoNatural(model, families=keywords.pop("families", None))
    if start is not None:
        guide.set_natural(dict(start))
    return BLR(model, guide, **keywords), guide


def expected_log_joint(blr: BLR, q: Mapping[str, Any], *args: Any, **kwargs: Any) -> Tensor:
    """E_q log p(x, z) as the engine has it: its ELBO less the entropy of independent sites."""
    return torch.tensor(-blr.evaluate_loss(*args, **kwargs)).double() - total_entropy(q)


def tiers(blr: BLR, *args: Any, **kwargs: Any) -> dict[str, str]:
    return {f.site: f.tier for f in blr.explain(*args, **kwargs).factors}


def factor_of(blr: BLR, site: str, *args: Any, **kwargs: Any) -> Any:
    (factor,) = [f for f in blr.explain(*args, **kwargs).factors if f.site == site]
    return factor


class MaskObserved(Messenger):
    """Masks the observed sites of a model, and those only."""

    def __init__(self, mask: bool | Tensor) -> None:
        super().__init__()
        self.mask = mask

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            msg["mask"] = self.mask if msg["mask"] is None else msg["mask"] & self.mask


def with_masked_observations(model: Model, mask: bool | Tensor) -> Model:
    def masked(*args: Any, **kwargs: Any) -> Any:
        with MaskObserved(mask):
            return model(*args, **kwargs)

    return masked

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What the acceptance tests share: starts, comparisons of posteriors, quantities of the engine.

Nothing here uses the formulas of the package: natural parameters, moments and entropies come from
the Pyro distributions, so that a mistake in `pyro_blr.families` can't hide itself.
"""

import math
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


def is_student(distribution: Any) -> bool:
    return isinstance(bare(distribution), dist.StudentT | dist.MultivariateStudentT)


def student_parameters(distribution: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Degrees of freedom, location, and the square of the scale (a matrix, of a vector)."""
    base = bare(distribution)
    if isinstance(base, dist.MultivariateStudentT):
        return base.df, base.loc, base.scale_tril @ base.scale_tril.mT
    return base.df, base.loc, base.scale**2


def in_own_family(distribution: Any) -> Any:
    """A Student t, the marginal of a Gaussian whose scale is latent too, as a Gaussian."""
    if not is_student(distribution):
        return distribution
    _, loc, scale = student_parameters(distribution)
    if scale.dim() > loc.dim():
        return dist.MultivariateNormal(loc, covariance_matrix=scale)
    return dist.Normal(loc, scale.sqrt())


#: The parameters that make a distribution, where its constraints name others too.
PARAMETERS: dict[type, list[str]] = {
    dist.Beta: ["concentration1", "concentration0"],
    dist.Wishart: ["df", "covariance_matrix"],
}


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
    elif is_student(expected):
        assert is_student(actual), f"{actual} is not a Student t"
        df, loc, scale = student_parameters(actual)
        true_df, true_loc, true_scale = student_parameters(expected)
        assert loc.shape == true_loc.shape
        assert scale.shape == true_scale.shape
        vector = scale.dim() > loc.dim()
        width = (true_scale.diagonal(dim1=-2, dim2=-1) if vector else true_scale).sqrt()
        unit = width.unsqueeze(-1) * width.unsqueeze(-2) if vector else true_scale
        worst = max(
            ((df - true_df).abs() / true_df).max().item(),
            ((loc - true_loc).abs() / (true_loc.abs() + width)).max().item(),
            ((scale - true_scale).abs() / unit).max().item(),
        )
    else:
        actual, expected = bare(actual), bare(expected)
        assert isinstance(actual, type(expected)), f"{actual} is not a {type(expected).__name__}"
        names = PARAMETERS.get(type(expected)) or list(type(expected).arg_constraints)
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
    if isinstance(base, dist.InverseGamma):
        return dist.InverseGamma(noise(base.concentration).exp(), noise(base.rate).exp())
    if isinstance(base, torch.distributions.Wishart):
        root = noise(base.covariance_matrix)
        size = root.shape[-1]
        scale = root @ root.mT + 0.1 * torch.eye(size, dtype=root.dtype)
        return dist.Wishart(size + noise(base.df).exp(), covariance_matrix=scale)
    if isinstance(base, dist.StudentT):  # a Gaussian whose scale is latent too starts as one
        return dist.Normal(3 * noise(base.loc), noise(base.loc).exp())
    if isinstance(base, dist.MultivariateStudentT):
        root = noise(base.scale_tril)
        eye = torch.eye(root.shape[-1], dtype=root.dtype)
        return dist.MultivariateNormal(3 * noise(base.loc), root @ root.mT + 0.1 * eye)
    raise NotImplementedError(f"no random start for {distribution}")


def kl_divergence(q: Any, p: Any) -> Tensor:
    """KL(q || p) summed over the batch; also of families that torch does not know."""
    if is_gaussian(q) and q.event_shape:
        mean, cov = gaussian_moments(q)
        q = dist.MultivariateNormal(mean, covariance_matrix=cov)
    q, p = bare(q), bare(p)
    if isinstance(q, dist.InverseGamma):  # that of the precisions
        q, p = (dist.Gamma(d.concentration, d.rate) for d in (q, p))
    if isinstance(q, torch.distributions.Wishart):
        return _wishart_kl(q, p).sum()
    return torch.distributions.kl_divergence(q, p).sum()


def _wishart_kl(q: Any, p: Any) -> Tensor:
    """E_q[log q - log p], from E_q[L] = df V and E_q[log|L|]."""
    size = q.covariance_matrix.shape[-1]
    steps = torch.arange(size, dtype=q.df.dtype)
    log_det = torch.digamma((q.df.unsqueeze(-1) - steps) / 2).sum(-1)
    log_det = log_det + size * math.log(2) + q.covariance_matrix.logdet()
    trace = (p.precision_matrix - q.precision_matrix) @ (q.df * q.covariance_matrix)
    half = (q.df - p.df) * log_det + trace.diagonal(dim1=-2, dim2=-1).sum(-1)

    def log_partition(d: Any) -> Tensor:
        main = d.df / 2 * (size * math.log(2) + d.covariance_matrix.logdet())
        return main + torch.mvlgamma(d.df / 2, size)

    return half / 2 + log_partition(p) - log_partition(q)


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

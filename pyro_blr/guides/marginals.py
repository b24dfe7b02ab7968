# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A site's posterior as a Pyro distribution, and its quantiles."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..energy.latents import Latent, cut
from ..families import Natural, NormalWishart
from ..families.categorical import all_log_odds
from ..families.normal_mixture import NormalMixture
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.arrow_moments import ArrowMoments
from ..lifting.blocks import Block
from ..lifting.chain_blocks import ChainBlock
from ..lifting.chain_moments import ChainMoments
from ..lifting.points import statistics_of
from ..random_state import from_seed
from .merged import distinct
from .mixture_marginals import mixture_marginal, mixture_quantile

#: The grid of a numerical quantile: +-12 standard deviations of the unconstrained variable, in
#: steps h of 0.006 of them, whose h^4 is 1e-9.
WIDTH, GRID = 12.0, 4001


def marginal(block: Block, natural: Natural, latent: Latent) -> Any:
    """q of one site. Where the site's elements are correlated, a multivariate normal.

    :param natural: the natural parameters of the block that holds the site.
    """
    if latent.site.is_discrete:
        return _discrete(natural, latent)
    if isinstance(block.family, NormalMixture):
        return mixture_marginal(block, natural, latent)
    if not latent.site.gaussian:
        own = scale_natural(block, natural, latent)
        cast = tuple(n.to(latent.dtype) for n in own)
        return _with_event_dim(latent.family.distribution(cast), latent.value_event_dim)
    with torch.no_grad():
        base = (_student if block.is_joint else _gaussian)(block, natural, latent)
    if latent.transform is None:
        return _with_event_dim(base, latent.value_event_dim)
    if (
        isinstance(latent.transform, torch.distributions.transforms.ExpTransform)
        and not base.event_dim
    ):
        return _with_event_dim(dist.LogNormal(base.loc, base.scale), latent.value_event_dim)
    return _with_event_dim(
        dist.TransformedDistribution(base, [latent.transform]), latent.value_event_dim
    )


def _discrete(natural: Natural, latent: Latent) -> Any:
    """The law of a discrete latent: of the site's own kind, or over places among its values."""
    dtype = latent.dtype if latent.dtype.is_floating_point else torch.get_default_dtype()
    probs = all_log_odds(natural).softmax(-1).to(dtype)
    if latent.site.event_dim:
        return dist.OneHotCategorical(probs=probs)
    if latent.site.levels == (0.0, 1.0) and latent.dtype.is_floating_point:
        return dist.Bernoulli(probs=probs[..., 1])
    return dist.Categorical(probs=probs)


def _discrete_quantile(natural: Natural, latent: Latent, probability: float) -> Tensor:
    """The quantile of a number; of a one-hot vector, that of no order, its mode."""
    probs = all_log_odds(natural).softmax(-1)
    if latent.site.event_dim:
        return latent.site.values_at(probs.argmax(-1)).to(latent.dtype)
    levels = latent.site.values_at(torch.arange(probs.shape[-1], device=probs.device))
    order = levels.argsort()
    below = probs[..., order].cumsum(-1) < probability * probs.sum(-1, keepdim=True)
    place = below.sum(-1).clamp_max(len(levels) - 1)
    return levels[order][place].to(latent.dtype)


def _with_event_dim(distribution: Any, event_dim: int) -> Any:
    missing = event_dim - distribution.event_dim
    return distribution.to_event(missing) if missing > 0 else distribution


def scale_natural(block: Block, natural: Natural, latent: Latent) -> Natural:
    """The natural parameters of a latent that is not Gaussian, also where it scales a joint law."""
    if not block.is_joint:
        return natural
    family: Any = block.family
    shape = latent.block().batch_shape
    own: Natural = family.scale_marginal(natural)
    return tuple(n.reshape(shape + n.shape[len(block.batch_shape) :]) for n in own)


def own_law(block: Block, natural: Natural, latent: Latent) -> Any:
    """The law of a site in its own family: of a Gaussian that shares a block with its precision,
    the one with its conditional precision at the mean.
    """
    if not latent.site.gaussian:
        return latent.family.distribution(scale_natural(block, natural, latent))
    own = _gaussian(block, natural, latent)
    correlated = isinstance(own, dist.MultivariateNormal | dist.LowRankMultivariateNormal)
    flat = isinstance(block, ChainBlock) and block.times[latent.name].dim not in (
        None,
        *latent.batch_dims,
    )
    if correlated and (latent.block().event_size is None or flat):
        return dist.Normal(own.loc, own.variance.sqrt())
    return own


def _gaussian(block: Block, natural: Natural, latent: Latent) -> Any:
    if block.family.is_curved:
        return _low_rank(block, natural, latent)
    block, mean, covariance = _unit(block, natural, latent)
    if block.event_size is None:
        return dist.Normal(mean.to(latent.dtype), covariance.sqrt().to(latent.dtype))
    loc, scale, matrix = _of_site(block, latent, mean, covariance)
    if matrix is not None:
        return dist.MultivariateNormal(loc, covariance_matrix=distinct(matrix))
    return _with_event_dim(dist.Normal(loc, scale), latent.site.event_dim)


def _low_rank(block: Block, natural: Natural, latent: Latent) -> Any:
    """The rows of W and the elements of d that are a site's; no matrix of its size is formed."""
    mean, factor, log_diagonal = (n.detach() for n in natural)
    diagonal = log_diagonal.exp()
    if len(latent.site.shape) == 1:
        place = block.event_slice(latent.site)
        parts = (t[place].to(latent.dtype) for t in (mean, factor, diagonal))
        return dist.LowRankMultivariateNormal(*parts)
    loc = _cut_location(block, latent, mean).to(latent.dtype)
    variance = _cut_location(block, latent, factor.square().sum(-1) + diagonal)
    scale = variance.sqrt().to(latent.dtype)
    return _with_event_dim(dist.Normal(loc, scale), latent.site.event_dim)


def _student(block: Block, natural: Natural, latent: Latent) -> Any:
    """A Gaussian whose precision is latent too has a Student t for its marginal."""
    family: Any = block.family
    law = family.marginal_location(natural)
    df = law.df.to(latent.dtype)
    covariance = law.scale_tril @ law.scale_tril.mT
    loc, scale, matrix = _of_site(block, latent, law.loc, covariance)
    if matrix is not None:
        return dist.MultivariateStudentT(df, loc, torch.linalg.cholesky(matrix))
    df = _cut_location(block, latent, df.unsqueeze(-1).expand(law.loc.shape))
    return _with_event_dim(dist.StudentT(df, loc, scale), latent.site.event_dim)


def _unit(block: Block, natural: Natural, latent: Latent) -> tuple[Block, Tensor, Tensor]:
    """The block of a site's marginal, its means and its covariances: of an arrow-head block the
    part that holds the site, of a chain each of the site's times, else the block itself.
    """
    if isinstance(block, ChainBlock):
        moments, site = ChainMoments(block, natural), latent.site
        mean = block.part(site, moments.mean.detach())
        return block.unit(site), mean, block.part(site, moments.covariance.detach(), 2)
    if not isinstance(block, ArrowBlock):
        return block, *_location_and_spread(block, natural)
    local = block.is_local(latent.site)
    mean, covariance = ArrowMoments(block, natural).marginal(local)
    return block.unit(local), mean.detach(), covariance.detach()


def _location_and_spread(block: Block, natural: Natural) -> tuple[Tensor, Tensor]:
    """The means and covariances of a Gaussian block. # shape: (*batch[, D]), (*batch[, D, D])"""
    natural = tuple(n.detach() for n in natural)
    if block.is_joint:
        family: Any = block.family
        expected = family.scale_family.mean_params(family.scale_marginal(natural))[1]
        if isinstance(family, NormalWishart):
            kappa = family.kappa(natural).unsqueeze(-1).unsqueeze(-1)
            return family.location(natural), torch.linalg.inv(kappa * expected)
        spread = family.conditional_covariance(natural)
        return family.location(natural), spread / expected.unsqueeze(-1).unsqueeze(-1)
    moments: Any = statistics_of(block, natural)
    return moments.mean.detach(), moments.covariance.detach()


def _of_site(
    block: Block, latent: Latent, mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A site's location, its elementwise scale, and its matrix where its event is one vector."""
    site = latent.site
    batch = len(block.batch_shape)
    loc = _cut_location(block, latent, mean).to(latent.dtype)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    scale = _cut_location(block, latent, variance).sqrt().to(latent.dtype)
    event_dims = block.event_dims(site)
    vector = len(event_dims) == 1 and event_dims[0] == len(site.shape) - 1
    if not vector or block.placements[site.name].batch_dims != tuple(range(batch)):
        return loc, scale, None
    place = block.event_slice(site)
    return loc, scale, covariance[..., place, place].to(latent.dtype)


def _cut_location(block: Block, latent: Latent, value: Tensor) -> Tensor:
    return cut(block, latent.site, value, len(block.batch_shape))


def quantile(block: Block, natural: Natural, latent: Latent, probability: float) -> Tensor:
    """The elementwise quantile of a site's marginal. # shape: that of the site's value"""
    with torch.no_grad():
        if latent.site.is_discrete:
            return _discrete_quantile(natural, latent, probability)
        if isinstance(block.family, NormalMixture):
            return latent.value_of(mixture_quantile(block, natural, latent, probability))
        if block.gaussian:
            if isinstance(block, ArrowBlock | ChainBlock):
                block, mean, covariance = _unit(block, natural, latent)
                variance = covariance.diagonal(dim1=-2, dim2=-1)
            else:
                moments: Any = statistics_of(block, tuple(n.detach() for n in natural))
                mean, variance = moments.mean, moments.variance
            level = torch.tensor(probability, dtype=torch.float64, device=mean.device)
            normal = torch.special.ndtri(level)
            variable = _cut_location(block, latent, mean + variance.sqrt() * normal)
            return latent.value_of(variable)
        if latent.site.gaussian:
            law = _elementwise(_student(block, natural, latent))
            return _numerical_quantile(law, probability).to(latent.dtype)
        own = tuple(n.double() for n in scale_natural(block, natural, latent))
        law = _elementwise(latent.family.distribution(own))
        if not isinstance(law, WITH_QUANTILES):
            return _sampled_quantile(law, probability).to(latent.dtype)
        return _numerical_quantile(law, probability).to(latent.dtype)


def _elementwise(law: Any) -> Any:
    """The law of each element alone: a Dirichlet's are Beta, a vector Student t's Student t."""
    while isinstance(law, torch.distributions.Independent):
        law = law.base_dist
    if isinstance(law, torch.distributions.Dirichlet):
        a = law.concentration
        return dist.Beta(a, a.sum(-1, keepdim=True) - a)
    if isinstance(law, dist.MultivariateStudentT):
        scale = law.scale_tril.square().sum(-1).sqrt()
        return dist.StudentT(law.df.unsqueeze(-1), law.loc, scale)
    return law


#: The laws whose quantiles are had from their densities.
WITH_QUANTILES = (
    torch.distributions.Gamma,
    torch.distributions.InverseGamma,
    torch.distributions.Beta,
    torch.distributions.StudentT,
)

#: Draws for the quantiles of any other law, such as a Wishart's entries, which have no closed form:
#: a median is then off by 1.25 / sqrt(10000) of a standard deviation.
QUANTILE_DRAWS = 10001


def _sampled_quantile(law: Any, probability: float) -> Tensor:
    """Quantiles of draws with a seed of their own, so that asking twice gives the same."""
    with from_seed(0):
        return law.sample((QUANTILE_DRAWS,)).quantile(probability, 0)  # type: ignore[no-any-return]


def _numerical_quantile(law: Any, probability: float) -> Tensor:
    """Quantiles of Gamma, inverse Gamma, Beta and Student t elements, from their densities."""
    if isinstance(law, torch.distributions.InverseGamma):
        precision = dist.Gamma(law.concentration, law.rate)
        return (-_unconstrained_quantile(precision, 1 - probability)).exp()
    if isinstance(law, torch.distributions.Gamma):
        return _unconstrained_quantile(law, probability).exp()
    if isinstance(law, torch.distributions.Beta):
        return _unconstrained_quantile(law, probability).sigmoid()
    # The square t^2 of the standardised value has x = t^2 / (df + t^2) in Beta(1/2, df/2).
    square = dist.Beta(torch.full_like(law.df, 0.5), 0.5 * law.df)
    size = (0.5 * _unconstrained_quantile(square, abs(2 * probability - 1))).exp() * law.df.sqrt()
    side = (probability > 0.5) - (probability < 0.5)
    value: Tensor = law.loc + law.scale * size * side
    return value


def _unconstrained_quantile(law: Any, probability: float) -> Tensor:
    """The quantile of log z under a Gamma, of logit z under a Beta.

    The distribution function is the cumulated trapezoid less its end correction, ``h^2/12 f'``, and
    its inverse between two grid points the cubic with the slopes ``1/f``: both to order h^4. Beyond
    the grid the density is an exponential, of the rate a to the left, b to the right.
    """
    if isinstance(law, torch.distributions.Gamma):
        a, b = law.concentration, torch.full_like(law.concentration, torch.inf)
        spread = torch.special.polygamma(1, a).sqrt()
        points = _grid(torch.digamma(a), spread)
        log_density = a * points - points.exp()
        points = points - law.rate.log()
    else:
        a, b = law.concentration1, law.concentration0
        spread = (torch.special.polygamma(1, a) + torch.special.polygamma(1, b)).sqrt()
        points = _grid(torch.digamma(a) - torch.digamma(b), spread)
        log_density = a * logsigmoid(points) + b * logsigmoid(-points)
    density = (log_density - log_density.amax(0)).exp()
    step = spread * (2 * WIDTH / (GRID - 1))
    slope = torch.gradient(density, dim=0)[0]
    cumulated = torch.cumulative_trapezoid(density, dim=0) * step
    cumulated = cumulated - (slope[1:] - slope[0]) * (step / 12)
    before, after = density[0] / a, density[-1] / b
    cumulated = torch.cat([before.unsqueeze(0), before + cumulated])
    level = (probability * (cumulated[-1] + after)).unsqueeze(0)
    place = (cumulated < level).sum(0, keepdim=True).clamp(1, GRID - 1)
    ends = place - 1, place
    (low, high), (left, right) = ([t.gather(0, e) for e in ends] for t in (cumulated, points))
    rise, run = high - low, right - left
    share = (level - low) / rise
    first, last = (rise / density.gather(0, e) - run for e in ends)
    inside = left + share * run + share * (1 - share) * ((1 - share) * first - share * last)
    below = points[:1] + (level / before).log() / a
    above = points[-1:] - ((cumulated[-1:] + after - level) / after).log() / b
    inside = torch.where(level > cumulated[-1:], above, inside)
    return torch.where(level < before, below, inside).squeeze(0)


def _grid(center: Tensor, spread: Tensor) -> Tensor:
    """Points around each element's center. # shape: (GRID, *elements)"""
    grid = torch.linspace(-WIDTH, WIDTH, GRID, dtype=torch.float64, device=center.device)
    return center + spread * grid.reshape(-1, *(1,) * center.dim())

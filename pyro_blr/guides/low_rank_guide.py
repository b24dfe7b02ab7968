# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A Gaussian guide whose covariance is of low rank but for its diagonal."""

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..counts import is_count
from ..families import Natural
from ..lifting.blocks import Block
from ..lifting.low_rank_normal import LowRankNormal
from .gaussian_guides import GaussianGuide, stacked
from .posterior import detached


class AutoNaturalLowRankMultivariateNormal(GaussianGuide):
    """One Gaussian over all sites with the covariance ``W W' + diag(d)``, W of shape (D, K).

    As ``AutoLowRankMultivariateNormal``: the sites are slices of one latent vector of D elements on
    the unconstrained space, correlated through K columns. Memory and the cost of a step grow as D K
    and D K^2, not as D^2, where no factor asks for covariances off the diagonal: sampled factors
    and elementwise ones do not.

    These laws are a curved subset of the Gaussians: what the guide holds are the coordinates (m, W,
    log d), ``loc``, ``cov_factor`` and ``log_cov_diag`` in the param store, and a step follows the
    natural gradient in them, by the Fisher matrix pulled back (structured natural gradients,
    arXiv 2102.07405). Where the engine speaks of a message, it has for such a block the end of a
    full step, ``coordinates + F^-1 d(ELBO)/dcoordinates``; no block of this guide is conjugate.

    The ELBO has local optima in W, of which a fit certifies the one that it reached. Where an
    element is best explained by W alone, its d goes towards 0.

    A low-rank *precision*, ``S = W W' + diag(d)``, is a different set of Gaussians: few directions
    that are known better than their elements, where here few directions are known worse.

    :param callable model: a Pyro model.
    :param int rank: K, at most D - 1, which reaches every covariance; ``round(sqrt(D))`` if None,
        as in Pyro.
    :param sites: the sites of the joint Gaussian; all if left out. Others get what ``AutoNatural``
        would choose, each for itself.
    :param init_loc_fn: where q starts, as for Pyro's own guides.
    :param init_scale: its standard deviation at the start, on the unconstrained space. Half of each
        variance is in W, whose rows have random directions.
    :param create_plates: as for every ``AutoGuide``.
    :raises ArgumentError: for a rank that is no positive integer; at the first call for one that is
        too large.
    :raises MemoryLimitError: where a factor needs the dense covariance, and it would not fit.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        rank: int | None = None,
        *,
        sites: Iterable[str] | None = None,
        **options: Any,
    ) -> None:
        if not (rank is None or is_count(rank)):
            raise errors.ArgumentError(
                f"rank must be a positive integer, not {rank!r}. Mend: leave it out for the square "
                "root of the number of elements; AutoNaturalNormal(model) has no correlations."
            )
        super().__init__(model, sites=sites, **options)
        self.rank = None if rank is None else int(rank)

    def _first_blocks(self) -> list[Block]:
        named = self._named()
        rest = [n.block() for n in self.latents.values() if n not in named]
        if not named:
            return rest
        size = sum(prod(latent.site.shape) for latent in named)
        return [stacked(named, self._family(size)), *rest]

    def _family(self, size: int) -> LowRankNormal:
        if not size:
            raise errors.NoLatentError(
                f"the sites of {type(self).__name__} have no elements: {self._in_words()}. Mend: "
                "leave them out of the model, or see where their size comes from."
            )
        if self.rank is None:
            self.rank = round(size**0.5)
        largest = max(1, size - 1)
        if self.rank > largest:
            raise errors.ArgumentError(
                f"rank={self.rank} is too large for a latent vector of {size} elements. Mend: "
                f"rank={largest} reaches every covariance; AutoNaturalMultivariateNormal(model) "
                "does so in natural coordinates, with fewer parameters."
            )
        return LowRankNormal()

    def _in_words(self) -> str:
        return ", ".join(f"{n.name!r} of shape {tuple(n.site.shape)}" for n in self._named())

    def _block_natural(self, block: Block, own: Mapping[str, Natural]) -> Natural:
        if not block.family.is_curved:
            return super()._block_natural(block, own)
        assert self.rank is not None
        variance = torch.cat([-0.5 / own[s.name][1].reshape(-1) for s in block.sites])
        mean = torch.cat([own[s.name][0].reshape(-1) for s in block.sites]) * variance
        direction = torch.randn(*mean.shape, self.rank, dtype=torch.float64).to(mean.device)
        direction = direction / direction.norm(dim=-1, keepdim=True)
        return mean, (0.5 * variance).sqrt().unsqueeze(-1) * direction, (0.5 * variance).log()

    def joint(self) -> tuple[Tensor, Tensor, Tensor]:
        """The mean m, W and d on the unconstrained space, float64.

        The order is that of ``latents``, each site's elements row by row.
        # shape: (D,), (D, K), (D,)
        """
        mean, factor, log_diagonal = detached(self.naturals()[self.layout[self._named()[0].name]])
        return mean, factor, log_diagonal.exp()


def to_pyro_parameters(coordinates: Natural) -> tuple[Tensor, Tensor, Tensor]:
    """``loc``, ``scale`` and ``cov_factor`` of Pyro's ``AutoLowRankMultivariateNormal``.

    There the covariance is ``diag(scale) (F F' + I) diag(scale)``: ``scale = d^1/2`` and
    ``F = diag(d)^-1/2 W``.

    :param coordinates: (m, W, log d)
    """
    mean, factor, log_diagonal = coordinates
    scale = (0.5 * log_diagonal).exp()
    return mean, scale, factor / scale.unsqueeze(-1)


def from_pyro_parameters(loc: Tensor, scale: Tensor, cov_factor: Tensor) -> Natural:
    """The coordinates (m, W, log d) of Pyro's ``AutoLowRankMultivariateNormal``, in float64."""
    loc, scale, cov_factor = (t.double() for t in (loc, scale, cov_factor))
    return loc, scale.unsqueeze(-1) * cov_factor, 2 * scale.log()

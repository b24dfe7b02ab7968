# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a guide in natural coordinates says of each site: marginals, quantiles, draws."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.latents import Latent, block_values
from ..families import Natural
from ..lifting.blocks import Block
from .marginals import marginal, quantile


class Posterior:
    """The posterior of each site of a guide that holds natural parameters."""

    latents: dict[str, Latent]
    layout: dict[str, Block]
    #: None in a guide that came from a pickle without it.
    model: Callable[..., Any] | None
    naturals: Callable[[], dict[Block, Natural]]
    set_up: Callable[..., None]

    @property
    def is_set_up(self) -> bool:
        """Whether the latents and their families are known."""
        return bool(self.latents)

    def marginal(self, site: str) -> Any:
        """The posterior of a site as a Pyro distribution.

        :raises GuideError: if the guide has not seen the model yet, or has no such site.
        """
        latent = self._latent(site)
        block = self.layout[site]
        return marginal(block, detached(self.naturals()[block]), latent)

    def _latent(self, site: str) -> Latent:
        if not self.is_set_up:
            raise self._not_seen(f"site {site!r} has no posterior")
        if site not in self.latents:
            raise errors.GuideError(
                f"the guide has no site {site!r}. Mend: use one of {sorted(self.latents)}."
            )
        return self.latents[site]

    def _not_seen(self, therefore: str) -> errors.GuideError:
        return errors.GuideError(
            f"the guide has not seen the model yet, so {therefore}. Mend: take a step, or call "
            "guide(*args) once."
        )

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The posterior median of each site."""
        return {n: v.squeeze(0) for n, v in self.quantiles([0.5], *args, **kwargs).items()}

    def quantiles(
        self, quantiles: Sequence[float] | Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """The posterior quantiles of each site. # shape: (len(quantiles), *site)"""
        if not self.is_set_up:
            if not takes(self.model, args, kwargs):
                raise self._not_seen("its sites have no quantiles")
            self.set_up(args, kwargs)
        levels = torch.as_tensor(quantiles, dtype=torch.float64).tolist()
        naturals = {b: detached(n) for b, n in self.naturals().items()}
        return {
            name: torch.stack(
                [
                    quantile(self.layout[name], naturals[self.layout[name]], latent, q)
                    for q in levels
                ]
            )
            for name, latent in self.latents.items()
        }

    def sample_posterior(self, num_samples: int) -> dict[str, Tensor]:
        """Independent draws of every site. # shape: (num_samples, *site)"""
        if not self.is_set_up:
            raise self._not_seen("it has no draws")
        values: dict[str, Tensor] = {}
        with torch.no_grad():
            for block, natural in self.naturals().items():
                draw = block.family.sample(detached(natural), (num_samples,))
                variables = block_values(block, self.latents, draw)
                for site, variable in variables.items():
                    values[site.name] = self.latents[site.name].value_of(variable)
        return {name: values[name] for name in self.latents}


def takes(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a model can be called with some arguments, as far as its signature says."""
    try:
        inspect.signature(model).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # no signature
        return True
    return True


def detached(natural: Natural) -> Natural:
    """Copies of natural parameters without their graph: steps write in place."""
    return tuple(n.detach().clone() for n in natural)

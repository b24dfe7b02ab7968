# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A mixture of Gaussians over the unconstrained space of all sites."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..counts import is_count
from ..energy.latents import Latent
from ..families import Natural, Normal
from ..families.normal_mixture import NormalMixture
from ..lifting.blocks import Block
from .checkpoint import saved_blocks
from .choice import TraceLatents, choose_latents
from .gaussian_guides import joint_block, stacked
from .memory import check_mixture
from .natural_guide import NaturalGuide
from .posterior import detached
from .store import take_loaded


class AutoNaturalMixture(NaturalGuide):
    """A mixture of K Gaussians with full covariances over all sites, by natural gradients.

    For posteriors with several modes, or a skewed one. The sites are slices of one latent vector on
    the unconstrained space, as in :class:`AutoNaturalMultivariateNormal`, which it is with
    ``components=1``. A mixture is no exponential family, but component and latents together are
    one: a step follows the natural gradient in the means, the precisions and the log-odds of the
    weights (arXiv 1906.02914), at quasi-random points of each component.

    At the first step the components are spread over the posterior: points from the prior and about
    ``init_loc_fn`` are moved towards it, and the components fitted to them. A component whose
    weight falls below 1e-6 is removed, with a warning, as it changes the ELBO by no more than some
    1e-5 nats; :attr:`components` says how many there are.

    :param callable model: a Pyro model. Its discrete latents are summed out at each point.
    :param int components: K; those that are not needed share a mode, or die. Time grows as K^2
        where the model is cheap.
    :param init_loc_fn: about where the components start, as for Pyro's own guides.
    :param init_scale: their standard deviation there, on the unconstrained space.
    :param create_plates: as for every ``AutoGuide``.
    :raises ArgumentError: for components that are no positive integer.
    :raises MemoryLimitError: before they are allocated, if their precisions would not fit.
    """

    def __init__(self, model: Callable[..., Any], components: int = 5, **options: Any) -> None:
        super().__init__(model, **options)
        if not is_count(components):
            raise errors.ArgumentError(
                f"components must be a positive integer, not {components!r}. Mend: "
                "AutoNaturalMixture(model, components=5); one component is "
                "AutoNaturalMultivariateNormal(model)."
            )
        self._asked = int(components)

    @property
    def has_own_rule(self) -> bool:
        """Whether q is a mixture, which no lifted expectation serves; one Gaussian is none."""
        return self._asked > 1

    @property
    def components(self) -> int:
        """How many components there are now: those that were asked for, less those removed."""
        if not self.is_set_up or not self.has_own_rule:
            return self._asked
        return len(self._coordinates()[0])

    def _choose(self, sites: Mapping[str, Any], trace: TraceLatents) -> dict[str, Latent]:
        return choose_latents(sites, {name: Normal() for name in sites}, trace)

    def _first_blocks(self) -> list[Block]:
        latents = list(self.latents.values())
        size = sum(prod(latent.site.shape) for latent in latents)
        name = type(self).__name__
        if not size:
            raise errors.NoLatentError(
                f"the sites of {name} have no elements: {sorted(self.latents)}. Mend: leave them "
                "out of the model, or see where their size comes from."
            )
        if not self.has_own_rule:
            return [joint_block(name, latents)]
        check_mixture(name, self._asked, size, latents[0].device)
        return [stacked(latents, NormalMixture())]

    def _block_natural(self, block: Block, own: Mapping[str, Natural]) -> Natural:
        """Where the sites start, a draw of that for each component."""
        if not block.family.is_curved:
            return super()._block_natural(block, own)
        variance = torch.cat([-0.5 / own[s.name][1].reshape(-1) for s in block.sites])
        mean = torch.cat([own[s.name][0].reshape(-1) for s in block.sites]) * variance
        noise = torch.randn(self._asked, len(mean), dtype=mean.dtype).to(mean.device)
        log_weights = torch.zeros_like(noise[:, 0]).log_softmax(-1)
        precision = variance.reciprocal().diag().expand(self._asked, -1, -1)
        return log_weights, mean + variance.sqrt() * noise, precision.clone()

    def set_natural(self, start: Mapping[str, Any]) -> None:
        """Set where q starts, before the first call: about a distribution, or natural parameters,
        of each site. The components are not spread any further then.

        :raises ArgumentError: later on; :meth:`set_posterior` takes a whole mixture.
        """
        if self.is_set_up and self.has_own_rule:
            raise errors.ArgumentError(
                "the components of a mixture that is set up are not those of single sites. Mend: "
                "guide.set_posterior(mixture), of the latent vector that get_posterior() is of; or "
                "set_natural before the first call."
            )
        super().set_natural(start)

    @property
    def is_given(self) -> bool:
        """Whether where q starts was said, so that it is not to be spread."""
        return bool(self._start) or self.holds_posterior

    def get_posterior(self) -> Any:
        """q of the latent vector on the unconstrained space, as a Pyro distribution.

        Its order is that of ``latents``, each site's elements row by row. # shape: (D,)

        :raises GuideError: before the guide has seen the model.
        """
        if not self.is_set_up:
            raise self._not_seen("it has no posterior")
        (block,) = self.blocks
        return block.family.distribution(detached(self.naturals()[block]))

    def set_posterior(self, mixture: Any) -> None:
        """Put q at a mixture over the latent vector, of as many components or fewer.

        :param mixture: a ``MixtureSameFamily`` of multivariate normals, as :meth:`get_posterior`
            returns it.
        :raises GuideError: before the guide has seen the model.
        :raises ArgumentError: for another distribution, size, or number of components.
        """
        if not self.is_set_up:
            raise self._not_seen("the latent vector has no order yet")
        (block,) = self.blocks
        coordinates = tuple(t.detach().double() for t in block.family.natural_of(mixture))
        means = coordinates[1] if self.has_own_rule else coordinates[0].unsqueeze(0)
        if means.shape[-1] != block.event_size or len(means) > self._asked:
            raise errors.ArgumentError(
                f"a mixture of {len(means)} components of {means.shape[-1]} numbers was given, and "
                f"the guide has {self._asked} of {block.event_size}. Mend: give at most as many "
                "components, over the latent vector that get_posterior() is of."
            )
        self.hold_components(block, coordinates)
        self.holds_posterior = True

    def hold_components(self, block: Block, coordinates: Natural) -> None:
        """Write the coordinates of a mixture, also of fewer components than before."""
        held = self.naturals()[block]
        if [t.shape for t in held] == [t.shape for t in coordinates]:
            self.write({block: coordinates})
        else:
            self.hold({block: coordinates})

    def _coordinates(self) -> tuple[Tensor, ...]:
        held = self._held or self.naturals()
        (natural,) = held.values()
        return natural

    def _store(self, naturals: Mapping[Block, Natural], from_store: bool = True) -> None:
        """Store a mixture; of one from a file as many components as that has."""
        if from_store and self.has_own_rule:
            with self._pyro_context:
                prefix = self._pyro_get_fullname("natural")
                self._loaded = {**self._loaded, **take_loaded(prefix)}
            found = [t for n, t in self._loaded.items() if n.endswith(".log_weights")]
            count = len(found[0]) if found else self._asked
            naturals = {b: tuple(t[:count] for t in n) for b, n in naturals.items()}
        super()._store(naturals, from_store)

    def _check_class(self, state: Mapping[str, Any]) -> None:
        """Refuse the state of another guide, and of more components."""
        if not self.has_own_rule:
            super()._check_class(state)
            return
        count = _saved_components(state)
        if count is None or count > self._asked:
            own = type(self).__name__
            kind = state.get("kind", "a guide")
            said = f"{kind} without a mixture was" if count is None else f"{count} components were"
            was = f"{kind}(model)" if kind != own else f"{own}(model, components={count or 1})"
            raise errors.CheckpointError(
                f"the saved state is of another guide: {said} saved, and this guide has "
                f"components={self._asked}. Mend: {was} takes it up; or start anew without it."
            )

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take saved components, of which some may have been removed."""
        if not self.has_own_rule:
            super()._restore(state)
            return
        (block,) = self._held or self.naturals()
        (saved,) = state["blocks"]
        naturals = saved_blocks(state, self.latents, {block: tuple(saved["natural"])})
        self._saved = None
        self._store(naturals, from_store=False)


def _saved_components(state: Mapping[str, Any]) -> int | None:
    """How many components a guide was saved with; None if it was no mixture of several."""
    blocks = state["blocks"]
    if [b["family"] for b in blocks] != [NormalMixture.name]:
        return None
    return len(blocks[0]["natural"][0])

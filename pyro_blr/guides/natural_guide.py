# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Guides in natural coordinates: what they hold, where they start, how they are sampled."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from .. import errors
from .._compat import init_to_median
from ..energy.builder import EnergyBuilder
from ..energy.energy import Naturals
from ..energy.latents import Latent
from ..energy.traced import Traced
from ..families import Natural
from ..lifting.blocks import Block
from ..random_state import same_random_state
from .choice import TraceLatents
from .own_naturals import block_natural, own_natural
from .persistence import Persistent
from .posterior import Posterior
from .protocol import check_domain
from .prototype import latent_sites, prototype_of
from .rows import chosen, plates_of, without_model
from .start import first_block, first_naturals, given_natural
from .statements import sample_block, sample_site
from .store import NaturalStore, take_loaded
from .table import guide_table


class NaturalGuide(Persistent, Posterior, AutoGuide):
    """A guide that holds an exponential family for each block of latents in natural coordinates.

    Natural parameters live in the param store, in float64 whatever the model's dtype: a mean is
    ``precision^-1 @ natural``, so rounding natural parameters to float32 would cost the posterior's
    condition number in accuracy. Values and marginals have the model's dtype.

    A guide of this kind says which latents it has (``_choose``) and which of them share a block
    (``_first_blocks``, and ``lay_out`` where that depends on the model's factors).

    :param callable model: a Pyro model.
    :param init_loc_fn: where a Gaussian starts, as for Pyro's own guides.
    :param init_scale: its standard deviation at the start, on the unconstrained space.
    :param create_plates: as for every ``AutoGuide``.
    :raises ArgumentError: for arguments that cannot be used.
    """

    #: Whether discrete latents are part of q, and not summed out by the engine.
    holds_discrete = False

    #: Whether its blocks take a rule of their own, and no step on lifted latents.
    has_own_rule: Any = False

    #: The latents that q leaves at their prior given the others, of which it holds nothing.
    at_prior: tuple[str, ...] = ()

    #: Whether q is the posterior of some data, and not where steps start.
    holds_posterior = False

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        create_plates: Callable[..., Any] | None = None,
    ) -> None:
        name = type(self).__name__
        if not callable(model):
            raise errors.ArgumentError(
                f"{name} needs a model that can be called, not {type(model).__name__}. "
                f"Mend: {name}(model)."
            )
        if not init_scale > 0:
            raise errors.ArgumentError(f"init_scale must be positive, not {init_scale}.")
        super().__init__(model, create_plates=create_plates)
        self.init_loc_fn = init_loc_fn
        self.init_scale = float(init_scale)
        self.latents: dict[str, Latent] = {}
        self.layout: dict[str, Block] = {}
        self._start: dict[str, Any] = {}
        self._blocks: tuple[Block, ...] = ()
        self._held: dict[Block, Natural] = {}
        self._loaded: dict[str, Tensor] = {}
        self._saved: Mapping[str, Any] | None = None

    # What kinds of guide decide

    @abstractmethod
    def _choose(self, sites: Mapping[str, Any], trace: TraceLatents) -> dict[str, Latent]:
        """The latents and their families.

        :param sites: the latent sites of a prototype trace, by name.
        :param trace: runs the model on given latents.
        """

    def _first_blocks(self) -> list[Block]:
        """The blocks of q before the model's factors are known: one a latent."""
        given = self._start  # with a matrix, where the site's own law has one
        return [n.block() if n.name in given else first_block(n) for n in self.latents.values()]

    def lay_out(self, traced: Traced, how: str) -> tuple[str, ...]:
        """Choose the blocks of q for the factors of a model; return notes for the explanation.

        A guide with blocks of its own keeps them.

        :param how: ``"auto"`` or ``"site"``.
        """
        return ()

    def suits(self, traced: Traced) -> bool:
        """Whether the blocks serve a call; if not, they are laid out again."""
        return True

    # Setup

    def set_up(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], builder: EnergyBuilder | None = None
    ) -> None:
        """Run the model once to find the latents, their families and where they start.

        :param builder: the energy builder whose cache the run may fill; None where the guide itself
            is called, perhaps without what is observed.
        """
        if self.is_set_up:
            return
        with same_random_state() if self._saved is not None else nullcontext():
            self._find_latents(args, kwargs, builder)
        if self._saved is not None:
            try:
                self._restore(self._saved)
            except errors.CheckpointError:
                self.latents = {}  # not set up: the state is still to be taken up
                raise

    def _find_latents(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], builder: EnergyBuilder | None
    ) -> None:
        if self.model is None:
            raise without_model("find its latents")
        sites, model = self._prototype(args, kwargs), self.model
        if builder is None:
            sites, model = self._as_saved(sites)
        self._prototype_frames = {
            f.name: f for s in sites.values() for f in s["cond_indep_stack"] if f.vectorized
        }
        builder = builder or EnergyBuilder(model, on_sampled="ignore", kept=self.at_prior)
        chosen = self._choose(sites, lambda latents: builder.trace(args, kwargs, latents))
        start = first_naturals(chosen, sites, self._start, self.init_scale, type(self).__name__)
        self.latents = chosen
        self._hold({block: self._block_natural(block, start) for block in self._first_blocks()})

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        self.set_up(args, kwargs)

    def _prototype(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The sites of a run of the model that are latents of q."""
        self.prototype_trace = prototype_of(self.model, self.init_loc_fn, args, kwargs)
        if self.master is not None:
            self.master()._check_prototype(self.prototype_trace)
        return latent_sites(self.prototype_trace, self.holds_discrete, self.at_prior)

    # Natural parameters

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The independent units of q."""
        return self._blocks

    def naturals(self) -> dict[Block, Natural]:
        """The natural parameters of every block, which the param store then has as well."""
        if self._held:
            self._store(self._held)
        with self._pyro_context:
            return self.natural.values(self._blocks)

    def write(self, naturals: Naturals) -> None:
        """Set natural parameters in place.

        :raises DomainError: if they are not inside their domain; nothing is written then.
        """
        check_domain(naturals)
        held = self.naturals()
        with torch.no_grad():
            for block, natural in naturals.items():
                for old, new in zip(held[block], natural, strict=True):
                    old.copy_(new)

    def set_natural(self, start: Mapping[str, Any]) -> None:
        """Set where q starts, by site: natural parameters, or a distribution of its family.

        :param start: for each site a tuple of natural parameters (for a Gaussian
            ``(precision @ mean, -precision / 2)``) or a Pyro distribution.
        """
        if not self.is_set_up:
            self._start.update(start)
            return
        current = {name: self._own_natural(name) for name in self.latents}
        for name, given in start.items():
            if name not in self.latents:
                raise errors.ArgumentError(
                    f"the guide has no site {name!r}; it has {sorted(self.latents)}. Mend: use the "
                    "name of the sample site."
                )
            block = self.layout[name]
            if len(block.sites) > 1 and not all(s.name in start for s in block.sites):
                raise errors.ArgumentError(
                    f"site {name!r} shares a block with {[s.name for s in block.sites]}. Mend: set "
                    "the start of all of them together."
                )
            current[name] = given_natural(self.latents[name], given)
        changed = {b for n, b in self.layout.items() if n in start}
        self.write({b: self._block_natural(b, current) for b in changed})

    def _own_natural(self, name: str) -> Natural:
        """The natural parameters of a site's own block (of its marginal, if it shares one)."""
        block = self.layout[name]
        natural = self._held[block] if self._held else self.naturals()[block]
        return own_natural(block, natural, self.latents[name])

    def _block_natural(self, block: Block, own: Mapping[str, Natural]) -> Natural:
        """The natural parameters of a block from those of its sites' own blocks."""
        return block_natural(block, own, self.latents, type(self).__name__)

    def merge(self, blocks: Sequence[Block]) -> None:
        """Change to a layout of merged blocks; q itself does not change."""
        own = {name: self._own_natural(name) for name in self.latents}
        self._store({block: self._block_natural(block, own) for block in blocks})

    @contextmanager
    def as_before_an_error(self) -> Iterator[None]:
        """Latents, blocks and natural parameters are what they were, if an error passes."""
        if not self.is_set_up:
            yield
            return
        kept = self.latents, self.prototype_trace, self._prototype_frames
        naturals = {b: tuple(t.detach().clone() for t in n) for b, n in self.naturals().items()}
        try:
            yield
        except BaseException:
            self.latents, self.prototype_trace, self._prototype_frames = kept
            if self._blocks == tuple(naturals):
                self.write(naturals)
            else:
                self.hold(naturals)
            raise

    def hold(self, naturals: Mapping[Block, Natural]) -> None:
        """Change to other blocks, of which the natural parameters are given."""
        self._store(naturals, from_store=False)

    def _hold(self, naturals: Mapping[Block, Natural]) -> None:
        """Where q starts, stored when it is first asked for: blocks that are merged before that,
        or share a covariance, never have a matrix for each element.
        """
        self._lay_out(naturals)
        self._held = dict(naturals)
        with self._pyro_context:
            is_loaded = self._loaded or take_loaded(self._pyro_get_fullname("natural"))
        if is_loaded:
            self._store(naturals)

    def _lay_out(self, blocks: Iterable[Block]) -> None:
        self._blocks = tuple(blocks)
        self.layout = {s.name: block for block in self._blocks for s in block.sites}

    def _store(self, naturals: Mapping[Block, Natural], from_store: bool = True) -> None:
        self._lay_out(naturals)
        self._held = {}
        with self._pyro_context:
            prefix = self._pyro_get_fullname("natural")
            self._loaded = {**self._loaded, **take_loaded(prefix)} if from_store else {}
            self.natural = NaturalStore()
            loaded = len(self._loaded)
            self.natural.fill(prefix, naturals, self._loaded)
        if len(self._loaded) < loaded:  # who saves a guide has most likely fitted it
            self.holds_posterior = True

    def _repr_html_(self) -> str:
        return guide_table(self)

    # The guide protocol

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample every latent inside its plates."""
        if not self.is_set_up:
            self.set_up(args, kwargs)
        variables: dict[str, Tensor] = {}
        for block, natural in self.naturals().items():
            name = f"_{self._pyro_name}_{block.name}"
            variables.update(sample_block(name, block, natural, self.latents))
        plates, rows = plates_of(self, args, kwargs, variables)
        return {
            name: sample_site(latent, chosen(variables[name], latent, rows), plates)
            for name, latent in self.latents.items()
        }

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Guides in natural coordinates: what they hold, where they start, how they are sampled."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from .. import errors
from .._compat import InitMessenger, init_to_median, prototype_hide_fn, site_is_subsample
from ..energy.builder import EnergyBuilder
from ..energy.energy import Naturals
from ..energy.enumeration import is_discrete
from ..energy.home import run_at_home
from ..energy.latents import Latent, block_values
from ..energy.networks import independent_block
from ..energy.trace import Traced, without_validation
from ..families import Natural
from ..families.registry import unwrap
from ..lifting.blocks import Block
from ..random_state import same_random_state
from .choice import TraceLatents, full_value
from .marginals import own_law
from .memory import check_latent
from .merged import elementwise_natural, is_elementwise, marginal_natural, merged_natural
from .persistence import Persistent
from .posterior import Posterior, detached
from .protocol import check_domain
from .rows import PlateReader, chosen, plates_of, under_plates, without_model
from .start import first_block, given_natural, initial_natural, located
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
        with torch.no_grad(), without_validation():
            sites = self._prototype(args, kwargs)
        model = self.model
        if builder is None:
            sites, model = self._as_saved(sites)
        self._prototype_frames = {
            f.name: f for s in sites.values() for f in s["cond_indep_stack"] if f.vectorized
        }
        builder = builder or EnergyBuilder(model, on_sampled="ignore")
        chosen = self._choose(sites, lambda latents: builder.trace(args, kwargs, latents))
        self._check_start(chosen)
        start = {}
        for name, latent in chosen.items():
            if first_block(latent).gaussian and first_block(latent).event_size is not None:
                check_latent(type(self).__name__, first_block(latent), latent.device)
            value, _ = full_value(sites[name])
            given = self._start.get(name)
            start[name] = (
                initial_natural(latent, sites[name], value, self.init_scale)
                if given is None
                else given_natural(latent, given)
            )
        self.latents = chosen
        self._hold({block: self._block_natural(block, start) for block in self._first_blocks()})

    def _check_start(self, chosen: Mapping[str, Latent]) -> None:
        """Refuse a start for sites that the model does not have."""
        unknown = sorted(set(self._start) - set(chosen))
        if unknown:
            raise errors.ArgumentError(
                f"a start was given for {unknown}, which the model does not have as latents; it "
                f"has {sorted(chosen)}. Mend: use the names of the sample sites."
            )

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        self.set_up(args, kwargs)

    def _prototype(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        def run(model: Callable[..., Any]) -> Any:
            model = PlateReader()(InitMessenger(located(self.init_loc_fn))(model))
            hidden = poutine.block(model, prototype_hide_fn)
            return poutine.block(poutine.trace(hidden).get_trace)(*args, **kwargs)

        with warnings.catch_warnings():
            # torch's Wishart tests whether its draws are regular and warns if they are.
            warnings.filterwarnings("ignore", "Singular sample detected", UserWarning)
            trace = run_at_home(run, self.model, args, kwargs, _values)
        self.prototype_trace = trace
        if self.master is not None:
            self.master()._check_prototype(self.prototype_trace)
        every = dict(self.prototype_trace.iter_stochastic_nodes())
        # Discrete latents are no part of q, as the engine sums them out; or they are as all others.
        held = self.holds_discrete
        sites = {n: s for n, s in every.items() if held or not is_discrete(s["fn"])}
        if every and not sites:
            raise errors.NoLatentError(
                f"the model's only latents are discrete, {sorted(every)}, so there is nothing for "
                "a guide to hold. Mend: pyro_blr.latent.conjugated(model, *args) has the exact "
                "posterior and learns pyro.param by EM; or give its parameters priors by "
                "pyro.sample."
            )
        if not sites:
            raise errors.NoLatentError(
                "the model has no latent variable: every sample site is observed or hidden. Mend: "
                "leave obs= out of the site that is to be inferred."
            )
        return sites

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
        latent = self.latents[name]
        natural = self._held[block] if self._held else self.naturals()[block]
        if _is_own(block, latent):
            return natural
        law = own_law(block, detached(natural), latent)
        if isinstance(unwrap(law), dist.Normal) and first_block(latent).event_size is None:
            return elementwise_natural(unwrap(law).loc, unwrap(law).scale)
        return given_natural(latent, law)

    def _block_natural(self, block: Block, own: Mapping[str, Natural]) -> Natural:
        latent = self.latents[block.sites[0].name]
        if _is_own(block, latent):
            natural = own[latent.name]
            if not block.gaussian or is_elementwise(natural) == (block.event_size is None):
                return natural
            if block.event_size is None:
                return marginal_natural(latent, natural)
            check_latent(type(self).__name__, block, latent.device)
        return merged_natural(block, own, self.latents)

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
            variables.update(self._draw(block, natural))
        plates, rows = plates_of(self, args, kwargs, variables)
        return {
            name: self._sample_site(latent, chosen(variables[name], latent, rows), plates)
            for name, latent in self.latents.items()
        }

    def _draw(self, block: Block, natural: Natural) -> dict[str, Tensor]:
        """A draw of a block, as an auxiliary site: the variables of its sites, in full size."""
        base = block.family.distribution(natural)
        draw = pyro.sample(
            f"_{self._pyro_name}_{block.name}",
            base.to_event(len(base.batch_shape)),
            infer={"is_auxiliary": True},
        )
        lead = draw.shape[: draw.dim() - len(base.batch_shape) - len(base.event_shape)]
        values = block_values(block, self.latents, draw)
        return {s.name: under_plates(v, lead, self.latents[s.name]) for s, v in values.items()}

    def _sample_site(self, latent: Latent, variable: Tensor, plates: Mapping[str, Any]) -> Tensor:
        with ExitStack() as stack:
            for name, _ in latent.plates.values():
                stack.enter_context(plates[name])
            value = latent.value_of(variable)
            density: Any = 0.0
            if latent.transform is not None and poutine.get_mask() is not False:
                density = -latent.transform.log_abs_det_jacobian(variable, value)
                extra = density.dim() - (value.dim() - latent.value_event_dim)
                density = density.sum(tuple(range(-extra, 0))) if extra > 0 else density
            delta = dist.Delta(value, log_density=density, event_dim=latent.value_event_dim)
            result: Tensor = pyro.sample(latent.name, delta)
        return result


def _is_own(block: Block, latent: Latent) -> bool:
    """Whether a block is the site's own, with its covariance or with independent elements."""
    form = block.batch_shape, block.event_size, block.family
    each = [latent.block()]
    if latent.site.gaussian:
        each.append(independent_block(latent))
    return len(block.sites) == 1 and any(
        form == (own.batch_shape, own.event_size, own.family) for own in each
    )


def _values(trace: Any) -> list[Any]:
    """The values of the sites of a trace."""
    return [
        s["value"]
        for s in trace.nodes.values()
        if s["type"] == "sample" and not site_is_subsample(s)
    ]

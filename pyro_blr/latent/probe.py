# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Runs of the user's model: one as it is, and one at many values of its latents at once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .. import errors
from .._compat import site_is_subsample
from ..energy.home import run_at_home
from ..random_state import from_seed
from ..shapes import broadcast_shapes
from .peeling import MAX_STATES, finite_support, peel

#: The seed of every draw that a result depends on: values of latents where functions are compared.
SEED = 20240419


@dataclass(frozen=True)
class Record:
    """What a run left of a sample site."""

    name: str
    fn: Any
    value: Any
    mask: Any
    scale: Any
    plates: Mapping[int, int]
    is_observed: bool

    def gaps(self, event_dim: int) -> Tensor:
        """Which entries of an observed value are missing: NaN, or masked.

        :param event_dim: of the family of the site's elements.
        # shape of the result: that of the value
        """
        value, peeled = self.value, peel(self.fn)
        gone = torch.isnan(value) if value.is_floating_point() else torch.zeros_like(value).bool()
        gone = gone.expand(broadcast_shapes(value.shape, self.fn.shape()))
        for mask, inner in ((self.mask, peeled.elements + event_dim), (peeled.mask, event_dim)):
            if mask is not None:
                mask = torch.as_tensor(mask, dtype=torch.bool, device=value.device)
                gone = gone | ~mask.reshape(mask.shape + (1,) * inner)
        return gone

    @cached_property
    def gaps_of_vectors(self) -> Tensor | None:
        """The missing entries of an observed value of vectors; None if all are there."""
        gone = self.gaps(1) if self.is_observed else None
        return None if gone is None or not bool(gone.any()) else gone


@contextmanager
def fixed_draws() -> Iterator[None]:
    """Draw the same numbers each time, and leave the user's generator as it was."""
    with from_seed(SEED):
        yield


class Recorder(Messenger):
    """Records the sample sites of a run, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Record] = {}
        self.parameters: list[str] = []

    def forget(self) -> None:
        """Begin a run."""
        self.sites, self.parameters = {}, []

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        if msg["name"] not in self.parameters:
            self.parameters.append(msg["name"])

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg) or msg["type"] != "sample":
            return
        plates = {f.dim: f.size for f in msg["cond_indep_stack"] if f.vectorized}
        kept = (msg["fn"], msg["value"], msg["mask"], msg["scale"], plates, msg["is_observed"])
        self.sites[msg["name"]] = Record(msg["name"], *kept)


class Placed(Recorder):
    """Gives continuous latents the values of a design, and discrete ones all of their values.

    Plates have the dims -depth to -1 and the design -depth - 1; each discrete site takes one more
    to the left. Values have the size 1 along plates, so that a likelihood without inputs is
    evaluated for one row.

    :param points: for each continuous latent. # shape: (points, *event)
    :param discrete: the names of the discrete ones.
    :param alone: whether these are single values, without dims in front of their events.
    """

    def __init__(
        self,
        points: Mapping[str, Tensor],
        discrete: tuple[str, ...],
        depth: int,
        alone: bool = False,
    ) -> None:
        super().__init__()
        self.points, self.discrete, self.depth, self.alone = points, discrete, depth, alone
        self.states: dict[str, Tensor] = {}

    def forget(self) -> None:
        super().forget()
        self.states = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        name = msg["name"]
        if name in self.points:
            value = self.points[name]
            if not self.alone:
                value = value.reshape(-1, *(1,) * self.depth, *value.shape[1:])
            msg["value"] = value
            msg["done"] = True
        elif name in self.discrete:
            support = self._support(name, msg["fn"])
            others = self.depth + 1 + len(self.states)
            self.states[name] = support
            msg["value"] = support.reshape(-1, *(1,) * others, *support.shape[1:])
            msg["done"] = True

    def _support(self, name: str, fn: Any) -> Tensor:
        support = finite_support(fn)
        total = prod(len(s) for s in self.states.values())
        if support is None:
            raise errors.DiscreteLatentError(
                f"the discrete latent {name!r} has no finite list of values that could be summed "
                f"over (at most {MAX_STATES}). Mend: truncate it to a Categorical, split it into "
                "smaller sites, or fit the model by BLR."
            )
        if total * len(support) > MAX_STATES:
            raise errors.MemoryLimitError(
                f"with {name!r} the discrete latents have {total * len(support)} joint values, "
                f"more than {MAX_STATES}. Mend: put independent ones into a plate, or give the "
                "model's parameters priors by pyro.sample and fit it by BLR."
            )
        return support


@dataclass(frozen=True)
class Call:
    """A model, its arguments, and the plates put around it so that each datum has its own latents.

    :param around: the sizes of these plates, from the right, and where the first one is.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    around: tuple[int, ...] = ()
    first: int = 0

    def run(self, recorder: Recorder) -> Recorder:
        """Run the model, its constants where the data are; a recorder hears its sites."""
        return run_at_home(
            lambda model: self._run(model, recorder), self.model, self.args, self.kwargs
        )

    def _run(self, model: Callable[..., Any], recorder: Recorder) -> Recorder:
        recorder.forget()
        with ExitStack() as stack:
            stack.enter_context(recorder)
            for i, size in enumerate(self.around):
                dim = self.first - i
                stack.enter_context(pyro.plate(f"_latent_plate_{-dim}", size, dim=dim))
            model(*self.args, **self.kwargs)
        return recorder


@dataclass(frozen=True)
class Census:
    """The sites of a model, from one run of it.

    :param observed: with the role of data: observed, or named so.
    :param depth: how many dims from the right plates and batches take.
    :param parameters: the names of the ``pyro.param`` statements.
    """

    call: Call
    sites: Mapping[str, Record]
    observed: tuple[str, ...]
    latents: tuple[str, ...]
    depth: int
    parameters: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        """Where the latents are."""
        found: torch.device = self.sites[self.latents[0]].value.device
        return found

    @property
    def continuous(self) -> tuple[str, ...]:
        """The latents that are summed over by a formula."""
        return tuple(n for n in self.latents if not is_discrete(self.sites[n].fn))

    @property
    def discrete(self) -> tuple[str, ...]:
        """The latents that are summed over one by one."""
        return tuple(n for n in self.latents if is_discrete(self.sites[n].fn))


def is_discrete(fn: Any) -> bool:
    """Whether a distribution is of a countable set."""
    return bool(fn.support.is_discrete)


def take_census(call: Call, named: tuple[str, ...]) -> Census:
    """Run a model once to see its sites; put plates around it where data have more dims than it.

    :param named: sites that are taken as observed though they have no value.
    """
    with fixed_draws(), torch.no_grad():
        recorder = call.run(Recorder())
    sites = recorder.sites
    observed = tuple(n for n, s in sites.items() if s.is_observed or n in named)
    latents = tuple(n for n in sites if n not in observed)
    missing = [n for n in named if n not in sites]
    if missing or not observed:
        what = f"no site {missing[0]!r}" if missing else "no observed site"
        raise errors.GuideError(
            f"the model has {what}; it has {', '.join(map(repr, sites)) or 'none at all'}. Mend: "
            "pass the data, so that pyro.sample(..., obs=data) is reached, or name the sites that "
            'stand for data: conjugated(model, observed=("x",)).'
        )
    if not latents:
        raise errors.NoLatentError(
            "the model has no latent: every sample site is observed. Mend: leave out obs= (or "
            "poutine.condition) of what is to be inferred."
        )
    extra = _undeclared(sites[n] for n in observed)
    if extra and not call.around:
        own = _depth(sites.values())
        around = Call(call.model, call.args, call.kwargs, extra, -own - 1)
        return take_census(around, named)
    depth = _depth(sites.values())
    return Census(call, sites, observed, latents, depth, tuple(recorder.parameters))


def _depth(sites: Any) -> int:
    """How many dims from the right plates and batches take."""
    dims = [len(getattr(s.fn, "batch_shape", ())) for s in sites]
    return max([*dims, *(-dim for s in sites for dim in s.plates)], default=0)


def _undeclared(sites: Any) -> tuple[int, ...]:
    """The sizes, from the right, of the dims of data in front of those that the model declares."""
    longest: tuple[int, ...] = ()
    for site in sites:
        if not isinstance(site.value, Tensor) or not site.is_observed:
            continue
        own = len(site.fn.batch_shape) + len(site.fn.event_shape)
        extra = tuple(reversed(site.value.shape[: max(0, site.value.dim() - own)]))
        longest = max(longest, extra, key=len)
    return longest


def prior_draws(census: Census, count: int) -> dict[str, Tensor]:
    """Draws of the continuous latents from their priors in that run. # shape: (count, *event)"""
    found = {}
    with fixed_draws(), torch.no_grad():
        for name in census.continuous:
            fn = census.sites[name].fn
            value = fn.sample((-(-count // max(1, fn.batch_shape.numel())),))
            found[name] = value.reshape(-1, *fn.event_shape)[:count]
    return found

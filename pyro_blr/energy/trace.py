# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""One run of the user's model on lifted latents."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.distribution import COERCIONS
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from .. import errors
from .._compat import constraint_of
from ..lifting.distribution import coerce
from ..lifting.enumerated import over_values
from ..lifting.tensor import LiftedTensor, last_refusal
from ..lifting.transforms import forward, log_jacobian, sum_rightmost
from ..lifting.wrappers import both_masks, log_density, pulled_back, without_mask
from ..shapes import broadcast_shapes
from .domains import check_arguments, checked_matrices, checked_value
from .enumeration import (
    NO_DIMS,
    Choice,
    Dims,
    check_declared,
    check_memory,
    check_rows,
    choice_of,
    dims_of,
    is_discrete,
    summed_out,
)
from .hidden_gaussian import GaussianChain, gaussian_chain
from .hidden_markov import HiddenChain, hidden_chain, without_gaps
from .latents import Latent, Latents
from .parameters import LiftedParameter, Parameter
from .subsamples import Subsamples, changed_size, check_seen


@dataclass(frozen=True, eq=False)
class TracedSite:
    """A sample site of the model and its log density along its batch dims.

    :param log_prob: lifted where anything in it is a latent, a plain tensor elsewhere.
    :param scale: what it is multiplied by (subsampling, ``poutine.scale``, 1 / temperature).
    :param mask: None, a bool, or a tensor that broadcasts over the batch dims.
    :param dims: what the dims of the log density are.
    :param choice: how the site was enumerated, if it is a discrete latent.
    :param chain: the log factors of its hidden chain, if it is a hidden Markov model.
    :param no_chain: why one of Gaussian states has none.
    :param is_data: whether it is observed: a datum, or a term of ``pyro.factor``.
    :param plates: the names of all plates that it is in, loops over a plate among them.
    """

    name: str
    log_prob: Any
    scale: Any
    mask: Any
    dims: Dims = NO_DIMS
    choice: Choice | None = None
    chain: HiddenChain | GaussianChain | None = None
    no_chain: str = ""
    is_data: bool = False
    plates: frozenset[str] = frozenset()

    @property
    def log_factors(self) -> tuple[Any, ...]:
        """What its expectation is taken of: the log density, or those of a hidden chain."""
        return (self.log_prob,) if self.chain is None else self.chain.log_factors

    @property
    def lifted_factors(self) -> tuple[LiftedTensor, ...]:
        """Those of them that depend on latents."""
        return tuple(f for f in self.log_factors if isinstance(f, LiftedTensor))

    @property
    def touches(self) -> frozenset[str]:
        """The latents that it depends on."""
        return frozenset(n for f in self.lifted_factors for n in f.site_names)

    @cached_property
    def choices(self) -> frozenset[int]:
        """The discrete latents that the log density depends on, itself if it is one."""
        own = self.choice
        mine = frozenset() if own is None else frozenset({self.dims.choices[own.dim]})
        return mine | self.dims.depends_on(tuple(getattr(self.log_prob, "shape", ())))


@dataclass(eq=False)
class Traced:
    """What one run of the model left behind.

    :param rows: for each latent in a subsampled plate, the indices along its dims.
    :param local_scale: the scale of those latents' plates.
    :param parameters: the ``pyro.param`` statements that the model made, by name.
    :param lifted: those of them whose value was lifted.
    :param nesting: the number of dims that plates and batches take.
    """

    sites: list[TracedSite] = field(default_factory=list)
    rows: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    local_scale: dict[str, float] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    lifted: dict[str, LiftedParameter] = field(default_factory=dict)
    is_subsampled: bool = False
    nesting: int = 0
    #: For each latent in a plate whose elements are spread over parts, the dims of these.
    sharded: dict[str, frozenset[int]] = field(default_factory=dict)

    @property
    def has_choices(self) -> bool:
        """Whether discrete latents are summed out."""
        return any(s.choice is not None or s.chain is not None for s in self.sites)


class HasDiscrete(Exception):
    """The model has a discrete latent, so it is to be run with dims for its values."""


class LiftMessenger(Messenger):
    """Gives each latent its lifted value and records the log density of every site.

    :param lifted: the parameters that get a lifted value too.
    :param temperature: what the log densities of observed sites are divided by.
    :param nesting: the dims that are left to plates; values of discrete latents run left of them.
        None if there are none.
    """

    def __init__(
        self,
        latents: Latents,
        lifted: Mapping[str, LiftedParameter],
        temperature: float,
        nesting: int | None,
    ) -> None:
        super().__init__()
        self.nesting = nesting
        self.latents = latents
        self.lifted = lifted
        self.temperature = temperature
        self.traced = Traced()
        self.plates = Subsamples()

    def __enter__(self) -> Any:
        self.traced, self.plates = Traced(), Subsamples()
        COERCIONS.append(coerce)
        return super().__enter__()

    def __exit__(self, *exc: Any) -> Any:
        # poutine.collapse pops the last hook when it ends; ours may be gone or not the last.
        if coerce in COERCIONS:
            COERCIONS.remove(coerce)
        return super().__exit__(*exc)

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if coerce not in COERCIONS:
            COERCIONS.append(coerce)
        if site_is_subsample(msg):
            self.plates.before(msg)
            return
        if msg["is_observed"] or msg["done"]:
            return
        latent = self.latents.get(msg["name"])
        if latent is None and is_discrete(msg["fn"]):
            if self.nesting is None:
                raise HasDiscrete(msg["name"])
            msg["infer"] = summed_out(msg["name"], msg["fn"], msg["infer"])
            check_declared(msg, self.nesting)
            return
        if latent is None:
            raise missing_site(msg["name"])
        # Not "done": Pyro's messenger has yet to say which discrete latents it may depend on.
        msg["infer"] = {k: v for k, v in msg["infer"].items() if k != "enumerate"}
        msg["value"] = self._value(latent, msg)

    def _value(self, latent: Latent, msg: dict[str, Any]) -> Tensor:
        """The lifted value; under a subsampled plate, its rows of the stored latent."""
        variable: Any = LiftedTensor.of_site(latent.site, latent.dtype, latent.device)
        frames = {f.name: f for f in msg["cond_indep_stack"] if f.vectorized}
        stored = {name for name, _ in latent.plates.values()}
        for dim, (name, full) in latent.plates.items():
            frame = frames.get(name)
            subsample = self.plates.by_plate.get(name)
            if frame is None:
                continue
            if subsample is None:
                check_seen(frame, latent.name, full)
                continue
            if subsample.size != full:
                raise changed_size(name, latent.name, subsample.size, full)
            if subsample.is_whole:
                continue
            if subsample.is_a_part:
                self.traced.rows.setdefault(latent.name, {})[dim] = subsample.index
                scale = self.traced.local_scale.get(latent.name, 1.0)
                self.traced.local_scale[latent.name] = scale * full / frame.size
            variable = variable.index_select(dim, subsample.index)
        _check_plates(latent, msg, stored, frames)
        self.traced.seen.add(latent.name)
        if latent.transform is None:
            return variable  # type: ignore[no-any-return]
        value = forward(latent.transform, variable)
        value.is_value = True
        msg["infer"] = {**msg["infer"], "_pyro_blr_variable": variable}
        return value  # type: ignore[no-any-return]

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            self.plates.after(msg)
            return
        if msg["infer"].get("_deterministic"):
            return
        fn, value, mask = msg["fn"], msg["value"], msg["mask"]
        by_class = isinstance(mask, LiftedTensor) and any(s.is_discrete for s in mask.sites)
        by_latent, mask = (mask, None) if by_class else (None, mask)
        own = (self.plates.by_plate.get(f.name) for f in msg["cond_indep_stack"])
        self.traced.is_subsampled |= any(s is not None and s.is_a_part for s in own)
        check_arguments(msg["name"], fn)
        if msg["is_observed"] and not isinstance(value, LiftedTensor):
            fn, own_mask = without_mask(fn)
            mask = both_masks(mask, own_mask)
            value = checked_value(msg["name"], fn, without_gaps(fn, value), mask, self.nesting)
        variable = msg["infer"].get("_pyro_blr_variable")
        if variable is None:
            log_prob = log_density(fn, value)
        else:
            log_prob = _variable_log_density(self.latents[msg["name"]], fn, variable, value)
        if by_latent is not None:
            log_prob = torch.where(by_latent, log_prob, torch.zeros(()))
        if isinstance(log_prob, LiftedTensor):
            log_prob = over_values(log_prob)
        dims = dims_of(msg)
        if dims.choices:
            log_prob = _over_choices(log_prob, (mask, msg["scale"]), dims)
        self._check_shape(msg, log_prob, dims)
        is_data = bool(msg["is_observed"]) and not msg["infer"].get("_pyro_blr_point")
        tempered = is_data and self.temperature != 1
        scale = msg["scale"] / self.temperature if tempered else msg["scale"]
        choice = choice_of(msg)
        chain, no_chain = _chain_of(fn, value)
        about = (msg["name"], log_prob, scale, mask, dims, choice, chain, no_chain)
        plates = frozenset(f.name for f in msg["cond_indep_stack"])
        site = TracedSite(*about, is_data=is_data, plates=plates)
        self.traced.sites.append(site)

    def _check_shape(self, msg: dict[str, Any], log_prob: Any, dims: Dims) -> None:
        shape = tuple(getattr(log_prob, "shape", ()))
        room = len(shape) if self.nesting is None else self.nesting
        right = shape[max(0, len(shape) - room) :]
        sizes = [len(right) - i for i, size in enumerate(right) if size > 1]
        self.traced.nesting = max(self.traced.nesting, dims.depth, *sizes, 0)
        _check_plates_of(msg, right)
        if dims.depends_on(shape):
            check_rows(msg["name"], right, dims)
        if dims.choices:
            check_memory(msg["name"], shape, dims, getattr(log_prob, "device", torch.device("cpu")))

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        name, value = msg["name"], msg["value"]
        unconstrained = getattr(value, "unconstrained", None)
        leaf = unconstrained() if callable(unconstrained) else value
        constraint = constraint_of(name, msg["kwargs"].get("constraint"))
        parameter = Parameter(name, leaf, value.detach(), constraint)
        self.traced.parameters[name] = parameter
        lifted = self.lifted.get(name)
        if lifted is not None and parameter.is_free and lifted.site.shape == value.shape:
            self.traced.lifted[name] = lifted
            msg["value"] = lifted.lift(parameter)


def _over_choices(log_prob: Any, weighers: tuple[Any, ...], dims: Dims) -> Any:
    """A log density along the discrete latents that its mask or its scale depends on."""
    shapes = [tuple(w.shape) for w in weighers if isinstance(w, Tensor)]
    own = tuple(getattr(log_prob, "shape", ()))
    if all(dims.depends_on(shape) <= dims.depends_on(own) for shape in shapes):
        return log_prob
    return log_prob.expand(broadcast_shapes(own, *shapes))


def _chain_of(fn: Any, value: Any) -> tuple[HiddenChain | GaussianChain | None, str]:
    """The hidden chain of a site, if it has one, or why one of Gaussian states has none."""
    chain = hidden_chain(fn, value) or gaussian_chain(fn, value)
    return (None, chain) if isinstance(chain, str) else (chain, "")


def _check_plates_of(msg: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Refuse a site in plates whose log density has other dims: a (N, 1) mean of (N,) data.

    :param shape: the log density's, without the dims of discrete latents.
    :raises ShapeError: naming the site.
    """
    frames = {f.dim: f for f in msg["cond_indep_stack"] if f.vectorized}
    if not frames or not shape:
        return
    for dim in range(-len(shape), 0):
        size = frames[dim].size if dim in frames else 1
        between = dim not in frames and dim > min(frames)
        if shape[dim] not in (1, size) and not between:
            plates = ", ".join(f"{f.name!r} (dim {d}, size {f.size})" for d, f in frames.items())
            raise errors.ShapeError(
                f"the log density of site {msg['name']!r} has the shape {shape}, but its plates "
                f"are {plates}. Mend: drop the dim that broadcasts (a mean of shape (N, 1) beside "
                "data of shape (N,): .squeeze(-1)), or declare dims that belong together by "
                ".to_event(1)."
            )


def _check_plates(
    latent: Latent, msg: dict[str, Any], stored: set[str], frames: Mapping[str, Any]
) -> None:
    extra = sorted(set(frames) - stored)
    missing = sorted(stored - set(frames))
    if extra or missing:
        raise errors.PlateSizeError(
            f"latent {latent.name!r} was stored under the plates {sorted(stored)}, but the model "
            f"now puts it under {sorted(frames)}. Mend: make a new guide for the changed model."
        )


def _variable_log_density(latent: Latent, fn: Any, variable: Any, value: Any) -> Any:
    """The log density of q's variable along the site's batch dims: with the Jacobian."""
    transform = latent.transform
    assert transform is not None
    base = pulled_back(fn, transform)
    if base is not None:
        return log_density(base, variable)
    jacobian = log_jacobian(transform, variable, value)
    extra = latent.site.event_dim - transform.domain.event_dim
    return log_density(fn, value) + sum_rightmost(jacobian, extra)


def missing_site(name: str) -> errors.BLRError:
    """The error for a latent of the model that the guide does not hold."""
    return errors.GuideError(
        f"the model has a latent {name!r} that the guide does not hold. Mend: make the guide from "
        f"the same model, AutoNatural(model), or hide the site from both by poutine.block(model, "
        f"hide=[{name!r}])."
    )


def branch_on_discrete() -> errors.ControlFlowError:
    """The error for a Python branch on a discrete latent that is summed out."""
    return errors.ControlFlowError(
        "the model branches in Python (`if`, `while`, `and`, `bool()`) on a tensor of several "
        "elements. A discrete latent has all of its values at once while it is summed out. Mend: "
        "write the branch with torch.where, or index by the latent."
    )


def position_of_discrete(error: IndexError) -> errors.DiscreteLatentError:
    """The error for an index that fails in a model whose discrete latents are summed out."""
    return errors.DiscreteLatentError(
        f"an index is out of bounds ({error}) in a model with discrete latents. While they are "
        "summed out a latent `z` has one element that stands for all of its plate, so that "
        "`z[src]` picks nothing. Mend: if elements of it meet each other (the pairs of a block "
        'model), BLR(..., discrete="factorised"); else put what depends on it into its own plate; '
        "else correct the index."
    )


@contextmanager
def without_validation() -> Iterator[None]:
    """Lifted values cannot be checked one by one; what is constant is, by ``domains``."""
    torch_checks = torch.distributions.Distribution._validate_args
    try:
        with pyro.validation_enabled(False), checked_matrices():
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(torch_checks)


def trace_model(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    latents: Latents,
    lifted: Mapping[str, LiftedParameter],
    temperature: float,
    nesting: int | None = None,
) -> Traced:
    """Run the model once on lifted latents, and on lifted parameters where some are named.

    :param nesting: the dims that are left to plates, left of which discrete latents are enumerated;
        None if there is none to enumerate.
    :raises HasDiscrete: at the first discrete latent, if ``nesting`` is None.
    :raises GuideError: if the guide and the model do not hold the same latents.
    """
    messenger = LiftMessenger(latents, lifted, temperature, nesting)
    enumerating = nullcontext() if nesting is None else EnumMessenger(-1 - nesting)
    with poutine.block(), without_validation(), enumerating, messenger:
        last_refusal.set(None)
        try:
            model(*args, **kwargs)
        except errors.BLRError:
            raise
        except Exception as error:
            refusal = last_refusal.get()
            if refusal is not None:
                raise refusal from error
            if nesting is not None and "Boolean value of Tensor" in str(error):
                raise branch_on_discrete() from error
            if nesting is not None and isinstance(error, IndexError):
                raise position_of_discrete(error) from error
            raise
    unseen = sorted(set(latents) - messenger.traced.seen)
    if unseen:
        raise errors.GuideError(
            f"the guide holds {unseen} which the model did not sample in this call. Mend: make the "
            "guide from the same model and arguments; a latent behind a Python branch that is not "
            "taken has no factor."
        )
    return messenger.traced

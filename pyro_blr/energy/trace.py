# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""One run of the user's model on lifted latents."""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from .at_prior import at_prior
from .domains import check_arguments, checked_matrices, checked_value
from .enumeration import (
    Dims,
    cause_of,
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
from .plates import check_dims, chosen_rows
from .subsamples import Subsamples
from .traced import Traced, TracedSite


class HasDiscrete(Exception):
    """The model has a discrete latent, so it is to be run with dims for its values."""


class LiftMessenger(Messenger):
    """Gives each latent its lifted value and records the log density of every site.

    :param lifted: the parameters that get a lifted value too.
    :param temperature: what the log densities of observed sites are divided by.
    :param nesting: the dims that are left to plates; values of discrete latents run left of them.
        None if there are none.
    :param kept: the latents that q leaves at their prior given the others.
    """

    def __init__(
        self,
        latents: Latents,
        lifted: Mapping[str, LiftedParameter],
        temperature: float,
        nesting: int | None,
        kept: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.nesting = nesting
        self.kept = kept
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
        if msg["name"] in self.kept:
            msg["value"], self.traced.noise[msg["name"]] = at_prior(msg)
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
        for dim, rows in chosen_rows(latent, msg, self.plates.by_plate).items():
            if rows.is_a_part:
                self.traced.rows.setdefault(latent.name, {})[dim] = rows.index
                scale = self.traced.local_scale.get(latent.name, 1.0)
                self.traced.local_scale[latent.name] = scale * rows.size / len(rows.index)
            variable = variable.index_select(dim, rows.index)
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
        own = (self.plates.by_plate.get(f.name) for f in msg["cond_indep_stack"])
        self.traced.is_subsampled |= any(s is not None and s.is_a_part for s in own)
        check_arguments(msg["name"], msg["fn"])
        if msg["name"] not in self.traced.noise:  # its density cancels against that of q
            self.traced.sites.append(self._site(msg))

    def _site(self, msg: dict[str, Any]) -> TracedSite:
        """A site with its log density, after Pyro has given out the dims of discrete latents."""
        fn, value, mask = msg["fn"], msg["value"], msg["mask"]
        by_class = isinstance(mask, LiftedTensor) and any(s.is_discrete for s in mask.sites)
        by_latent, mask = (mask, None) if by_class else (None, mask)
        if msg["is_observed"] and not isinstance(value, LiftedTensor):
            fn, own_mask = without_mask(fn)
            mask = both_masks(mask, own_mask)
            value = checked_value(msg["name"], fn, without_gaps(fn, value), mask, self.nesting)
        log_prob, dims = self._log_prob(msg, fn, value, by_latent), dims_of(msg)
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
        return TracedSite(*about, is_data=is_data, plates=plates)

    def _log_prob(self, msg: dict[str, Any], fn: Any, value: Any, by_latent: Any) -> Any:
        """The log density of a site along its batch dims, with the Jacobian of q's variable.

        :param by_latent: a mask that depends on discrete latents; None if there is none.
        """
        variable = msg["infer"].get("_pyro_blr_variable")
        if variable is None:
            log_prob = log_density(fn, value)
        else:
            log_prob = _variable_log_density(self.latents[msg["name"]], fn, variable, value)
        if by_latent is not None:
            log_prob = torch.where(by_latent, log_prob, torch.zeros(()))
        return over_values(log_prob) if isinstance(log_prob, LiftedTensor) else log_prob

    def _check_shape(self, msg: dict[str, Any], log_prob: Any, dims: Dims) -> None:
        shape = tuple(getattr(log_prob, "shape", ()))
        room = len(shape) if self.nesting is None else self.nesting
        right = shape[max(0, len(shape) - room) :]
        sizes = [len(right) - i for i, size in enumerate(right) if size > 1]
        self.traced.nesting = max(self.traced.nesting, dims.depth, *sizes, 0)
        check_dims(msg, right)
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


@contextmanager
def without_validation() -> Iterator[None]:
    """Lifted values cannot be checked one by one; what is constant is, by ``domains``."""
    torch_checks = torch.distributions.Distribution._validate_args
    try:
        with pyro.validation_enabled(False), checked_matrices():
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(torch_checks)


def as_written() -> AbstractContextManager[Any]:
    """What ``torch.compile`` made of modules and functions runs as it was: it is of tensors alone.

    Nothing is compiled where torch has not loaded its compiler. Torch before 2.6 cannot be told so,
    and no torch while it compiles what calls this.
    """
    stance = getattr(torch.compiler, "set_stance", None)
    is_loaded = "torch._dynamo" in sys.modules and not torch.compiler.is_dynamo_compiling()
    return stance("force_eager") if is_loaded and stance is not None else nullcontext()


def trace_model(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    latents: Latents,
    lifted: Mapping[str, LiftedParameter],
    temperature: float,
    nesting: int | None = None,
    kept: Collection[str] = (),
) -> Traced:
    """Run the model once on lifted latents, and on lifted parameters where some are named.

    :param nesting: the dims that are left to plates, left of which discrete latents are enumerated;
        None if there is none to enumerate.
    :param kept: the latents that q leaves at their prior given the others.
    :raises HasDiscrete: at the first discrete latent, if ``nesting`` is None.
    :raises GuideError: if the guide and the model do not hold the same latents.
    """
    messenger = LiftMessenger(latents, lifted, temperature, nesting, kept)
    enumerating = nullcontext() if nesting is None else EnumMessenger(-1 - nesting)
    with poutine.block(), without_validation(), as_written(), enumerating, messenger:
        last_refusal.set(None)
        try:
            model(*args, **kwargs)
        except errors.BLRError:
            raise
        except Exception as error:
            refusal = last_refusal.get()
            if refusal is not None:
                raise refusal from error
            cause = None if nesting is None else cause_of(error)
            if cause is None:
                raise
            raise cause from error
    _check_all_seen({*latents, *kept}, messenger.traced)
    return messenger.traced


def _check_all_seen(names: set[str], traced: Traced) -> None:
    """Refuse latents of the guide that the model did not sample.

    :raises GuideError: naming them.
    """
    unseen = sorted(names - traced.seen - traced.noise.keys())
    if unseen:
        raise errors.GuideError(
            f"the guide holds {unseen} which the model did not sample in this call. Mend: make the "
            "guide from the same model and arguments; a latent behind a Python branch that is not "
            "taken has no factor."
        )

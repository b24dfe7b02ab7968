# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The run of a model that a guide is made from: which of its sites are latents of q."""

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from pyro import poutine

from .. import errors
from .._compat import InitMessenger, prototype_hide_fn, site_is_subsample
from ..energy.enumeration import is_discrete
from ..energy.home import run_at_home
from ..energy.trace import without_validation
from .rows import PlateReader
from .start import located


def prototype_of(
    model: Callable[..., Any],
    init_loc_fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """A trace of the model, whose latents have the values where q starts.

    :param init_loc_fn: where a Gaussian starts, as for Pyro's own guides.
    """

    def run(model: Callable[..., Any]) -> Any:
        model = PlateReader()(InitMessenger(located(init_loc_fn))(model))
        hidden = poutine.block(model, prototype_hide_fn)
        return poutine.block(poutine.trace(hidden).get_trace)(*args, **kwargs)

    with torch.no_grad(), without_validation(), warnings.catch_warnings():
        # torch's Wishart tests whether its draws are regular and warns if they are.
        warnings.filterwarnings("ignore", "Singular sample detected", UserWarning)
        return run_at_home(run, model, args, kwargs, _values)


def latent_sites(trace: Any, holds_discrete: bool, at_prior: Collection[str]) -> dict[str, Any]:
    """The sites of a prototype that q is to hold, by name.

    :param holds_discrete: whether discrete latents are part of q; else the engine sums them out.
    :param at_prior: the latents that q leaves at their prior given the others.
    :raises ArgumentError: for names that the model does not have as latents.
    :raises NoLatentError: if nothing is left.
    """
    every = dict(trace.iter_stochastic_nodes())
    _check_known(at_prior, every)
    mine = {n: s for n, s in every.items() if n not in at_prior}
    sites = {n: s for n, s in mine.items() if holds_discrete or not is_discrete(s["fn"])}
    if not sites:
        raise _nothing_to_hold(every, mine)
    return sites


def _check_known(at_prior: Collection[str], sites: Mapping[str, Any]) -> None:
    unknown = sorted(set(at_prior) - set(sites))
    if unknown:
        raise errors.ArgumentError(
            f"{unknown} are to stay at their prior, but the model does not have them as "
            f"latents; it has {sorted(sites)}. Mend: use the names of the sample sites."
        )


def _nothing_to_hold(every: Mapping[str, Any], mine: Mapping[str, Any]) -> errors.NoLatentError:
    """The error for a model that leaves nothing to a guide.

    :param every: its latents.
    :param mine: those that do not stay at their prior.
    """
    if every and not mine:
        return errors.NoLatentError(
            f"all latents, {sorted(every)}, are to stay at their prior, so there is nothing "
            "for a guide to hold. Mend: leave out of at_prior what data are to tell of."
        )
    if every:
        return errors.NoLatentError(
            f"the model's only latents are discrete, {sorted(every)}, so there is nothing for "
            "a guide to hold. Mend: pyro_blr.latent.conjugated(model, *args) has the exact "
            'posterior and learns pyro.param by EM; or BLR(..., discrete="factorised") has the '
            "guide hold them, exactly where they are independent (a mixture); or give the model's "
            "parameters priors by pyro.sample."
        )
    return errors.NoLatentError(
        "the model has no latent variable: every sample site is observed or hidden. Mend: "
        "leave obs= out of the site that is to be inferred."
    )


def _values(trace: Any) -> list[Any]:
    """The values of the sites of a trace."""
    return [
        s["value"]
        for s in trace.nodes.values()
        if s["type"] == "sample" and not site_is_subsample(s)
    ]

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Simulation-based calibration: fits to data of the model itself, whose latents are then known."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from .. import errors
from .._compat import site_is_subsample
from ..blr import BLR
from ..draws.fitted import fitted
from ..draws.guides import guide_draws
from ..energy.enumeration import is_discrete
from ..guides import AutoNatural
from .calibration import Calibration
from .call import check_call

#: Fewer simulations tell a guide that is twice too narrow from a calibrated one by luck only.
FEWEST = 20


def sbc(
    model: Callable[..., Any],
    *args: Any,
    fit: Callable[..., Any] | None = None,
    simulate: Callable[[dict[str, Tensor]], Any] | None = None,
    num: int = 100,
    num_samples: int = 200,
    progress: bool = False,
    **kwargs: Any,
) -> Calibration:
    r"""Simulation-based calibration (Talts et al. 2018), and its form for variational fits.

    Latents are drawn from the prior, data given them, and q is fitted to these data, again and
    again. Were q the posterior, the rank of a true latent among draws of q would be uniform. That
    is tested, by Anderson and Darling's test, and (VSBC, Yao et al. 2018) whether the chance under
    q that a latent is less than its true value is symmetric about 1/2, by Wilcoxon's: if it is not,
    q's mean is biased on average. A guide that is too narrow fails the first and may pass the
    second. P-values are corrected for the number of elements (Bonferroni).

    The data that the model is given are replaced by simulated ones at its observed sites; of the
    arguments their shapes alone then count. Where data are read elsewhere too (a lagged value),
    pass ``simulate``.

    Example::

        calibration = sbc(model, X, y, num=40)
        print(calibration)  # a table, and the verdict
        calibration.plot()

    :param callable model: a Pyro model whose priors can be sampled.
    :param args: its arguments, data among them.
    :param callable fit: ``fit(model, *args, **kwargs)`` fits a guide to a model and returns what
        ``BLR.fit`` returned, a ``BLR`` or an ``SVI``, or draws of the posterior by site; the model
        that it is given holds the simulated data. By default ``AutoNatural`` is fitted by ``BLR``.
    :param callable simulate: from the true latents, by site, to the model's arguments with data
        of them, as a tuple; the model is then given those.
    :param int num: how many simulations, each of them a fit.
    :param int num_samples: draws of q among which the true value is ranked.
    :param bool progress: show a progress bar.
    :raises ArgumentError: if the model has no observed site, or one that cannot be simulated.
    """
    _check_counts(num, num_samples)
    _check_functions(model, fit, simulate)
    check_call(model, args, kwargs, "sbc")
    fitting = fit or fit_automatically
    truths: list[dict[str, Tensor]] = []
    draws: list[dict[str, Tensor]] = []
    for k in tqdm(range(num), disable=not progress, desc="SBC"):
        with torch.no_grad():
            latents, observed = simulated(model, args, kwargs)
        # A fit may move what a module holds, which no scope of the store brings back.
        own = copy.deepcopy(model) if isinstance(model, torch.nn.Module) else model
        given, conditioned = args, poutine.condition(own, data=observed)
        if simulate is not None:
            given, conditioned = _as_arguments(simulate(dict(latents))), own
        try:
            with pyro.get_param_store().scope():
                found = _posterior(
                    fitting(conditioned, *given, **kwargs), given, kwargs, num_samples
                )
        except Exception as error:
            error.add_note(f"in simulation {k} of {num} of the calibration")
            raise
        truths.append({name: latents[name] for name in found if name in latents})
        draws.append({name: found[name] for name in truths[-1]})
    return Calibration.of(truths, draws)


def fit_automatically(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Fit ``AutoNatural`` by ``BLR``."""
    return BLR(model, AutoNatural(model), on_sampled="ignore").fit(*args, **kwargs)


def simulated(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A draw of the latents from the prior, and of data given them.

    :raises ArgumentError: if the model has no observed site, or one that cannot be simulated.
    """
    with poutine.block(), poutine.trace() as tracer, poutine.uncondition():
        try:
            model(*args, **kwargs)
        except NotImplementedError as error:
            raise errors.ArgumentError(
                "a site of the model has a distribution without draws (an improper prior), so its "
                "data cannot be simulated. Mend: give it a proper prior."
            ) from error
    latents, observed = {}, {}
    for name, site in tracer.trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        _check_site(name, site)
        infer = site["infer"]
        if infer.get("_deterministic"):
            continue
        if infer.get("was_observed"):
            observed[name] = site["value"]
        elif not is_discrete(site["fn"]):
            latents[name] = site["value"]
    if not observed:
        raise errors.ArgumentError(
            "the model has no observed site in this call, so there are no data to simulate and "
            "nothing to calibrate. Mend: call sbc(model, *args) with data (their values do not "
            "matter, their shapes do), so that obs= is not None."
        )
    return latents, observed


def _check_site(name: str, site: Any) -> None:
    if site["infer"].get("was_observed") and site["infer"].get("is_auxiliary"):
        raise errors.ArgumentError(
            f"site {name!r} is a pyro.factor, which has a density but no data to simulate. Mend: "
            "write it as a distribution of data, or pass sbc a model without it."
        )
    scale = site["scale"]
    if bool((torch.as_tensor(scale) != 1).any()):
        raise errors.ArgumentError(
            f"site {name!r} is scaled (a subsampled plate, poutine.scale): its posterior is not "
            "that of the data that it would be simulated with. Mend: sbc(model, *args) with all "
            "of the data and no scale."
        )


def _posterior(
    fit: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], num_samples: int
) -> dict[str, Tensor]:
    """Draws of a fit by site; draws that are given are taken as they are."""
    if isinstance(fit, Mapping):
        return dict(fit)
    own = fitted(fit, "sbc", args, kwargs)
    return guide_draws(own, args, kwargs, num_samples, "sbc").values


def _as_arguments(given: Any) -> tuple[Any, ...]:
    return given if isinstance(given, tuple) else (given,)


def _check_functions(model: Any, fit: Any, simulate: Any) -> None:
    if not callable(model):
        raise errors.ArgumentError(
            f"sbc needs the model, which is callable, not {type(model).__name__}. Mend: sbc(model, "
            "*args): it fits the model itself, to simulated data."
        )
    if fit is not None and not callable(fit):
        raise errors.ArgumentError(
            f"fit must be a function of the model and its arguments, not {type(fit).__name__}. "
            "Mend: sbc(model, *args, fit=lambda model, *args: BLR(model, AutoNatural(model))"
            ".fit(*args)), or leave it out."
        )
    if simulate is not None and not callable(simulate):
        raise errors.ArgumentError(
            f"simulate must be a function of the true latents, not {type(simulate).__name__}. "
            "Mend: let it return the model's arguments with data of them, as a tuple."
        )


def _check_counts(num: int, num_samples: int) -> None:
    for name, value, least in (("num", num, FEWEST), ("num_samples", num_samples, 20)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise errors.ArgumentError(
                f"{name} must be an integer of at least {least}, not {value!r}. Mend: "
                "sbc(model, *args, num=100, num_samples=200)."
            )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""From a fit to what ArviZ reads."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import errors
from .._version import __version__
from ..arguments import plain_number, reject_unknown
from ..draws import Draws, Fitted, Predictions, draws_of, fitted, predictive, prior
from ..draws.draws import WITHOUT_AUXILIARY, no_density
from ..random_state import from_seed
from .constants import constants
from .container import holder
from .groups import Groups
from .names import RESERVED_DIMS, Names

#: Every group that there may be, in order.
GROUPS = (
    *("posterior", "posterior_predictive", "log_likelihood", "log_prior", "prior"),
    *("prior_predictive", "observed_data", "constant_data", "sample_stats", "fit"),
)

#: Those for which the model is run without its data.
DRAWN = ("posterior_predictive", "prior", "prior_predictive")

CALLER = "to_arviz"


def to_arviz(
    fit: Any,
    *args: Any,
    num_samples: int = 1000,
    groups: Sequence[str] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    seed: int | None = None,
    container: str = "auto",
    **kwargs: Any,
) -> Any:
    r"""Draws of q with everything that ArviZ asks of them.

    The draws are independent, in one chain, so ``r_hat`` is NaN and every effective sample size is
    about ``num_samples``: neither says anything about how close q is to the posterior. That is in
    the weights :math:`\log p(x, z_s) - \log q(z_s)`, whose mean is the ELBO, and in what
    ``arviz_stats.loo_approximate_posterior(tree, log_p, log_q)`` makes of them.

    Groups, each of them left out where there is nothing to put in it:

    - ``posterior``: every latent and every ``pyro.deterministic`` site;
    - ``posterior_predictive``: data that the model draws anew at each draw;
    - ``log_likelihood``: of each datum of each observed site, by the model itself; masked data
      have 0, and a ``poutine.scale`` is not applied. Discrete latents are summed out: a row of a
      mixture has one value, and so has a sequence of a hidden Markov model;
    - ``log_prior``: of each latent;
    - ``prior`` and ``prior_predictive``: draws of the model without its data;
    - ``observed_data``; ``constant_data``: the other tensors among the model's arguments;
    - ``sample_stats``: ``log_p``, the log joint that q was fitted to, and ``log_q``, of each draw,
      in nats; there is no ``log_q`` where q is a point, nor where the guide draws more than latents
      (``is_auxiliary``);
    - ``fit``: ``loss``, -ELBO by step, with the fit's ``residual``, ``gap`` and ``reason`` as
      attributes, if ``fit`` is what :meth:`~pyro_blr.BLR.fit` returned.

    A plate's name becomes the name of its dim; dims of size 1 outside any plate are dropped.

    Example::

        fit = blr.fit(X, y)
        tree = to_arviz(fit, X, y)
        arviz_stats.summary(tree)

    :param fit: what :meth:`~pyro_blr.BLR.fit` returned, a :class:`~pyro_blr.BLR`, or an ``SVI``
        with any guide.
    :param args: the arguments of the model, with all of the data.
    :param int num_samples: how many draws.
    :param groups: the groups to make; all of them if left out.
    :param dims: names of dims by variable, for all of its dims or those inside an event.
    :param coords: labels along a dim, by its name.
    :param int seed: for draws that are always the same; torch's generator stays as it was.
    :param str container: ``"datatree"``, ``"inferencedata"`` (ArviZ before 1.0), or ``"auto"``: a
        tree, unless only an ArviZ before 1.0 is installed.
    :return: an ``xarray.DataTree``, or an ``arviz.InferenceData``.
    :raises ArgumentError: if an argument cannot be used, or ArviZ is missing, or the model does not
        take such a call.
    :raises DiscreteLatentError: if a discrete latent cannot be summed out.
    :raises GuideError: if the guide and the model do not hold the same latents.
    :raises NonFiniteError: if a draw or its log density is NaN or infinite, naming the site.
    :raises PlateSizeError: if the model takes a subsample of a plate.
    """
    own = fitted(fit, CALLER, args, kwargs)
    reject_unknown(own.model, CALLER, kwargs)
    num_samples, seed = plain_number(num_samples), plain_number(seed)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise errors.ArgumentError(f"seed must be a whole number, not {seed!r}. Mend: seed=0.")
    given = {"groups": groups, "dims": dims, "coords": coords, "seed": seed}
    _check_names(own, args, [n for n, value in given.items() if value is not None])
    wanted, make = _wanted(groups), holder(container)
    with nullcontext() if seed is None else from_seed(seed):
        draws = draws_of(own, args, kwargs, num_samples, CALLER)
        export = _Export(own, args, kwargs, draws)
        made = export.groups(wanted, groups is not None, dims, coords)
    return make(made, export.attrs)


def _wanted(groups: Sequence[str] | None) -> tuple[str, ...]:
    if groups is None:
        return GROUPS
    unknown = [groups] if isinstance(groups, str) else sorted(set(groups) - set(GROUPS))
    if unknown:
        raise errors.ArgumentError(
            f"groups must be a list of some of {list(GROUPS)}; {unknown} is not. Mend: "
            'groups=["posterior", "sample_stats"].'
        )
    return tuple(g for g in GROUPS if g in groups)


def _check_names(own: Fitted, args: tuple[Any, ...], given: Sequence[str]) -> None:
    """Refuse a keyword that could be the model's argument or the export's."""
    try:
        signature = inspect.signature(own.model)
        bound = signature.bind_partial(*args).arguments
    except (TypeError, ValueError):
        return
    for name in given:
        if name in signature.parameters and name not in bound:
            raise errors.ArgumentError(
                f"{name!r} is an argument of {CALLER} and of the model. Mend: give the model's by "
                f"position: {CALLER}(fit, *args)."
            )


class _Export:
    """The groups of one fit.

    :param draws: of the posterior.
    """

    def __init__(
        self, own: Fitted, args: tuple[Any, ...], kwargs: Mapping[str, Any], draws: Draws
    ) -> None:
        self.own, self.args, self.kwargs, self.draws = own, args, kwargs, draws
        self.constants = constants(own.model, args, kwargs, draws.observed)
        self.attrs = {
            "inference_library": "pyro_blr",
            "inference_library_version": __version__,
            "temperature": own.temperature,
        }

    def groups(
        self,
        wanted: Sequence[str],
        are_named: bool,
        dims: Mapping[str, Sequence[str]] | None,
        coords: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """The groups that there are, as data sets.

        :param are_named: whether the user named them, so that one that is not there is an error.
        """
        draws = self.draws
        variables = {*draws.dims, *draws.log_likelihood, *self.constants}
        names = Names(draws.plates, variables, dims, coords)
        sets = Groups(names, self.attrs)
        found: dict[str, Any] = {}
        left_out: dict[str, Exception] = {}
        for group, make in self._makers(sets, wanted).items():
            try:
                made = make()
            except errors.ArgumentError:
                raise
            except Exception as error:
                # A law without draws (ImproperUniform), or a prior that leads out of a support.
                if are_named or group not in DRAWN:
                    raise
                left_out[group] = error
                continue
            if made is not None and (made.data_vars or group == "fit"):
                found[group] = made
            elif are_named:
                raise errors.ArgumentError(
                    f"there is nothing for the group {group!r}: the model or the fit has none of "
                    "it. Mend: leave it out of groups=."
                )
        if left_out:
            errors.warn(_left_out(left_out), errors.LeftOutWarning)
        if draws.auxiliary and "sample_stats" in wanted:
            why = no_density(draws.auxiliary)
            errors.warn(f"log_q is left out: {why} {WITHOUT_AUXILIARY}", errors.LeftOutWarning)
        if "posterior" in wanted:
            _warn_of_non_finite(draws.deterministic)
        if names.renamed:
            errors.warn(_renamed(names.renamed), errors.RenamedWarning)
        names.check_used()
        return found

    def _makers(self, sets: Groups, wanted: Sequence[str]) -> dict[str, Callable[[], Any]]:
        draws, history = self.draws, self.own.fit
        values = {**draws.latents, **draws.deterministic}
        makers: dict[str, Callable[[], Any]] = {
            "posterior": lambda: sets.at_draws(values, draws.dims),
            "posterior_predictive": lambda: sets.predictions(self._predictive(draws.latents)),
            "log_likelihood": lambda: sets.at_draws(
                draws.log_likelihood, draws.likelihood_dims, draws.dims
            ),
            "log_prior": lambda: sets.at_draws(draws.log_prior, draws.prior_dims, draws.dims),
            "prior": lambda: sets.predictions(self._prior[0].of(values)),
            "prior_predictive": lambda: sets.predictions(self._predictive(self._prior[1])),
            "observed_data": lambda: sets.constant(draws.observed, draws.dims),
            "constant_data": lambda: sets.constants(self.constants, draws),
            "sample_stats": lambda: sets.statistics(draws),
            "fit": lambda: None if history is None else sets.history(history),
        }
        return {group: makers[group] for group in wanted}

    def _predictive(self, latents: Mapping[str, Tensor]) -> Predictions:
        sites = self.draws.data_sites
        if not sites:
            return Predictions({}, {}, frozenset())
        return predictive(self.own, self.args, self.kwargs, latents, sites, CALLER)

    @cached_property
    def _prior(self) -> tuple[Predictions, dict[str, Tensor]]:
        return prior(self.own, self.args, self.kwargs, self.draws.num_samples, CALLER)


def _warn_of_non_finite(computed: Mapping[str, Tensor]) -> None:
    """Say which ``pyro.deterministic`` sites have draws that no mean can be taken of."""
    for name, value in computed.items():
        own = value.reshape(len(value), value[0].numel())
        bad = int((~torch.isfinite(own).all(-1)).sum()) if value.is_floating_point() else 0
        if bad:
            errors.warn(
                f"the deterministic site {name!r} is NaN or infinite at {bad} of {len(value)} "
                "draws, and so are its mean and its quantiles. Mend: compute it where it is "
                f"defined, or take the draws that are: tree['posterior'][{name!r}].",
                errors.NonFiniteWarning,
            )


def _renamed(names: Mapping[str, str]) -> str:
    listed = ", ".join(f"{old!r} is called {new!r}" for old, new in names.items())
    return (
        f"{listed}: ArviZ keeps {list(RESERVED_DIMS)} for the dims of draws, and no two variables "
        "may have one name. Mend: rename them in the model, or use the new names."
    )


def _left_out(groups: Mapping[str, Exception]) -> str:
    first = next(iter(groups.values()))
    why = ": ".join([type(first).__name__, *str(first).splitlines()[:1]])
    kept = [g for g in GROUPS if g not in groups]
    return (
        f"the groups {list(groups)} are left out, as the model cannot be drawn from without its "
        f"data ({why}). Mend: groups={kept}, if that is right."
    )

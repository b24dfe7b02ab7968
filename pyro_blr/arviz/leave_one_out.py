# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Leave-one-out cross-validation of draws of q, under each version of ArviZ."""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from .. import errors

#: Draws from which on ArviZ fits a Pareto distribution to the five largest weights of a datum.
FEWEST = 25

#: Log weights whose spread is below this, in nats, are the same but for rounding.
ROUNDING = 1e-9


def loo(tree: Any, var_name: str | None = None) -> Any:
    r"""The log density of each datum under the posterior of the others, by importance sampling.

    The draws are q's, so that the weights that take datum i out are :math:`\log p(x, z) - \log q(z)
    - \log p(x_i | z)`, as in ``arviz_stats.loo_approximate_posterior``; ArviZ's own ``loo`` takes
    draws for the posterior's, and sees nothing of how good q is. Weights that are all the same, of
    an exact posterior and a datum that says nothing (masked, or certain), need no smoothing, which
    ArviZ cannot do there: their Pareto k is minus infinity. Where q is a point, its draws are one
    value, and so are the weights.

    :param tree: what :func:`~pyro_blr.to_arviz` returned.
    :param str var_name: the observed site, if there are several.
    :return: what ArviZ's ``loo`` returns with ``pointwise=True``, for ``compare`` and
        ``plot_khat``.
    :raises ArgumentError: if there is no log likelihood, or more than one and none is named; if
        there are no weights, or too few draws for a tail.
    """
    name = _variable(tree, var_name)
    log_likelihood = tree["log_likelihood"][name]
    stats = tree["sample_stats"]
    _check_draws(log_likelihood, stats)
    values = np.asarray(log_likelihood.values, dtype=float)
    log_ratios = -values
    if "log_q" in stats:
        weights = np.asarray(stats["log_p"].values - stats["log_q"].values, dtype=float)
        log_ratios = log_ratios + weights.reshape(weights.shape + (1,) * (values.ndim - 2))
    data = values.shape[2:]
    is_legacy = callable(tree.groups)  # an InferenceData
    smoothed, k = _smoothed(np.moveaxis(log_ratios.reshape(-1, *data), 0, -1), _psis(is_legacy))
    if is_legacy:
        return _legacy(log_likelihood, np.moveaxis(smoothed, -1, 0).reshape(values.shape), k)
    arviz_stats: Any = import_module("arviz_stats")
    weights = log_likelihood.copy(data=np.moveaxis(smoothed, -1, 0).reshape(values.shape))
    shapes = log_likelihood.isel(chain=0, draw=0, drop=True).copy(data=k)
    options = {"pointwise": True, "reff": 1.0, "log_weights": weights, "pareto_k": shapes}
    return arviz_stats.loo(tree, var_name=name, **options)


def _check_draws(log_likelihood: Any, stats: Any) -> None:
    """Refuse draws that have no weights, or are too few for a tail."""
    if "auxiliary" in stats.attrs:
        raise errors.ArgumentError(
            f"the guide draws {list(stats.attrs['auxiliary'])} beside the latents, so that its "
            "draws have no log_q and no weights. Mend: use a guide without them, such as "
            "AutoNatural(model)."
        )
    count = log_likelihood.shape[0] * log_likelihood.shape[1]
    if "log_q" in stats and count < FEWEST:
        raise errors.ArgumentError(
            f"num_samples was {count}, and a Pareto k needs the largest weights of at least "
            f"{FEWEST}. Mend: to_arviz(fit, *args, num_samples=1000)."
        )


def _variable(tree: Any, var_name: str | None) -> str:
    if not hasattr(tree, "groups"):
        raise errors.ArgumentError(
            f"loo takes what to_arviz returned, not {type(tree).__name__}. Mend: "
            "loo(to_arviz(fit, *args))."
        )
    groups = tree.groups() if callable(tree.groups) else [g.strip("/") for g in tree.groups]
    if "log_likelihood" in groups and "sample_stats" not in groups:
        raise errors.ArgumentError(
            "there is no group 'sample_stats', which holds the weights of the draws. Mend: "
            'to_arviz(fit, *args, groups=["log_likelihood", "sample_stats", ...]).'
        )
    names = list(tree["log_likelihood"].data_vars) if "log_likelihood" in groups else []
    if var_name is None and len(names) == 1:
        return str(names[0])
    if var_name is None or var_name not in names:
        if not names:
            raise errors.ArgumentError(
                "there is no log likelihood: the model observed nothing, or the group was left "
                "out. Mend: observe a site (obs=), and call to_arviz without groups=, or with "
                '"log_likelihood" and "sample_stats" among them.'
            )
        given = "" if var_name is None else f", and {var_name!r} is none of them"
        raise errors.ArgumentError(
            f"there are log likelihoods of the observed sites {names}{given}. Mend: "
            "loo(tree, var_name=...) with one of them."
        )
    return var_name


def _smoothed(log_ratios: Any, psis: Callable[[Any], tuple[Any, Any]]) -> tuple[Any, Any]:
    """Pareto-smoothed log weights, normalised, and their Pareto k.

    :param log_ratios: # shape: (*data, S)
    """
    log_weights = log_ratios - _log_sum(log_ratios)[..., None]
    k = np.full(log_ratios.shape[:-1], -np.inf)
    varies = np.ptp(log_ratios, axis=-1) > ROUNDING
    if varies.any():
        log_weights[varies], k[varies] = psis(log_ratios[varies])
    return log_weights, k


def _psis(is_legacy: bool) -> Callable[[Any], tuple[Any, Any]]:
    """ArviZ's smoothing of log weights; since 1.0 it takes a log likelihood, of the other sign."""
    if is_legacy:
        arviz: Any = import_module("arviz")
        return lambda log_ratios: arviz.psislw(log_ratios, reff=1.0)
    array_stats: Any = import_module("arviz_stats.base").array_stats
    return lambda log_ratios: array_stats.psislw(-log_ratios)


def _log_sum(values: Any) -> Any:
    """The logarithm of a sum of exponentials along the last dim."""
    top = values.max(-1, keepdims=True)
    return (top + np.log(np.exp(values - top).sum(-1, keepdims=True)))[..., 0]


def _legacy(log_likelihood: Any, log_weights: Any, k: Any) -> Any:
    """The result as ArviZ before 1.0 has it."""
    from arviz.stats.stats_utils import ELPDData

    values = np.asarray(log_likelihood.values, dtype=float)
    count = values.shape[0] * values.shape[1]
    each = _log_sum(np.moveaxis((log_weights + values).reshape(count, *k.shape), 0, -1))
    lppd = _log_sum(np.moveaxis(values.reshape(count, *k.shape), 0, -1)) - np.log(count)
    good_k = min(1 - 1 / np.log10(count), 0.7) if count > 1 else 0.7
    is_bad = bool((k > good_k).any())
    if is_bad:
        warnings.warn(
            f"the Pareto k of {int((k > good_k).sum())} data is above {good_k:.2f}: importance "
            "sampling does not reach the posterior without them from these draws",
            UserWarning,
            stacklevel=3,
        )
    like = log_likelihood.isel(chain=0, draw=0, drop=True)
    found = {
        "elpd_loo": each.sum(),
        "se": (each.size * each.var()) ** 0.5,
        "p_loo": lppd.sum() - each.sum(),
        "n_samples": count,
        "n_data_points": each.size,
        "warning": is_bad,
        "loo_i": like.copy(data=each).rename("loo_i"),
        "pareto_k": like.copy(data=k).rename("pareto_shape"),
        "scale": "log",
        "good_k": good_k,
    }
    return ELPDData(data=list(found.values()), index=list(found))

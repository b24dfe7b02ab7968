# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Checks of the engine's arguments: wrong ones are refused where they are given, with the mend."""

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch.distributed as distributed
from pyro.infer.autoguide import AutoGuide
from pyro.infer.elbo import ELBO
from pyro.infer.renyi_elbo import RenyiELBO
from pyro.infer.rws import ReweightedWakeSleep
from pyro.infer.traceenum_elbo import TraceEnum_ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from . import errors
from .guides import AutoNatural
from .signatures import signature_of
from .steps.schedule import check_step_size, is_size

#: Keywords of methods that take the model's arguments, which a model cannot have as its own.
RESERVED: Mapping[str, tuple[str, ...]] = {
    "fit": ("max_steps", "tol", "progress"),
    "influence": ("site", "plate"),
    "surrogate": ("step_size",),
    "update": ("plate", "max_steps", "tol"),
    "forget": ("plate",),
    "merge": ("others", "plate"),
    "trace_report": ("max_steps",),
    "report": ("num_samples",),
    "site_khat": ("num_samples",),
    "against_nuts": ("num_samples", "warmup_steps", "num_chains"),
    "sbc": ("fit", "simulate", "num", "num_samples", "progress"),
    "to_arviz": ("num_samples", "groups", "dims", "coords", "seed", "container"),
}


def plain_number(value: Any) -> Any:
    """Python's number for a real one of NumPy or a tensor without dims; the rest as it is."""
    if isinstance(value, Tensor | np.ndarray | np.bool_):
        has_value = not isinstance(value, Tensor) or value.device.type != "meta"
        return value.item() if value.ndim == 0 and has_value else value
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def check_arguments(
    model: Any,
    guide: Any,
    optim: Any,
    loss: Any,
    step_size: Any,
    blocks: Any,
    on_sampled: Any,
    check_every: Any,
) -> None:
    """Refuse what cannot be used.

    :raises ArgumentError: naming the argument.
    """
    if isinstance(model, AutoGuide) and not isinstance(guide, AutoGuide):
        raise errors.ArgumentError(
            f"the model is a guide, {type(model).__name__}: the two seem to be swapped. Mend: "
            "BLR(model, guide)."
        )
    if not callable(model):
        raise errors.ArgumentError(
            f"the model must be callable, not {type(model).__name__}. Mend: BLR(model, guide)."
        )
    if not callable(guide):
        raise errors.ArgumentError(
            f"the guide must be callable, not {type(guide).__name__}. Mend: guide = "
            "pyro_blr.guides.AutoNatural(model)."
        )
    if isinstance(guide, type):
        raise errors.ArgumentError(
            f"the guide is the class {guide.__name__}, not one of its guides. Mend: guide = "
            f"{guide.__name__}(model)."
        )
    if optim is not None and not isinstance(optim, PyroOptim):
        raise errors.ArgumentError(
            f"optim must be a PyroOptim, not {type(optim).__name__}. Mend: pyro.optim.Adam({{'lr': "
            "0.01}), or leave it out if the model has no pyro.param."
        )
    _check_loss(loss)
    check_step_size(step_size)
    if blocks not in ("auto", "site"):
        raise errors.ArgumentError(f'blocks must be "auto" or "site", not {blocks!r}.')
    if on_sampled not in ("warn", "error", "ignore"):
        raise errors.ArgumentError(
            f'on_sampled must be "warn", "error" or "ignore", not {on_sampled!r}.'
        )
    if check_every is not None and not (isinstance(check_every, int) and check_every > 0):
        raise errors.ArgumentError(f"check_every must be a positive integer, not {check_every!r}.")


def check_rule(
    params: Any, temperature: Any, momentum: Any, quad_tol: Any, num_draws: Any, estimator: Any
) -> None:
    """Refuse options of the rule that have no meaning.

    :raises ArgumentError: naming the option.
    """
    if params not in ("optim", "em", "natural"):
        raise errors.ArgumentError(
            f'params must be "optim", "em" or "natural", not {params!r}. Mend: "em" maximises over '
            'the parameters whose M-step is closed, "optim" leaves all of them to the optimiser.'
        )
    if not _is_number(temperature) or not 0 < temperature < math.inf:
        raise errors.ArgumentError(
            f"temperature must be a positive number, not {temperature!r}. Mend: 1 is Bayes' rule; "
            "a larger one trusts the data less."
        )
    if not _is_number(momentum) or not 0 <= momentum < 1:
        raise errors.ArgumentError(
            f"momentum must be a number in [0, 1), not {momentum!r}. Mend: leave it out, or try "
            "0.5; at 1 steps would never die out."
        )
    if not _is_number(quad_tol) or not 0 < quad_tol < math.inf:
        raise errors.ArgumentError(
            f"quad_tol must be a positive number of nats, not {quad_tol!r}. Mend: leave it out, or "
            "try 1e-6."
        )
    _check_count(num_draws)
    if estimator not in ("auto", "hessian", "stein", "gauss_newton", "delta"):
        raise errors.ArgumentError(
            'estimator must be "auto", "hessian", "stein", "gauss_newton" or "delta", not '
            f'{estimator!r}. Mend: leave it out; "gauss_newton" is for networks whose messages '
            "leave the cone."
        )
    if estimator == "delta" and params != "optim":
        raise errors.ArgumentError(
            f'estimator="delta" has no expected statistics, of which params="{params}" takes the '
            "maximum. Mend: leave out params, or estimator."
        )


def _check_count(num_draws: Any) -> None:
    whole = isinstance(num_draws, int) and not isinstance(num_draws, bool)
    if num_draws is not None and not (whole and num_draws > 0):
        raise errors.ArgumentError(
            f"num_draws must be a positive integer, not {num_draws!r}. Mend: leave it out, and the "
            "draws grow until their error is below the tolerance."
        )


def check_lifted_options(params: str, momentum: float, estimator: str, what: str) -> None:
    """Refuse options that only a guide whose latents are lifted can have.

    :param what: the guide is, instead.
    :raises ArgumentError: naming the option.
    """
    if params != "optim":
        raise errors.ArgumentError(
            f'params="{params}" needs the expectation of the log joint under q, but this guide '
            f"{what}. Mend: leave out params (the optimiser "
            "moves the parameters of the model), or use AutoNatural(model)."
        )
    if estimator == "delta":
        raise errors.ArgumentError(
            'estimator="delta" puts factors at the mean of a Gaussian, and this guide '
            f"{what}. Mend: leave it out, or use "
            "AutoNaturalMultivariateNormal(model)."
        )
    if momentum:
        raise errors.ArgumentError(
            "momentum moves natural parameters, which this guide does not have. Mend: leave it "
            "out, or use AutoNatural(model)."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_loss(loss: Any) -> None:
    if loss is None:
        return
    refused = isinstance(loss, RenyiELBO | ReweightedWakeSleep)
    if refused or not isinstance(loss, ELBO):
        name = type(loss).__name__
        raise errors.ArgumentError(
            f"the loss {name} is not an ELBO whose natural gradient is the sum of messages. Mend: "
            "leave it out, or give pyro.infer.Trace_ELBO(num_particles=...)."
        )


def check_group(group: Any) -> None:
    """Refuse what is no group of processes that this one is in.

    :raises ArgumentError: with what to write.
    """
    mend = (
        "Mend: torch.distributed.init_process_group(...), and process_group="
        "torch.distributed.group.WORLD."
    )
    if not (distributed.is_available() and isinstance(group, distributed.ProcessGroup)):
        raise errors.ArgumentError(
            f"process_group must be a group of torch.distributed, not {group!r}. {mend}"
        )


def sharded_plates(sharded: Any) -> tuple[str, ...]:
    """The names of sharded plates as a tuple.

    :raises ArgumentError: for what is no name.
    """
    if sharded is None:
        return ()
    names = (sharded,) if isinstance(sharded, str) else sharded
    is_listed = isinstance(names, list | tuple | set | frozenset)
    if not is_listed or not all(isinstance(name, str) for name in names):
        raise errors.ArgumentError(
            f"sharded must be the name of a plate, or several, not {sharded!r}. Mend: "
            'sharded="data".'
        )
    return tuple(sorted(names))


def draws_of(loss: ELBO | None) -> int:
    """The fewest draws that a loss asks for."""
    return 1 if loss is None else int(loss.num_particles)


def discrete_at_mean(discrete: str | None) -> str:
    """How discrete latents are summed out where all else is at its mean: there.

    :raises ArgumentError: if they are to be something else.
    """
    if discrete not in (None, "marginal"):
        raise errors.ArgumentError(
            f'estimator="delta" sums discrete latents out at the mean of the others, and discrete='
            f'"{discrete}" asks for their expected log factors. Mend: leave out one of the two.'
        )
    return "marginal"


def discrete_of(discrete: Any, loss: ELBO | None) -> tuple[str, int | None]:
    """How discrete latents are summed out, and the depth of plates that the loss names, if any.

    :raises ArgumentError: for another word.
    """
    enumerates = isinstance(loss, TraceEnum_ELBO)
    if discrete not in (None, "mean_field", "marginal", "factorised"):
        raise errors.ArgumentError(
            f'discrete must be "mean_field", "marginal" or "factorised", not {discrete!r}. Mend: '
            'leave it out; "marginal" is the bound of TraceEnum_ELBO, tighter and at draws; '
            '"factorised" is for latents whose joint sum is too large.'
        )
    nesting = getattr(loss, "max_plate_nesting", math.inf) if enumerates else math.inf
    depth = int(nesting) if math.isfinite(nesting) else None
    return discrete or ("marginal" if enumerates else "mean_field"), depth


def hold_discrete(guide: Any) -> None:
    """Let a guide hold discrete latents as it holds all others: ``discrete="factorised"``.

    :raises ArgumentError: for a guide that cannot, or that was set up without them.
    """
    if not isinstance(guide, AutoNatural):
        raise errors.ArgumentError(
            'discrete="factorised" needs a guide that holds discrete latents, and '
            f"{getattr(guide, '__name__', type(guide).__name__)} does not. Mend: take "
            "AutoNatural(model)."
        )
    if guide.is_set_up and not guide.holds_discrete:
        raise errors.ArgumentError(
            'the guide was set up without discrete latents, and discrete="factorised" asks it to '
            "hold them. Mend: make a new guide, AutoNatural(model)."
        )
    guide.holds_discrete = True


def reject_reserved(model: Callable[..., Any], method: str) -> None:
    """Refuse a model with an argument that a method would take for itself.

    :raises ArgumentError: naming the argument.
    """
    signature = signature_of(model)
    if signature is None:
        return
    for name in RESERVED[method]:
        if name in signature.parameters:
            other = ", or loop over blr.step" if method == "fit" else ""
            raise errors.ArgumentError(
                f"the model has an argument {name!r}, which BLR.{method} takes for itself. Mend: "
                f"rename it{other}."
            )


def reject_unknown(model: Callable[..., Any], method: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse keywords that the model does not have, since they were meant for a method.

    :raises ArgumentError: naming the keyword.
    """
    signature = signature_of(model)
    if signature is None:
        return
    names = signature.parameters
    unknown = sorted(set(kwargs) - set(names))
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in names.values())
    if unknown and not takes_any:
        raise errors.ArgumentError(
            f"{method} passes {', '.join(map(repr, unknown))} on to the model, which has no such "
            f"argument. Mend: {method}'s own keywords are {', '.join(RESERVED[method])}."
        )


def check_share(step_size: Any) -> None:
    """Refuse a step size that is no share of a step.

    :raises ArgumentError: saying what it may be.
    """
    if not is_size(step_size):
        raise errors.ArgumentError(
            f"step_size must be a number in (0, 1], not {step_size!r}. Mend: leave it out, for a "
            "full step."
        )


def check_stream(
    model: Callable[..., Any], method: str, kwargs: Mapping[str, Any], plate: Any
) -> None:
    """Refuse a model, keywords, or a plate, that a method of streams cannot be given.

    :raises ArgumentError: naming the argument.
    """
    if plate is not None and not isinstance(plate, str):
        raise errors.ArgumentError(
            f'plate must be the name of one plate, not {plate!r}. Mend: plate="data".'
        )
    reject_reserved(model, method)
    reject_unknown(model, method, kwargs)


def fitted_call(
    last: tuple[tuple[Any, ...], dict[str, Any]] | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The model's arguments as given, or those of the last ``fit`` where none are.

    :raises ArgumentError: if there are neither.
    """
    if args or kwargs:
        return args, kwargs
    if last is None:
        raise errors.ArgumentError(
            "which data are meant is not known: no fit has been made. Mend: blr.fit(*args) first, "
            "or blr.influence(*args).without(index)."
        )
    return last


def check_limits(max_steps: Any, tol: Any) -> None:
    """Refuse limits that no fit can meet.

    :raises ArgumentError: naming the limit.
    """
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise errors.ArgumentError(f"max_steps must be a positive integer, not {max_steps!r}.")
    if tol is None:
        return
    if isinstance(tol, bool) or not isinstance(tol, int | float) or not tol > 0:
        raise errors.ArgumentError(
            f"tol must be a positive number of nats, not {tol!r}. Mend: leave it out."
        )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Stepping until converged."""

import math
from collections.abc import Mapping
from typing import Any

from .fit import Fit
from .gaps import SHARE
from .objective import Call, EnergyObjective
from .progress import Progress
from .watch import Watch


def run(
    blr: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    max_steps: int,
    tol: float | None,
    progress: bool,
    watch: Watch | None = None,
) -> Fit:
    """The loop of ``BLR.fit``.

    :param watch: what says when it has converged; one of that tolerance if left out.
    """
    fit = Fit(blr=blr)
    watch = Watch(tol) if watch is None else watch
    work, before = blr.work, blr.work.gradients
    with Progress(max_steps, progress) as bar:
        while fit.steps < max_steps and not (fit.converged or watch.is_over):
            loss, objective = blr.advance(args, kwargs, watched=True, kept=watch.rules)
            bar.enter(fit, loss)
            if objective is not None:  # the step was not skipped
                _look(watch, fit, blr, objective, (args, kwargs))
            fit.remember()
            bar.show(fit)
        bar.end(fit)
    fit.gradients = work.gradients - before
    if not fit.converged:
        watch.choose_average(fit, blr, fit.steps // SHARE)
        fit.reason = blr.parameters.uncertified or fit.reason
        stopped = "stopped" if watch.is_over else f"max_steps={max_steps} reached"
        fit.reason = f"{stopped}; {fit.reason}" if fit.reason else stopped
    return fit


def _look(watch: Watch, fit: Fit, blr: Any, objective: EnergyObjective, call: Call) -> None:
    """After a step: whether it has converged, by the certificate of its kind."""
    watch.accelerate(blr, objective)
    if objective.draws is not None and blr.sampling.are_common(objective.draws):
        watch.on_draws(fit, blr, objective)
    elif not objective.energy.is_deterministic:
        watch.noisy(fit, blr, objective, call)
    elif blr.info._messages:
        watch.deterministic(fit, blr, objective)


def run_rule(
    blr: Any,
    rule: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    max_steps: int,
    tol: float | None,
    progress: bool,
) -> Fit:
    """The loop of ``BLR.fit`` for a guide whose latents are not lifted.

    The gap is the one at the entry of the last step, which can only have become smaller by it.
    """
    fit = Fit(blr=blr)
    watch, before = Watch(tol), blr.work.gradients
    rule.tol = limit = watch.sampled_tol if rule.is_sampled else watch.tol
    rule.is_stuck = False
    rule.begin_fit()
    with Progress(max_steps, progress) as bar:
        while fit.steps < max_steps and not fit.converged and not rule.is_stuck:
            loss = blr.rule_step(rule, args, kwargs)
            bar.enter(fit, loss)
            if not math.isnan(loss):  # the step was not skipped
                _look_at_rule(rule, fit, limit)
                if not fit.converged:
                    rule.accelerate(watch.acceleration)
            fit.remember()
            bar.show(fit)
        bar.end(fit)
    fit.gradients = blr.work.gradients - before
    if not fit.converged:
        ended = "stopped" if rule.is_stuck else f"max_steps={max_steps} reached"
        fit.reason = f"{ended}; {fit.reason}"
    return fit


def _look_at_rule(rule: Any, fit: Fit, limit: float) -> None:
    """After a step of a rule: whether it is certified."""
    rule.look()
    fit.reason = rule.uncertified
    fit.gap, fit.residual = math.inf, rule.residual
    if not fit.reason:
        fit.gap = rule.gap
        fit.converged = fit.gap <= limit
        fit.reason = f"gap {fit.gap:.1e} nats, tol={limit:g}{rule.about}"
        if not fit.converged:
            fit.reason += ". Mend: call fit again, which goes on from here"

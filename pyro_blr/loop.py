# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Stepping until converged."""

import math
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from .fit import Fit
from .gaps import SHARE
from .watch import Watch


def run(
    blr: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    max_steps: int,
    tol: float | None,
    progress: bool,
) -> Fit:
    """The loop of ``BLR.fit``."""
    fit = Fit(blr=blr)
    watch = Watch(tol)
    work, before = blr.work, blr.work.gradients
    with _bar(max_steps, progress) as bar:
        while fit.steps < max_steps:
            loss, objective = blr.advance(args, kwargs, watched=True, kept=watch.rules)
            _enter(fit, bar, loss)
            if objective is None:  # the step was skipped
                fit.remember()
                continue
            watch.accelerate(blr, objective)
            if objective.draws is not None and blr.sampling.are_common(objective.draws):
                watch.on_draws(fit, blr, objective)
            elif not objective.energy.is_deterministic:
                watch.noisy(fit, blr, objective, (args, kwargs))
            elif blr.info._messages:
                watch.deterministic(fit, blr, objective)
            fit.remember()
            if fit.converged or watch.is_over:
                break
    fit.gradients = work.gradients - before
    if not fit.converged:
        watch.choose_average(fit, blr, fit.steps // SHARE)
        fit.reason = blr.parameters.uncertified or fit.reason
        stopped = "stopped" if watch.is_over else f"max_steps={max_steps} reached"
        fit.reason = f"{stopped}; {fit.reason}" if fit.reason else stopped
    return fit


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
    rule.tol = limit = Watch(tol).tol
    rule.is_stuck = False
    with _bar(max_steps, progress) as bar:
        while fit.steps < max_steps and not fit.converged and not rule.is_stuck:
            loss = blr.rule_step(rule, args, kwargs)
            _enter(fit, bar, loss)
            if math.isnan(loss):  # the step was skipped
                fit.remember()
                continue
            fit.reason = rule.uncertified
            fit.gap = math.inf
            if not fit.reason:
                fit.gap = rule.gap
                fit.converged = fit.gap <= limit
                fit.reason = f"gap {fit.gap:.1e} nats, tol={limit:g}"
                if not fit.converged:
                    fit.reason += ". Mend: call fit again, which goes on from here"
            fit.remember()
    if not fit.converged:
        ended = "stopped" if rule.is_stuck else f"max_steps={max_steps} reached"
        fit.reason = f"{ended}; {fit.reason}"
    return fit


def _bar(max_steps: int, progress: bool) -> Any:
    return tqdm(total=max_steps, disable=not progress, desc="BLR", leave=True)


def _enter(fit: Fit, bar: Any, loss: float) -> None:
    """Count a step, and show its loss."""
    fit.losses.append(loss)
    fit.steps += 1
    bar.update()
    bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where the time of steps goes, measured on a copy of an engine whose methods are timed.

Ordinary steps pay nothing for it: the methods of the copy are wrapped, and no others.
"""

import copy
from collections.abc import Mapping
from typing import Any

from .factor_times import density_times, factor_times
from .isolation import Kept, nothing_left_behind
from .loop import run, run_rule
from .objective import EnergyObjective
from .stopwatch import Stopwatch
from .trace_report import PartTime, TraceReport
from .watch import Watch

TRACE, COMPILE, RULES, ELBO, MESSAGES, SEARCH, PARAMETERS, CERTIFICATE, REST = (
    "trace: run the model on lifted latents",
    "compile: blocks, polynomials, plans",
    "choose quadrature rules",
    "ELBO at the entry",
    "messages",
    "search: further evaluations of the ELBO",
    "parameters of the model",
    "certificate and acceleration",
    "rest: cone, writing the guide, bookkeeping",
)
MODEL, GUIDE, OTHER = (
    "run the model",
    "run the guide",
    "rest: densities, gradients, optimiser",
)


def trace_report(
    blr: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], max_steps: int
) -> TraceReport:
    """Fit a copy of an engine from where it is, and say what took how long."""
    with nothing_left_behind() as kept:
        copied = copy.deepcopy(blr)
        if copied._builder.on_sampled == "warn":  # the engine itself warns when it steps
            copied._builder.on_sampled = "ignore"
        rule = copied._rule(args, kwargs)
        if rule is not None:
            return _of_rule(copied, rule, args, kwargs, max_steps)
        copied._resume(args, kwargs)
        copied.view.set_up(args, kwargs, copied._builder)
        copied.invalidate()  # so that the first step is one that knows nothing of the data
        return _of_steps(copied, args, kwargs, max_steps, kept)


def _of_steps(
    blr: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], max_steps: int, kept: Kept
) -> TraceReport:
    clock = Stopwatch(REST)
    _time_engine(blr, clock, kept)
    watch = _timed_watch(clock)
    clock.start()
    fit = run(blr, args, kwargs, max_steps=max_steps, tol=None, progress=False, watch=watch)
    steps = fit.steps
    if steps < min(2, max_steps):  # it converged at once, and what a later step takes is not known
        blr.advance(args, kwargs, watched=True)
        steps += 1
    clock.stop()
    objective = blr._objective(args, kwargs)
    naturals = {b: tuple(t.detach() for t in n) for b, n in blr.view.naturals().items()}
    factors = factor_times(objective, naturals)
    parts = _parts(clock, TRACE, COMPILE, RULES, ELBO, MESSAGES, SEARCH, PARAMETERS, CERTIFICATE)
    return TraceReport(steps, clock.total, parts, factors)


def _parts(clock: Stopwatch, *names: str) -> tuple[PartTime, ...]:
    """The parts that took any time; the first lap has the first step."""
    first, later = clock.laps[:2], clock.laps[2:]
    parts = [
        PartTime(n, sum(lap.get(n, 0.0) for lap in first), sum(lap.get(n, 0.0) for lap in later))
        for n in (*names, clock.rest)
    ]
    return tuple(p for p in parts if p.seconds > 0)


def _time_engine(blr: Any, clock: Stopwatch, kept: Kept) -> None:
    """Wrap the parts of an engine's step; its objectives, when they are made."""
    builder = blr._builder
    trace, build, advance, objective_of = (
        *(builder.trace, builder.build, blr.advance),
        blr._objective,
    )
    calls = [0]  # evaluations of the ELBO in this step

    def traced(*args: Any, **kwargs: Any) -> Any:
        found = trace(*args, **kwargs)
        kept.add(p.leaf for p in found.parameters.values())
        return found

    def built(*args: Any, **kwargs: Any) -> Any:
        energy = build(*args, **kwargs)
        energy.calibrate = clock.timed(RULES, energy.calibrate)
        return energy

    def which() -> str:
        calls[0] += 1
        return ELBO if calls[0] == 1 else SEARCH

    def objective(*args: Any, **kwargs: Any) -> EnergyObjective:
        made: Any = objective_of(*args, **kwargs)
        for name in ("value", "evaluate"):
            setattr(made, name, clock.timed(which, getattr(made, name)))
        for name in ("messages", "messages_of"):
            setattr(made, name, clock.timed(MESSAGES, getattr(made, name)))
        return made  # type: ignore[no-any-return]

    def advanced(*args: Any, **kwargs: Any) -> Any:
        clock.lap()
        calls[0] = 0
        return advance(*args, **kwargs)

    builder.trace, builder.build = clock.timed(TRACE, traced), clock.timed(COMPILE, built)
    blr._objective, blr.advance = objective, advanced
    blr.view.lay_out = clock.timed(COMPILE, blr.view.lay_out)
    for name in ("maximise", "move_others"):
        setattr(blr.parameters, name, clock.timed(PARAMETERS, getattr(blr.parameters, name)))


def _timed_watch(clock: Stopwatch) -> Watch:
    """What looks at the steps of a fit, its time apart from theirs."""
    watch = Watch(None)
    for name in ("accelerate", "deterministic", "on_draws", "noisy", "choose_average"):
        setattr(watch, name, clock.timed(CERTIFICATE, getattr(watch, name)))
    return watch


def _of_rule(
    blr: Any, rule: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], max_steps: int
) -> TraceReport:
    """Of a guide that is known by its draws, or a point mass: runs of model and guide."""
    clock = Stopwatch(OTHER)
    rule.model = clock.timed(MODEL, rule.model)
    rule.guide = clock.timed(GUIDE, rule.guide)
    step = blr.rule_step

    def stepped(*args: Any, **kwargs: Any) -> Any:
        clock.lap()
        return step(*args, **kwargs)

    blr.rule_step = stepped
    clock.start()
    fit = run_rule(blr, rule, args, kwargs, max_steps=max_steps, tol=None, progress=False)
    clock.stop()
    factors = density_times(rule.sites(args, kwargs).model_densities, rule.tier)
    note = "a factor's time is that of its density at one draw of the guide, without its gradient"
    return TraceReport(fit.steps, clock.total, _parts(clock, MODEL, GUIDE), factors, (note,))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How long each factor of a model takes, evaluated alone."""

import copy
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from .energy.factors import Factor, MomentsMap
from .lifting import constants
from .lifting.blocks import Block
from .objective import EnergyObjective, Naturals
from .stopwatch import now
from .trace_report import FactorTime

#: A factor is timed until it took so many seconds, the median of at least so many times.
LONG_ENOUGH, FEWEST, MOST = 0.02, 3, 25


def factor_times(objective: EnergyObjective, naturals: Naturals) -> tuple[FactorTime, ...]:
    """Each factor of an energy at a state of q, the most costly one first."""
    factors = objective.energy.factors
    with constants.using(objective.cache):
        with torch.no_grad():
            plain = objective._moments(naturals)
        leaves = objective._moments(naturals)
        elbo = [_median(partial(_evaluate, f, objective), plain) for f in factors]
        with objective.given_discrete(naturals):  # as a step takes their messages
            messages = [_median(partial(_messages, f, objective, leaves), plain) for f in factors]
    times = zip(factors, elbo, messages, strict=True)
    return _sorted([FactorTime(f.name, f.tier, e, m) for f, e, m in times])


def density_times(densities: Mapping[str, Callable[[], Any]], tier: str) -> tuple[FactorTime, ...]:
    """Each density by itself, where there is no energy; its gradient is not timed."""
    nothing: MomentsMap = {}
    with torch.no_grad():
        times = {name: _median(partial(_call, d), nothing) for name, d in densities.items()}
    return _sorted([FactorTime(name, tier, seconds, None) for name, seconds in times.items()])


def _sorted(times: list[FactorTime]) -> tuple[FactorTime, ...]:
    return tuple(sorted(times, key=lambda t: -t.seconds))


def _call(density: Callable[[], Any], nothing: MomentsMap) -> None:
    density()


def _evaluate(factor: Factor, objective: EnergyObjective, moments: MomentsMap) -> None:
    with torch.no_grad():
        factor.evaluate(moments, objective.draws, None)


def _messages(
    factor: Factor, objective: EnergyObjective, leaves: MomentsMap, plain: MomentsMap
) -> None:
    """A factor's message to each block, as a step takes it: coefficients, or a gradient."""
    for block in factor.blocks:
        if block in objective.energy.points:
            continue
        if objective.energy.is_conjugate_in(block):
            with torch.no_grad():
                found = factor.coefficients(plain, block)
            if found is not None:
                continue
        _gradient(factor, leaves, objective, block)


def _gradient(
    factor: Factor, moments: MomentsMap, objective: EnergyObjective, block: Block
) -> None:
    with torch.enable_grad():
        value, _ = factor.evaluate(moments, objective.draws, block)
    if value.requires_grad:
        wanted = list(moments[block].leaves)
        torch.autograd.grad(value, wanted, allow_unused=True, retain_graph=True)


def _median(function: Callable[[MomentsMap], None], moments: MomentsMap) -> float:
    """Seconds of a call; the first one, which may have more to do, is not counted.

    Factors that keep what they computed know moments by their identity: each call gets new ones,
    whose statistics are known.
    """
    function(moments)
    seconds: list[float] = []
    limit = time.perf_counter() + LONG_ENOUGH
    while len(seconds) < FEWEST or (len(seconds) < MOST and time.perf_counter() < limit):
        fresh = {block: copy.copy(own) for block, own in moments.items()}
        start = now()
        function(fresh)
        seconds.append(now() - start)
    return sorted(seconds)[len(seconds) // 2]

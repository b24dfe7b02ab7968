# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Fisher information of the evidence: the metric of the observed data alone.

EM and averages of expected statistics move in the metric of the joint law of data and latents. The
metric of the evidence is ``sum_n E[ score score' ]``, ``score = d log p(x_n) / d parameters``, with
x_n from the model itself, here a mean over draws of the whole data set.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from pyro import poutine
from torch import Tensor

from .. import errors
from ..steps.information import MAX_ELEMENTS
from .probe import Recorder, fixed_draws
from .setting import Setting

#: Data that are drawn, at least, for each parameter.
DRAWS = 50


def drawn_like(setting: Setting) -> Setting:
    """The setting with data from the model in the places of the data, missing where they are."""
    census = setting.census
    call = replace(census.call, model=poutine.uncondition(census.call.model))
    with torch.no_grad():
        drawn = call.run(Recorder()).sites
    sites = dict(census.sites)
    for name in census.observed:
        value, old = drawn[name].value, sites[name].value
        if value.is_floating_point():
            value = torch.where(torch.isnan(old.to(value.dtype)), torch.nan, value)
        sites[name] = replace(sites[name], value=value)
    return replace(setting, census=replace(census, sites=sites))


def scores(setting: Setting, leaves: Sequence[Tensor]) -> Tensor:
    """d log p(x) / d parameters of each datum. # shape: (data, parameters)"""
    evidence = setting.harmonium().posterior(setting.data())[0].logsumexp(0).flatten()
    weight = torch.zeros_like(evidence, requires_grad=True)
    graph = torch.autograd.grad(
        evidence, leaves, weight, create_graph=True, allow_unused=True, materialize_grads=True
    )
    columns = []
    for element in torch.cat([g.flatten() for g in graph]):
        column = None
        if element.requires_grad:
            (column,) = torch.autograd.grad(element, weight, retain_graph=True, allow_unused=True)
        columns.append(torch.zeros_like(evidence) if column is None else column)
    return torch.stack(columns, -1).detach()


def fisher_of_evidence(setting: Setting, leaves: Sequence[Tensor]) -> tuple[Tensor, int]:
    """The information of the whole data set, and the number of data that were drawn for it.

    # shape: (parameters, parameters)
    """
    size = sum(leaf.numel() for leaf in leaves)
    if size > MAX_ELEMENTS:
        raise errors.ArgumentError(
            f"the metric of the evidence is a matrix of {size} parameters, more than "
            f'{MAX_ELEMENTS}. Mend: metric="joint", or method="gradient".'
        )
    rows = prod(setting.layout.batch)
    repeats = max(1, -(-DRAWS * size // rows))
    total = torch.zeros(size, size, dtype=torch.float64, device=leaves[0].device)
    with fixed_draws():
        for _ in range(repeats):
            own = scores(drawn_like(setting), leaves).double()
            total = total + own.T @ own
    return total / repeats, repeats * rows

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Regressions, with and without groups: five of the ten problems, whose posteriors are smooth."""

from pathlib import Path
from typing import Any

import torch

from demo import models as demo

from .. import a1a, classification
from ..rows import Settings, Skipped
from ..stan import arguments_of
from ..stan_models import EXAMPLES, Example
from ..stan_models.database import find
from .problem import FEWER, Problem

#: General peers: they need no more than the log joint, or the model.
GENERAL = (
    *("blr", "pyro_svi", "numpyro_svi", "blackjax_vi", "blackjax_pathfinder"),
    *("pymc_advi", "pymc_pathfinder", "numpyro_nuts"),
)
#: Rows and columns of a1a in a test.
TINY_A1A = (40, 6)


def diabetes(data: Path | None, tiny: bool) -> Problem:
    """442 patients, 10 covariates, scikit-learn's own."""
    problem = demo.diabetes()
    args = tuple(a[:60] for a in problem.args) if tiny else problem.args
    return Problem(
        "diabetes",
        "Diabetes: linear regression, unknown noise",
        demo.linear_model,
        args,
        (*GENERAL, "sklearn_ridge"),
    )


def logistic(data: Path | None, tiny: bool) -> Problem:
    """1605 people, 123 binary features and a bias."""
    try:
        a = a1a.load(Settings(data=data))
    except Skipped:
        if not tiny:
            raise
        a = None
    args: tuple[Any, ...] = _made_up() if a is None else a.args
    if tiny and a is not None:
        rows, columns = TINY_A1A
        args = a.X[:rows, :columns], a.y[:rows], a.prior_precision[:columns]
    return Problem(
        "a1a",
        "a1a: logistic regression",
        classification.model,
        args,
        (*GENERAL, "laplace_torch", "ivon"),
    )


def _made_up() -> tuple[torch.Tensor, ...]:
    make = torch.Generator().manual_seed(0)
    rows, columns = TINY_A1A
    X = torch.randn(rows, columns, generator=make)
    y = (X[:, 0] + torch.randn(rows, generator=make) > 0).to(X)
    return X, y, torch.ones(columns)


def radon(data: Path | None, tiny: bool) -> Problem:
    """919 houses in 85 counties of Minnesota."""
    return _stan(
        "radon",
        "Radon: varying intercepts, centred",
        "radon_hierarchical_intercept_centered",
        data,
        tiny,
    )


def eight_schools(data: Path | None, tiny: bool) -> Problem:
    """Effects of coaching, not centred."""
    return _stan(
        "eight_schools", "Eight schools, not centred", "eight_schools_noncentered", data, tiny
    )


def election88(data: Path | None, tiny: bool) -> Problem:
    """11566 voters, five groupings."""
    return _stan(
        "election88",
        "Election 88: logistic regression with five groupings",
        "election88_full",
        data,
        tiny,
        draws=512,
        chains=FEWER,
    )


def _stan(
    name: str, title: str, model: str, data: Path | None, tiny: bool, **options: Any
) -> Problem:
    """One of posteriordb's."""
    example: Example = next(e for e in EXAMPLES if e.name == model)
    args = arguments_of(example, None if tiny else find(data))
    return Problem(name, title, example.model, args, GENERAL, **options)

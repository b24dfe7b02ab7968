# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How much of Stan's own examples is evaluated without draws, and how good those fits are."""

from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_blr import BLR, errors
from pyro_blr.guides import AutoNatural

from .rows import Check, Row, Settings, Skipped
from .stan_models import EXAMPLES, Example, origin
from .stan_models.database import find, read_data, read_draws
from .timing import fresh, seconds

NAME = "stan"
TIERS = ("exact", "quadrature", "sampled")
#: Of the twenty, those that no closed form or quadrature over two Gaussian scalars can do are five.
DETERMINISTIC = 15
#: Without the two whose likelihoods have three or more Gaussian scalars an element.
WITHOUT_CLOSED_FORMS = 13
#: Draws of q for its moments: their own error is 0.3 % of a standard deviation.
DRAWS = 100_000
#: In reference standard deviations. Mean field errs most on eight schools, whose tau is skewed.
MEAN_ERROR, LEAST_RATIO, LARGEST_RATIO = 0.25, 0.75, 1.25


def run(settings: Settings) -> Iterator[Row]:
    """A row for each model, and how many are deterministic."""
    try:
        database = find(settings.data)
    except Skipped:
        if not settings.tiny:
            raise
        database = None
    if settings.tiny:
        database = None
    deterministic = []
    for example in EXAMPLES:
        if example.synthetic is None and database is None:
            continue
        row = row_of(example, database)
        if row.headline.name == "s of a fit":
            deterministic.append(example)
        yield row
    without = [e for e in deterministic if not e.closed_form_only]
    yield Row(
        NAME,
        "total",
        Check(f"of {len(EXAMPLES)} deterministic", len(deterministic), DETERMINISTIC, "at least"),
        [
            Check(
                "without the closed form of three or more scalars",
                len(without),
                WITHOUT_CLOSED_FORMS,
                "at least",
            )
        ],
    )


def row_of(example: Example, database: Path | None) -> Row:
    """The tiers of a model's factors; the fit, where no factor is sampled.

    :param database: posteriordb, or None for the synthetic data.
    """
    fresh()
    args = arguments_of(example, database)
    guide = AutoNatural(example.model, init_loc_fn=origin)
    engine = BLR(example.model, guide, on_sampled="ignore")
    try:
        factors = engine.explain(*args).factors
    except (errors.BLRError, NotImplementedError) as refusal:
        return Row(NAME, example.name, Check("refused", 1.0), note=f"{refusal}"[:200])
    counts = Counter(factor.tier for factor in factors)
    note = ", ".join(f"{counts[tier]} {tier}" for tier in TIERS)
    if counts["sampled"]:
        sampled = [f"{f.site}: {f.reason}" for f in factors if f.tier == "sampled"]
        headline = Check("sampled factors", counts["sampled"])
        return Row(NAME, example.name, headline, note="; ".join([note, *sampled]))
    elapsed, fit = seconds(lambda: engine.fit(*args))
    draws = None if database is None else read_draws(database, example.posterior)
    return Row(
        NAME,
        example.name,
        Check("s of a fit", elapsed),
        [Check("not converged", not fit.converged, 0), *quality(example, guide, draws)],
        {"fit": [elapsed]},
        f"{note}; {fit.steps} steps",
    )


def arguments_of(example: Example, database: Path | None) -> tuple[Any, ...]:
    """The model's arguments, of posteriordb's data or of the synthetic ones."""
    if database is not None:
        return example.arguments(read_data(database, example.data))
    if example.synthetic is None:
        raise Skipped(f"{example.name} has no synthetic data")
    return example.arguments(example.synthetic())


def quality(example: Example, guide: Any, reference: dict[str, Tensor] | None) -> list[Check]:
    """The worst posterior mean, in reference standard deviations, and ratios of these."""
    if reference is None:
        return []
    drawn = scalars(example.quantities(guide.sample_posterior(DRAWS)))
    errors_ = [(drawn[n].mean() - r.mean()).abs() / r.std() for n, r in reference.items()]
    ratios = torch.stack([drawn[n].std() / r.std() for n, r in reference.items()])
    return [
        Check("largest error of a mean in sd", float(max(errors_)), MEAN_ERROR),
        Check("least ratio of sds", float(ratios.min()), LEAST_RATIO, "at least"),
        Check("largest", float(ratios.max()), LARGEST_RATIO),
    ]


def scalars(draws: Any) -> dict[str, Tensor]:
    """Draws of each element by Stan's name: mu, beta[2], phi[1,3]. # shape of each: (draws,)

    An axis of length one that a plate has put in is none of Stan's.
    """
    result = {}
    for name, values in draws.items():
        shape = [size for size in values.shape[1:] if size > 1]
        columns = values.reshape(len(values), -1).unbind(1)
        for place, column in zip(product(*map(range, shape)), columns, strict=True):
            index = ",".join(str(i + 1) for i in place)
            result[f"{name}[{index}]" if index else name] = column
    return result

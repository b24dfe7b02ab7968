# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Conjugate models with their textbook posteriors and log evidences: the registry.

Parametrise a test over it::

    @pytest.mark.parametrize("case", TEXTBOOK, ids=lambda case: case.name)
    def test_theorem(case):
        problem = case.make(dtype=torch.float64, seed=0)
        problem.model(*problem.args)  # a plain Pyro model
        problem.model(*problem.args, mask=False)  # the same with every datum masked
        problem.prior, problem.posterior  # site -> Pyro distribution
        problem.log_evidence  # nats
"""

from tests.oracles.textbook_case import Case, Problem
from tests.oracles.textbook_gaussian import (
    LinearRegression,
    MultivariateNormalMean,
    NormalMean,
    NormalNormalGroups,
    NormalNormalPlate,
)
from tests.oracles.textbook_rates import (
    BetaBernoulli,
    BetaBinomial,
    DirichletCategorical,
    GammaExponential,
    GammaPoisson,
    NormalPrecision,
)

__all__ = ["TEXTBOOK", "Case", "Problem"]

TEXTBOOK: tuple[Case, ...] = (
    NormalMean(),
    NormalPrecision(),
    NormalNormalPlate(),
    NormalNormalGroups(),
    BetaBernoulli(),
    BetaBinomial(),
    DirichletCategorical(),
    GammaPoisson(),
    GammaExponential(),
    MultivariateNormalMean(),
    LinearRegression(),
)

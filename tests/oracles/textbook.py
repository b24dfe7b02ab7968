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

from tests.oracles.textbook_case import Case, JointCase, Problem
from tests.oracles.textbook_counts import (
    BetaGeometric,
    BetaNegativeBinomial,
    DirichletMultinomial,
)
from tests.oracles.textbook_gaussian import (
    LinearRegression,
    MultivariateNormalMean,
    NormalMean,
    NormalNormalGroups,
    NormalNormalPlate,
)
from tests.oracles.textbook_joint import JOINT
from tests.oracles.textbook_rates import (
    BetaBernoulli,
    BetaBinomial,
    DirichletCategorical,
    GammaExponential,
    GammaPoisson,
    NormalPrecision,
)
from tests.oracles.textbook_scales import GammaRate, InverseGammaVariance, WishartPrecision

__all__ = ["ALL", "INDEPENDENT", "JOINT", "TEXTBOOK", "Case", "JointCase", "Problem"]

#: One latent with a Normal, Gamma, Beta or Dirichlet posterior: every oracle knows these. (torch's
#: Multinomial indexes by a mask, which no ``vmap`` can run: so the Dirichlet's dice are below.)
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
    BetaNegativeBinomial(),
    BetaGeometric(),
    GammaRate(),
)

#: All whose latents are independent a posteriori.
INDEPENDENT: tuple[Case, ...] = (
    *TEXTBOOK,
    DirichletMultinomial(),
    InverseGammaVariance(),
    WishartPrecision(),
)

#: These, and those whose posterior is the joint law of a Gaussian and its scale.
ALL: tuple[Case, ...] = (*INDEPENDENT, *JOINT)

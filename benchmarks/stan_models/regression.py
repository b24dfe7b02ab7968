# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Linear regressions: chapters 3 and 4 of Gelman and Hill (2006), and one with a proper prior."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from .example import Stan, Synthetic, posterior, vectors


def earnings(stan: Stan) -> tuple[Tensor, ...]:
    """Earnings in logarithms, and the interaction."""
    earn, height, male = vectors(stan, "earn", "height", "male")
    return earn.log(), height, male, height * male


def synthetic_earnings() -> Stan:
    """Eight people."""
    make = Synthetic()
    return {"earn": make.positive(8), "height": make.normal(8), "male": make.integers(0, 1, 8)}


@posterior(
    "earnings-logearn_interaction",
    arguments=earnings,
    synthetic=synthetic_earnings,
)
def logearn_interaction(log_earn: Tensor, height: Tensor, male: Tensor, inter: Tensor) -> None:
    """Log earnings by height and sex."""
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (4,)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    mean = beta[0] + beta[1] * height + beta[2] * male + beta[3] * inter
    with pyro.plate("people", len(log_earn)):
        pyro.sample("log_earn", dist.Normal(mean, sigma), obs=log_earn)


def kid_interaction(stan: Stan) -> tuple[Tensor, ...]:
    """Scores, schooling, IQ and the interaction."""
    kid_score, mom_hs, mom_iq = vectors(stan, "kid_score", "mom_hs", "mom_iq")
    return kid_score, mom_hs, mom_iq, mom_hs * mom_iq


def synthetic_kids() -> Stan:
    """Eight children."""
    make = Synthetic()
    return {
        "kid_score": make.normal(8),
        "mom_hs": make.integers(0, 1, 8),
        "mom_iq": make.normal(8),
    }


@posterior(
    "kidiq-kidscore_interaction",
    arguments=kid_interaction,
    synthetic=synthetic_kids,
)
def kidscore_interaction(kid_score: Tensor, mom_hs: Tensor, mom_iq: Tensor, inter: Tensor) -> None:
    """Children's test scores by their mothers' schooling and IQ."""
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (4,)))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    mean = beta[0] + beta[1] * mom_hs + beta[2] * mom_iq + beta[3] * inter
    with pyro.plate("children", len(kid_score)):
        pyro.sample("kid_score", dist.Normal(mean, sigma), obs=kid_score)


@posterior(
    "kidiq-kidscore_momiq",
    synthetic=synthetic_kids,
)
def kidscore_momiq(kid_score: Tensor, mom_iq: Tensor) -> None:
    """Children's test scores by their mothers' IQ."""
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("children", len(kid_score)):
        pyro.sample("kid_score", dist.Normal(beta[0] + beta[1] * mom_iq, sigma), obs=kid_score)


def mesquite(stan: Stan) -> tuple[Tensor, ...]:
    """Everything in logarithms, and the group."""
    weight, diam1, diam2 = vectors(stan, "weight", "diam1", "diam2")
    canopy_height, total_height, group = vectors(stan, "canopy_height", "total_height", "group")
    volume, area, shape = diam1 * diam2 * canopy_height, diam1 * diam2, diam1 / diam2
    return weight.log(), volume.log(), area.log(), shape.log(), total_height.log(), group


def synthetic_mesquite() -> Stan:
    """Twelve bushes."""
    make = Synthetic()
    lengths = ("weight", "diam1", "diam2", "canopy_height", "total_height")
    return {**{name: make.positive(12) for name in lengths}, "group": make.integers(0, 1, 12)}


@posterior(
    "mesquite-logmesquite_logvash",
    arguments=mesquite,
    synthetic=synthetic_mesquite,
)
def logmesquite_logvash(
    log_weight: Tensor,
    log_volume: Tensor,
    log_area: Tensor,
    log_shape: Tensor,
    log_height: Tensor,
    group: Tensor,
) -> None:
    """Log weight of mesquite leaves by volume, area and shape of the canopy, and height."""
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (6,)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    canopy = beta[0] + beta[1] * log_volume + beta[2] * log_area + beta[3] * log_shape
    mean = canopy + beta[4] * log_height + beta[5] * group
    with pyro.plate("bushes", len(log_weight)):
        pyro.sample("log_weight", dist.Normal(mean, sigma), obs=log_weight)


def election_study(stan: Stan) -> tuple[Tensor, ...]:
    """Age as indicators of 30-44, 45-64 and 65 or more."""
    partyid7, real_ideo, race_adj = vectors(stan, "partyid7", "real_ideo", "race_adj")
    age = vectors(stan, "age_discrete")[0].unsqueeze(-1) == torch.tensor([2.0, 3.0, 4.0])
    rest = vectors(stan, "educ1", "gender", "income")
    return partyid7, real_ideo, race_adj, age.to(partyid7.dtype), *rest


def synthetic_election_study() -> Stan:
    """Sixteen people."""
    make = Synthetic()
    ranges = {"partyid7": 7, "real_ideo": 7, "race_adj": 2, "age_discrete": 4}
    ranges |= {"educ1": 4, "gender": 2, "income": 5}
    return {name: make.integers(1, high, 16) for name, high in ranges.items()}


@posterior(
    "nes1972-nes",
    arguments=election_study,
    synthetic=synthetic_election_study,
)
def nes(
    partyid7: Tensor,
    real_ideo: Tensor,
    race_adj: Tensor,
    age: Tensor,
    educ1: Tensor,
    gender: Tensor,
    income: Tensor,
) -> None:
    """Party identification; `age` has a column for each of three groups."""
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (9,)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    by_age = beta[3] * age[:, 0] + beta[4] * age[:, 1] + beta[5] * age[:, 2]
    by_rest = beta[6] * educ1 + beta[7] * gender + beta[8] * income
    mean = beta[0] + beta[1] * real_ideo + beta[2] * race_adj + by_age + by_rest
    with pyro.plate("people", len(partyid7)):
        pyro.sample("partyid7", dist.Normal(mean, sigma), obs=partyid7)


def synthetic_blr() -> Stan:
    """Twelve rows of five features."""
    make = Synthetic()
    return {"X": make.normal(12, 5), "y": make.normal(12)}


@posterior(
    "sblrc-blr",
    synthetic=synthetic_blr,
)
def blr(X: Tensor, y: Tensor) -> None:
    """Regression with priors of scale ten."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(X.shape[1]), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Models that use one distribution each, with the tier that its factor must be on.

A use is written as in docs/exactness.md: the latents z, b, w (Normal), s (exp of a Normal), tau
(Gamma), p (Beta) and theta (Dirichlet) with a fixed q, X, x and n data of five rows. ``at`` is the
observed value; a use without one is a prior, of the latent whose q is named by ``of``.
"""

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import transforms
from torch.nn import functional as F

from pyro_blr import families
from tests.densities.formulas import CLASS, COUNT, COUNTS, OTHER, POSITIVE, REAL, UNIT, K

DATA = {
    "X": torch.sin(torch.arange(10.0)).reshape(5, 2),
    "x": OTHER,
    "n": POSITIVE,
}
Q = {
    "z": dist.Normal(torch.tensor(0.4), torch.tensor(0.3)),
    "b": dist.Normal(torch.tensor(-0.2), torch.tensor(0.5)),
    "w": dist.MultivariateNormal(torch.tensor([0.3, -0.5]), torch.eye(2) * 0.2),
    "s": dist.LogNormal(torch.tensor(0.1), torch.tensor(0.3)),
    "tau": dist.Gamma(torch.tensor(6.0), torch.tensor(4.0)),
    "v": dist.InverseGamma(torch.tensor(6.0), torch.tensor(4.0)),
    "p": dist.Beta(torch.tensor(3.0), torch.tensor(4.0)),
    "theta": dist.Dirichlet(torch.tensor([2.0, 3.0, 1.5, 4.0])),
}
PRIORS = {
    "z": "Normal(0.0, 1.0)",
    "b": "Normal(0.0, 1.0)",
    "w": "Normal(torch.zeros(2), 1.0).to_event(1)",
    "s": "LogNormal(0.0, 1.0)",
    "tau": "Gamma(2.0, 2.0)",
    "v": "InverseGamma(2.0, 2.0)",
    "p": "Beta(2.0, 2.0)",
    "theta": "Dirichlet(torch.ones(4))",
}
FAMILIES = {
    "s": families.Normal,
    "tau": families.Gamma,
    "v": families.InverseGamma,
    "p": families.Beta,
    "theta": families.Dirichlet,
}
SCOPE: dict[str, Any] = (
    vars(dist)
    | vars(transforms)
    | DATA
    | {"torch": torch, "F": F, "T": dist.TransformedDistribution}
)
ONE_HOT = F.one_hot(CLASS, K).double()


EXACT, BY_NODES, DRAWN = "exact", "quadrature", "sampled"


@dataclass(frozen=True)
class Use:
    """One distribution in a model: its expression, the value, the tier of its factor."""

    law: str
    at: Tensor | None
    tier: str
    of: str = ""

    def __str__(self) -> str:
        return f"{self.law}{' of ' + self.of if self.of else ''}"


def likelihood(law: str, at: Tensor, tier: str = EXACT) -> Use:
    return Use(law, at, tier)


def prior(of: str, law: str, tier: str = EXACT) -> Use:
    return Use(law, None, tier, of)


USES = [
    # The real line.
    likelihood("Normal(X @ w, tau.rsqrt())", REAL),
    likelihood("Laplace(0.3, 1 / tau)", REAL),
    likelihood("Laplace(x, s)", REAL),
    likelihood("Laplace(z, s)", REAL, DRAWN),
    likelihood("Gumbel(z, 0.7)", REAL),
    likelihood("Gumbel(X @ w, n)", REAL),
    # Of positive data only: for a negative y, E exp(-y / s) is infinite.
    likelihood("Gumbel(0.0, s)", POSITIVE, BY_NODES),
    likelihood("Cauchy(X @ w, 1.0)", REAL, BY_NODES),
    likelihood("StudentT(4.0, X @ w, 1.0)", REAL, BY_NODES),
    likelihood("Logistic(X @ w, 1.0)", REAL, BY_NODES),
    likelihood("SkewLogistic(X @ w, 1.0, 2.0)", REAL, BY_NODES),
    likelihood("SoftLaplace(X @ w, 1.0)", REAL, BY_NODES),
    likelihood("VonMises(X @ w, 2.0)", REAL, BY_NODES),
    likelihood("VonMises(0.2, s)", REAL, BY_NODES),
    prior("z", "ImproperUniform(constraints.real, (), ())"),
    prior("tau", "ImproperUniform(constraints.positive, (), ())"),
    prior("theta", "ImproperUniform(constraints.simplex, (), (4,))"),
    prior("z", "Gumbel(0.0, 1.0)"),
    prior("z", "StudentT(4.0, 0.0, 1.0)", BY_NODES),
    # Positive values.
    likelihood("HalfNormal(tau.rsqrt())", POSITIVE),
    likelihood("LogNormal(X @ w, tau.rsqrt())", POSITIVE),
    likelihood("Gamma(2.0, tau)", POSITIVE),
    likelihood("Exponential(tau * n)", POSITIVE),
    likelihood("InverseGamma(2.0, tau)", POSITIVE),
    likelihood("InverseGamma(n, s)", POSITIVE),
    likelihood("Weibull(s, n)", POSITIVE),
    likelihood("Weibull(tau ** -0.5, 2.0)", POSITIVE),
    likelihood("Weibull((X @ w).exp(), 1.5)", POSITIVE),
    likelihood("Pareto(0.1, tau)", POSITIVE),
    likelihood("HalfCauchy(s)", POSITIVE, BY_NODES),
    likelihood("FoldedDistribution(StudentT(4.0, 0.0, s))", POSITIVE, BY_NODES),
    likelihood("FoldedDistribution(Normal(X @ w, 1.0))", POSITIVE, BY_NODES),
    prior("tau", "InverseGamma(2.0, 1.0)"),
    prior("v", "InverseGamma(2.0, 1.0)"),
    prior("tau", "Chi2(3.0)"),
    prior("s", "Weibull(1.0, 2.0)"),
    prior("tau", "Weibull(1.5, 2.0)"),
    prior("s", "FoldedDistribution(StudentT(4.0, 0.0, 1.0))", BY_NODES),
    # The unit interval and the simplex.
    likelihood("Kumaraswamy(n, tau)", UNIT),
    likelihood("Kumaraswamy(tau, 2.0)", UNIT, DRAWN),
    likelihood("ContinuousBernoulli(logits=X @ w)", UNIT, BY_NODES),
    prior("p", "Kumaraswamy(1.0, 3.0)"),
    prior("p", "ContinuousBernoulli(0.3)"),
    # Counts and classes.
    likelihood("Bernoulli(p)", COUNT.clamp(max=1)),
    likelihood("Binomial(7, p)", COUNT),
    likelihood("Poisson(tau * n)", COUNT),
    likelihood("Geometric(p)", COUNT),
    likelihood("Geometric(logits=X @ w)", COUNT, BY_NODES),
    likelihood("NegativeBinomial(n, p)", COUNT),
    likelihood("NegativeBinomial(5.0, logits=X @ w)", COUNT, BY_NODES),
    likelihood("GammaPoisson(2.0, (X @ w).exp())", COUNT, BY_NODES),
    likelihood("BetaBinomial(s, 2.0, 7)", COUNT, BY_NODES),
    likelihood("Categorical(theta)", CLASS),
    likelihood("OneHotCategorical(theta)", ONE_HOT),
    likelihood("Multinomial(9, theta)", COUNTS),
    likelihood("Multinomial(9, torch.stack([1 - p, p]))", COUNTS[:, :2]),
    likelihood("Multinomial(9, logits=torch.stack([z, b, z * b, -z]))", COUNTS, DRAWN),
    likelihood("DirichletMultinomial(theta * 3, 9)", COUNTS, DRAWN),
    likelihood("OrderedLogistic(X @ w, torch.tensor([-1.0, 0.0, 1.0]))", CLASS, BY_NODES),
    likelihood("OrderedLogistic(x, torch.stack([z, z + s, z + s + 1]))", CLASS, DRAWN),
    likelihood("ZeroInflatedPoisson(s, gate=torch.tensor(0.2))", COUNT, BY_NODES),
    likelihood("ZeroInflatedPoisson(n, gate_logits=X @ w)", COUNT, BY_NODES),
    likelihood("ZeroInflatedPoisson(tau, gate=p)", COUNT, DRAWN),
    likelihood(
        "ZeroInflatedNegativeBinomial(5.0, logits=X @ w, gate=torch.tensor(0.2))",
        COUNT,
        BY_NODES,
    ),
    likelihood("ZeroInflatedDistribution(Poisson(n), gate_logits=z)", COUNT, BY_NODES),
    likelihood(
        "ZeroInflatedDistribution(Geometric(logits=X @ w), gate=n / 4)", COUNT, "quadrature"
    ),
    likelihood("ZeroInflatedDistribution(Poisson(tau), gate=p)", COUNT, DRAWN),
    # Wrappers.
    likelihood("Normal(X @ w, 1.0).mask(n > 0.5)", REAL),
    likelihood("MaskedDistribution(Cauchy(X @ w, 1.0), n > 0.5)", REAL, BY_NODES),
    likelihood(
        "MixtureSameFamily(Categorical(theta), Normal(torch.arange(4.0), 1.0))", REAL, "sampled"
    ),
    prior("z", "Normal(0.3, 2.0).mask(torch.tensor(True))"),
    prior("w", "Normal(0.3, 2.0).expand([2]).mask(torch.tensor([True, False])).to_event(1)"),
    prior("w", "Independent(ExpandedDistribution(Normal(0.3, 2.0), (2,)), 1)"),
    prior("w", "Laplace(0.0, 1.0).expand([2]).to_event(1)", DRAWN),
    # Changes of variables.
    likelihood("T(Normal(X @ w, 1.0), [AffineTransform(1.0, 2.0), ExpTransform()])", POSITIVE),
    likelihood("T(Normal(torch.zeros(5), 1.0), [AffineTransform(X @ w, s)])", REAL),
    likelihood("T(Normal(torch.zeros(5), 1.0), [AffineTransform(z, tau.rsqrt())])", REAL),
    likelihood("T(Normal(X @ w, tau.rsqrt()), [SigmoidTransform()])", UNIT),
    likelihood("T(Normal(X @ w, tau.rsqrt()), [SigmoidTransform().inv.inv])", UNIT),
    likelihood(
        "T(Normal(z, 1.0), ComposeTransform([ExpTransform(), AffineTransform(-1.0, 2.0)]))",
        POSITIVE,
    ),
    likelihood("T(Gamma(2.0, tau), [PowerTransform(torch.tensor(-0.5))])", POSITIVE),
    likelihood("T(Normal(X @ w, 1.0), [TanhTransform()])", UNIT),
    likelihood("T(StudentT(3.0, 0.0, 1.0), [AffineTransform(z, 2.0)])", REAL, BY_NODES),
    likelihood("T(Logistic(0.0, 1.0), [AffineTransform(X @ w, 2.0)])", REAL, BY_NODES),
    prior("s", "T(Normal(0.2, 1.5), [ExpTransform()])"),
    prior("s", "T(Gamma(2.0, 1.0), [PowerTransform(torch.tensor(-0.5))])"),
    prior("s", "T(StudentT(3.0, 0.0, 1.0), [ExpTransform()])", BY_NODES),
    prior("z", "T(Normal(0.2, 1.5), [AffineTransform(1.0, -2.0)])"),
    prior("w", "T(Normal(torch.zeros(2), 1.0).to_event(1), AffineTransform(1.0, 2.0, 1))"),
]

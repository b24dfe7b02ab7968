# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What docs/exactness.md shows, written once: a new row of a table is a line here.

The tiers in the tables are found by running these rows (docs/running.py), never typed.
"""

#: The latents of the rows, by name: their priors.
LATENTS = {
    "z": "Normal(0.0, 1.0)",
    "b": "Normal(0.0, 1.0)",
    "w": "Normal(torch.zeros(3), 1.0).to_event(1)",
    "c": "Normal(torch.zeros(3), 1.0).to_event(1)",
    "u": "Normal(torch.zeros(4), 1.0).to_event(1)",
    "tau": "Gamma(2.0, 2.0)",
    "rate": "Gamma(2.0, 2.0)",
    "v": "InverseGamma(2.0, 2.0)",
    "s": "HalfNormal(1.0)",
    "p": "Beta(2.0, 2.0)",
    "theta": "Dirichlet(torch.ones(4))",
    "L": "Wishart(torch.tensor(5.0), torch.eye(3))",
}

_LIKELIHOODS = """
Normal(X @ w + b, 1.0)
Normal(b + u[g] * x, 1.0)
Normal(X @ w, tau.rsqrt())
Normal(X @ w, v.sqrt())
Normal(z * b, 1.0)
Normal(torch.cumsum(u, 0)[g], 1.0)
Normal(b, s)
Normal(b, z.exp())
Normal(X @ w, (X @ c).exp())
Normal(X @ w, (u[g] + b * x).exp())
Normal(z ** 2, 1.0)
Normal((X @ w) ** 2, 1.0)
Normal(z ** 3, 1.0)
Normal(torch.tanh(X @ w), 1.0)
Normal(z, F.softplus(z))
Normal(b, F.softplus(z))
Normal(z * b.sigmoid(), 1.0)
Normal(b, F.softplus(z) + s)
Normal(w.norm(), 1.0)
LogNormal(X @ w, tau.rsqrt())
LogNormal(X @ w, v.sqrt())
HalfNormal(tau.rsqrt())
HalfNormal(s)
HalfCauchy(s)
InverseGamma(2.0, rate)
InverseGamma(2.0, s)
Weibull(s, 2.0)
Weibull(tau ** -0.5, 2.0)
Weibull((X @ w).exp(), 1.5)
Weibull(1.0, tau)
Pareto(0.1, tau)
Kumaraswamy(2.0, tau)
Kumaraswamy(tau, 2.0)
Laplace(0.5, 1 / tau)
Laplace(0.5, s)
Laplace(X @ w, 1.0)
Gumbel(z, 1.0)
Gumbel(X @ w, 1.0)
Gumbel(0.0, s)
Cauchy(X @ w, 1.0)
Cauchy(z, s)
Logistic(X @ w, 1.0)
Logistic(X @ w, s)
SkewLogistic(X @ w, 1.0, 2.0)
SoftLaplace(X @ w, 1.0)
AsymmetricLaplace(X @ w, 1.0, 1.5)
VonMises(X @ w, 2.0)
VonMises(0.0, s)
FoldedDistribution(StudentT(4.0, 0.0, s))
StudentT(4.0, X @ w, 1.0)
StudentT(4.0, X @ w, s)
StudentT(4.0, X @ w, F.softplus(z))
StudentT(s, X @ w, 1.0)
StudentT(s, z, tau.rsqrt())
MultivariateNormal(w, torch.eye(3))
MultivariateNormal(w, tau * torch.eye(3))
MultivariateNormal(w, v * torch.eye(3))
MultivariateNormal(w, precision_matrix=tau * torch.eye(3))
MultivariateNormal(w, precision_matrix=L)
MultivariateNormal(w, scale_tril=torch.eye(3))
LowRankMultivariateNormal(w, torch.ones(3, 1), torch.ones(3))
MultivariateStudentT(4.0, w, torch.eye(3))
TransformedDistribution(Normal(X @ w, tau.rsqrt()), [ExpTransform()])
TransformedDistribution(Normal(torch.zeros(6), 1.0), [AffineTransform(X @ w, tau.rsqrt())])
TransformedDistribution(Normal(X @ w, 1.0), [SigmoidTransform()])
TransformedDistribution(Exponential(rate), [PowerTransform(torch.tensor(0.5))])
TransformedDistribution(StudentT(4.0, 0.0, 1.0), [AffineTransform(z, 2.0)])
Normal(X @ w, tau.rsqrt()).mask(n > 1)
MixtureSameFamily(Categorical(theta), Normal(u, 1.0))
Delta(x, log_density=z)
Bernoulli(p)
Bernoulli(logits=X @ w)
Bernoulli(logits=s * (u[g] - b))
Bernoulli(torch.special.ndtr(X @ w))
Binomial(5, p)
Binomial(5, logits=X @ w)
BetaBinomial(s, 2.0, 5)
Categorical(theta)
Categorical(torch.stack([1 - p, p]))
Categorical(logits=u)
OneHotCategorical(theta)
OrderedLogistic(X @ w, torch.tensor([-1.0, 0.0, 1.0]))
OrderedLogistic(z, torch.stack([b - 1, b, b + 1]))
Multinomial(4, theta)
Multinomial(4, logits=u)
DirichletMultinomial(3 * theta, 4)
Poisson(rate * n)
Poisson(n * z.exp())
Poisson((X @ w).exp())
Poisson(F.softplus(X @ w))
ZeroInflatedPoisson((X @ w).exp(), gate=torch.tensor(0.2))
ZeroInflatedPoisson(rate, gate=p)
ZeroInflatedNegativeBinomial(5.0, logits=X @ w, gate=torch.tensor(0.2))
ZeroInflatedDistribution(Poisson(n), gate=p)
NegativeBinomial(5.0, p)
NegativeBinomial(5.0, logits=X @ w)
NegativeBinomial(s, logits=X @ w)
GammaPoisson(2.0, (X @ w).exp())
GammaPoisson(s, s / (X @ w).exp())
Geometric(p)
Geometric(logits=X @ w)
Gamma(2.0, rate)
Gamma(2.0, 1 / v)
Gamma(2.0, (X @ w).exp())
Gamma(rate, 1.0)
Exponential(rate * n)
Exponential(1 / v)
Exponential((X @ w).exp())
Beta(2.0, s)
Beta(s * (X @ w).sigmoid(), s * (-(X @ w)).sigmoid())
ContinuousBernoulli(logits=X @ w)
"""
#: Distributions of a datum, in the latents above.
LIKELIHOODS = _LIKELIHOODS.strip().splitlines()

_PRIORS = """
Normal(0.0, 1.0)                          : Normal(z, 1.0)
StudentT(4.0, 0.0, 1.0)                   : Normal(z, 1.0)
Cauchy(0.0, 1.0)                          : Normal(z, 1.0)
Logistic(0.0, 1.0)                        : Normal(z, 1.0)
Laplace(0.0, 1.0)                         : Normal(z, 1.0)
Gamma(2.0, 2.0)                           : Normal(0.0, z.rsqrt())
Gamma(2.0, 2.0)                           : Normal(0.0, z)
Chi2(4.0)                                 : Normal(0.0, z.rsqrt())
InverseGamma(2.0, 2.0)                    : Normal(0.0, z.sqrt())
InverseGamma(2.0, 2.0)                    : Exponential(1 / z)
Exponential(1.0)                          : Poisson(z * n)
ImproperUniform(constraints.real, (), ()) : Normal(z, 1.0)
ImproperUniform(constraints.positive, (), ()) : Normal(0.0, z.rsqrt())
ImproperUniform(constraints.simplex, (), (4,)) : Categorical(z)
Normal(0.0, 1.0).mask(False)              : Normal(z, 1.0)
TransformedDistribution(Normal(0.0, 1.0), [ExpTransform()]) : Normal(0.0, z)
TransformedDistribution(Normal(0.0, 1.0), [SigmoidTransform()]) : Bernoulli(z)
TransformedDistribution(Normal(0.0, 1.0), [AffineTransform(1.0, 2.0)]) : Normal(z, 1.0)
Gumbel(0.0, 1.0)                          : Normal(z, 1.0)
Weibull(1.0, 2.0)                         : Normal(0.0, z)
HalfNormal(1.0)                           : Normal(0.0, z)
HalfCauchy(1.0)                           : Normal(0.0, z)
LogNormal(0.0, 1.0)                       : Normal(0.0, z)
Uniform(0.0, 1.0)                         : Bernoulli(z)
Uniform(-1.0, 1.0)                        : Normal(z, 1.0)
Beta(2.0, 2.0)                            : Bernoulli(z)
Beta(2.0, 2.0)                            : Binomial(5, z)
Kumaraswamy(1.0, 2.0)                     : Bernoulli(z)
ContinuousBernoulli(0.3)                  : Bernoulli(z)
Dirichlet(torch.ones(4))                  : Categorical(z)
Dirichlet(torch.ones(4))                  : Multinomial(4, z)
Wishart(torch.tensor(5.0), torch.eye(3))  : MultivariateNormal(torch.zeros(3), precision_matrix=z)
LKJCholesky(3, 2.0)                       : MultivariateNormal(torch.zeros(3), scale_tril=z)
LKJ(3, torch.tensor(2.0))                 : MultivariateNormal(torch.zeros(3), z)
MultivariateNormal(torch.zeros(3), torch.eye(3)) : MultivariateNormal(z, torch.eye(3))
"""
#: A prior of z, and a likelihood that calls for its family.
PRIORS = [
    (prior.strip(), likelihood.strip())
    for prior, _, likelihood in (line.partition(" : ") for line in _PRIORS.strip().splitlines())
]

#: Latents that are coupled, in the order in which they are drawn, and a likelihood.
MODELS = [
    ("tau ~ Gamma(2.0, 2.0); z ~ Normal(0.0, (3 * tau).rsqrt())", "Normal(z, tau.rsqrt())"),
    (
        "tau ~ Gamma(2.0, 2.0); w ~ MultivariateNormal(torch.zeros(3), precision_matrix="
        "tau * torch.eye(3))",
        "Normal(X @ w, tau.rsqrt())",
    ),
    (
        "tau ~ Gamma(2.0, 2.0); w ~ Normal(torch.zeros(3), tau.rsqrt()).to_event(1); "
        "b ~ Normal(0.0, tau.rsqrt())",
        "Normal(X @ w + b, tau.rsqrt())",
    ),
    ("v ~ InverseGamma(2.0, 2.0); z ~ Normal(0.0, (v / 3).sqrt())", "Normal(z, v.sqrt())"),
    (
        "v ~ InverseGamma(2.0, 2.0); w ~ MultivariateNormal(torch.zeros(3), v * torch.eye(3))",
        "Normal(X @ w, v.sqrt())",
    ),
    (
        "L ~ Wishart(torch.tensor(5.0), torch.eye(3)); "
        "w ~ MultivariateNormal(torch.zeros(3), precision_matrix=2 * L)",
        "MultivariateNormal(w, precision_matrix=L)",
    ),
    ("tau ~ Gamma(2.0, 2.0); z ~ Normal(0.0, 1.0)", "Normal(z, tau.rsqrt())"),
    (
        "tau ~ Gamma(2.0, 2.0); w ~ Normal(torch.zeros(3), tau.rsqrt()).to_event(1)",
        "Normal(X @ w, 1.0)",
    ),
    (
        "z ~ Normal(0.0, 1.0); w ~ Normal(z * torch.ones(3), 1.0).to_event(1)",
        "Normal(X @ w, 1.0)",
    ),
    ("w ~ Normal(torch.zeros(3), 1.0).to_event(1); b ~ Normal(0.0, 1.0)", "Normal(X @ w + b, 1.0)"),
    ("rate ~ Gamma(2.0, 2.0); tau ~ Gamma(2.0, rate)", "Poisson(tau * n)"),
    ("v ~ InverseGamma(2.0, 2.0); s ~ InverseGamma(2.0, 1 / v)", "Normal(0.0, s.sqrt())"),
    (
        "tau ~ Gamma(2.0, 2.0); u ~ Gamma(2.0, 2.0) in a plate; "
        "w ~ Normal(torch.zeros(3), 1.0).to_event(1)",
        "Normal(X @ w, (tau * u).rsqrt())",
    ),
    (
        "u ~ Normal(torch.zeros(2), 1.0).to_event(1) in a plate; "
        "tau ~ Gamma(2.0, 2.0); c ~ Normal(torch.zeros(2), 1.0).to_event(1)",
        "Normal((u * c).sum(-1), tau.rsqrt())",
    ),
    (
        "u ~ Normal(torch.zeros(2), 1.0).to_event(1) in a plate; tau ~ Gamma(2.0, 2.0)",
        "Normal(u[:, 0] + x * u.sum(-1), tau.rsqrt())",
    ),
    ("z ~ Normal(0.0, 1.0); u ~ Normal(0.0, z.exp()) in a plate", "Normal(u, 1.0)"),
    ("s ~ HalfCauchy(1.0); u ~ Normal(0.0, s) in a plate", "Normal(u, 1.0)"),
]

#: A parameter, as `pyro.param` makes it, and a likelihood of it.
PARAMETERS = [
    ("m", "torch.zeros(())", "Normal(m + X @ w, 1.0)"),
    ("m", "torch.zeros(3)", "Normal(X @ m + z * x, tau.rsqrt())"),
    ("m", "torch.zeros(())", "Poisson((m + X @ w).exp())"),
    ("k", "torch.ones(()), constraints.positive", "Normal(X @ w, k)"),
    ("k", "torch.ones(()), constraints.positive", "Normal(X @ w, k.sqrt())"),
    ("k", "torch.ones(()), constraints.positive", "Normal(X @ w, k.rsqrt())"),
    ("k", "torch.ones(()), constraints.positive", "Poisson(k * rate * n)"),
    ("k", "torch.ones(()), constraints.positive", "Normal(k * (X @ w), 1.0)"),
    ("k", "torch.tensor(0.5), constraints.unit_interval", "Bernoulli(k)"),
    ("k", "torch.ones(4) / 4, constraints.simplex", "Categorical(k)"),
    ("k", "torch.ones(()), constraints.positive", "Gamma(k, rate)"),
    ("m", "torch.zeros(())", "Bernoulli(logits=m + X @ w)"),
    ("m", "torch.zeros(())", "Normal(X @ w, F.softplus(m))"),
]

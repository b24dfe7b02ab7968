# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Models, some of a conjugate posterior, and guides that are made too narrow by hand."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural


def normal_mean(y):
    z = pyro.sample("z", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def rate(y):
    rate = pyro.sample("rate", dist.Gamma(3.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def coin(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


def classes(y):
    share = pyro.sample("share", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Categorical(share), obs=y)


def regression(X, y):
    tau = pyro.sample("tau", dist.Gamma(3.0, 3.0))
    size = X.shape[-1]
    precision = tau * torch.eye(size)
    w = pyro.sample("w", dist.MultivariateNormal(torch.zeros(size), precision_matrix=precision))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=y)


def groups(y):
    """Data of five groups, each with a mean of its own: they are coupled by theirs."""
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("groups", 5, dim=-2):
        effect = pyro.sample("effect", dist.Normal(mean, 1.0))
        with pyro.plate("data", y.shape[-1], dim=-1):
            pyro.sample("y", dist.Normal(effect, 1.0), obs=y)


def covariates(rows=20, size=2):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(7))


#: Conjugate models with arguments whose values do not matter, and data to fit.
CONJUGATE = {
    "normal_mean": (normal_mean, lambda: (torch.linspace(-1.0, 3.0, 10),)),
    "rate": (rate, lambda: (torch.tensor([3.0, 0.0, 5.0, 2.0, 4.0]),)),
    "coin": (coin, lambda: (torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0]),)),
    "classes": (classes, lambda: (torch.tensor([0, 1, 2, 2, 1, 2, 2, 0]),)),
    "regression": (
        regression,
        lambda: (covariates(), covariates()[:, 0] + covariates(20, 3)[:, 2]),
    ),
    "groups": (groups, lambda: (torch.sin(torch.arange(15.0)).reshape(5, 3),)),
}


def fitted(model, *args, guide=AutoNatural, **options):
    """A fit to convergence, quietly where a factor is sampled."""
    return BLR(model, guide(model), on_sampled="ignore", **options).fit(*args)


def narrow(fit, times=3.0, sites=None):
    """Make q so many times too narrow, about where it is, in all blocks or in those of some sites.

    Natural parameters times k^2 are the density to the power of k^2.
    """
    guide = fit.blr.view
    guide.write(
        {
            block: tuple(times**2 * n for n in natural)
            if sites is None or {s.name for s in block.sites} & set(sites)
            else natural
            for block, natural in guide.naturals().items()
        }
    )
    return fit


def logistic(X, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=X @ w), obs=y)


def scaled(X, y):
    """A regression with a scale that is not conjugate: three sites."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w + b, s), obs=y)


def mixture(y):
    share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("classes", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def wave(model, rows=40):
    """Data for a model of X and y."""
    X = covariates(rows, 3)
    y = X[:, 0] + 0.3 * torch.cos(7 * torch.arange(float(rows)))
    return X, ((y > 0).double() if model is logistic else y)


def svi(model, guide, args, steps=100):
    """A fit by SVI."""
    engine = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(steps):
        engine.step(*args)
    return engine

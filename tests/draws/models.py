# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Models whose draws are checked, and guides of every kind for one of them."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.easyguide import easy_guide
from pyro.distributions import constraints
from pyro.infer import autoguide as auto
from torch import nn

Y = torch.tensor([1.2, -0.4, 0.9, 2.1, 0.3])


def model(y):
    """A latent on each of the usual supports, one of them in a plate and one with an event."""
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    share = pyro.sample("share", dist.Beta(2.0, 3.0))
    w = pyro.sample("w", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.deterministic("twice", 2 * z)
        pyro.sample("y", dist.Normal(z + share + w[0], tau.rsqrt()), obs=y)


def log_joint(values, y):
    """The model's log joint, written down by hand. # shape: (S,)"""
    mu, tau, share, w, z = (values[n] for n in ("mu", "tau", "share", "w", "z"))
    mean = z + (share + w[:, 0]).unsqueeze(-1)
    return (
        dist.Normal(0.0, 2.0).log_prob(mu)
        + dist.Gamma(2.0, 1.0).log_prob(tau)
        + dist.Beta(2.0, 3.0).log_prob(share)
        + dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])).log_prob(w)
        + dist.Normal(mu.unsqueeze(-1), 1.0).log_prob(z).sum(-1)
        + dist.Normal(mean, tau.rsqrt().unsqueeze(-1)).log_prob(y).sum(-1)
    )


def written(y):
    """A hand-written guide that is structured: z follows mu."""
    loc = pyro.param("loc", torch.tensor(0.3))
    mu = pyro.sample("mu", dist.Normal(loc, 0.5))
    scale = pyro.param("scale", torch.tensor(0.4), constraint=constraints.positive)
    pyro.sample("tau", dist.LogNormal(0.1, scale))
    pyro.sample("share", dist.Beta(3.0, 3.0))
    pyro.sample("w", dist.Dirichlet(torch.tensor([2.0, 2.0, 2.0])))
    with pyro.plate("row", len(y)):
        pyro.sample("z", dist.Normal(0.5 * mu, 0.7))


def amortised(model):
    """A guide whose q of z is a network of the datum."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 2))

    def guide(y):
        pyro.module("net", net)
        pyro.sample("mu", dist.Normal(0.1, 0.5))
        pyro.sample("tau", dist.LogNormal(0.0, 0.3))
        pyro.sample("share", dist.Beta(3.0, 3.0))
        pyro.sample("w", dist.Dirichlet(torch.tensor([2.0, 2.0, 2.0])))
        with pyro.plate("row", len(y)):
            loc, log_scale = net(y.unsqueeze(-1)).unbind(-1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()))

    return guide


def listed(model):
    """Two automatic guides, one a site."""
    guide = auto.AutoGuideList(model)
    guide.append(auto.AutoMultivariateNormal(poutine.block(model, expose=["mu", "tau"])))
    guide.append(auto.AutoNormal(poutine.block(model, hide=["mu", "tau"])))
    return guide


def easy(model):
    """An EasyGuide with a group that one draw serves."""

    @easy_guide(model)
    def guide(self, y):
        group = self.group(match="mu|tau|share")
        size = sum(group.event_shape)
        group.sample("group", dist.Normal(torch.zeros(size), 0.3).to_event(1))
        pyro.sample("w", dist.Dirichlet(torch.tensor([2.0, 2.0, 2.0])))
        with self.plate("row", len(y)):
            pyro.sample("z", dist.Normal(torch.zeros(len(y)), 0.7))

    return guide


def flow(model):
    """A normalising flow."""
    return auto.AutoIAFNormal(model, hidden_dim=[16])


def low_rank(model):
    """A covariance of low rank but for its diagonal."""
    return auto.AutoLowRankMultivariateNormal(model, rank=2)


GUIDES = {
    "AutoNormal": auto.AutoNormal,
    "AutoDiagonalNormal": auto.AutoDiagonalNormal,
    "AutoMultivariateNormal": auto.AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": low_rank,
    "AutoIAFNormal": flow,
    "AutoStructured": auto.AutoStructured,
    "AutoGuideList": listed,
    "EasyGuide": easy,
    "written": lambda model: written,
    "amortised": amortised,
}

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Discrete latents summed out at each draw: log likelihoods are those written down by hand."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer import autoguide as auto
from pyro.optim import Adam
from torch.testing import assert_close

from pyro_blr import BLR, errors
from pyro_blr.draws import draws_of
from pyro_blr.guides import AutoNatural

Y = torch.tensor([-2.1, -1.7, 2.3, 1.9, 0.2, -2.6])


def mixture(y):
    w = pyro.sample("w", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("class", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.deterministic("mean", mu[z])
        pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def by_hand(latents, y):
    """The log likelihood of each row of the mixture. # shape: (S, N)"""
    each = dist.Normal(latents["mu"].unsqueeze(1), 1.0).log_prob(y.unsqueeze(-1))
    return torch.logsumexp(latents["w"].log().unsqueeze(1) + each, -1)


def fitted(model, *args, **options):
    return BLR(model, AutoNatural(model), on_sampled="ignore", **options).fit(*args, max_steps=30)


def svi(model, *args, loss=None):
    guide = auto.AutoNormal(poutine.block(model, hide=["z"]))
    own = SVI(config_enumerate(model), guide, Adam({"lr": 0.01}), loss or TraceEnum_ELBO())
    own.step(*args)
    return own


@pytest.mark.parametrize("engine", [fitted, svi])
def test_a_row_of_a_mixture(engine):
    draws = draws_of(engine(mixture, Y), (Y,), num_samples=25)
    assert_close(draws.log_likelihood["y"], by_hand(draws.latents, Y))
    assert draws.likelihood_dims["y"].plates == ("row",)
    assert_close(draws.observed["y"], Y)
    prior = dist.Dirichlet(torch.ones(2)).log_prob(draws.latents["w"])
    prior = prior + dist.Normal(0.0, 3.0).log_prob(draws.latents["mu"]).sum(-1)
    assert_close(draws.log_p, prior + draws.log_likelihood["y"].sum(-1))
    assert "mean" not in draws.deterministic  # it has no value without a class


def test_the_weights_average_to_the_marginal_bound():
    fit = fitted(mixture, Y, discrete="marginal")
    draws = draws_of(fit, (Y,), num_samples=4000)
    error = float(draws.log_weights.std()) / 4000**0.5
    assert abs(float(draws.log_weights.mean()) + fit.blr.evaluate_loss(Y)) < 5 * error + 0.05


def test_one_draw_and_one_by_one(monkeypatch):
    fit = fitted(mixture, Y)
    monkeypatch.setattr("pyro_blr.draws.together.FEW", 10**6)
    for count in (1, 6):
        draws = draws_of(fit, (Y,), num_samples=count)
        assert_close(draws.log_likelihood["y"], by_hand(draws.latents, Y))


def test_a_scale_and_a_mask():
    mask = torch.tensor([True, True, False, True, False, True])

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("row", len(y)), poutine.scale(scale=0.5):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            with poutine.mask(mask=mask):
                pyro.sample("y", dist.Normal(mu + 2.0 * z, 1.0), obs=y)

    draws = draws_of(fitted(model, Y), (Y,), num_samples=9)
    mu = draws.latents["mu"].unsqueeze(-1)
    each = torch.stack([dist.Normal(mu + 2.0 * k, 1.0).log_prob(Y) for k in (0, 1)], -1)
    both = torch.logsumexp(each + torch.tensor([0.7, 0.3]).log(), -1) * mask
    assert_close(draws.log_likelihood["y"], both)
    assert_close(draws.log_p, dist.Normal(0.0, 3.0).log_prob(mu[:, 0]) + 0.5 * both.sum(-1))


def test_a_group_is_one_datum_where_its_rows_share_a_class():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        with pyro.plate("group", 2, dim=-2):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])))
            with pyro.plate("row", 3):
                pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)

    y = Y.reshape(2, 3)
    draws = draws_of(fitted(model, y), (y,), num_samples=7)
    each = dist.Normal(draws.latents["mu"].reshape(7, 1, 1, 2), 1.0).log_prob(y.unsqueeze(-1))
    wanted = torch.logsumexp(each.sum(2) + torch.tensor([0.4, 0.6]).log(), -1)
    assert draws.likelihood_dims["y"].plates == ("group",)
    assert draws.dims["y"].plates == ("group", "row")
    assert_close(draws.log_likelihood["y"].reshape(7, 2), wanted)
    assert_close(draws.log_p, draws.log_prior["mu"] + wanted.sum(-1))


def chain(x):
    p = pyro.sample("p", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    mu = pyro.sample("mu", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    with pyro.plate("sequence", len(x)):
        z = 0
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Categorical(p[z]))
            pyro.sample(f"x_{t}", dist.Normal(mu[z], 1.0), obs=x[:, t])


def test_a_sequence_of_a_chain_is_one_datum():
    x = torch.randn(3, 4)
    draws = draws_of(fitted(chain, x), (x,), num_samples=5)
    assert set(draws.log_likelihood) == {"x"}
    assert draws.likelihood_dims["x"].plates == ("sequence",)
    assert set(draws.observed) == {f"x_{t}" for t in range(4)}
    p, mu = draws.latents["p"], draws.latents["mu"]
    paths = []
    for path in itertools.product((0, 1), repeat=4):
        total = torch.zeros(5, 3)
        before = 0
        for t, z in enumerate(path):
            total = total + p[:, before, z].log().unsqueeze(-1)
            total = total + dist.Normal(mu[:, z].unsqueeze(-1), 1.0).log_prob(x[:, t])
            before = z
        paths.append(total)
    assert_close(draws.log_likelihood["x"], torch.logsumexp(torch.stack(paths), 0))


def test_a_discrete_latent_that_the_guide_draws_has_values():
    def model(y):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu + z, 1.0), obs=y)

    def guide(y):
        pyro.sample("z", dist.Bernoulli(0.6))
        pyro.sample("mu", dist.Normal(0.0, 1.0))

    draws = draws_of(SVI(model, guide, Adam({}), Trace_ELBO()), (Y,), num_samples=60)
    z, mu = draws.latents["z"], draws.latents["mu"]
    assert set(z.tolist()) == {0.0, 1.0}
    assert_close(draws.log_likelihood["y"], dist.Normal((mu + z).unsqueeze(-1), 1.0).log_prob(Y))
    assert_close(draws.log_q, dist.Bernoulli(0.6).log_prob(z) + dist.Normal(0.0, 1.0).log_prob(mu))


def test_several_data_of_a_class_have_one_log_likelihood():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("height", dist.Normal(mu + z, 1.0), obs=y)
            pyro.sample("weight", dist.Normal(mu - z, 1.0), obs=2 * y)

    draws = draws_of(fitted(model, Y), (Y,), num_samples=7)
    assert set(draws.log_likelihood) == {"height+weight"}
    assert set(draws.observed) == {"height", "weight"}
    mu = draws.latents["mu"].unsqueeze(-1)
    each = [
        dist.Normal(mu + z, 1.0).log_prob(Y) + dist.Normal(mu - z, 1.0).log_prob(2 * Y)
        for z in (0, 1)
    ]
    wanted = torch.logsumexp(torch.stack(each, -1) + torch.tensor([0.7, 0.3]).log(), -1)
    assert_close(draws.log_likelihood["height+weight"], wanted)


def test_plates_that_cross_are_refused_with_the_mend():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
        rows, columns = pyro.plate("a", 3, dim=-2), pyro.plate("b", 2, dim=-1)
        with rows:
            u = pyro.sample("u", dist.Categorical(torch.ones(2) / 2))
        with columns:
            v = pyro.sample("v", dist.Categorical(torch.ones(2) / 2))
        with rows, columns:
            pyro.sample("y", dist.Normal(mu[u, v], 1.0), obs=y)

    y = Y.reshape(3, 2)
    guide = auto.AutoNormal(poutine.block(model, hide=["u", "v"]))
    with pytest.raises(errors.DiscreteLatentError, match=r"plates that cross.* Mend: "):
        draws_of(SVI(model, guide, Adam({}), TraceEnum_ELBO()), (y,), num_samples=5)


def test_a_support_without_end_is_refused_with_the_mend():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("row", len(y)):
            k = pyro.sample("z", dist.Poisson(2.0))
            pyro.sample("y", dist.Normal(mu + k, 1.0), obs=y)

    guide = auto.AutoNormal(poutine.block(model, hide=["z"]))
    with pytest.raises(errors.DiscreteLatentError, match=r"'z' is discrete.* Mend: "):
        draws_of(SVI(model, guide, Adam({}), TraceEnum_ELBO()), (Y,), num_samples=5)

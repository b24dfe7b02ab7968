# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The recorded BayesPy answers against coordinate ascent by hand and against the Pyro models."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from tests.oracles import bayespy_record, coordinate_ascent, designs

RECORD = bayespy_record.load()


def solve(name):
    args = getattr(bayespy_record, f"{name}_args")(RECORD)
    arrays = (x.numpy() if isinstance(x, torch.Tensor) else x for x in args)
    return args, getattr(coordinate_ascent, name)(*arrays)


def marginals(posterior):
    """The posterior as Pyro distributions, from BayesPy's recorded moments alone."""
    q = {}
    for site, moments in posterior.items():
        mean = torch.tensor(moments["mean"])
        if "mean_log" in moments:
            shape = newton_gamma_shape(mean, torch.tensor(moments["mean_log"]))
            q[site] = dist.Gamma(shape, shape / mean)
        elif site == "w":
            covariance = torch.tensor(moments["mean_square"]) - mean.outer(mean)
            q[site] = dist.MultivariateNormal(mean, covariance)
        else:
            q[site] = dist.Normal(mean, (torch.tensor(moments["mean_square"]) - mean**2).sqrt())
    return q


def newton_gamma_shape(mean, mean_log):
    """Solve  log a - digamma(a) = log E z - E log z."""
    target = mean.log() - mean_log
    a = 0.5 / target
    for _ in range(50):
        slope = 1 / a - torch.polygamma(1, a)
        a = a - (a.log() - a.digamma() - target) / slope
    return a


@pytest.mark.parametrize("name", ["regression", "hierarchical"])
def test_coordinate_ascent_by_hand_gives_the_same(name):
    _, solution = solve(name)
    record = RECORD[name]
    np.testing.assert_allclose(solution.lower_bound, record["lower_bound"], rtol=1e-12)
    assert solution.posterior.keys() == record["posterior"].keys()
    for site, moments in record["posterior"].items():
        for moment, value in moments.items():
            ours = solution.posterior[site][moment]
            np.testing.assert_allclose(ours, value, rtol=1e-10, atol=1e-12, err_msg=site)


@pytest.mark.parametrize("name", ["regression", "hierarchical"])
def test_the_bound_is_the_elbo_of_the_pyro_model(name):
    """The design oracle on the Pyro model at BayesPy's moments: all three write the same model."""
    args, _ = solve(name)
    q = marginals(RECORD[name]["posterior"])
    model = getattr(bayespy_record, f"{name}_model")
    elbo = designs.expected_log_joint(model, args, q) + sum(fn.entropy().sum() for fn in q.values())
    np.testing.assert_allclose(float(elbo), RECORD[name]["lower_bound"], rtol=1e-11)


@pytest.mark.parametrize("name", ["regression", "hierarchical"])
def test_the_bound_is_a_maximum_over_each_marginal(name):
    """The natural gradient of the ELBO vanishes: its gradient in q's parameters does."""
    args, _ = solve(name)
    q = marginals(RECORD[name]["posterior"])
    leaves, movable = [], {}
    for site, fn in q.items():
        names = {dist.Gamma: ("concentration", "rate"), dist.Normal: ("loc", "scale")}
        names = names.get(type(fn), ("loc", "scale_tril"))
        own = {key: getattr(fn, key).clone().requires_grad_() for key in names}
        leaves += own.values()
        movable[site] = type(fn)(**own)
    model = getattr(bayespy_record, f"{name}_model")
    elbo = designs.expected_log_joint(model, args, movable)
    elbo = elbo + sum(fn.entropy().sum() for fn in movable.values())
    for gradient in torch.autograd.grad(elbo, leaves):
        used = gradient.tril() if gradient.dim() == 2 else gradient
        assert used.abs().max() < 1e-7


def test_it_is_said_how_the_record_was_made():
    assert RECORD["recorded_with"]["bayespy"] == "0.6.6"
    assert RECORD["recorded_with"]["script"] == "tests/oracles/record_bayespy.py"

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The textbook closed forms against the Pyro models themselves.

Bayes' theorem at any latent value: log p(z, y) - log p(z | y) = log p(y). It holds at two
unrelated values only if posterior and evidence are both right.
"""

import pytest
import torch
from pyro import poutine

from tests.oracles.textbook import ALL

ids = [case.name for case in ALL]


def log_joint(problem, values, **kwargs):
    model = poutine.condition(problem.model, data=values)
    return poutine.trace(model).get_trace(*problem.args, **kwargs).log_prob_sum()


# torch's Wishart takes every regular draw for a singular one.
pytestmark = pytest.mark.filterwarnings("ignore:Singular sample detected:UserWarning")


@pytest.mark.parametrize("case", ALL, ids=ids)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_bayes_theorem(case, seed, start):
    problem = case.make(seed=seed)
    torch.manual_seed(seed)
    values = {site: q.sample() for site, q in getattr(problem, start).items()}
    evidence = log_joint(problem, values) - problem.log_posterior(values)
    scale = max(abs(float(log_joint(problem, values))), 1.0)
    assert abs(float(evidence) - problem.log_evidence) < 1e-12 * scale


@pytest.mark.parametrize("case", ALL, ids=ids)
def test_masked_data_leave_the_prior(case):
    problem = case.make()
    values = {site: q.sample() for site, q in problem.prior.items()}
    masked = log_joint(problem, values, mask=False)
    torch.testing.assert_close(masked, problem.log_prior(values), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("case", ALL, ids=ids)
def test_a_partial_mask_is_accepted(case):
    problem = case.make()
    values = {site: q.sample() for site, q in problem.posterior.items()}
    mask = torch.arange(len(problem.args[-1])) < 5
    if problem.args[-1].dim() == 2 and case.name == "normal_normal_plate":
        mask = mask[:, None]
    partial = log_joint(problem, values, mask=mask)
    assert torch.isfinite(partial)
    assert abs(partial - log_joint(problem, values)) > 0.1


@pytest.mark.parametrize("case", ALL, ids=ids)
def test_float32_problems_are_float32_throughout(case):
    problem = case.make(dtype=torch.float32)
    for marginals in (problem.prior, problem.posterior):
        for q in marginals.values():
            assert q.sample().dtype == torch.float32
    trace = poutine.trace(problem.model).get_trace(*problem.args)
    trace.compute_log_prob()
    for site in trace.stochastic_nodes + trace.observation_nodes:
        if not site.startswith(("data", "groups", "repeats")):
            assert trace.nodes[site]["log_prob"].dtype == torch.float32, site


@pytest.mark.parametrize("case", ALL, ids=ids)
def test_the_seed_decides_the_data(case):
    first, again, other = case.make(seed=3), case.make(seed=3), case.make(seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.args, again.args, strict=True))
    assert not torch.equal(first.args[-1], other.args[-1])
    assert first.log_evidence == again.log_evidence

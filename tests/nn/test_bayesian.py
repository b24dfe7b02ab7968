# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Modules as Pyro models: the last layer is the textbook's regression, the rest is as asked."""

import copy
import math
import pickle
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from torch import Tensor, nn

from pyro_blr import BLR
from pyro_blr.errors import (
    ArgumentError,
    ParameterError,
    RunningStatisticsWarning,
    ShapeError,
)
from pyro_blr.guides import AutoNatural
from pyro_blr.nn import bayesian


def net(outputs: int = 1, hidden: int = 12) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def data(count: int = 80) -> tuple[Tensor, Tensor]:
    x = 4 * torch.rand(count, 3) - 2
    return x, torch.sin(2 * x[:, 0]) * x[:, 1] + 0.1 * torch.randn(count)


def features(module: nn.Sequential, x: Tensor) -> Tensor:
    hidden = module[1](module[0](x)).detach()
    return torch.cat([hidden, torch.ones(len(x), 1)], -1)


def weights(guide: Any) -> Tensor:
    """The posterior means of the last layer, the bias last. # shape: (K, D + 1)"""
    median = guide.median()
    return torch.cat([median["2.weight"], median["2.bias"].unsqueeze(-1)], -1)


# The last layer on frozen features


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_last_layer_is_bayesian_linear_regression(outputs: int) -> None:
    module = net(outputs)
    x, y = data()
    targets = y if outputs == 1 else torch.stack([y, y**2, -y], -1)
    model = bayesian(module, "regression", where="last", prior_scale=0.7, noise_scale=0.2)
    guide = AutoNatural(model)
    blr = BLR(model, guide)
    loss = blr.step(x, targets) and blr.step(x, targets)
    phi = features(module, x)
    precision = phi.T @ phi / 0.2**2 + torch.eye(phi.shape[-1]) / 0.7**2
    columns = targets.reshape(len(x), -1)
    mean = torch.linalg.solve(precision, phi.T @ columns / 0.2**2)
    torch.testing.assert_close(weights(guide), mean.T, rtol=1e-10, atol=1e-10)
    covariance = 0.7**2 * phi @ phi.T + 0.2**2 * torch.eye(len(x))
    evidence = dist.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(columns.T).sum()
    assert loss == pytest.approx(-float(evidence), abs=1e-8)
    assert {row.tier for row in blr.explain(x, targets).factors} == {"exact"}
    assert all(row.conjugate for row in blr.explain(x, targets).factors)


@pytest.mark.parametrize("given", [(0.2, 0.5), np.array([0.2, 0.5]), torch.tensor([0.2, 0.5])])
def test_the_noise_of_each_output(given: Any) -> None:
    module, (x, y) = net(2), data()
    targets = torch.stack([y, -y], -1)
    model = bayesian(module, "regression", where="last", noise_scale=given)
    guide = AutoNatural(model)
    BLR(model, guide).step(x, targets)
    phi, found = features(module, x), weights(guide)
    for column, scale in enumerate((0.2, 0.5)):
        precision = phi.T @ phi / scale**2 + torch.eye(phi.shape[-1])
        mean = torch.linalg.solve(precision, phi.T @ targets[:, column] / scale**2)
        torch.testing.assert_close(found[column], mean, rtol=1e-9, atol=1e-9)
    one = bayesian(net(1), "regression", noise_scale=given)
    with pytest.raises(ShapeError, match=r"noise_scale has the shape \(2,\).* Mend"):
        one(x, y)


def test_one_step_of_the_last_layer_is_the_posterior() -> None:
    x, y = data()
    model = bayesian(net(), "regression", where="last", noise_scale=0.1)
    guide = AutoNatural(model)
    blr = BLR(model, guide)
    blr.step(x, y)
    first = weights(guide)
    blr.step(x, y)
    torch.testing.assert_close(weights(guide), first, rtol=1e-11, atol=1e-11)


def test_unknown_noise_is_exact_too() -> None:
    x, y = data()
    model = bayesian(net(), "regression", where="last")
    blr = BLR(model, AutoNatural(model))
    assert blr.fit(x, y).converged
    assert {row.tier for row in blr.explain(x, y).factors} == {"exact"}


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool])
def test_two_classes_are_by_quadrature(outputs: int, dtype: torch.dtype) -> None:
    x, y = data(50)
    model = bayesian(net(outputs), "classification", where="last")
    blr = BLR(model, AutoNatural(model))
    labels = (y > 0).to(dtype)
    assert blr.fit(x, labels).converged
    assert blr.explain(x, labels)["y"].tier == "quadrature"


def test_the_logistic_last_layer_is_logistic_regression_on_the_features() -> None:
    module = net()
    x, y = data(50)
    labels = (y > 0).double()
    model = bayesian(module, "classification", where="last")
    guide = AutoNatural(model)
    fit = BLR(model, guide).fit(x, labels)
    pyro.clear_param_store()

    def textbook(phi: Tensor, labels: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(phi.shape[-1]), 1.0).to_event(1))
        with pyro.plate("data", len(phi)):
            pyro.sample("y", dist.Bernoulli(logits=phi @ w), obs=labels)

    other = AutoNatural(textbook)
    reference = BLR(textbook, other).fit(features(module, x), labels)
    assert fit.losses[-1] == pytest.approx(reference.losses[-1], abs=1e-6)
    torch.testing.assert_close(weights(guide)[0], other.median()["w"], rtol=1e-4, atol=1e-4)


def test_several_classes_are_at_draws() -> None:
    x, y = data(30)
    model = bayesian(net(3, hidden=4), "classification", where="last")
    blr = BLR(model, AutoNatural(model), on_sampled="ignore", num_draws=32)
    labels = (y > 0).long() + (y > 1).long()
    assert blr.explain(x, labels)["y"].tier == "sampled"
    losses = [blr.step(x, labels) for _ in range(3)]
    assert losses[-1] < losses[0]


def test_features_are_frozen_and_the_module_is_as_it_was() -> None:
    module = net()
    before = {n: p.clone() for n, p in module.state_dict().items()}
    x, y = data()
    model = bayesian(module, "regression", where="last")
    BLR(model, AutoNatural(model)).step(x, y)
    assert all(torch.equal(before[n], p) for n, p in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert set(pyro.get_param_store()) == {
        n for n in pyro.get_param_store() if n.startswith("AutoNatural")
    }


def test_features_are_trained_where_asked() -> None:
    module = net()
    x, y = data()
    model = bayesian(module, "regression", where="last", rest="trained", noise_scale=0.1)
    guide = AutoNatural(model)
    blr = BLR(model, guide, pyro.optim.Adam({"lr": 0.01}))
    before = module[0].weight.clone(), module[2].weight.clone()
    losses = [blr.step(x, y) for _ in range(40)]
    assert losses[-1] < losses[1] - 10
    assert not torch.equal(module[0].weight, before[0])  # in place
    assert torch.equal(module[2].weight, before[1])  # a latent's value is q's
    assert blr.explain(x, y)["y"].tier == "exact"


def test_features_with_gaps_in_their_memory_are_trained_in_place() -> None:
    x, y = data(20)
    module = net()
    module[0].weight = nn.Parameter(module[0].weight.detach().mT.contiguous().mT)
    before = module[0].weight.detach().clone()
    model = bayesian(module, "regression", where="last", rest="trained", noise_scale=0.1)
    blr = BLR(model, AutoNatural(model), pyro.optim.Adam({"lr": 0.01}))
    blr.step(x, y)
    assert (module[0].weight - before).abs().min() > 1e-3
    assert pyro.param("module$$$0.weight") is module[0].weight


@pytest.mark.parametrize("hidden", [12, 5])
def test_another_networks_features_are_not_taken_for_its_own(hidden: int) -> None:
    """Pyro's store has one tensor of each name; copies of a model share it."""
    x, y = data(20)
    models = []
    for module in (net(), net(hidden=hidden)):
        models.append(bayesian(module, "regression", where="last", rest="trained", noise_scale=0.1))
    first = BLR(models[0], AutoNatural(models[0]))
    first.step(x, y)
    copy.deepcopy(first).step(x, y)
    with pytest.raises(ParameterError, match=r"of another network.*clear_param_store\(\) before"):
        BLR(models[1], AutoNatural(models[1])).step(x, y)
    pyro.clear_param_store()
    BLR(models[1], AutoNatural(models[1])).step(x, y)


def test_a_network_in_two_models_is_the_same_one_to_copies_of_either() -> None:
    x, y = data(20)
    module = net()
    models = [
        bayesian(module, "regression", where="last", rest="trained", noise_scale=scale)
        for scale in (0.1, 0.2)
    ]
    for model in models:
        BLR(model, AutoNatural(model)).step(x, y)
    for model in map(copy.deepcopy, models):
        BLR(model, AutoNatural(model)).step(x, y)
        assert pyro.param("module$$$0.weight") is module[0].weight


def test_minibatches_are_scaled_to_all_data() -> None:
    x, y = data(60)
    module = net()
    whole = bayesian(module, "regression", where="last", noise_scale=0.1)
    parts = bayesian(module, "regression", where="last", noise_scale=0.1, num_data=60)
    found = []
    for model, batches in ((whole, [(x, y)]), (parts, zip(x.split(20), y.split(20), strict=True))):
        pyro.clear_param_store()
        blr = BLR(model, AutoNatural(model))
        messages = [blr.messages(*batch)["2.weight+2.bias"][0] for batch in batches]
        found.append(torch.stack(messages).mean(0))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
    with pytest.raises(ArgumentError, match=r"num_data=60\. Mend"):
        parts(x.repeat(2, 1), y.repeat(2))


# Which parameters, which priors


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("all", ["0.weight", "0.bias", "2.weight", "2.bias"]),
        ("last", ["2.weight", "2.bias"]),
        ("0", ["0.weight", "0.bias"]),
        ("0.weight", ["0.weight"]),
        ("*.bias", ["0.bias", "2.bias"]),
        (["2.bias", "0.*"], ["0.weight", "0.bias", "2.bias"]),
        (lambda name, parameter: parameter.dim() > 1, ["0.weight", "2.weight"]),
    ],
)
def test_parameters_are_chosen_by_name(where: Any, expected: list[str]) -> None:
    assert list(bayesian(net(), "regression", where=where).sites) == expected


def prior_of(name: str = "2.weight", **options: Any) -> Any:
    model = bayesian(net(), "regression", **options)
    trace = pyro.poutine.trace(model).get_trace(torch.zeros(4, 3), torch.zeros(4))
    return trace.nodes[name]["fn"].base_dist


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (0.5, 0.5),
        ("fan_in", 12**-0.5),
        (lambda name, parameter: 0.1 * parameter.dim(), 0.2),
        ({"0": 1.0, "*": 3.0}, 3.0),
        ({"2.weight": "fan_in", "*": 3.0}, 12**-0.5),
        (torch.full((12,), 0.3), 0.3),
    ],
)
def test_prior_scales(scale: Any, expected: float) -> None:
    assert torch.allclose(
        prior_of(where="2.weight", prior_scale=scale).scale, torch.tensor(expected)
    )


def test_prior_means_may_be_the_modules() -> None:
    module = net()
    model = bayesian(module, "regression", prior_mean="module")
    trace = pyro.poutine.trace(model).get_trace(torch.zeros(4, 3), torch.zeros(4))
    assert torch.equal(trace.nodes["0.weight"]["fn"].base_dist.loc, module[0].weight)


def test_tied_weights_are_one_latent() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3, bias=False)
            self.last = nn.Linear(3, 3, bias=False)
            self.last.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.first(x)))

    module = Tied()
    model = bayesian(module, "regression", noise_scale=0.1)
    assert model.sites == ("first.weight",)
    assert bayesian(module, "regression", where="last").sites == ("first.weight",)
    trace = pyro.poutine.trace(model).get_trace(x := torch.randn(5, 3), None)
    w = trace.nodes["first.weight"]["value"]
    expected = torch.tanh(x @ w.T) @ w.T
    assert torch.allclose(trace.nodes["outputs"]["value"], expected)


# Other modules


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(2, 3, batch_first=True)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.head(x + z)


def test_several_inputs() -> None:
    model = bayesian(Pair(), "regression", noise_scale=0.1)
    x = torch.randn(7, 3)
    for inputs in ((x, x), {"x": x, "z": x}):
        pyro.clear_param_store()
        assert math.isfinite(BLR(model, AutoNatural(model)).step(inputs, x[:, 0]))


def test_a_likelihood_of_ones_own_with_a_latent() -> None:
    def likelihood(outputs: Tensor) -> Any:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        return dist.StudentT(4.0, outputs.squeeze(-1), scale)

    x, y = data(40)
    model = bayesian(net(hidden=4), likelihood, where="last")
    blr = BLR(model, AutoNatural(model))
    blr.step(x, y)
    assert blr.explain(x, y)["y"].tier == "quadrature"


def test_counts_by_ones_own_likelihood() -> None:
    x, y = data(40)
    model = bayesian(net(hidden=4), lambda f: dist.Poisson(f.squeeze(-1).exp()), where="last")
    blr = BLR(model, AutoNatural(model))
    assert blr.fit(x, (y > 0).double()).converged
    assert blr.explain(x, (y > 0).double())["y"].tier == "exact"


@pytest.mark.parametrize("parallel", [False, True])
def test_predictions(parallel: bool) -> None:
    x, y = data()
    module = net()
    model = bayesian(module, "regression", where="last", noise_scale=0.1)
    guide = AutoNatural(model)
    blr = BLR(model, guide)
    blr.step(x, y)
    predictive = Predictive(model, guide=guide, num_samples=200, parallel=parallel)
    if parallel:
        with pytest.raises(ShapeError, match="parallel=False"):
            predictive(x)
        return
    drawn = predictive(x[:5])
    assert drawn["outputs"].shape == (200, 5, 1)
    assert drawn["y"].shape == (200, 5)
    expected = (features(module, x[:5]) @ weights(guide)[0]).detach()
    torch.testing.assert_close(drawn["outputs"].mean(0)[:, 0], expected, rtol=0, atol=0.1)


def test_a_module_in_float32() -> None:
    x, y = (v.float() for v in data())
    model = bayesian(net().float(), "regression", where="last", noise_scale=0.1)
    guide = AutoNatural(model)
    blr = BLR(model, guide)
    assert math.isfinite(blr.step(x, y))
    assert guide.median()["2.weight"].dtype == torch.float32


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_the_same_model(copied: Any) -> None:
    x, y = data(20)
    model = bayesian(net(), "regression", prior_scale={"*": "fan_in"}, prior_mean="module")
    losses = []
    for own in (model, copied(model)):
        trace = pyro.poutine.trace(pyro.poutine.seed(own, 1)).get_trace(x, y)
        losses.append(trace.log_prob_sum())
    assert losses[0] == losses[1]


# Bad input


def test_a_module_without_parameters() -> None:
    with pytest.raises(ArgumentError, match="without parameters has nothing to be uncertain"):
        bayesian(nn.Tanh(), "regression")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"where": "3.weight"}, "is none of .*2.bias.* Mend"),
        ({"where": ["*.weight", "*.scale"]}, r"where = '\*.scale' is none"),
        ({"where": lambda name, p: False}, "is none of"),
        ({"where": 3}, "where = 3. Mend"),
        ({"where": nn.Linear}, "where = .*Linear.* Mend"),
        ({"prior_scale": "wide"}, "prior_scale = 'wide'. Mend"),
        ({"prior_scale": {"0": 1.0}}, "nothing for parameter '2.weight'"),
        ({"prior_scale": torch.ones(5)}, "no number or tensor of the shape"),
        ({"rest": "fixed"}, "rest = 'fixed'. Mend"),
        ({"num_data": 0}, "num_data = 0. Mend"),
        ({"noise_scale": "small"}, "noise_scale = 'small'. Mend"),
    ],
)
def test_arguments_that_cannot_be_used(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        bayesian(net(), "regression", **options)


def test_other_arguments() -> None:
    with pytest.raises(ParameterError, match="prior_scale > 0"):
        bayesian(net(), "regression", prior_scale=0.0)
    with pytest.raises(ArgumentError, match=r"likelihood = 'poisson'\. Mend"):
        bayesian(net(), "poisson")
    with pytest.raises(ArgumentError, match="noise_scale is of"):
        bayesian(net(), "classification", noise_scale=1.0)
    with pytest.raises(ArgumentError, match="takes a module"):
        bayesian(lambda x: x, "regression")


def test_targets_that_do_not_fit() -> None:
    x, y = data(10)
    model = bayesian(net(), "regression")
    with pytest.raises(
        ShapeError, match=r"y has the shape \(10, 1\), the likelihood \(10,\). Mend"
    ):
        model(x, y.unsqueeze(-1))
    with pytest.raises(ShapeError, match="one row a datum"):
        model(x, y[:5])
    with pytest.raises(ArgumentError, match="y is a list"):
        model(x, y.tolist())
    matrix = bayesian(net(), lambda f: dist.Normal(f, 1.0))
    with pytest.raises(ShapeError, match="where one dim is that of the data"):
        matrix(x, y)


def test_batch_norm_in_training_mode_warns() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    x, y = data(10)
    model = bayesian(module, "regression", where="last", noise_scale=0.1)
    with pytest.warns(RunningStatisticsWarning, match="normalises a datum by the others"):
        BLR(model, AutoNatural(model)).step(x, y)
    module.eval()
    pyro.clear_param_store()
    model = bayesian(module, "regression", where="last", noise_scale=0.1)
    BLR(model, AutoNatural(model)).step(x, y)  # no warning

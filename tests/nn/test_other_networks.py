# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Networks and arguments of `bayesian` that are less usual, and figures by another way."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pyro_blr import BLR
from pyro_blr.energy.trace import as_written
from pyro_blr.errors import ArgumentError, DropoutWarning, SampledFactorError
from pyro_blr.guides import AutoNatural
from pyro_blr.nn import bayesian
from tests import simulated
from tests.optim.test_other_uses import tied_net


def data(*shape: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(20, *shape)
    return x, x.flatten(1).sum(-1) + 0.1 * torch.randn(20)


def steps(model: Any, x: Any, y: Tensor, count: int = 2) -> list[float]:
    pyro.clear_param_store()
    blr = BLR(model, AutoNatural(model))
    return [blr.step(x, y) for _ in range(count)]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 1)

    def features(self, x: Tensor) -> Tensor:
        return self.cell(x)[0][:, -1]  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Any:
        return self.last(self.features(x))


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.last = nn.Linear(4, 1)

    def features(self, x: Tensor) -> Tensor:
        return self.layer(x)[:, -1]  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Any:
        return self.last(self.features(x))


RECURRENT = pytest.param(Recurrent, 3, marks=simulated.lacks("fused LSTM"))


@pytest.mark.parametrize(("make", "width"), [RECURRENT, (Attentive, 4)])
@pytest.mark.parametrize("start", [0.0, "module"])
def test_the_loss_of_a_last_layer_is_minus_the_log_evidence(
    make: Callable[[], Any], width: int, start: Any
) -> None:
    x, y = data(5, width)
    net = make()
    scales = {"last.bias": 2.0, "*": "fan_in"}
    model = bayesian(
        net, "regression", where="last", noise_scale=0.3, prior_scale=scales, prior_mean=start
    )
    with torch.no_grad():
        columns = torch.cat([net.features(x), torch.ones(20, 1)], -1)
        own = torch.cat([net.last.weight[0], net.last.bias])
    scale = torch.tensor([4**-0.5] * 4 + [2.0])
    mean = columns @ (own if start else torch.zeros(5))
    covariance = (columns * scale.square()) @ columns.T + 0.09 * torch.eye(20)
    law = torch.distributions.MultivariateNormal(mean, covariance)
    assert steps(model, x, y)[1] == pytest.approx(-float(law.log_prob(y)), rel=1e-9)


def dropping(kind: str) -> nn.Module:
    if kind == "layer":
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    attentive = Attentive()
    attentive.layer.self_attn.dropout = 0.1
    return attentive


@pytest.mark.parametrize(("kind", "shape"), [("layer", (3,)), ("attention", (5, 4))])
def test_dropout_in_training_mode_warns_once(kind: str, shape: tuple[int, ...]) -> None:
    x, y = data(*shape)
    net = dropping(kind)
    model = bayesian(net, "regression", where="last", noise_scale=0.3)
    with pytest.warns(DropoutWarning, match=r"drops other units.*module.eval\(\)") as found:
        steps(model, x, y)
    assert len(found) == 1
    net.eval()
    losses = steps(bayesian(net, "regression", where="last", noise_scale=0.3), x, y, 3)
    assert losses[1] == pytest.approx(losses[2], rel=1e-9)


def test_tied_weights_have_all_of_their_names() -> None:
    for where in ("outer.weight", "outer", "inner", "*.weight", "last"):
        assert bayesian(tied_net(), "classification", where=where).sites == ("inner.weight",)
    scale = {"outer.weight": 1.0, "*": 2.0}
    assert bayesian(tied_net(), "classification", prior_scale=scale).sites == ("inner.weight",)


def test_the_last_layer_has_the_parameters_that_its_weight_is_made_of() -> None:
    net = nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.Tanh(), weight_norm(nn.Linear(4, 1)))
    sites = bayesian(net, "regression", where="last").sites
    made = [f"2.parametrizations.weight.original{k}" for k in (0, 1)]
    assert sites == ("2.bias", *made)


def test_a_layer_of_two_names_keeps_its_weights() -> None:
    x, y = data(3)
    inner = nn.Linear(3, 3)
    net, weight = nn.Sequential(inner, nn.Tanh(), inner, nn.Linear(3, 1)), inner.weight
    with torch.no_grad():
        before = net(x)
    model = bayesian(net, "regression", where="last", noise_scale=0.3)
    first, second = steps(model, x, y)[1], steps(model, x, y)[1]
    assert first == second
    assert net[2].weight is weight
    assert torch.equal(net(x), before)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (net(), {"where": nn.Linear(4, 1)}, r"where is a module.*one of \['0', '1', '2'\]"),
        (nn.LazyLinear(1), {}, r"lazy layer.*call it once"),
        (net(), {"prior_scale": {"O.weight": 1.0, "*": 2.0}}, "has 'O.weight', which is none"),
        (net(), {"prior_mean": {"0.wieght": 1.0, "*": 2.0}}, "has '0.wieght', which is none"),
        (nn.ParameterDict({"outputs": torch.ones(3)}), {}, "'outputs' would be a latent of a name"),
    ],
)
def test_slips(module: nn.Module, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        bayesian(module, "regression", **options)


@simulated.lacks("torch.compile")
def test_a_compiled_network_is_lifted_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = torch.distributions.Distribution._validate_args  # switched off by torch's compiler
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", checks)
    x, y = data(3)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    models = []
    for module in (net, torch.compile(net, backend="eager")):
        module(x)
        models.append(bayesian(module, "regression", where="last", noise_scale=0.3))
    first, second = (steps(model, x, y)[1] for model in models)
    assert first == second


@simulated.lacks("torch.compile")
def test_a_step_within_a_compiled_function_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = torch.distributions.Distribution._validate_args
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", checks)

    @torch.compile(backend="eager")
    def compiled(x: Tensor) -> Tensor:
        with as_written():  # as each run of a model is
            return 2 * x

    assert compiled(torch.ones(())) == 2


def test_patterns_may_be_there_for_other_networks() -> None:
    scale = {"*.norm.*": 0.1, "0": np.float32(0.5), "*": np.int64(2)}
    assert len(bayesian(net(), "regression", prior_scale=scale).sites) == 4


@pytest.mark.parametrize("option", [{"padding_idx": 0}, {"scale_grad_by_freq": True}])
def test_options_of_tables_that_change_gradients_change_no_message(option: Any) -> None:
    places, y = torch.arange(60).reshape(20, 3) % 4, torch.randn(20)
    found = []
    for options in ({}, option):
        torch.manual_seed(0)
        pyro.clear_param_store()
        table = nn.Embedding(4, 2, **options)
        module = nn.Sequential(table, nn.Softplus(), nn.Flatten(), nn.Linear(6, 1))
        model = bayesian(module, "regression", noise_scale=0.5)
        blr = BLR(model, AutoNatural(model), on_sampled="ignore", num_draws=16)
        assert blr.explain(places, y)["y"].tier == "sampled"
        found.append(blr.messages(places, y)["0.weight"])
    assert all(map(torch.equal, *found))


def test_options_of_a_table_by_place_change_no_message() -> None:
    places, y = torch.arange(12) % 4, torch.randn(12)

    def messages(*options: Any) -> Any:
        def model() -> None:
            table = pyro.sample("table", dist.Normal(torch.zeros(4, 2), 1.0).to_event(2))
            rows = torch.embedding(table, places, *options)
            with pyro.plate("data", 12):
                pyro.sample("y", dist.Normal(rows.exp().sin().sum(-1), 0.5), obs=y)

        torch.manual_seed(0)
        pyro.clear_param_store()
        blr = BLR(model, AutoNatural(model), on_sampled="ignore", num_draws=16)
        assert blr.explain()["y"].tier == "sampled"
        return blr.messages()["table"]

    assert all(map(torch.equal, messages(), messages(0, True)))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_an_operation_without_a_second_derivative_is_named() -> None:
    bag = nn.Sequential(nn.EmbeddingBag(4, 2), nn.Softplus(), nn.Linear(2, 1))
    model = bayesian(bag, "regression", noise_scale=0.5)
    blr = BLR(model, AutoNatural(model), on_sampled="ignore")
    with pytest.raises(SampledFactorError, match=r"second derivative.*embedding_bag.*Mend"):
        blr.step(torch.arange(60).reshape(20, 3) % 4, torch.randn(20))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Posteriors of weights, of a LoRA adapter among them: kept, sampled, merged."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_blr.errors import ArgumentError, CheckpointError, DomainError
from pyro_blr.nn import WeightPosterior
from pyro_blr.optim import IVON, VOGN

NAME = "weight"


def exact(x: Tensor, y: Tensor, prior: float = 2.0) -> WeightPosterior:
    """The posterior of a linear model with unit noise whose data have one feature each."""
    precision = prior + (x**2).sum(0)
    mean = (x.T @ y) / precision
    return WeightPosterior({NAME: mean[None]}, {NAME: precision[None]}, {NAME: prior})


def orthogonal(count: int = 30) -> tuple[Tensor, Tensor]:
    x = torch.zeros(count, 4)
    x[torch.arange(count), torch.arange(count) % 4] = torch.randn(count)
    return x, torch.randn(count)


def test_posteriors_of_parts_of_the_data_merge_to_that_of_all() -> None:
    x, y = orthogonal()
    parts = [exact(a, b) for a, b in zip(x.split(10), y.split(10), strict=True)]
    merged, whole = WeightPosterior.merge(parts), exact(x, y)
    torch.testing.assert_close(merged.mean[NAME], whole.mean[NAME], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.precision[NAME], whole.precision[NAME], rtol=1e-12, atol=0)
    two = WeightPosterior.merge([WeightPosterior.merge(parts[:2]), parts[2]])
    torch.testing.assert_close(two.precision[NAME], whole.precision[NAME], rtol=1e-12, atol=0)


def trained(x: Tensor, y: Tensor, prior: float = 2.0, steps: int = 250) -> WeightPosterior:
    """What IVON makes of squared residuals; its Hessian is an average of noisy estimates."""
    net = nn.Linear(4, 1, bias=False)
    nn.init.zeros_(net.weight)
    count = len(x)
    optimizer = IVON(
        net.parameters(), lr=0.3, ess=count, weight_decay=prior / count, hessian_init=1.0, seed=1,
        betas=(0.9, 0.99), draws=2,
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 0.5 * (net(x)[:, 0] - y).square().mean()
        loss.backward()
        return loss

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / steps)
        optimizer.step(closure)
    return WeightPosterior.of(optimizer, net)


def test_what_ivon_learnt_of_parts_merges_to_the_posterior() -> None:
    x, y = orthogonal(24)
    parts = [trained(a, b) for a, b in zip(x.split(12), y.split(12), strict=True)]
    merged, whole = WeightPosterior.merge(parts), exact(x, y)
    assert torch.allclose(merged.mean[NAME], whole.mean[NAME], atol=0.1)
    assert torch.allclose(merged.precision[NAME], whole.precision[NAME], rtol=0.3)


def test_draws_have_the_moments_and_weights_come_back() -> None:
    q = exact(*orthogonal())
    drawn = q.sample(4000)[NAME]
    assert drawn.shape == (4000, 1, 4)
    assert torch.allclose(drawn.mean(0), q.mean[NAME], atol=0.05)
    assert torch.allclose(drawn.var(0) * q.precision[NAME], torch.ones(1, 4), atol=0.1)
    net = nn.Linear(4, 1, bias=False)
    before = net.weight.detach().clone()
    with pytest.raises(KeyError), q.sampled(net):
        assert not torch.equal(net.weight, before)
        raise KeyError
    assert torch.equal(net.weight, before)
    x = torch.randn(3, 4)
    assert q.predict(net, lambda: net(x), 5).shape == (5, 3, 1)
    assert torch.equal(net.weight, before)
    q.write(net)
    assert torch.equal(net.weight, q.mean[NAME])


def test_files(tmp_path: Path) -> None:
    q = exact(*orthogonal())
    q.save(tmp_path / "q.pt")
    loaded = WeightPosterior.load(tmp_path / "q.pt", torch.get_default_device())
    assert torch.equal(loaded.mean[NAME], q.mean[NAME])
    assert torch.equal(loaded.precision[NAME], q.precision[NAME])
    assert loaded.prior_precision == q.prior_precision
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"no posterior of weights\. Mend"):
        WeightPosterior.load(tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="has no parameter 'weight' of the shape"):
        loaded.write(nn.Linear(3, 1))


def test_posteriors_that_cannot_be_merged() -> None:
    x, y = orthogonal()
    q = exact(x, y)
    for given in ([], q):
        with pytest.raises(ArgumentError, match=r"merge takes posteriors\. Mend"):
            WeightPosterior.merge(given)
    with pytest.raises(ArgumentError, match="prior precision 2 in one posterior and 3"):
        WeightPosterior.merge([q, exact(x, y, prior=3.0)])
    with pytest.raises(ArgumentError, match="names or shapes differ"):
        WeightPosterior.merge([q, exact(x[:, :2], y)])
    weak = WeightPosterior(q.mean, {NAME: torch.full((1, 4), 0.5)}, q.prior_precision)
    with pytest.raises(DomainError, match="precision of -1: its own precisions are below"):
        WeightPosterior.merge([weak, weak])


def test_posteriors_that_are_none(tmp_path: Path) -> None:
    one = {NAME: torch.ones(2)}
    with pytest.raises(ArgumentError, match="other names or shapes"):
        WeightPosterior(one, {NAME: torch.ones(3)}, {NAME: 1.0})
    with pytest.raises(ArgumentError, match="other names or shapes"):
        WeightPosterior(one, one, {"bias": 1.0})
    for wrong in (0.0, -1.0, torch.nan, torch.inf):
        with pytest.raises(DomainError, match="'weight' has a precision that is not positive"):
            WeightPosterior(one, {NAME: torch.full((2,), wrong)}, {NAME: 1.0})
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="holds no posterior"):
        WeightPosterior.load(tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError):
        WeightPosterior.load(tmp_path / "none.pt")


def test_posteriors_of_an_iterator_merge() -> None:
    x, y = orthogonal()
    parts = [exact(a, b) for a, b in zip(x.split(10), y.split(10), strict=True)]
    merged = WeightPosterior.merge(iter(parts))
    assert torch.equal(merged.mean[NAME], WeightPosterior.merge(parts).mean[NAME])


def test_an_optimiser_of_another_module() -> None:
    optimizer = VOGN(nn.Linear(4, 1).parameters(), lr=0.1, ess=10)
    with pytest.raises(ArgumentError, match=r"has a posterior in this optimiser\. Mend"):
        WeightPosterior.of(optimizer, nn.Linear(4, 1))


# A LoRA adapter


@pytest.fixture
def lora() -> Any:
    """A small GPT-2 with random weights and an adapter. Importing takes seconds."""
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=2, n_positions=16, vocab_size=20, bos_token_id=0,
        eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    adapter = peft.LoraConfig(
        r=2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():  # the one library calls what the other is about to rename
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(transformers.GPT2LMHeadModel(config), adapter)


def tune(model: Any, tokens: Tensor, steps: int = 6) -> tuple[WeightPosterior, list[float], Any]:
    count = len(tokens)
    optimizer = IVON(
        [p for p in model.parameters() if p.requires_grad],
        lr=0.3, ess=count, weight_decay=1.0 / count, hessian_init=30.0, betas=(0.9, 0.999), seed=3,
    )  # fmt: skip
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with optimizer.sampled_params():
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return WeightPosterior.of(optimizer, model), losses, optimizer


def test_an_adapter_is_tuned_sampled_kept_and_merged(lora: Any, tmp_path: Path) -> None:
    start = copy.deepcopy(lora.state_dict())
    tokens = torch.arange(12).repeat(8, 1) % 5
    first, losses, _ = tune(lora, tokens)
    assert losses[-1] < losses[0]
    assert all("lora_" in name for name in first.mean)
    assert len(first.mean) == 4
    after = lora.state_dict()
    frozen = [n for n in start if "lora_" not in n]
    assert all(torch.equal(start[n], after[n]) for n in frozen)

    lora.load_state_dict(start)  # the same start: the factors of an adapter have symmetries
    second, _, _ = tune(lora, tokens.flip(1))
    first.save(tmp_path / "first.pt")
    loaded = WeightPosterior.load(tmp_path / "first.pt", torch.get_default_device())
    merged = WeightPosterior.merge([loaded, second])
    for name, prior in merged.prior_precision.items():
        expected = first.precision[name] + second.precision[name] - prior
        assert torch.allclose(merged.precision[name], expected)

    merged.write(lora)
    lora.eval()
    logits = merged.predict(lora, lambda: lora(input_ids=tokens[:2]).logits, num_draws=4)
    assert logits.shape == (4, 2, 12, 20)
    assert logits.std(0).max() > 0

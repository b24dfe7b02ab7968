# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Scores of probabilities are those of scikit-learn, or of a count by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor

from pyro_blr.errors import ArgumentError, NonFiniteError
from pyro_blr.nn import accuracy, brier, ece, nll, predictive_entropy


def predictions(count: int = 200, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(12)  # not the seed of the tests' own stream
    probabilities = (2 * torch.randn(count, classes, generator=generator)).softmax(-1)
    return probabilities, torch.randint(classes, (count,), generator=generator)


def test_proper_scores_are_scikit_learns() -> None:
    p, y = predictions()
    assert float(nll(p, y)) == pytest.approx(log_loss(y, p.numpy()), rel=1e-12)
    two = p[:, :2] / p[:, :2].sum(-1, keepdim=True)
    first = (y > 1).long()
    # scikit-learn's has half the distance for two classes.
    expected = 2 * brier_score_loss(first, two[:, 1].numpy())
    assert float(brier(two, first)) == pytest.approx(expected, rel=1e-12)
    assert float(accuracy(p, y)) == pytest.approx(float((p.argmax(-1) == y).double().mean()))


def test_the_calibration_error_by_hand() -> None:
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
    y = torch.tensor([0, 1, 1, 1])
    expected = 0.5 * abs(0.5 - 0.9) + 0.5 * (1.0 - 0.7)
    assert float(ece(p, y)) == pytest.approx(expected, rel=1e-12)
    assert float(ece(p, y, bins=1)) == pytest.approx(abs(0.75 - 0.8), rel=1e-12)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_the_calibration_error_bin_by_bin(bins: int) -> None:
    p, y = predictions()
    total = 0.0
    for i in range(bins):
        rows = (p.max(-1).values > i / bins) & (p.max(-1).values <= (i + 1) / bins)
        if rows.any():
            right = (p.argmax(-1) == y)[rows].double().mean()
            total += float(rows.double().mean() * (right - p.max(-1).values[rows].mean()).abs())
    assert float(ece(p, y, np.int64(bins))) == pytest.approx(total, rel=1e-10)


def test_draws_from_the_probabilities_are_calibrated() -> None:
    p, _ = predictions(200_000)
    y = torch.multinomial(p, 1).squeeze(-1)
    assert float(ece(p, y)) < 0.01
    assert float(ece(p.square() / p.square().sum(-1, keepdim=True), y)) > 0.05


def test_certain_predictions() -> None:
    p, y = torch.eye(3), torch.arange(3)
    assert float(nll(p, y)) == float(brier(p, y)) == float(ece(p, y)) == 0.0
    assert math.isinf(float(nll(p, y.flip(0))))
    assert torch.equal(predictive_entropy(p), torch.zeros(3))
    even = torch.full((2, 5), 0.2)
    torch.testing.assert_close(predictive_entropy(even), torch.full((2,), math.log(5)))


@pytest.mark.parametrize("score", [accuracy, nll, brier, ece])
def test_what_is_no_prediction_is_refused(score: object) -> None:
    assert callable(score)
    p, y = predictions(6)
    with pytest.raises(ArgumentError, match=r"logits.softmax\(-1\)"):
        score(p.log(), y)
    with pytest.raises(ArgumentError, match=r"probabilities.mean\(0\)"):
        score(p.expand(3, 6, 4), y)
    with pytest.raises(ArgumentError, match=r"probabilities.mean\(0\)"):
        score(p[:0], y[:0])
    with pytest.raises(ArgumentError, match=r"labels.long\(\)"):
        score(p, y.double())
    with pytest.raises(ArgumentError, match=r"labels.long\(\)"):
        score(p, y[:5])
    for wrong in (-1, 4):
        with pytest.raises(ArgumentError, match="none of the 4 classes"):
            score(p, torch.full_like(y, wrong))
    with pytest.raises(NonFiniteError, match="NaN"):
        score(torch.full_like(p, math.nan), y)


def test_float32_probabilities_have_their_rounding() -> None:
    p, y = predictions(1000, 50)
    assert float(ece(p.float(), y)) == pytest.approx(float(ece(p, y)), rel=1e-4)
    with pytest.raises(ArgumentError, match="bins = 0"):
        ece(p, y, bins=0)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint8])
def test_labels_of_any_integers(dtype: torch.dtype) -> None:
    p, y = predictions()
    for score in (accuracy, nll, brier, ece):
        assert score(p, y.to(dtype)) == score(p, y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_formats_are_summed_in_a_longer_one(dtype: torch.dtype) -> None:
    p, y = predictions(2000)
    short = p.to(dtype)
    for score in (accuracy, nll, brier, ece):
        assert score(short, y).dtype == torch.float32
        assert float(score(short, y)) == pytest.approx(float(score(short.double(), y)), rel=1e-4)
    assert predictive_entropy(short).dtype == torch.float32


def test_arrays_are_no_tensors() -> None:
    p, y = predictions()
    with pytest.raises(ArgumentError, match=r"probabilities are of ndarray.*as_tensor"):
        nll(p.numpy(), y)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"labels are of list.*as_tensor"):
        nll(p, y.tolist())

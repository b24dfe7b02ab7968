# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The data of the examples load without a network, and are the ones that their names say."""

from pathlib import Path

import pytest
import torch

from examples import data


def test_old_faithful() -> None:
    rows = data.old_faithful()
    assert rows.shape == (272, 2)
    # R's summary(faithful).
    assert rows.mean(0).tolist() == pytest.approx([3.487783, 70.897059], abs=1e-6)
    assert rows.amin(0).tolist() == [1.6, 43.0]
    assert rows.amax(0).tolist() == [5.1, 96.0]


def test_karate() -> None:
    adjacency, half = data.karate()
    assert torch.equal(adjacency, adjacency.T)
    assert int(adjacency.sum()) == 2 * 78
    degrees = adjacency.sum(0)
    assert (degrees[0], degrees[33], degrees[11]) == (16, 17, 1)
    assert torch.bincount(half).tolist() == [17, 17]


def test_nile() -> None:
    years, flow = data.nile()
    assert years.tolist() == list(range(1871, 1971))
    # R's summary(Nile).
    assert float(flow.mean()) == pytest.approx(919.35)
    assert (float(flow.min()), float(flow.max())) == (456.0, 1370.0)


def test_sunspots() -> None:
    years, spots = data.sunspots()
    assert years.tolist() == list(range(1700, 2009))
    assert float(spots[0]) == 5.0
    assert float(spots.max()) == pytest.approx(190.2)


def test_digits() -> None:
    images, labels = data.digits()
    assert images.shape == (1797, 64)
    assert (float(images.min()), float(images.max())) == (0.0, 16.0)
    assert torch.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("three_men1-ldaK2", "w"),
        ("low_dim_gauss_mix-low_dim_gauss_mix", "y"),
        ("irt_2pl-irt_2pl", "y"),
    ],
)
def test_posteriordb(name: str, key: str, data_folder: Path) -> None:
    assert key in data.posterior(name)

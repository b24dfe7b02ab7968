# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The mean and the precision of each class in one Normal-Wishart block."""

from typing import Any

import numpy as np
import pytest

from tests.checks import engine
from tests.discrete.hand_made import ROWS, THETA, WISHART, D, K, n, normals
from tests.discrete.models import joint_normals
from tests.oracles import laws
from tests.oracles.emissions import JointNormals
from tests.oracles.variational_em import Mixture


def oracle_at(guide: Any) -> Mixture:
    """The oracle at the guide's natural parameters, by the formulas of the textbook."""
    naturals = {block.name: natural for block, natural in guide.naturals().items()}
    theta = laws.Dirichlet(n(naturals.pop("theta")[0]) + 1)
    ((half, matrix, vector, minus_half_kappa),) = (
        [n(t) for t in natural] for natural in naturals.values()
    )
    kappa = -2 * minus_half_kappa
    mean = vector / kappa[:, None]
    precision = -2 * matrix - kappa[:, None, None] * mean[:, :, None] * mean[:, None, :]
    law = laws.NormalWishart(mean, kappa, 2 * half + D, np.linalg.inv(precision))
    prior = laws.NormalWishart(
        np.full((K, D), 0.5),
        np.full(K, 0.7),
        np.full(K, D + 1.5),
        np.tile(0.5 * np.eye(D), (K, 1, 1)),
    )
    return Mixture(theta, laws.Dirichlet(np.ones(K)), JointNormals(law, prior))


def test_steps_are_sweeps_of_the_oracle() -> None:
    start = {"theta": THETA, "mu": normals(1, D), "L": WISHART}
    blr, guide = engine(joint_normals, start, step_size=1.0, on_sampled="error")
    blr.step(ROWS)
    assert {b.family.name for b in guide.blocks} == {"Dirichlet", "NormalWishart"}
    oracle = oracle_at(guide)
    for _ in range(4):
        bound = oracle.elbo(n(ROWS))
        assert -blr.evaluate_loss(ROWS) == pytest.approx(bound, rel=1e-10)
        blr.step(ROWS)
        oracle = oracle.sweep(n(ROWS))
    fit = blr.fit(ROWS)
    assert fit.converged
    for _ in range(500):
        oracle = oracle.sweep(n(ROWS))
    assert -fit.losses[-1] == pytest.approx(oracle.elbo(n(ROWS)), abs=1e-6)


def test_one_block_is_a_tighter_bound_than_two() -> None:
    losses = {}
    for blocks in ("auto", "site"):
        blr, _ = engine(joint_normals, blocks=blocks, on_sampled="ignore")
        blr.fit(ROWS)
        losses[blocks] = blr.evaluate_loss(ROWS)
    assert losses["auto"] < losses["site"] - 1e-3

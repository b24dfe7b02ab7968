# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Stan's example models: which are evaluated without draws, and what explain says of the rest.

The tiers are decided by the models; the synthetic data stand in for posteriordb's.
"""

from pathlib import Path

import pyro
import pytest
import torch

from benchmarks import stan
from benchmarks.rows import Settings, Skipped
from benchmarks.stan_models import EXAMPLES, Example, database, origin
from pyro_blr import BLR
from pyro_blr.energy.explanation import Explanation
from pyro_blr.guides import AutoNatural

DETERMINISTIC = [e for e in EXAMPLES if not e.breaks]
SAMPLED = [e for e in EXAMPLES if e.breaks]


def named(examples: list[Example]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", examples, ids=[e.name for e in examples])


def explained(example: Example, data: object) -> Explanation:
    guide = AutoNatural(example.model, init_loc_fn=origin)
    return BLR(example.model, guide, on_sampled="ignore").explain(*example.arguments(data))


def check(example: Example, data: object) -> None:
    """Every factor is deterministic, or some reason names the function that breaks the model."""
    factors = explained(example, data).factors
    sampled = {f.site: f.reason for f in factors if f.tier == "sampled"}
    if not example.breaks:
        assert sampled == {}
    else:
        assert any(example.breaks in reason for reason in sampled.values()), sampled


def test_fifteen_of_twenty_are_expected_without_draws() -> None:
    assert len(EXAMPLES) == len({e.posterior for e in EXAMPLES}) == 20
    assert len(DETERMINISTIC) == stan.DETERMINISTIC
    assert sum(not e.closed_form_only for e in DETERMINISTIC) == stan.WITHOUT_CLOSED_FORMS


@named(DETERMINISTIC)
def test_a_deterministic_model_has_no_sampled_factor(example: Example) -> None:
    check(example, example.synthetic())


@named(SAMPLED)
def test_explain_names_what_breaks_a_model(example: Example) -> None:
    check(example, example.synthetic())


@named(DETERMINISTIC)
def test_a_deterministic_model_is_fitted(example: Example) -> None:
    guide = AutoNatural(example.model, init_loc_fn=origin)
    blr = BLR(example.model, guide, on_sampled="error")
    assert blr.fit(*example.arguments(example.synthetic())).converged


@pytest.mark.data
@named(list(EXAMPLES))
def test_the_tiers_are_the_same_on_the_real_data(example: Example, data_folder: Path) -> None:
    try:
        folder = database.find(data_folder)
    except Skipped as reason:
        pytest.skip(str(reason))
    data = database.read_data(folder, example.data)
    check(example, data)
    tiers = [f.tier for f in explained(example, data).factors]
    assert tiers == [f.tier for f in explained(example, example.synthetic()).factors]


@named(list(EXAMPLES))
def test_the_log_density_of_a_model_is_finite_at_the_start(example: Example) -> None:
    """The models are ordinary Pyro: they run without this package."""
    args = example.arguments(example.synthetic())
    model = pyro.infer.autoguide.initialization.InitMessenger(origin)(example.model)
    trace = pyro.poutine.trace(model).get_trace(*args)
    assert torch.isfinite(trace.log_prob_sum())


def test_without_the_database_the_reason_is_said(tmp_path: Path) -> None:
    with pytest.raises(Skipped, match="set PYRO_BLR_DATA"):
        database.find(None)
    with pytest.raises(Skipped, match="neither in nor beside"):
        database.find(tmp_path / "elsewhere")
    with pytest.raises(Skipped, match="needs posteriordb"):
        next(stan.run(Settings()))


@pytest.mark.parametrize("place", ["posterior_database", "posteriordb/posterior_database"])
def test_the_database_is_found_below_and_beside_the_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / place / "posteriors").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    for folder in (tmp_path, tmp_path / "data", tmp_path / place):
        assert database.find(folder) == tmp_path / place


def test_elements_have_stans_names() -> None:
    phi = torch.arange(28.0).reshape(7, 2, 2)
    draws = {"mu": torch.zeros(7), "beta": torch.zeros(7, 2), "phi": phi, "a": torch.zeros(7, 2, 1)}
    drawn = stan.scalars(draws)
    phis = ["phi[1,1]", "phi[1,2]", "phi[2,1]", "phi[2,2]"]
    assert list(drawn) == ["mu", "beta[1]", "beta[2]", *phis, "a[1]", "a[2]"]
    assert drawn["phi[2,1]"].equal(phi[:, 1, 0])

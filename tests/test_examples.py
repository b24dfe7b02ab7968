# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Each example runs, saves its picture, and finds what is known of its data."""

from pathlib import Path

import matplotlib.image
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("statsmodels")

from examples import (
    banana,
    cosines,
    digits,
    gauss_mix,
    item_response,
    karate,
    nile,
    old_faithful,
    show,
    topics,
)


def assert_is_picture(folder: Path, name: str) -> None:
    image = matplotlib.image.imread(folder / f"{name}.png")
    assert image.shape[0] > 300
    assert image.shape[1] > 600
    assert image[..., :3].std() > 0.05  # not blank


def test_old_faithful_has_two_kinds_of_eruption(tmp_path: Path) -> None:
    two, elbos = old_faithful.main(tmp_path)
    assert max(elbos, key=elbos.__getitem__) == 2
    expected = torch.tensor([[2.04, 54.5], [4.29, 80.0]])
    assert (two.mean - expected).abs().amax(0).tolist() < [0.02, 0.1]
    assert two.share.tolist() == pytest.approx([0.357, 0.643], abs=0.005)
    short = old_faithful.data.old_faithful()[:, 0] < 3.0
    assert torch.equal(two.probs[:, 0] > 0.5, short)
    assert_is_picture(tmp_path, "old_faithful")


def test_nile_drops_at_aswan(tmp_path: Path) -> None:
    found, variances = nile.main(tmp_path)
    # Durbin and Koopman, Time Series Analysis by State Space Methods, section 2.10.
    assert variances == pytest.approx((15099, 1469), rel=2e-3)
    walks, drops = found.values()
    assert drops.elbo > walks.elbo + 2
    years = nile.data.nile()[0]
    before, after = (drops.level[years == y].item() for y in (1898, 1899))
    assert 200 < before - after < 400
    hidden, beside = (walks.deviation[years == y].item() for y in (1938, 1950))
    assert hidden > 1.3 * beside  # the band widens where years are missing
    assert_is_picture(tmp_path, "nile")


def test_the_karate_club_splits(tmp_path: Path) -> None:
    found = karate.main(tmp_path)
    met, half = karate.data.karate()
    second = found["chances by degree"].second > 0.5
    right = int((second == (half == 1)).sum())
    assert max(right, 34 - right) >= 33  # all but member 9, who knew the other half better
    hubs = found["equal chances"].second > 0.5
    hubs = hubs if hubs.sum() < 17 else ~hubs
    assert met.sum(0)[hubs].min() >= 9  # blocks of equal chances are of degrees
    assert_is_picture(tmp_path, "karate")


def test_digits_are_found_without_labels(tmp_path: Path) -> None:
    found = digits.main(tmp_path, every=6, steps=15)
    assert found.purity > 0.65  # by chance: about 0.2
    assert found.losses == sorted(found.losses, reverse=True)
    assert_is_picture(tmp_path, "digits")


def test_the_two_samplers_of_the_cosine_study_agree(tmp_path: Path) -> None:
    """Within 0.01, with standard errors that are a few times smaller."""
    found = cosines.main(tmp_path, count=20_000)
    one, other = found.values()
    for name in cosines.WORDS:
        (mean, error), (also, its) = one.means[name], other.means[name]
        assert abs(mean - also) < 0.01
        assert abs(mean - also) < 4.0 * (error**2 + its**2) ** 0.5 and max(error, its) < 0.004
    assert one.means["elbo"][0] < one.means["recognition"][0] < 1.0
    assert_is_picture(tmp_path, "cosines")


def test_bent_classes_in_an_eighth_of_adams_steps(tmp_path: Path) -> None:
    found = banana.main(tmp_path, count=120, inducing=15, iterations=250)
    assert found.losses[-1] <= found.adam[-1] + 1e-6
    assert 8 * found.steps <= found.adam_steps
    assert found.accuracy > 0.9
    assert_is_picture(tmp_path, "banana")


@pytest.mark.data
def test_two_gaussians_equal_the_reference_draws(tmp_path: Path, data_folder: Path) -> None:
    found = gauss_mix.main(tmp_path)
    exact = found["reference"]
    for bound in gauss_mix.BOUNDS:
        for name, drawn in found[bound].items():
            error = (drawn.mean() - exact[name].mean()).abs() / exact[name].std()
            assert error < 0.1, (bound, name)
            # Mean field leaves out what the assignments do not know.
            low = 0.97 if bound == "marginal" else 0.9
            assert low < drawn.std() / exact[name].std() < 1.03, (bound, name)
    assert_is_picture(tmp_path, "gauss_mix")


@pytest.mark.data
def test_the_marginal_bound_of_topics_is_tighter(tmp_path: Path, data_folder: Path) -> None:
    found = topics.main(tmp_path)
    loose, tight = (found[bound] for bound in topics.BOUNDS)
    assert 0.3 < tight.elbo - loose.elbo < 1.5
    for one in found.values():
        assert (one.theta.mean[:2, 0] > 0.99).all()
        assert (one.theta.mean[2:, 0] < 0.01).all()
    assert_is_picture(tmp_path, "topics")


@pytest.mark.data
def test_able_people_answer_more_items(tmp_path: Path, data_folder: Path) -> None:
    found = item_response.main(tmp_path, every=5)
    y = torch.tensor(item_response.data.posterior(item_response.NAME)["y"])[:, ::5]
    scores = torch.stack([found.ability.mean(0), y.sum(0).double()])
    assert torch.corrcoef(scores)[0, 1] > 0.97
    items = torch.stack([found.difficulty.mean(0), y.double().mean(1)])
    assert torch.corrcoef(items)[0, 1] < -0.95
    assert_is_picture(tmp_path, "item_response")


def test_without_posteriordb_an_example_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PYRO_BLR_DATA", raising=False)
    monkeypatch.setattr("sys.argv", ["topics", "--out", str(tmp_path)])
    show.run(topics.main)
    assert "skipped: needs posteriordb" in capsys.readouterr().out

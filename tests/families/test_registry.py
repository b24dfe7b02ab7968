# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Which distribution belongs to which family, and natural parameters through wrappers."""

import pyro.distributions as dist
import pytest
import torch

from pyro_blr import families as f
from pyro_blr.errors import ArgumentError
from pyro_blr.families import registry
from tests.families.contract import ROWS

BY_NAME = ("DiagonalNormal", "FixedScaleNormal", "SharedCovarianceNormal")
COUNTED = ("Binomial", "NegativeBinomial", "Multinomial")


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.family.name)
def test_instance_class_and_distribution_give_the_family(row):
    family = row.family
    distribution = family.distribution(row.random((3,)))
    assert f.get_family(family) is family
    wrapped = (distribution.mask(False), dist.ExpandedDistribution(distribution, (2, 3)))
    for key in (distribution, *wrapped):
        assert (f.find_family(key) == family) == (family.name not in BY_NAME)
    # A class says nothing of a count, or of a scale: it is 1.
    plain = type(family)()
    assert f.get_family(type(family)) == plain
    assert plain in f.registered_families()
    for key in (type(distribution), family.distribution_type):
        assert (f.find_family(key) == plain) == (family.name not in BY_NAME)
    assert (family == plain) == (family.name not in (*COUNTED, "FixedScaleNormal"))
    fixed = f"total_count={family.total_count}" if family.name in COUNTED else ""
    if family.name == "FixedScaleNormal":
        fixed = f"scale={family.scale}"
    assert repr(family) == f"{family.name}({fixed})"
    assert len({plain, type(family)()}) == 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.family.name)
def test_natural_of_through_wrappers(row):
    family = row.family
    natural = row.random((3,))
    distribution = family.distribution(natural)
    direct = family.natural_of(distribution)
    for wrapped in (
        distribution.mask(torch.tensor([True, False, True])),
        distribution.to_event(0),
    ):
        for got, expected in zip(family.natural_of(wrapped), direct, strict=True):
            assert torch.equal(got, expected)
    for wide in (distribution.expand((2, 3)), dist.ExpandedDistribution(distribution, (2, 3))):
        for got, expected in zip(
            family.natural_of(wide), family.expand(direct, (2, 3)), strict=True
        ):
            torch.testing.assert_close(got, expected, rtol=1e-14, atol=0.0)
    if family.name != "Normal":  # it would become a vector
        for got, expected in zip(family.natural_of(distribution.to_event(1)), direct, strict=True):
            assert torch.equal(got, expected)


def test_normal_to_event_is_multivariate():
    loc, scale = torch.randn(4, 3), torch.rand(4, 3) + 0.1
    normal = dist.Normal(loc, scale).to_event(1)
    family = f.get_family(normal)
    assert family == f.MultivariateNormal()
    back = family.distribution(family.natural_of(normal))
    torch.testing.assert_close(back.loc, loc)
    torch.testing.assert_close(back.covariance_matrix, torch.diag_embed(scale**2))
    wide = dist.ExpandedDistribution(normal, (2, 4))
    assert f.get_family(wide) == family
    assert family.batch_shape(family.natural_of(wide)) == (2, 4)
    # Elements of a matrix have no joint covariance in these families.
    assert f.get_family(dist.Normal(loc, scale).to_event(2)) == f.Normal()


def test_the_families_by_name_take_their_distributions():
    loc, scale = torch.randn(4, 3), torch.rand(4, 3) + 0.1
    first, second = f.DiagonalNormal().natural_of(dist.Normal(loc, scale).to_event(1))
    torch.testing.assert_close(first, loc / scale**2)
    torch.testing.assert_close(second, -0.5 / scale**2)
    with pytest.raises(ArgumentError, match=r"Mend: pass Normal\(loc, scale\).to_event\(1\)"):
        f.DiagonalNormal().natural_of(dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("argument", ["covariance_matrix", "precision_matrix", "scale_tril"])
@pytest.mark.parametrize("shape", [(2, 2), (1, 2, 2), (5, 1, 2, 2)], ids=str)
def test_shared_covariance_is_read_once_for_all_rows(argument, shape):
    family, loc = f.SharedCovarianceNormal(), torch.randn(5, 4, 2, dtype=torch.float64)
    root = torch.tensor([[1.0, 0.0], [0.4, 2.0]], dtype=torch.float64).expand(shape)
    matrix = root if argument == "scale_tril" else root @ root.mT
    rows = dist.MultivariateNormal(loc, **{argument: matrix})
    natural = family.natural_of(rows.to_event(1))
    assert [n.shape for n in natural] == [(5, 4, 2), (5, 2, 2)]
    back = family.distribution(natural)
    torch.testing.assert_close(back.base_dist.loc, loc)
    torch.testing.assert_close(back.base_dist.covariance_matrix, rows.covariance_matrix)
    value = torch.randn(5, 4, 2, dtype=torch.float64)
    torch.testing.assert_close(family.log_prob(natural, value), rows.to_event(1).log_prob(value))


def test_shared_covariance_refuses_what_it_cannot_hold():
    family, loc, eye = f.SharedCovarianceNormal(), torch.zeros(4, 2), torch.eye(2)
    with pytest.raises(ArgumentError, match=r"event of this MultivariateNormal .*to_event\(1\)"):
        family.natural_of(dist.MultivariateNormal(loc, eye))
    each = eye.repeat(4, 1, 1)
    with pytest.raises(ArgumentError, match=r"one for each of its 4 rows.*\(..., 1, D, D\)"):
        family.natural_of(dist.MultivariateNormal(loc, each).to_event(1))


def test_shared_covariance_is_never_expanded_along_the_rows():
    family, rows, dim = f.SharedCovarianceNormal(), 1000, 64
    natural = (torch.ones(rows, dim), -0.5 * torch.eye(dim))
    assert family.mean_params(natural)[1].shape == (dim, dim)
    assert bool(family.entropy(natural).isfinite())
    base = family.distribution(natural).base_dist
    assert base._unbroadcasted_scale_tril.shape == (1, dim, dim)
    assert base.precision_matrix.stride(-3) == 0


def test_torch_distributions_and_subclasses():
    assert f.get_family(torch.distributions.Gamma(1.0, 1.0)) == f.Gamma()
    chi2 = dist.Chi2(torch.tensor(3.0))
    assert f.get_family(chi2) == f.Gamma()
    assert [n.item() for n in f.Gamma().natural_of(chi2)] == [0.5, -0.5]


@pytest.mark.parametrize("given", ["probs", "logits"])
def test_probabilities_near_one_keep_their_digits(given):
    logits = torch.tensor([-60.0, -30.0, 0.5, 30.0])
    keywords = {"logits": logits} if given == "logits" else {"probs": logits.sigmoid()}
    (natural,) = f.Bernoulli().natural_of(dist.Bernoulli(**keywords))
    # 1 - p has an absolute error of eps.
    rtol = 1e-15 if given == "logits" else 1e-4
    torch.testing.assert_close(natural, logits, rtol=rtol, atol=0.0)
    other = {given: torch.stack([keywords[given], torch.zeros(4)], -1)}
    if given == "probs":
        other[given] = torch.stack([logits.sigmoid(), (-logits).sigmoid()], -1)
    (natural,) = f.Categorical().natural_of(dist.Categorical(**other))
    torch.testing.assert_close(natural.squeeze(-1), logits, rtol=1e-13, atol=0.0)


def test_unknown_distribution_prints_the_mend():
    assert f.find_family(dist.Laplace(0.0, 1.0)) is None
    with pytest.raises(ArgumentError, match=r"Laplace; use one of .*Gamma.*register_family"):
        f.get_family(dist.Laplace(0.0, 1.0))
    with pytest.raises(ArgumentError, match="HalfCauchy"):
        f.get_family(dist.HalfCauchy)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.family.name)
def test_distribution_of_another_family_prints_the_mend(row):
    with pytest.raises(ArgumentError, match=f"Laplace is not in the family {row.family.name}"):
        row.family.natural_of(dist.Laplace(0.0, 1.0))


def test_the_most_specific_class_wins(own_registry):
    class Special(dist.Gamma):
        pass

    class SpecialFamily(f.Gamma):
        pass

    special = Special(torch.tensor(1.0), torch.tensor(1.0))
    assert f.get_family(special) == f.Gamma()
    f.register_family(SpecialFamily, Special)
    assert f.get_family(special) == SpecialFamily()
    assert f.get_family(dist.Gamma(1.0, 1.0)) == f.Gamma()


class Own(f.Gamma):
    """A family of a user's."""

    name = "Own"
    distribution_type = dist.HalfCauchy


def test_register_a_family_as_class_or_instance(own_registry):
    assert f.find_family(dist.HalfCauchy(1.0)) is None
    assert f.register_family(Own) is Own
    assert f.get_family(dist.HalfCauchy(1.0)) == Own()
    assert Own() in f.registered_families()
    f.register_family(Own(), dist.Gumbel)
    assert f.get_family(dist.Gumbel) == Own()
    with pytest.raises(ArgumentError, match="derive it from ExponentialFamily"):
        f.register_family(dist.Gamma)


def test_a_family_by_name_takes_no_distribution(own_registry):
    f.register_family(Own, by_name=True)
    assert Own() in f.registered_families()
    assert f.find_family(dist.HalfCauchy(1.0)) is None


def test_the_registration_of_a_test_does_not_stay():
    assert f.find_family(dist.HalfCauchy(1.0)) is None


def test_a_forgotten_base_measure_raises():
    class Forgetful(f.Poisson):
        expected_log_base_measure = f.ExponentialFamily.expected_log_base_measure

    with pytest.raises(NotImplementedError, match="override expected_log_base_measure too"):
        Forgetful().expected_log_base_measure((torch.tensor(0.0),))


def test_categorical_needs_the_number_of_classes():
    with pytest.raises(ArgumentError, match="pass the natural parameters too"):
        f.Categorical().sufficient_statistics(torch.tensor(1))

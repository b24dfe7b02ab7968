# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What is read off the joint blocks of a location and its scale, and their Pyro distributions."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import families as f
from pyro_blr.errors import DomainError
from tests.families.contract import ROWS

BATCH = (2, 3)
NAMES = ("NormalGamma", "NormalInverseGamma", "NormalWishart")
MATRICES = ("Wishart", "MultivariateNormal", "SharedCovarianceNormal")
JOINT = {row.family.name: row for row in ROWS if row.family.name in NAMES}
every_scale = pytest.mark.parametrize("name", NAMES[:2])
every_joint = pytest.mark.parametrize("name", NAMES)


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-11) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol)


@every_scale
def test_the_parts_of_a_scaled_normal(name):
    family, natural = JOINT[name].family, JOINT[name].random(BATCH)
    distribution = family.distribution(natural)
    close(family.location(natural), distribution.loc)
    close(family.conditional_covariance(natural), distribution.precision_matrix.inverse())
    scale = f.Gamma() if name == "NormalGamma" else f.InverseGamma()
    marginal = scale.distribution(family.scale_marginal(natural))
    close(marginal.concentration, distribution.concentration)
    close(marginal.rate, distribution.rate)


def test_the_parts_of_a_normal_wishart():
    family, natural = JOINT["NormalWishart"].family, JOINT["NormalWishart"].random(BATCH)
    distribution = family.distribution(natural)
    close(family.location(natural), distribution.loc)
    close(family.kappa(natural), distribution.kappa)
    marginal = f.Wishart().distribution(family.scale_marginal(natural))
    close(marginal.df, distribution.df)
    close(marginal.precision_matrix, distribution.precision_matrix)


def location_density(name: str, natural: f.Natural, value: Tensor) -> tuple[Tensor, Tensor]:
    """z and log q(z) = log q(z, s) - log q(s | z), which holds at any s: here the one drawn."""
    family = JOINT[name].family
    joint = family.log_prob(natural, value)
    if name == "NormalWishart":
        dim = natural[2].shape[-1]
        z, matrix = value[..., :dim], value[..., dim:].unflatten(-1, (dim, dim))
        gap = z - family.location(natural)
        first, second = family.scale_marginal(natural)
        outer = gap.unsqueeze(-1) * gap.unsqueeze(-2)
        kappa = family.kappa(natural).unsqueeze(-1).unsqueeze(-1)
        given = (first + 0.5, second - 0.5 * kappa * outer)
        return z, joint - f.Wishart().log_prob(given, matrix)
    z, s = value[..., :-1], value[..., -1]
    gap = z - family.location(natural)
    precision = family.distribution(natural).precision_matrix
    square = torch.einsum("...i,...ij,...j->...", gap, precision, gap)
    first, second = family.scale_marginal(natural)
    half = 0.5 * z.shape[-1]
    if name == "NormalGamma":
        given = (first + half, second - 0.5 * square)
        return z, joint - f.Gamma().log_prob(given, s)
    given = (first - half, second - 0.5 * square)
    return z, joint - f.InverseGamma().log_prob(given, s)


@every_joint
def test_marginal_location_is_a_student(name):
    natural = JOINT[name].random(BATCH)
    value = JOINT[name].family.sample(natural, (4,))
    z, log_density = location_density(name, natural, value)
    student = JOINT[name].family.marginal_location(natural)
    assert isinstance(student, dist.MultivariateStudentT)
    assert student.batch_shape == BATCH
    close(student.log_prob(z), log_density, 1e-10)


@every_joint
def test_distributions_are_pyro_distributions(name):
    natural = JOINT[name].random((3,))
    distribution = JOINT[name].family.distribution(natural)
    size = distribution.event_shape[0]
    wide = distribution.expand((2, 3))
    assert type(wide) is type(distribution)
    value = wide.sample((5,))
    assert value.shape == (5, 2, 3, size)
    close(wide.log_prob(value), distribution.log_prob(value))
    assert bool(distribution.support.check(value).all())
    with pyro.plate("rows", 3):
        assert pyro.sample("v", distribution).shape == (3, size)
    assert distribution.to_event(1).log_prob(value).shape == (5, 2)
    with pytest.raises(ValueError, match="support"):
        distribution.log_prob(-value.abs())


@pytest.mark.parametrize("name", [*NAMES, *MATRICES])
def test_no_distribution_outside_the_domain(name):
    (row,) = (row for row in ROWS if row.family.name == name)
    for natural in row.outside:
        with pytest.raises(DomainError, match=rf"outside the domain of {name}. Mend: ask .*in_dom"):
            row.family.distribution(natural)


@pytest.mark.parametrize("argument", ["covariance_matrix", "precision_matrix", "scale_tril"])
def test_a_wishart_by_any_of_its_parameters(argument):
    root = torch.tensor([[1.0, 0.0], [0.4, 2.0]], dtype=torch.float64)
    matrix = root if argument == "scale_tril" else root @ root.mT
    df = torch.tensor([3.0, 7.5], dtype=torch.float64)
    wishart = dist.Wishart(df, **{argument: matrix})
    family = f.get_family(wishart)
    assert family == f.Wishart()
    back = family.distribution(family.natural_of(wishart))
    close(back.df, df)
    close(back.covariance_matrix, wishart.covariance_matrix)
    value = family.sample(family.natural_of(wishart), (6,))
    close(back.log_prob(value), wishart.log_prob(value))


def test_the_draws_of_a_wishart_do_not_warn():
    # Pyro's own takes a regular draw for a singular one; warnings are errors here.
    family, natural = f.Wishart(), (torch.tensor([0.0, 3.0]), -torch.eye(3).expand(2, 3, 3) / 2)
    assert family.distribution(natural).sample((5,)).shape == (5, 2, 3, 3)
    assert family.distribution(natural).expand((4, 2)).rsample().shape == (4, 2, 3, 3)
    with pytest.warns(UserWarning, match="Singular"):
        dist.Wishart(torch.tensor(5.0), torch.eye(3)).sample()

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Entries from outside the package: laws of latents, log densities, torch operations.

The pages docs/add_*.md run a skeleton of each; here is what must hold of any.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.transforms import PowerTransform

from conftest import TABLES
from pyro_blr import BLR, to_arviz
from pyro_blr.errors import ArgumentError
from pyro_blr.extend import (
    NotPolynomial,
    of_constant,
    operation,
    polynomial,
    register_density,
    register_elementwise,
    register_linear,
    register_moving,
)
from pyro_blr.families import ExponentialFamily, Gamma, register_family
from pyro_blr.guides import AutoNatural, natural_param

ROOT = PowerTransform(torch.tensor(0.5))


@pytest.fixture(autouse=True)
def own_tables() -> Iterator[None]:
    """Entries of a test go with it."""
    before = [table.copy() for table in TABLES]
    yield
    for table, old in zip(TABLES, before, strict=True):
        table.clear()
        table.update(old)


class RootGamma(ExponentialFamily):
    """The law of k where k^2 is a Gamma, without what only draws need."""

    name = "RootGamma"
    event_dim = 0
    natural_event_dims = (0, 0)
    support = constraints.positive
    distribution_type = dist.TransformedDistribution
    lifted_statistics = (("log", 1), ("power", 2))
    of = Gamma()

    def square(self, natural):
        return (natural[0] - 1) / 2, natural[1]

    def log_partition(self, natural):
        return self.of.log_partition(self.square(natural)) - math.log(2)

    def mean_params(self, natural):
        log, mean = self.of.mean_params(self.square(natural))
        return log / 2, mean

    def natural(self, mean_params):
        power, rate = self.of.natural((2 * mean_params[0], mean_params[1]))
        return 2 * power + 1, rate

    def sufficient_statistics(self, value, natural=None):
        return value.log(), value**2

    def in_domain(self, natural):
        return self.of.in_domain(self.square(natural))

    def distribution(self, natural):
        return dist.TransformedDistribution(self.of.distribution(self.square(natural)), ROOT)

    def natural_of(self, distribution):
        raise self.wrong_distribution(distribution)

    def inverse_fisher(self, natural, covector):
        first, second = self.of.inverse_fisher(self.square(natural), (2 * covector[0], covector[1]))
        return 2 * first, second

    def expected_power(self, natural, power):
        return self.of.expected_power(self.square(natural), power / 2)

    def near(self, value):
        shape = torch.full_like(value, 4.0)
        return 2 * shape - 1, -shape / value**2


def root_model(y: Tensor) -> None:
    with pyro.plate("groups", y.shape[0], dim=-2):
        k = pyro.sample("k", dist.TransformedDistribution(dist.Gamma(2.0, 3.0), ROOT))
        with pyro.plate("n", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(0.0, 1 / k), obs=y)


def precision_model(y: Tensor) -> None:
    with pyro.plate("groups", y.shape[0], dim=-2):
        tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
        with pyro.plate("n", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(0.0, tau.rsqrt()), obs=y)


def stepped(model: Callable[[Tensor], None], y: Tensor, **options: Any) -> tuple[BLR, Any]:
    pyro.clear_param_store()
    guide = AutoNatural(model, **options)
    blr = BLR(model, guide, on_sampled="error")
    blr.step(y)
    return blr, guide


def test_a_law_of_ones_own_is_exact_with_the_evidence() -> None:
    y = 2.0 * torch.randn(4, 30)
    register_family(RootGamma, by_name=True)
    own, guide = stepped(root_model, y)
    reference, _ = stepped(precision_model, y)
    assert own.explain(y)["y"].conjugate and own.explain(y)["k"].conjugate
    assert abs(own.evaluate_loss(y) - reference.evaluate_loss(y)) < 1e-10
    assert guide.marginal("k").batch_shape == (4, 1)
    levels = guide.quantiles([0.1, 0.5, 0.9])["k"]
    square = reference.guide.quantiles([0.1, 0.5, 0.9])["tau"]
    torch.testing.assert_close(levels**2, square, rtol=0.02, atol=0.0)
    assert to_arviz(own, y, num_samples=50)["posterior"]["k"].shape == (1, 50, 4)


def test_the_families_of_the_package_are_tried_first() -> None:
    register_family(RootGamma, by_name=True)
    _, guide = stepped(precision_model, torch.randn(4, 30))
    assert guide.blocks[0].family == Gamma()


def test_a_law_that_does_not_fit_the_support_is_refused_by_name() -> None:
    register_family(RootGamma, by_name=True)
    guide = AutoNatural(root_model, families={"k": RootGamma})
    BLR(root_model, guide).step(torch.randn(2, 5))
    assert guide.blocks[0].family == RootGamma()

    def real(y: Tensor) -> None:
        k = pyro.sample("k", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(k, 1.0), obs=y)

    pyro.clear_param_store()
    with pytest.raises(ArgumentError, match="RootGamma, which is no law"):
        BLR(real, AutoNatural(real, families={"k": RootGamma})).step(torch.tensor(0.3))


def test_a_family_without_a_start_says_so() -> None:
    class Silent(RootGamma):
        name = "Silent"
        near = ExponentialFamily.near

    register_family(Silent, by_name=True)
    with pytest.raises(NotImplementedError, match="Silent does not say where a latent starts"):
        stepped(root_model, torch.randn(2, 5))


def test_a_run_with_a_law_of_ones_own_is_resumed() -> None:
    y = torch.randn(3, 10)
    register_family(RootGamma, by_name=True)
    blr, _ = stepped(root_model, y)
    state = blr.state_dict()
    loss = blr.evaluate_loss(y)
    pyro.clear_param_store()
    other = BLR(root_model, AutoNatural(root_model))
    other.load_state_dict(state)
    assert other.evaluate_loss(y) == loss


def test_a_family_serves_a_guide_written_by_hand() -> None:
    def guide(y: Tensor) -> None:
        start = (torch.tensor(7.0), torch.tensor(-4.0))
        natural = natural_param("k", RootGamma, (), start)
        pyro.sample("k", RootGamma().distribution(natural))

    def model(y: Tensor) -> None:
        k = pyro.sample("k", dist.TransformedDistribution(dist.Gamma(2.0, 3.0), ROOT))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(0.0, 1 / k), obs=y)

    blr = BLR(model, guide, on_sampled="ignore")
    assert math.isfinite(blr.step(torch.randn(8)))


# --------------------------------------------------------------------------- densities


class Rayleigh(dist.TorchDistribution):
    arg_constraints: ClassVar[dict[str, Any]] = {"scale": constraints.positive}
    support = constraints.positive

    def __init__(self, scale: Any, validate_args: bool | None = None) -> None:
        self.scale = torch.as_tensor(scale)
        super().__init__(self.scale.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Rayleigh":
        return Rayleigh(self.scale.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return value.log() - 2 * self.scale.log() - 0.5 * (value / self.scale) ** 2


def waves(y: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", Rayleigh(tau.rsqrt()), obs=y)


def test_a_formula_moves_a_factor_to_the_exact_tier_and_keeps_its_value() -> None:
    y = torch.tensor([0.4, 1.3, 2.2])
    pyro.clear_param_store()
    without = BLR(waves, AutoNatural(waves)).fit(y)

    @register_density(Rayleigh)
    def rayleigh(value: Any, scale: Any) -> Any:
        value, scale = polynomial(value), polynomial(scale)
        return value.log() - scale.log() * 2 - value**2 * scale**-2.0 * 0.5

    pyro.clear_param_store()
    blr = BLR(waves, AutoNatural(waves))
    fit = blr.fit(y)
    assert blr.explain(y)["y"].conjugate
    # By hand: the evidence of a Gamma prior, tau^3 times data.
    a, b = 2.0 + 3, 2.0 + 0.5 * float((y**2).sum())
    evidence = 2 * math.log(2) - math.lgamma(2) + math.lgamma(a) - a * math.log(b)
    evidence += float(y.log().sum())
    assert abs(fit.losses[-1] + evidence) < 1e-10
    assert 0 < without.losses[-1] - fit.losses[-1] < 0.1  # a LogNormal is not quite a Gamma


def test_a_formula_that_refuses_leaves_the_other_tiers_and_its_reason() -> None:
    @register_density(Rayleigh)
    def rayleigh(value: Any, scale: Any) -> Any:
        raise NotPolynomial("a scale on Sundays")

    pyro.clear_param_store()
    explained = BLR(waves, AutoNatural(waves)).explain(torch.tensor([0.4, 1.3]))["y"]
    assert explained.tier == "quadrature" and "on Sundays" in explained.reason


def test_a_function_of_constants_is_never_of_a_latent() -> None:
    assert of_constant(torch.lgamma, torch.tensor([3.0])).is_constant
    with pytest.raises(NotPolynomial, match="`lgamma` of a latent"):
        of_constant(torch.lgamma, polynomial(torch.tensor([3.0])))


# --------------------------------------------------------------------------- operations


def explained(function: Callable[[Tensor], Tensor], size: int = 4) -> Any:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1))
        pyro.factor("y", function(z).sum())

    pyro.clear_param_store()
    return BLR(model, AutoNatural(model), on_sampled="ignore").explain()["y"]


@pytest.mark.parametrize(
    ("register", "name", "function"),
    [
        (register_linear, "gradient", lambda z: torch.gradient(z)[0]),
        (register_moving, "channel_shuffle", lambda z: torch.channel_shuffle(z[None, :, None], 2)),
    ],
)
def test_an_operation_that_torch_can_tell_is_one_line(
    register: Callable[..., None], name: str, function: Callable[[Tensor], Tensor]
) -> None:
    register(name, keeps="as in the table")
    assert explained(function).tier == "exact"


def test_an_operation_that_is_not_what_it_was_said_to_be_is_not_believed() -> None:
    register_linear("cumprod", keeps="a lie")
    register_moving("cummax", keeps="another")
    assert explained(lambda z: z.cumprod(0)).tier == "sampled"
    assert "not linear" in explained(lambda z: z.cumprod(0)).reason
    assert explained(lambda z: z.cummax(0)[0]).tier == "sampled"

    @operation("logcumsumexp")
    def wrong_shape(value: Any, dim: int) -> Any:
        return polynomial(value).sum_all()

    assert explained(lambda z: z.logcumsumexp(0)).tier == "sampled"


def test_kinks_and_jumps_are_said_of_elementwise_functions() -> None:
    register_elementwise("special_bessel_j0")
    register_elementwise("special_modified_bessel_k0", kinks=True)
    register_elementwise("special_spherical_bessel_j0", jumps=True)
    before = [t for t in TABLES if isinstance(t, set)]
    names = {"special_bessel_j0", "special_modified_bessel_k0", "special_spherical_bessel_j0"}
    assert [len(t & names) for t in before] == [3, 1, 1]
    assert explained(torch.special.bessel_j0).tier == "quadrature"


@torch.library.custom_op("pyro_blr_tests::bump", mutates_args=())
def bump(x: Tensor) -> Tensor:
    return torch.from_numpy(np.exp(-np.square(x.detach().numpy())))


@bump.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize("call", [bump, lambda x: torch.ops.pyro_blr_tests.bump(x)])
def test_a_custom_operation_is_known_by_its_name(call: Callable[[Tensor], Tensor]) -> None:
    factor = explained(call, 1)
    assert factor.tier == "sampled" and "`bump`" in factor.reason
    register_elementwise("bump")
    factor = explained(call, 1)
    assert factor.tier == "quadrature" and factor.error < 1e-8

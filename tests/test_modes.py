# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The contract of a point's family: its mode is the maximum, its information minus the Hessian."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import functional

from pyro_blr.lifting import modes
from pyro_blr.lifting.modes import PointFamily

EXACT = {"rtol": 1e-9, "atol": 1e-9}
V = torch.tensor([0.7, -0.3, 1.1])
M = -0.5 * (torch.eye(3) * 2 + torch.outer(V, V))

Case = tuple[PointFamily, tuple[Tensor, ...], Tensor]

# Each family at a message whose mode is inside, and a point of its support.
FAMILIES: dict[str, Case] = {
    "Normal": (
        modes.NormalPoint(),
        (torch.tensor([1.0, -2.0]), torch.tensor([-0.5, -3.0])),
        torch.tensor([0.3, 4.0]),
    ),
    "MultivariateNormal": (modes.MultivariateNormalPoint(), (V, M), torch.tensor([1.0, 2.0, 3.0])),
    **{
        f"Gamma {power:g}": (
            modes.GammaPoint(power),
            (torch.tensor([3.0, 0.2]) * power, torch.tensor([-1.5, -0.4])),
            torch.tensor([0.5, 2.5]),
        )
        for power in (1.0, -1.0, -2.0, 0.5)
    },
    **{
        f"ModifiedHalfNormal {power:g}": (
            modes.ModifiedHalfNormalPoint(power),
            (
                torch.tensor([3.0, 0.2]) * power,
                torch.tensor([2.0, -1.0]),
                torch.tensor([-1.5, -0.4]),
            ),
            torch.tensor([0.5, 2.5]),
        )
        for power in (1.0, -1.0)
    },
    "Beta": (
        modes.BetaPoint(),
        (torch.tensor([3.0, 0.5]), torch.tensor([1.0, 7.0])),
        torch.tensor([0.3, 0.8]),
    ),
    "Dirichlet": (
        modes.DirichletPoint(),
        (torch.tensor([[3.0, 0.5, 2.0], [1.0, 1.0, 6.0]]),),
        torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]),
    ),
}


def energy(family: PointFamily, message: tuple[Tensor, ...]) -> Callable[[Tensor], Tensor]:
    """``<message, T>`` as a function of the chart."""

    def paired(chart: Tensor) -> Tensor:
        statistics = family.values(family.point(chart))
        return sum((m * t).sum() for m, t in zip(message, statistics, strict=True))

    return paired


@pytest.mark.parametrize("name", FAMILIES)
def test_the_mode_is_the_maximum(name: str) -> None:
    family, message, start = FAMILIES[name]
    mode = family.mode(message, start)
    value, chart = energy(family, message), family.chart(mode)
    gradient = functional.jacobian(value, chart)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), **EXACT)
    torch.testing.assert_close(family.point(chart), mode, **EXACT)
    for _ in range(50):
        assert value(chart + torch.randn_like(chart)) < value(chart)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_message_can_be_put_at_a_point(name: str) -> None:
    family, message, point = FAMILIES[name]
    torch.testing.assert_close(family.mode(family.message_at(message, point), point), point)
    mode = family.mode(message, point)
    for own, again in zip(message, family.message_at(message, mode), strict=True):
        torch.testing.assert_close(again, own)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_information_at_the_mode_is_minus_the_hessian(name: str) -> None:
    family, message, start = FAMILIES[name]
    mode = family.mode(message, start)
    chart, size = family.chart(mode), family.chart(mode).numel()
    hessian = functional.hessian(energy(family, message), chart).reshape(size, size)
    covector = torch.randn_like(chart)
    solved = family.inverse_information(message, mode, covector).reshape(-1)
    torch.testing.assert_close(-hessian @ solved, covector.reshape(-1), **EXACT)
    moved = functional.jacobian(lambda c: family.mean_coordinates(message, family.point(c)), chart)
    torch.testing.assert_close(moved.reshape(size, size), -hessian, **EXACT)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_nothing_touches_stays(name: str) -> None:
    family, message, point = FAMILIES[name]
    nothing = tuple(torch.zeros_like(m) for m in message)
    torch.testing.assert_close(family.mode(nothing, point), point, rtol=0, atol=0)
    assert torch.isfinite(
        family.inverse_information(nothing, point, torch.zeros_like(family.chart(point)))
    ).all()


IMPROPER: dict[str, Case] = {
    "a flat normal": (modes.NormalPoint(), (torch.ones(1), torch.zeros(1)), torch.ones(1)),
    "a singular design": (
        modes.MultivariateNormalPoint(),
        (torch.ones(2), -0.5 * torch.ones(2, 2)),
        torch.ones(2),
    ),
    "no counts": (modes.GammaPoint(1.0), (torch.zeros(1), -torch.ones(1)), torch.ones(1)),
    "no squares": (modes.GammaPoint(-1.0), (-torch.ones(1), torch.zeros(1)), torch.ones(1)),
    "a negative slope": (
        modes.ModifiedHalfNormalPoint(1.0),
        (torch.zeros(1), -torch.ones(1), -torch.ones(1)),
        torch.ones(1),
    ),
    "all heads": (modes.BetaPoint(), (torch.ones(1), torch.zeros(1)), 0.5 * torch.ones(1)),
    "an empty class": (modes.DirichletPoint(), (torch.tensor([1.0, 0.0]),), torch.ones(2) / 2),
}


@pytest.mark.parametrize("name", IMPROPER)
def test_no_maximum_is_nan(name: str) -> None:
    family, message, point = IMPROPER[name]
    assert family.mode(message, point).isnan().any()

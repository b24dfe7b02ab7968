# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A small step is Python's overhead: what one point gives is computed there once."""

from collections import Counter
from itertools import permutations
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_blr import BLR
from pyro_blr.energy.energy import Energy
from pyro_blr.families import MultivariateNormal, Normal
from pyro_blr.guides import AutoNaturalNormal
from pyro_blr.lifting.blocks import Block, Placement
from pyro_blr.lifting.contraction import _product
from pyro_blr.lifting.moments import GaussianMoments
from pyro_blr.lifting.statistics import MEAN, SECOND
from pyro_blr.lifting.terms import LatentSite
from tests.lifted_values import lifted

SIZES = {"a": 2, "b": 3, "c": 4}


def scales() -> None:
    """Three blocks, of which two are searched, and a factor by quadrature."""
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.HalfCauchy(1.0))
    width = pyro.sample("width", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", 4):
        y = torch.tensor([0.3, -1.0, 2.0, 0.7])
        pyro.sample("y", dist.Normal(mean, scale), obs=y)
        pyro.sample("z", dist.Normal(0.0, width), obs=y)


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the energies of a run are evaluated at: the energy, the point, and which terms."""
    seen: list[tuple[Any, ...]] = []
    evaluate = Energy.evaluate

    def counted(self: Energy, moments: Any, draws: Any = None, touching: Any = None) -> Any:
        at = tuple(t.detach().reshape(-1) for m in moments.values() for t in m.natural)
        seen.append((self, tuple(torch.cat(at).tolist()), getattr(touching, "name", None)))
        return evaluate(self, moments, draws, touching)

    monkeypatch.setattr(Energy, "evaluate", counted)
    return seen


def test_a_step_evaluates_the_terms_of_a_block_once_at_a_point(evaluations) -> None:
    blr = BLR(scales, AutoNaturalNormal(scales))
    blr.step()
    evaluations.clear()
    for _ in range(5):
        blr.step()
    searched = {terms for _, _, terms in evaluations if terms is not None}
    assert len(searched) == 2, searched
    assert set(Counter(evaluations).values()) == {1}


def test_a_fit_and_its_certificates_evaluate_once_at_a_point(evaluations) -> None:
    blr = BLR(scales, AutoNaturalNormal(scales))
    assert blr.fit(max_steps=60).converged
    assert set(Counter(evaluations).values()) == {1}


def test_a_step_to_the_message_has_one_fisher_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """The acceleration's and the residual's: of one vector, but for its sign."""
    seen: list[tuple[float, ...]] = []
    fisher = Normal.fisher

    def counted(self: Normal, natural: Any, vector: Any) -> Any:
        seen.append(tuple(torch.stack([*natural, *map(torch.abs, vector)]).tolist()))
        return fisher(self, natural, vector)

    def rate() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Poisson(z.exp()), obs=torch.tensor(3.0))

    monkeypatch.setattr(Normal, "fisher", counted)
    fit = BLR(rate, AutoNaturalNormal(rate)).fit()
    assert fit.converged
    assert len(seen) >= fit.steps
    assert set(Counter(seen).values()) == {1}


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@pytest.mark.parametrize("size", [None, 3], ids=["scalars", "vectors"])
def test_moments_serve_with_and_without_a_graph(batch: tuple[int, ...], size: int | None) -> None:
    generator = torch.Generator().manual_seed(2)
    event = () if size is None else (size,)
    family = Normal() if size is None else MultivariateNormal()
    root = torch.randn((*batch, *event, *event), generator=generator)
    square = root.square() + 0.5 if size is None else root @ root.mT + torch.eye(size)
    natural = torch.randn((*batch, *event), generator=generator), -0.5 * square
    site = LatentSite("z", (*batch, *event), len(event), True)
    block = Block("z", family, (site,), batch, size, {"z": Placement(tuple(range(len(batch))))})
    moments = GaussianMoments(block, natural)
    assert moments.statistic(SECOND).requires_grad
    with torch.no_grad():
        assert not moments.statistic(SECOND).requires_grad
    assert moments.statistic(SECOND).requires_grad
    assert moments.statistic(MEAN) is moments.leaves[0]
    torch.testing.assert_close(moments.entropy(), family.entropy(natural).sum())


def test_products_of_two_operands_are_einsums() -> None:
    """Whatever is summed, kept or moved: matrices, vectors, and what is neither."""
    terms = [term for n in (1, 2) for term in permutations("abc", n)]
    for left in terms:
        for right in terms:
            x, y = (torch.randn([SIZES[c] for c in term]) for term in (left, right))
            axes = sorted({*left, *right})
            for n in range(3):
                for out in permutations(axes, min(n, len(axes))):
                    equation = f"{''.join(left)},{''.join(right)}->{''.join(out)}"
                    expected = torch.einsum(equation, x, y)
                    torch.testing.assert_close(_product(equation, [x, y]), expected)


def test_the_kind_of_a_lifted_tensor_is_known() -> None:
    value = lifted("z", 2, 3).exp().sum(0)
    assert (value.shape, value.dtype, value.device) == ((3,), torch.float64, torch.device("cpu"))
    assert (value.ndim, value.dim(), value.numel(), len(value)) == (1, 1, 3, 3)
    assert value.size(0) == 3

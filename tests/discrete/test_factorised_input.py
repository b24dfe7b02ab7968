# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Wrong and unusual models and arguments under a factorised q of discrete latents."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pyro_blr import BLR, errors, families
from pyro_blr.guides import AutoNatural, AutoNaturalNormal

NODES = 6
SRC, DST = torch.triu_indices(NODES, NODES, 1)


def block_model(
    blocks: int = 2,
    src: Tensor = SRC,
    dst: Tensor = DST,
    value: Tensor | None = None,
    law: Callable[[], Any] | None = None,
    of_z: Callable[[Tensor], Tensor] = lambda z: z,
    table: Tensor | None = None,
    nodes: int = NODES,
) -> Callable[[], None]:
    seen = torch.zeros(len(src)) if value is None else value

    def model() -> None:
        share = pyro.sample("share", dist.Dirichlet(torch.ones(blocks)))
        one = torch.ones(blocks, blocks)
        b = pyro.sample("B", dist.Beta(one, one).to_event(2)) if table is None else table
        with pyro.plate("nodes", nodes):
            z = of_z(pyro.sample("z", dist.Categorical(share) if law is None else law()))
        with pyro.plate("edges", len(src)):
            pyro.sample("edge", dist.Bernoulli(b[z[src], z[dst]]), obs=seen)

    return model


def fitted(model: Callable[[], None]) -> BLR:
    pyro.set_rng_seed(0)
    blr = BLR(model, AutoNatural(model), discrete="factorised")
    assert blr.fit().converged
    return blr


def test_joint_sums_name_the_option() -> None:
    model = block_model()
    with pytest.raises(errors.DiscreteLatentError, match=r'summed out.*Mend.*"factorised"'):
        BLR(model, AutoNatural(model)).step()


def test_self_loops_only_are_one_element() -> None:
    """A loop is of one node: its chance is that of B's diagonal."""
    both = torch.tensor([0, 1, 2])
    blr = fitted(block_model(src=both, dst=both, value=torch.tensor([1.0, 1.0, 0.0])))
    assert blr.explain()["edge"].conjugate


@pytest.mark.parametrize("blocks", [1, 5])
def test_any_number_of_blocks(blocks: int) -> None:
    blr = fitted(block_model(blocks, value=(SRC < 3).double() * (DST < 3)))
    probs = blr.discrete_marginals()["z"].probs
    assert probs.shape == (NODES, blocks)
    assert torch.allclose(probs.sum(-1), torch.ones(NODES, dtype=probs.dtype))


def test_one_node() -> None:
    none = torch.zeros(1, dtype=torch.long)
    blr = fitted(block_model(src=none, dst=none, value=torch.ones(1), nodes=1))
    assert blr.discrete_marginals()["z"].probs.shape == (1, 2)


def test_no_edges_is_an_empty_plate() -> None:
    none = torch.zeros(0, dtype=torch.long)
    model = block_model(src=none, dst=none)
    with pytest.raises(errors.BLRError, match=r"'edges' has no elements.*Mend"):
        BLR(model, AutoNatural(model), discrete="factorised").step()


def test_a_table_that_is_too_small() -> None:
    model = block_model(3, table=torch.full((2, 2), 0.3))
    with pytest.raises((errors.DiscreteLatentError, IndexError), match="out of bounds"):
        BLR(model, AutoNatural(model), discrete="factorised").step()


def test_floats_are_no_index_but_their_integers_are() -> None:
    model = block_model(law=lambda: dist.Bernoulli(0.4))
    with pytest.raises(IndexError, match="must be long"):
        BLR(model, AutoNatural(model), discrete="factorised").step()
    blr = fitted(block_model(law=lambda: dist.Bernoulli(0.4), of_z=Tensor.long))
    assert isinstance(blr.discrete_marginals()["z"], dist.Bernoulli)


@pytest.mark.parametrize(
    "wrong", [lambda z: z if z[0] > 0 else z + 0, lambda z: z * int(z[0]), lambda z: z.fill_(0)]
)
def test_values_are_never_invented(wrong: Callable[[Tensor], Tensor]) -> None:
    model = block_model(of_z=wrong)
    with pytest.raises(errors.ControlFlowError, match=r"'z'.*Mend"):
        BLR(model, AutoNatural(model), discrete="factorised").step()


def test_values_without_end() -> None:
    def model() -> None:
        with pyro.plate("rows", 3):
            z = pyro.sample("z", dist.Poisson(2.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=torch.zeros(3))

    with pytest.raises(errors.DiscreteLatentError, match=r"'z'.*no end.*Mend"):
        BLR(model, AutoNatural(model), discrete="factorised").step()


def test_data_are_checked() -> None:
    for value, kind in (
        (torch.full((len(SRC),), torch.nan), errors.NonFiniteError),
        (torch.full((len(SRC),), 2.0), errors.SupportError),
        (torch.zeros(7), errors.SupportError),
    ):
        model = block_model(value=value)
        with pytest.raises(kind, match="'edge'"):
            BLR(model, AutoNatural(model), discrete="factorised").step()


def test_arguments() -> None:
    model = block_model()
    with pytest.raises(errors.ArgumentError, match='"factorised"'):
        BLR(model, AutoNatural(model), discrete="factorized")
    for guide in (AutoNaturalNormal(model), AutoNormal(model)):
        with pytest.raises(errors.ArgumentError, match=r"holds discrete latents.*Mend"):
            BLR(model, guide, discrete="factorised")
    guide = AutoNatural(model, families={"z": families.Beta})
    with pytest.raises(errors.ArgumentError, match=r"'z'.*discrete.*Mend"):
        BLR(model, guide, discrete="factorised").step()


def mixture(rows: int = 6, subsample: int | None = None) -> None:
    x = torch.linspace(-3, 3, rows)
    loc = pyro.sample("loc", dist.Normal(torch.tensor([-1.0, 1.0]), 3.0).to_event(1))
    with pyro.plate("rows", rows, subsample_size=subsample) as index:
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x[index])


def test_a_guide_that_was_set_up_without_them() -> None:
    guide = AutoNatural(mixture)
    BLR(mixture, guide).step()
    with pytest.raises(errors.ArgumentError, match=r"set up without.*Mend"):
        BLR(mixture, guide, discrete="factorised")


def test_rows_of_minibatches() -> None:
    pyro.set_rng_seed(0)
    whole = BLR(mixture, AutoNatural(mixture), discrete="factorised")
    whole.fit(60)
    blr = BLR(mixture, AutoNatural(mixture), discrete="factorised")
    for _ in range(150):
        blr.step(60, 20)
    assert blr.evaluate_loss(60) < whole.evaluate_loss(60) + 1.0


def test_single_precision() -> None:
    pyro.set_rng_seed(0)
    losses = []
    start = torch.randn(NODES, 1).double()
    for dtype in (torch.float32, torch.float64):
        chance = torch.tensor([[0.8, 0.3], [0.2, 0.6]], dtype=dtype)
        share = torch.tensor([0.4, 0.6], dtype=dtype)
        model = block_model(
            table=chance,
            law=lambda share=share: dist.Categorical(share),
            value=(DST == 3).to(dtype),
        )
        guide = AutoNatural(model)
        guide.set_natural({"z": (start,)})
        losses.append(BLR(model, guide, discrete="factorised").evaluate_loss())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def parametrised() -> None:
    w = pyro.param("w", lambda: torch.tensor([[0.1, 0.8], [-0.7, 0.3]]))
    with pyro.plate("rows", 8):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])))
    y = torch.tensor([0.5, -1.0, 0.3, 1.2, -0.4, 0.9, -0.8])
    pyro.sample("y", dist.Normal(w[z[:-1], z[1:]], 0.5).to_event(1), obs=y)


@pytest.mark.parametrize("params", ["optim", "em"])
def test_parameters_of_the_model_move(params: str) -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    blr = BLR(parametrised, AutoNatural(parametrised), discrete="factorised", params=params)
    losses = [blr.step() for _ in range(20)]
    assert losses[-1] < losses[0]
    assert blr.explain().parameters["w"].update == params

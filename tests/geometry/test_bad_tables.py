# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What is refused: tables that are no laws, parameters at the edge, singular metrics, shapes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_blr.errors import (
    ArgumentError,
    BLRError,
    BoundaryError,
    ControlFlowError,
    DeviceError,
    NonFiniteError,
    ProbabilityError,
    ShapeError,
    SingularFisherError,
    SupportError,
    UnknownNameError,
)
from pyro_blr.geometry import (
    FiniteModel,
    flow,
    jeffreys_walk,
    jeffreys_weighted,
    saturated,
)
from tests.geometry.models import (
    DIMS,
    bayes_table,
    independent,
    naive_bayes,
    product_table,
)

HALF = torch.full((5,), 0.5)
EVEN = torch.full((2, 2, 2), 0.125)
BOX = torch.zeros(5), torch.ones(5)


def model(table: Callable[[Tensor], Any], dims: Any = DIMS, hidden: Any = "x") -> FiniteModel:
    return FiniteModel(table, dims, hidden)


def at_edge(place: int, value: float) -> Tensor:
    theta = HALF.clone()
    theta[place] = value
    return theta


def squares(angle: torch.Tensor) -> torch.Tensor:
    x = torch.stack([angle[0].cos() ** 2, angle[0].sin() ** 2])
    return x[:, None] * torch.tensor([0.3, 0.7]).double()


CASES: dict[str, tuple[type[BLRError], str, Callable[[], Any]]] = {
    "a parameter on the boundary": (
        BoundaryError,
        r"on the boundary of the simplex, p\(x=0, y=0, z=0\) = 0",
        lambda: naive_bayes().at(at_edge(1, 0.0)),
    ),
    "one of many on the boundary": (
        BoundaryError,
        r"p\(x=1, ",
        lambda: naive_bayes().at(torch.stack([HALF, at_edge(0, 1.0)])),
    ),
    "an angle on the boundary, where its probability is a square": (
        BoundaryError,
        r"p\(x=1, ",
        lambda: FiniteModel(squares, ("x", "y"), "y").at(torch.tensor([0.0]).double()),
    ),
    "a parameter outside": (
        ProbabilityError,
        "has the entry -",
        lambda: naive_bayes().at(at_edge(2, 1.1)),
    ),
    "a table that does not sum to 1": (
        ProbabilityError,
        "sums to 2 and not to 1",
        lambda: model(lambda t: 2.0 * bayes_table(t)).at(HALF),
    ),
    "a table that sums to 1 at one parameter alone": (
        ProbabilityError,
        r"not nearby: its sum changes with theta\[0\]",
        lambda: model(lambda t: bayes_table(HALF) * (2.0 * t[0])).at(HALF),
    ),
    "a table with a NaN": (
        NonFiniteError,
        "NaN or infinite",
        lambda: model(lambda t: bayes_table(t) * torch.nan).at(HALF),
    ),
    "a NaN for a parameter": (
        NonFiniteError,
        "the parameter has",
        lambda: naive_bayes().at(at_edge(3, torch.nan)),
    ),
    "a singular metric": (
        SingularFisherError,
        r'of rank 2 with 3 parameters; it does not depend on x: .* singular="pinv"',
        lambda: independent().at(HALF[:3]).evidence(EVEN.sum(0)).direction(),
    ),
    "a singular metric along a flow": (
        SingularFisherError,
        "rank 3 with 5",
        lambda: flow(naive_bayes(), torch.tensor([0.3, 0.8, 0.1, 0.7, 0.2]), EVEN, "evidence"),
    ),
    "a choice that there is not": (
        ArgumentError,
        '"refuse", "pinv"',
        lambda: naive_bayes().at(HALF).elbo(EVEN).direction("ridge"),
    ),
    "a norm that there is not": (
        ArgumentError,
        "'spectral', 'frobenius'",
        lambda: naive_bayes().at(HALF).cylindricity("nuclear"),
    ),
    "a field that there is not": (
        ArgumentError,
        "'elbo', 'recognition', 'evidence'",
        lambda: naive_bayes().at(HALF).gradient("map", EVEN),
    ),
    "a law that there is not": (
        ArgumentError,
        "'joint', 'visible'",
        lambda: naive_bayes().at(HALF).log_jeffreys("hidden"),
    ),
    "no vector of parameters": (
        ShapeError,
        r"the shape \(\)",
        lambda: naive_bayes().at(torch.tensor(0.5)),
    ),
    "parameters of another number": (
        ShapeError,
        "a vector of 5 numbers",
        lambda: naive_bayes().at(torch.rand(4)),
    ),
    "a table with other dims": (
        ShapeError,
        r"the shape \(2, 4\), and the dims are x, y, z",
        lambda: model(lambda t: bayes_table(t).reshape(2, 4)).at(HALF),
    ),
    "no table": (
        ShapeError,
        "returns tuple",
        lambda: model(lambda t: tuple(bayes_table(t))).at(HALF),
    ),
    "a table of integers": (
        ShapeError,
        "returns torch.int64",
        lambda: model(lambda t: bayes_table(t).long()).at(HALF),
    ),
    "an if, at many parameters": (
        ControlFlowError,
        "one parameter at a time",
        lambda: model(lambda t: bayes_table(t if t[0] > 0 else -t)).at(torch.rand(2, 5)),
    ),
    "a target of another shape": (
        ShapeError,
        r"the joint target has the shape \(2, 2\), and not \(2, 2, 2\)",
        lambda: naive_bayes().at(HALF).elbo(EVEN.sum(0)),
    ),
    "a visible target of another shape": (
        ShapeError,
        r"the visible target has the shape \(3, 2\)",
        lambda: naive_bayes().at(HALF).evidence(torch.full((3, 2), 1 / 6)),
    ),
    "a tangent vector of another shape": (
        ShapeError,
        "the tangent vector has the shape",
        lambda: naive_bayes().at(HALF).push_forward(EVEN[0]),
    ),
    "counts for a target": (
        ProbabilityError,
        "the joint target sums to 8 .* divide",
        lambda: naive_bayes().at(HALF).fields(8.0 * EVEN),
    ),
    "integer counts for a target": (
        ProbabilityError,
        "the visible target sums to 8",
        lambda: naive_bayes().at(HALF).evidence(torch.full((2, 2), 2)),
    ),
    "a recognition that is no law": (
        ProbabilityError,
        "the recognition sums to 0.25",
        lambda: naive_bayes().at(HALF).target(EVEN.sum(0), EVEN),
    ),
    "a target where the model is 0": (
        SupportError,
        "impossible under the model",
        lambda: (
            model(
                lambda t: (
                    t.softmax(0) * torch.tensor([1.0, 1.0, 0.0]) / t.softmax(0)[:2].sum()
                ).reshape(3, 1),
                ("v", "h"),
                "h",
            )
            .at(torch.rand(3))
            .evidence(torch.ones(3) / 3)
        ),
    ),
    "a hidden dim that there is not": (
        UnknownNameError,
        "no dim 'w'",
        lambda: FiniteModel(bayes_table, DIMS, "w"),
    ),
    "all dims hidden": (
        ArgumentError,
        "all dims are hidden",
        lambda: model(bayes_table, hidden=DIMS),
    ),
    "a dim twice": (ArgumentError, "distinct", lambda: model(bayes_table, ("x", "x", "z"))),
    "sizes for other dims": (ShapeError, "one size", lambda: saturated(("a", "b"), (2,), "a")),
    "a flow that leaves": (
        BoundaryError,
        "step [0-9]+ of the flow leaves the model: .* smaller step",
        lambda: flow(naive_bayes(), HALF, bayes_table(at_edge(1, 0.99)), "elbo", step=5.0),
    ),
    "half precision, in which any defect would be rounding": (
        DeviceError,
        "float16.*double",
        lambda: naive_bayes().at(HALF.half()),
    ),
    "a table of half precision": (
        DeviceError,
        "the table is of torch.bfloat16",
        lambda: model(lambda t: bayes_table(t).bfloat16()).at(HALF),
    ),
    "a parameter that is no numbers": (
        ShapeError,
        "the parameter is a str",
        lambda: naive_bayes().at("a"),  # type: ignore[arg-type]
    ),
    "no function": (ArgumentError, "not a function", lambda: model(EVEN)),  # type: ignore[arg-type]
    "sizes below 0": (ShapeError, "number of values", lambda: saturated("ab", (-2, -3), "a")),
    "steps that are no whole number": (
        ArgumentError,
        "steps=2.5",
        lambda: flow(naive_bayes(), HALF, EVEN, steps=2.5),  # type: ignore[arg-type]
    ),
    "a step without end": (
        ArgumentError,
        "step=inf",
        lambda: flow(naive_bayes(), HALF, EVEN, step=float("inf")),
    ),
    "draws that are no whole number": (
        ArgumentError,
        "draws=2.5",
        lambda: jeffreys_weighted(naive_bayes(), *BOX, draws=2.5),  # type: ignore[arg-type]
    ),
    "a warm-up backwards": (
        ArgumentError,
        "warm_up=-1",
        lambda: jeffreys_walk(naive_bayes(), *BOX, chains=2, warm_up=-1),
    ),
    "a box without end": (
        ArgumentError,
        "no corners of a box",
        lambda: jeffreys_weighted(naive_bayes(), BOX[0], torch.full((5,), torch.inf)),
    ),
    "a flow of no time": (
        ArgumentError,
        "step=0",
        lambda: flow(naive_bayes(), HALF, EVEN, step=0.0),
    ),
    "data of other numbers": (
        ShapeError,
        "one value of each",
        lambda: naive_bayes().frequencies({"y": torch.zeros(3), "z": torch.zeros(2)}, HALF),
    ),
    "no box": (
        ArgumentError,
        "no corners of a box",
        lambda: jeffreys_weighted(naive_bayes(), *reversed(BOX)),
    ),
    "no draws": (
        ArgumentError,
        "chains=0",
        lambda: jeffreys_walk(naive_bayes(), *BOX, chains=0),
    ),
    "data between the values": (
        SupportError,
        "'y' are none of its 2 values",
        lambda: naive_bayes().frequencies({"y": torch.tensor([0.7]), "z": torch.zeros(1)}, HALF),
    ),
    "data without names": (
        ArgumentError,
        "data are a Tensor.*such as {'y': values}",
        lambda: naive_bayes().frequencies(torch.zeros(3, 2), HALF),
    ),
    "a prior that is 0": (
        SingularFisherError,
        "in the whole box",
        lambda: jeffreys_weighted(naive_bayes(), *BOX, draws=20, law="visible"),
    ),
    "a walk in a prior that is 0": (
        SingularFisherError,
        "in the whole box",
        lambda: jeffreys_walk(naive_bayes(), *BOX, chains=4, draws=2, warm_up=2, law="visible"),
    ),
    "values of other draws": (
        ShapeError,
        "one value for each draw",
        lambda: jeffreys_weighted(naive_bayes(), *BOX, draws=20).mean(torch.zeros(20)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str) -> None:
    error, words, call = CASES[name]
    with pytest.raises(error, match=words) as caught:
        call()
    assert "Mend: " in str(caught.value)


def test_an_if_is_fine_at_one_parameter() -> None:
    found = model(lambda t: bayes_table(t if float(t[0]) > 0.0 else -t)).at(HALF)
    assert int(found.joint_root.rank) == 5


def test_a_parameter_that_cancels_but_for_rounding_is_idle() -> None:
    """Its column is noise, neither a direction nor a sum that changes."""

    def table(theta: Tensor) -> Tensor:
        scaled = product_table(theta[:3]) * theta[3].exp() * 0.1
        return scaled / scaled.sum()

    here = model(table).at(torch.rand(10, 4))
    assert bool((here.joint_root.rank == 3).all()) and bool((here.visible_root.rank == 2).all())
    assert float(here.cylindricity().defect.max()) < 1e-12


def test_a_flow_from_whole_numbers_moves() -> None:
    everything = saturated(("v", "h"), (2, 2), "h")
    target = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    ends = [flow(everything, s, target, "elbo", 0.1, 20).end for s in ([0, 0, 0], [0.0] * 3)]
    assert torch.equal(*ends) and bool((ends[0] != 0.0).all())  # type: ignore[arg-type]


def test_errors_of_the_users_own_stay_as_they_are() -> None:
    def table(theta: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model(table).at(HALF)


def test_velocities_need_no_inverse() -> None:
    """Where a metric is singular, what the law does is still known, and so are cosines."""
    here = independent().at(torch.tensor([0.3, 0.6, 0.2]))
    fields = here.fields(product_table(torch.tensor([0.5, 0.1, 0.9])))
    assert float(fields.cosines.elbo) == pytest.approx(1.0, abs=1e-12)
    assert float(fields.evidence.velocity.sum()) == pytest.approx(0.0, abs=1e-12)


def test_a_gradient_that_does_not_move_the_visible_law_has_no_angle() -> None:
    here = independent().at(torch.tensor([0.3, 0.6, 0.2]))
    aside = product_table(torch.tensor([0.9, 0.6, 0.2]))  # x alone is to change
    for target in (here.joint, aside):
        assert all(bool(c.isnan()) for c in here.fields(target).cosines)
    assert float(here.elbo(aside).length) < 1e-12

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Metrics, push-forward, gradient fields and the cylindricity of finite models."""

from collections.abc import Callable
from typing import Any

import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.distributions import Dirichlet
from torch.testing import assert_close

from pyro_blr.geometry import FiniteModel, flow, saturated
from tests.geometry.models import (
    CYLINDRICAL,
    OTHERS,
    bayes_table,
    chain,
    chain_size,
    independent,
    machine,
    naive_bayes,
    product_table,
)

#: The parameter at which naive Bayes is stated to be far from cylindrical.
STATED = torch.tensor([0.3, 0.8, 0.1, 0.7, 0.2])
EVERY = {**CYLINDRICAL, **OTHERS}


def laws(count: int, *sizes: int) -> Tensor:
    """Laws at random. # shape: (count, *sizes)"""
    flat = torch.Size(sizes).numel()
    return Dirichlet(torch.ones(flat)).sample((count,)).reshape(count, *sizes)


def sizes_of(model: FiniteModel, theta: Tensor) -> tuple[int, ...]:
    return tuple(len(s) for s in model.supports(theta).values())


# ----- Metrics ------------------------------------------------------------------------------------


def expected_hessian(law: Any, theta: Tensor) -> Tensor:
    """``-E[Hessian of log p]``, the other form of the Fisher information."""

    def log_prob(t: Tensor) -> Tensor:
        return law(t).flatten().log()

    hessians = [
        torch.autograd.functional.hessian(lambda t, i=i: log_prob(t)[i], theta)
        for i in range(len(log_prob(theta)))
    ]
    return -(law(theta).flatten()[:, None, None] * torch.stack(hessians)).sum(0)


@pytest.mark.parametrize("name", EVERY)
def test_fisher_matrices_are_expected_hessians(name: str) -> None:
    model, thetas = EVERY[name]()
    here = model.at(thetas[0])
    over = tuple(model.dims.index(n) for n in model.hidden)
    assert_close(here.joint_fisher, expected_hessian(model.table, thetas[0]))
    visible = expected_hessian(lambda t: model.table(t).sum(over), thetas[0])
    assert_close(here.visible_fisher, visible)


def test_many_parameters_at_once_are_as_one_by_one() -> None:
    model, thetas = naive_bayes(), torch.rand(2, 3, 5)
    many, target = model.at(thetas), laws(1, 2, 2, 2)[0]
    assert many.joint.shape == (2, 3, 2, 2, 2) and many.joint_fisher.shape == (2, 3, 5, 5)
    cosines, defects = many.fields(target).cosines, many.cylindricity().defect
    for i in range(2):
        for j in range(3):
            one = model.at(thetas[i, j])
            assert_close(many.visible_fisher[i, j], one.visible_fisher)
            assert_close(defects[i, j], one.cylindricity().defect)
            pairs = zip(cosines, one.fields(target).cosines, strict=True)
            assert all(torch.allclose(own[i, j], other) for own, other in pairs)


def test_velocities_are_pushed_forward_by_summing_and_never_get_longer() -> None:
    model, thetas = OTHERS["the middle of a chain"]()
    here, direction = model.at(thetas), torch.randn_like(thetas)
    joint, visible = here.joint_velocity(direction), here.visible_velocity(direction)
    assert_close(joint.sum(2), visible)
    assert_close(here.push_forward(joint), visible)
    step = 1e-6 * direction
    moved = (model.at(thetas + step).visible - model.at(thetas - step).visible) / 2e-6
    assert_close(visible, moved, atol=1e-8, rtol=1e-6)
    pairs = [(here.joint_fisher, here.visible_fisher)]
    ((whole, seen),) = [
        tuple(torch.einsum("ni,nij,nj->n", direction, g, direction) for g in p) for p in pairs
    ]
    assert bool((seen <= whole + 1e-12).all())
    assert_close((visible.square() / here.visible).sum((1, 2)), seen)


# ----- Gradient fields ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_directions_are_the_inverse_metric_times_the_gradient(name: str) -> None:
    model, thetas = EVERY[name]()
    theta, over = thetas[0], tuple(model.dims.index(n) for n in model.hidden)
    target = laws(1, *sizes_of(model, theta))[0]
    here = model.at(theta)
    fields = here.fields(target)

    def gradient(loss: Any) -> Tensor:
        leaf = theta.clone().requires_grad_()
        (found,) = torch.autograd.grad(loss(leaf), leaf)
        return found

    joint = gradient(lambda t: (target * model.table(t).log()).sum())
    visible = gradient(lambda t: (target.sum(over) * model.table(t).sum(over).log()).sum())
    # Under perfect recognition the ELBO has the gradient of the evidence, and the joint metric.
    expected = {
        "elbo": torch.linalg.pinv(here.joint_fisher, rtol=1e-10) @ joint,
        "recognition": torch.linalg.pinv(here.joint_fisher, rtol=1e-10) @ visible,
        "evidence": torch.linalg.pinv(here.visible_fisher, rtol=1e-10) @ visible,
    }
    for field, direction in expected.items():
        found = getattr(fields, field)
        assert_close(found.direction("pinv"), direction, atol=1e-9, rtol=1e-7)
        moved = here.visible_velocity(direction)
        assert_close(found.velocity, moved, atol=1e-10, rtol=1e-8)
        length = (moved.square() / here.visible).sum().sqrt()
        assert_close(found.length, length)
    assert_close(fields.elbo.cosine(fields.elbo), torch.ones(()))


def test_perfect_recognition_is_a_joint_target() -> None:
    here = naive_bayes().at(torch.rand(7, 5))
    visible = laws(7, 2, 2)
    by_target = here.elbo(here.target(visible))
    assert_close(by_target.direction(), here.recognition(visible).direction())
    assert_close(here.target(visible).sum(1), visible)


@pytest.mark.parametrize("sizes", [(2, 4), (3, 5)])
def test_on_the_whole_simplex_every_recognition_gives_the_gradient_of_the_evidence(
    sizes: tuple[int, int],
) -> None:
    """The theorem of arXiv 2307.11249, for 1000 random Q."""
    model = saturated(("h", "v"), sizes, "h")
    here = model.at(torch.randn(sizes[0] * sizes[1] - 1))
    visible = laws(1, sizes[1])[0]
    recognition = Dirichlet(torch.ones(sizes)[0].new_ones(sizes[1], sizes[0])).sample((1000,)).mT
    fields = here.fields(here.target(visible, recognition))
    assert fields.elbo.velocity.shape == (1000, sizes[1])
    assert_close(fields.elbo.velocity, fields.evidence.velocity, atol=1e-12, rtol=0.0)
    # Both are the straight line to the target, the Fisher-Rao gradient on the visible simplex.
    straight = (visible - here.visible).expand(1000, -1)
    assert_close(fields.elbo.velocity, straight, atol=1e-12, rtol=0.0)
    # The gap between evidence and ELBO differs for each Q; its gradient is along the fibres.
    moved = here.joint_velocity(fields.elbo.direction() - here.evidence(visible).direction("pinv"))
    assert float(moved.abs().max()) > 0.01
    assert float(moved.sum(1).abs().max()) < 1e-12


# ----- Cylindrical or not -------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["spectral", "frobenius"])
@pytest.mark.parametrize("name", CYLINDRICAL)
def test_cylindrical_models(name: str, norm: str) -> None:
    model, thetas = CYLINDRICAL[name]()
    found = model.at(thetas).cylindricity(norm)
    assert float(found.defect.max()) < 1e-12
    assert bool(found.is_cylindrical.all()) and found.verdict.startswith("cylindrical")


def test_naive_bayes_is_not_cylindrical() -> None:
    found = naive_bayes().at(STATED).cylindricity()
    assert found.norm == "spectral" and 0.1 < float(found.defect) <= 0.5
    assert float(naive_bayes().at(STATED).cylindricity("frobenius").defect) > float(found.defect)
    assert "not cylindrical" in str(found) and "spectral norm" in str(found)


@pytest.mark.parametrize("name", EVERY)
def test_the_defect_is_that_of_the_projectors(name: str) -> None:
    """Against the definition, with projectors as matrices."""
    model, thetas = EVERY[name]()
    here = model.at(thetas[0])
    law = here.layout.fold(here.joint)
    flat = law.flatten()
    root = here.jacobian.flatten(0, 1) / flat.sqrt().unsqueeze(-1)
    tangent = root @ torch.linalg.pinv(root, rtol=1e-10)
    seen = torch.zeros(len(flat), len(law))
    for v in range(len(law)):
        seen[:, v] = torch.zeros_like(law).index_fill(0, torch.tensor([v]), 1.0).flatten()
    seen = seen * (law / law.sum(1, keepdim=True)).sqrt().flatten().unsqueeze(-1)
    across = seen @ seen.mT
    commutator = tangent @ across - across @ tangent
    for norm, order in (("spectral", 2), ("frobenius", "fro")):
        expected = torch.linalg.matrix_norm(commutator, ord=order)  # type: ignore[arg-type]
        assert_close(here.cylindricity(norm).defect, expected, atol=1e-12, rtol=1e-9)


def test_shares_are_the_information_of_the_visible_data() -> None:
    """Generalised eigenvalues of the two metrics, of which 1 - share is EM's rate."""
    for model, size in ((machine(), 5), (naive_bayes(), 5)):
        theta = torch.rand(size)
        here = model.at(theta)
        found = here.cylindricity()
        pair = here.visible_fisher.cpu(), here.joint_fisher.cpu()
        values = scipy.linalg.eigh(*pair, eigvals_only=True)
        expected = torch.from_numpy(values).flip(0)[: len(found.shares)]
        assert_close(found.shares.cpu(), expected, atol=1e-10, rtol=1e-8)
        assert_close(found.defect.cpu(), (expected * (1.0 - expected)).clamp(min=0.0).max().sqrt())


@pytest.mark.parametrize("name", EVERY)
def test_gradients_agree_for_every_target_where_the_model_is_cylindrical(name: str) -> None:
    model, thetas = EVERY[name]()
    here = model.at(thetas[0])
    fields = here.fields(laws(50, *sizes_of(model, thetas[0])))
    off = (fields.elbo.velocity - fields.evidence.velocity).abs().flatten(1).amax(1)
    off_recognised = (fields.recognition.velocity - fields.evidence.velocity).abs()
    if name in CYLINDRICAL:
        assert float(off.max()) < 1e-12 and float(off_recognised.max()) < 1e-12
        assert all(float(c.min()) > 1.0 - 1e-12 for c in fields.cosines)
    else:
        assert float(off.min()) > 1e-6 and float(off_recognised.flatten(1).amax(1).min()) > 1e-6
        assert bool((fields.recognition.length < fields.evidence.length + 1e-12).all())


@pytest.mark.parametrize("name", EVERY)
def test_nothing_depends_on_the_coordinates(name: str) -> None:
    model, thetas = EVERY[name]()
    theta, size = thetas[0], thetas.shape[-1]
    bend = torch.randn(size, size) / size + torch.eye(size)
    other = FiniteModel(
        lambda t: model.table(theta + bend @ torch.sinh(t)), model.dims, model.hidden
    )
    here, there = model.at(theta), other.at(torch.zeros(size))
    target = laws(5, *sizes_of(model, theta))
    assert_close(here.cylindricity().defect, there.cylindricity().defect, atol=1e-12, rtol=1e-9)
    pairs = zip(here.fields(target).cosines, there.fields(target).cosines, strict=True)
    assert all(torch.allclose(a, b) for a, b in pairs)
    for field in ("elbo", "recognition", "evidence"):
        own, also = (p.gradient(field, target).velocity for p in (here, there))
        assert_close(own, also, atol=1e-11, rtol=1e-8)


# ----- Flows --------------------------------------------------------------------------------------

END = (0.02, 0.10564132, 0.89415957)


@pytest.mark.parametrize(
    ("field", "expected"),
    [("elbo", (0.94382773, *END[1:])), ("recognition", END), ("evidence", END)],
)
def test_the_flows_of_the_paper(field: str, expected: tuple[float, ...]) -> None:
    """499 of Euler's steps on the cylindrical model, whose end points are known to 8 digits."""
    target = product_table(torch.tensor([0.95, 0.1, 0.9]))
    start = torch.tensor([0.02, 0.95, 0.02])
    path = flow(independent(), start, target, field, step=0.01, steps=499, singular="pinv")
    assert path.theta.shape == (500, 3) and path.divergence.shape == (500,)
    assert_close(path.end, torch.tensor(expected), atol=1e-8, rtol=0.0)
    assert bool((path.divergence.diff() < 0.0).all())
    assert ("visible" if field == "evidence" else "joint") in path.field


def test_the_evidence_rises_fastest_along_its_own_gradient() -> None:
    target = bayes_table(torch.tensor([0.6, 0.2, 0.7, 0.9, 0.4]))
    paths = {
        field: flow(naive_bayes(), STATED, target, field, steps=30, singular="pinv")
        for field in ("elbo", "recognition", "evidence")
    }
    ends = {field: float(path.divergence[-1]) for field, path in paths.items()}
    assert min(ends, key=ends.__getitem__) == "evidence"


def test_flows_of_many_starts_are_those_of_each() -> None:
    target, starts = bayes_table(torch.full((5,), 0.4)), 0.2 + 0.6 * torch.rand(3, 5)
    many = flow(naive_bayes(), starts, target, "elbo", steps=5)
    for i, start in enumerate(starts):
        assert_close(many.end[i], flow(naive_bayes(), start, target, "elbo", steps=5).end)


# ----- Tables -------------------------------------------------------------------------------------


def test_the_order_of_dims_is_a_matter_of_names() -> None:
    theta, target = torch.rand(5), laws(1, 2, 2, 2)[0]
    turned = FiniteModel(lambda t: bayes_table(t).permute(2, 0, 1), ("z", "x", "y"), ("x",))
    here, there = naive_bayes().at(theta), turned.at(theta)
    assert_close(there.joint, here.joint.permute(2, 0, 1))
    assert_close(there.visible, here.visible.mT)
    own, other = here.fields(target), there.fields(target.permute(2, 0, 1))
    assert_close(own.elbo.velocity.mT, other.elbo.velocity)
    assert_close(own.evidence.direction("pinv"), other.evidence.direction("pinv"))


def test_impossible_values_are_left_out() -> None:
    """The hidden value says which of two kinds the visible one is of: cells that are 0."""
    kinds = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])

    def table(theta: Tensor) -> Tensor:
        logits = torch.cat([theta, theta.new_zeros(1)])
        cells = kinds.to(theta).flatten().nonzero().squeeze(-1)
        return theta.new_zeros(6).index_put((cells,), logits.softmax(0)).reshape(2, 3)

    model = FiniteModel(table, ("h", "v"), "h")
    here = model.at(torch.randn(3))
    assert_close(here.joint_fisher, expected_support(here.joint[kinds > 0]))
    assert float(here.cylindricity().defect) < 1e-12  # saturated on what is possible


def expected_support(p: Tensor) -> Tensor:
    """The Fisher matrix of log-odds against the last value."""
    return p[:-1].diag() - p[:-1, None] * p[:-1]


def test_frequencies_are_the_target_of_maximum_likelihood() -> None:
    model, theta = chain((2, 3, 2), ("b",)), torch.randn(chain_size((2, 3, 2)))
    a, c = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([1, 1, 1, 0, 0])
    found = model.frequencies({"c": c, "a": a}, theta)
    assert_close(found, torch.tensor([[0.2, 0.2], [0.2, 0.4]]))


def test_derivatives_flow_through() -> None:
    """The density of Jeffreys' prior, for gradient-based samplers."""
    theta = torch.rand(5).requires_grad_()
    (found,) = torch.autograd.grad(naive_bayes().at(theta).log_jeffreys(), theta)
    x, rest = theta.detach()[0], theta.detach()[1:]
    expected = torch.cat([(0.5 / x - 0.5 / (1 - x)).reshape(1), -0.5 / rest + 0.5 / (1 - rest)])
    assert_close(found, expected)


#: What is asked of a point, for a joint target, as one number. The visible Fisher matrix of naive
#: Bayes is singular, and all singular values of its joint root are alike.
NUMBERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "spectral": lambda at, target: at.cylindricity().defect,
    "frobenius": lambda at, target: at.cylindricity("frobenius").defect,
    "least share": lambda at, target: at.cylindricity().least_share,
    "cosine": lambda at, target: at.fields(target).cosines.elbo,
    "velocity": lambda at, target: at.fields(target).evidence.velocity[0, 0],
    "joint direction": lambda at, target: at.elbo(target).direction()[1],
    "visible direction": lambda at, target: at.fields(target).evidence.direction("pinv")[1],
}


@pytest.mark.parametrize("number", NUMBERS)
def test_derivatives_of_projectors(number: str) -> None:
    target, model = laws(1, 2, 2, 2)[0], naive_bayes()
    leaf = STATED.clone().requires_grad_()
    value = NUMBERS[number](model.at(leaf), target)
    assert_close(value.detach(), NUMBERS[number](model.at(STATED), target))
    (found,) = torch.autograd.grad(value, leaf)
    ends = [STATED + sign * 1e-5 * torch.eye(5) for sign in (1, -1)]
    after, before = (torch.stack([NUMBERS[number](model.at(t), target) for t in e]) for e in ends)
    assert_close(found, (after - before) / 2e-5, rtol=1e-6, atol=1e-7)


def test_float32_says_the_same_to_its_digits() -> None:
    theta, target = STATED, laws(1, 2, 2, 2)[0]
    here, low = naive_bayes().at(theta), naive_bayes().at(theta.float())
    assert low.joint_root.rank == 5 and low.visible_root.rank == here.visible_root.rank
    assert_close(low.cylindricity().defect, here.cylindricity().defect, atol=1e-5, rtol=0.0)
    assert_close(
        low.fields(target).cosines.elbo, here.fields(target).cosines.elbo, atol=1e-5, rtol=0
    )
    assert bool(
        independent().at(torch.rand(9, 3, dtype=torch.float32)).cylindricity().is_cylindrical.all()
    )


def test_what_is_printed() -> None:
    here = naive_bayes().at(STATED)
    text = str(here)
    assert "visible: y (2), z (2); hidden: x (2)" in text and "joint rank 5, visible 3" in text
    text = str(here.fields(laws(1, 2, 2, 2)[0]))
    assert "joint law" in text and "visible law" in text

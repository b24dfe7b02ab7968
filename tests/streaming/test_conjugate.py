# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""On conjugate models a stream ends where a fit of all data does, however it is cut."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_blr.errors import ArgumentError
from tests.streaming.models import COUNT, data, difference, engine, fitted, streamed

CASES = data()


@st.composite
def cuts(draw: st.DrawFn) -> list[list[int]]:
    """The rows in some order, cut into parts."""
    order = draw(st.permutations(range(COUNT)))
    ends = draw(st.sets(st.integers(1, COUNT - 1), max_size=3))
    starts = [0, *sorted(ends)]
    return [list(order[a:b]) for a, b in zip(starts, [*starts[1:], COUNT], strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_one_by_one_equals_a_fit(name: str) -> None:
    case = CASES[name]
    one_by_one = streamed(case, [slice(n, n + 1) for n in range(case.count)])
    assert difference(one_by_one, fitted(case)) < 1e-12


@pytest.mark.parametrize("name", ["joint_regression", "wishart", "group_effects", "many_outputs"])
@settings(max_examples=4)
@given(parts=cuts())
def test_batches_in_any_order_equal_a_fit(name: str, parts: Sequence[list[int]]) -> None:
    case = CASES[name]
    assert difference(streamed(case, parts), fitted(case)) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_a_stream_adds_forgets_and_sums_its_evidence(name: str) -> None:
    case = CASES[name]
    blr, total = engine(case.model), 0.0
    for index in ([7, 1, 3], [0], [2, 5, 4, 6]):
        done = blr.update(*case.rows(index), plate=case.plate)
        assert done.is_exact
        assert done.converged
        assert done.loss is not None
        total += done.loss
    everything = fitted(case)
    assert difference(blr, everything) < 1e-12
    assert total == pytest.approx(everything.evaluate_loss(*case.data), rel=1e-10)
    # What is left predicts the last batch as it did before that came.
    forgotten = blr.forget(*case.rows([2, 5, 4, 6]), plate=case.plate)
    assert forgotten.is_exact
    assert forgotten.loss == pytest.approx(done.loss, rel=1e-10)
    blr.forget(*case.rows([3, 7]), plate=case.plate)
    assert difference(blr, fitted(case, [0, 1])) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_fits_of_disjoint_data_merge_to_one_of_all(name: str) -> None:
    case = CASES[name]
    first, second, third = (fitted(case, slice(a, b)) for a, b in ((0, 3), (3, 4), (4, 8)))
    kept = second.guide.state()["blocks"]
    merged = first.merge([second, third.guide], plate=case.plate)
    assert merged.is_exact
    assert merged.loss is None
    assert difference(first, fitted(case)) < 1e-12
    for block, before in zip(second.guide.state()["blocks"], kept, strict=True):
        assert all(map(torch.equal, block["natural"], before["natural"]))


def test_fits_come_in_any_iterable() -> None:
    case = CASES["regression"]
    first, *others = (fitted(case, slice(a, b)) for a, b in ((0, 3), (3, 4), (4, 8)))
    first.merge(other for other in others)
    assert difference(first, fitted(case)) < 1e-12
    with pytest.raises(ArgumentError, match="str is no fit"):
        first.merge("state.pt")


@pytest.mark.parametrize("name", CASES)
def test_single_precision(name: str) -> None:
    parts = [slice(0, 5), [5, 7, 6]]
    torch.set_default_dtype(torch.float32)
    try:
        rounded = streamed(data(dtype=torch.float32)[name], parts)
    finally:
        torch.set_default_dtype(torch.float64)
    assert difference(rounded, fitted(CASES[name])) < 1e-5

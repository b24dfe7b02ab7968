# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""On conjugate models a stream ends where a fit of all data does, however it is cut."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streaming.models import data, difference, engine, fitted, streamed

CASES = data()
COUNT = 12


@st.composite
def cuts(draw: st.DrawFn) -> list[list[int]]:
    """The rows in some order, cut into parts."""
    order = draw(st.permutations(range(COUNT)))
    ends = draw(st.sets(st.integers(1, COUNT - 1), max_size=4))
    starts = [0, *sorted(ends)]
    return [list(order[a:b]) for a, b in zip(starts, [*starts[1:], COUNT], strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_one_by_one_equals_a_fit(name: str) -> None:
    case = CASES[name]
    one_by_one = streamed(case, [slice(n, n + 1) for n in range(case.count)])
    assert difference(one_by_one, fitted(case)) < 1e-12


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=4)
@given(parts=cuts())
def test_batches_in_any_order_equal_a_fit(name: str, parts: Sequence[list[int]]) -> None:
    case = CASES[name]
    assert difference(streamed(case, parts), fitted(case)) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_forgetting_undoes_updates_in_any_order(name: str) -> None:
    case = CASES[name]
    blr = streamed(case, [slice(0, 5), slice(5, 9), slice(9, 12)])
    forgotten = blr.forget(*case.rows(slice(5, 9)), plate=case.plate)
    assert forgotten.is_exact
    assert difference(blr, fitted(case, [0, 1, 2, 3, 4, 9, 10, 11])) < 1e-12
    blr.forget(*case.rows([10, 9, 11]), plate=case.plate)
    assert difference(blr, fitted(case, slice(0, 5))) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_fits_of_disjoint_data_merge_to_one_of_all(name: str) -> None:
    case = CASES[name]
    parts = [fitted(case, slice(a, b)) for a, b in ((0, 3), (3, 4), (4, 12))]
    first, *others = parts
    kept = [b.guide.state() for b in others]
    merged = first.merge([others[0], others[1].guide], plate=case.plate)
    assert merged.is_exact
    assert difference(first, fitted(case)) < 1e-12
    for other, state in zip(others, kept, strict=True):
        now = other.guide.state()["blocks"]
        for block, before in zip(now, state["blocks"], strict=True):
            assert all(map(torch.equal, block["natural"], before["natural"]))


@pytest.mark.parametrize("name", CASES)
def test_losses_add_up_to_the_evidence(name: str) -> None:
    case = CASES[name]
    blr, total = engine(case.model), 0.0
    for index in (slice(0, 5), slice(5, 6), slice(6, 12)):
        done = blr.update(*case.rows(index), plate=case.plate)
        assert done.is_exact
        assert done.loss is not None
        total += done.loss
    assert total == pytest.approx(fitted(case).evaluate_loss(*case.data), rel=1e-10)
    # What is left predicts the last batch as it did before it came.
    assert blr.forget(*case.rows(slice(6, 12)), plate=case.plate).loss == pytest.approx(done.loss)


@pytest.mark.parametrize("name", CASES)
def test_single_precision(name: str) -> None:
    parts = [slice(0, 5), [11, 5, 6, 8, 7, 10, 9]]
    torch.set_default_dtype(torch.float32)
    try:
        rounded = streamed(data(dtype=torch.float32)[name], parts)
    finally:
        torch.set_default_dtype(torch.float64)
    assert difference(rounded, fitted(CASES[name])) < 1e-5

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Random indices, reshapes and moves of a lifted value give torch's own values."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_blr.lifting.tensor import LiftedTensor
from tests.lifted_values import lifted, value_at

TWICE = torch.tensor([0, 0])
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


def values_of(shape: tuple[int, ...]) -> Tensor:
    return torch.arange(1.0, 1.0 + torch.Size(shape).numel()).reshape(shape)


def assert_same(result: Any, expected: Tensor, point: dict[str, Tensor]) -> None:
    assert isinstance(result, LiftedTensor) and result.shape == expected.shape
    assert result.poly is not None, result.reason
    assert torch.equal(value_at(result.poly, point), expected)


@st.composite
def keys(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """An index for each of the first dims, with None and an ellipsis among them."""
    size = draw(st.integers(1, 3))
    key: list[Any] = []
    dim = 0
    while dim < len(shape):
        n = shape[dim]
        kind = draw(st.sampled_from(["int", "slice", "table", "list", "mask", "wide", "rest"]))
        positions = st.integers(-n, n - 1)
        if kind == "rest":
            break
        if kind == "int":
            key.append(draw(positions))
        elif kind == "slice":
            ends = st.none() | st.integers(-n - 1, n + 1)
            key.append(slice(draw(ends), draw(ends), draw(st.none() | st.integers(1, 3))))
        elif kind == "mask":
            mask = [True] * size + [False] * n
            key.append(torch.tensor(draw(st.permutations(mask[:n])) if n >= size else [True] * n))
        elif kind == "wide":
            key.append(torch.tensor(draw(st.lists(positions, min_size=2, max_size=2)))[:, None])
        else:
            table = draw(st.lists(positions, min_size=size, max_size=size))
            key.append(torch.tensor(table) if kind == "table" else table)
        dim += 1
    if draw(st.booleans()):
        key.insert(draw(st.integers(0, len(key))), None)
    if draw(st.booleans()):
        key.insert(len(key), Ellipsis)
    return tuple(key)


@settings(max_examples=300)
@given(st.data())
def test_random_indices(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    key = data.draw(keys(shape))
    value = values_of(shape)
    try:
        expected = value[key]
    except IndexError:  # masks and tables that do not broadcast
        return
    assert_same(lifted("z", *shape)[key], expected, {"z": value})


@settings(max_examples=200)
@given(st.data())
def test_random_reshapes(data: st.DataObject) -> None:
    """Chains of reshapes, permutations and slices: index maps compose."""
    value = values_of(data.draw(st.sampled_from([(12,), (2, 6), (4, 3), (2, 3, 4), (1, 12, 1)])))
    point = {"z": value}
    result: Any = lifted("z", *value.shape)
    for _ in range(data.draw(st.integers(1, 4))):
        step = data.draw(st.sampled_from(["reshape", "permute", "slice", "flatten", "flip"]))
        if step == "reshape":
            divisors = [d for d in range(1, value.numel() + 1) if value.numel() % d == 0]
            shape = (-1, data.draw(st.sampled_from(divisors)))
            value, result = value.reshape(shape), result.reshape(shape)
        elif step == "permute":
            order = data.draw(st.permutations(range(value.dim())))
            value, result = value.permute(order), result.permute(order)
        elif step == "slice":
            stride = data.draw(st.integers(1, 3))
            value, result = value[::stride], result[::stride]
        elif step == "flip":
            value, result = value.flip(-1), result.flip(-1)
        else:
            value, result = value.flatten(), result.flatten()
    assert_same(result, value, point)


@settings(max_examples=200)
@given(st.data())
def test_random_moves(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    dims = st.integers(-len(shape), len(shape) - 1)
    dim, times = data.draw(dims), data.draw(st.integers(1, 3))
    value = values_of(shape)
    other = -value - 100
    move = data.draw(
        st.sampled_from(
            [
                lambda z: z.roll(times, dim),
                lambda z: z.flip(dim),
                lambda z: torch.cat([z, other, 2 * z], dim),
                lambda z: torch.stack([other, z], dim),
                lambda z: z.repeat(*[times] * (z.dim() + 1)),
                lambda z: z.repeat_interleave(times, dim),
                lambda z: torch.nn.functional.pad(z, (times, times - 1), value=0.5),
                lambda z: torch.diag_embed(z, times - 2),
                lambda z: z.unfold(dim, 1, times),
                lambda z: z.cumsum(dim),
                lambda z: z.index_add(
                    dim, torch.tensor([0, 0]), 3 * z.index_select(dim, torch.zeros(2).long())
                ),
            ]
        )
    )
    assert_same(move(lifted("z", *shape)), move(value), {"z": value})

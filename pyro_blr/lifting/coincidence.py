# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where two addresses of a block's batch name the same element: elsewhere they are independent."""

from .axes import Address, Axis, all_axes, device_of, grid, same_address
from .terms import Constant


def coincidence(
    first: tuple[Address, ...], second: tuple[Address, ...], out: tuple[Axis, ...]
) -> tuple[tuple[Constant, ...], dict[Axis, Address]]:
    """Restrict a product to where two batch addresses coincide: contracted axes, or 0-1 tables."""
    deltas: list[Constant] = []
    renaming: dict[Axis, Address] = {}
    for x, y in zip(first, second, strict=True):
        if same_address(x, y):
            continue
        if isinstance(y, Axis) and y not in out and y not in renaming:
            renaming[y] = x
        elif isinstance(x, Axis) and x not in out and x not in renaming:
            renaming[x] = y
        else:
            axes = all_axes((x, y))
            device = device_of((x, y))
            table = grid(x, axes, device) == grid(y, axes, device)
            deltas.append(Constant(table.expand([a.size for a in axes]).double(), axes))
    return tuple(deltas), renaming

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Plans with a value for each row of the data: their products as one product of two matrices.

The log density of a mixture's rows is ``sum_f features[n, f] coefficients[k, f]`` (y, y^2 and 1
with what multiplies them): one matrix of constants, folded once, and one of statistics. A sum of
products taken one by one would pass over the rows once for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from .axes import Axis, common_device
from .blocks import Block
from .contraction import Operand, contract
from .moments import Moments
from .plan import Plan, Product, Stat, coefficients_of_statistic, zero_of
from .statistics import Statistic


@dataclass(frozen=True, eq=False)
class _Member:
    """A product, split into constants along rows and statistics along columns.

    :param over: the axes that both run along and that are summed over.
    """

    product: Product
    over: tuple[Axis, ...]

    @property
    def width(self) -> int:
        """Its columns among the features."""
        return prod(a.size for a in self.over)


@dataclass(frozen=True, eq=False)
class _Group:
    """Products with the same rows and columns.

    :param features: the constants. # shape: (rows, features)
    """

    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    members: tuple[_Member, ...]
    features: Tensor


class FusedPlan:
    """The values of a plan, and the coefficients of weighted sums of them.

    :param plan: its axes may be divided into rows, of which constants depend, and columns.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._weighed: tuple[Tensor, list[Tensor]] | None = None

    @cached_property
    def _split(self) -> tuple[tuple[_Group, ...], Plan]:
        """The groups of products that are fused, and the plan of the others."""
        out = self.plan.out
        rows = tuple(a for a in out if any(a in axes for axes in self._of_constants()))
        found: list[_Member] = []
        left = []
        for product in self.plan.products:
            member = _member(product, rows, tuple(a for a in out if a not in rows))
            if member is None:
                left.append(product)
            else:
                found.append(member)
        if len(found) < 2 or not rows:
            return (), self.plan
        columns = tuple(a for a in out if a not in rows)
        features = torch.cat([_features(m, rows) for m in found], 1)
        return (_Group(rows, columns, tuple(found), features),), Plan(self.plan.dims, tuple(left))

    def _of_constants(self) -> list[tuple[Axis, ...]]:
        return [axes for p in self.plan.products for _, axes in p.constants]

    def values(self, moments: Mapping[Block, Moments], free: tuple[Tensor, ...]) -> Tensor:
        """The expectation along the plan's dims."""
        groups, rest = self._split
        if not groups:
            return self.plan.values(moments, free)
        out = self.plan.out
        total = rest.values(moments, free) if rest.products else None
        device = common_device(moments[b].leaves[0] for b in self.plan.blocks)
        known: dict[int, Tensor] = {}
        for group in groups:
            table = torch.cat(
                [_columns(m, group, moments, known, device) for m in group.members], 1
            )
            value = table @ group.features.to(device).T
            axes = group.columns + group.rows
            value = value.reshape([a.size for a in axes]).permute([axes.index(a) for a in out])
            value = value.reshape([a.size if a else 1 for a in self.plan.dims])
            total = value if total is None else total + value
        return zero_of(moments) if total is None else total

    def coefficients(
        self,
        moments: Mapping[Block, Moments],
        free: tuple[Tensor, ...],
        block: Block,
        weights: Tensor,
    ) -> dict[Statistic, Tensor] | None:
        """What multiplies each mean parameter of a block in the weighted sum of the values."""
        groups, rest = self._split
        if not groups or weights.shape != self._shape:
            return self.plan.coefficients(moments, free, block, weights)
        total = rest.coefficients(moments, free, block, weights) if rest.products else {}
        if total is None:
            return None
        known: dict[int, Tensor] = {}
        for group, weighed in zip(groups, self._weigh(weights), strict=True):
            start = 0
            for member in group.members:
                own = weighed[:, start : start + member.width]
                start += member.width
                if block not in member.product.blocks:
                    continue
                found = _coefficients(member, group, own, moments, free, block, known)
                if found is None:
                    return None
                which, value = found
                total[which] = total[which] + value if which in total else value
        return total

    @cached_property
    def _shape(self) -> torch.Size:
        return torch.Size([a.size if a else 1 for a in self.plan.dims])

    def _weigh(self, weights: Tensor) -> list[Tensor]:
        """The weighted sums of the features; once for the same weights. # shape: (columns, F)"""
        if self._weighed is None or self._weighed[0] is not weights:
            out = self.plan.out
            laid = weights.reshape([a.size for a in out])
            tables = []
            for group in self._split[0]:
                order = [out.index(a) for a in group.columns + group.rows]
                table = laid.permute(order).reshape(-1, len(group.features))
                tables.append(table @ group.features.to(weights.device))
            self._weighed = (weights, tables)
        return self._weighed[1]


def _member(product: Product, rows: tuple[Axis, ...], columns: tuple[Axis, ...]) -> _Member | None:
    """A product whose statistics do not run along rows, nor its constants along columns."""
    if product.free or not all(isinstance(s, Stat) and s.axes is not None for s in product.stats):
        return None
    of_stats = dict.fromkeys(a for s in product.stats for a in s.axes or ())
    of_constants = dict.fromkeys(a for _, axes in product.constants for a in axes)
    if any(a in rows for a in of_stats) or any(a in columns for a in of_constants):
        return None
    over = tuple(a for a in of_constants if a in of_stats)
    return _Member(product, over)


def _features(member: _Member, rows: tuple[Axis, ...]) -> Tensor:
    """The constants of a product. # shape: (rows, width)"""
    axes = rows + member.over
    operands: list[Operand] = list(member.product.constants)
    present = {a for _, own in operands for a in own}
    value = contract(operands, tuple(a for a in axes if a in present))
    value = value.reshape([a.size if a in present else 1 for a in axes])
    value = value.expand([a.size for a in axes])
    return value.reshape(prod(a.size for a in rows), member.width)


def _columns(
    member: _Member,
    group: _Group,
    moments: Mapping[Block, Moments],
    known: dict[int, Tensor],
    device: torch.device,
) -> Tensor:
    """The statistics of a product. # shape: (columns, width)"""
    stats = member.product.on(device).stats
    if not stats:
        size = prod(a.size for a in group.columns)
        return torch.ones(size, member.width, dtype=torch.float64, device=device)
    operands = [s.operand(moments, (), known) for s in stats]
    axes = group.columns + member.over
    present = {a for _, own in operands for a in own}
    value = contract(operands, tuple(a for a in axes if a in present))
    value = value.reshape([a.size if a in present else 1 for a in axes])
    value = value.expand([a.size for a in axes])
    return value.reshape(prod(a.size for a in group.columns), member.width)


def _coefficients(
    member: _Member,
    group: _Group,
    weighed: Tensor,
    moments: Mapping[Block, Moments],
    free: tuple[Tensor, ...],
    block: Block,
    known: dict[int, Tensor],
) -> tuple[Statistic, Tensor] | None:
    (own,) = (s for s in member.product.stats if block in s.blocks)
    assert isinstance(own, Stat)
    axes = group.columns + member.over
    operands: list[Operand] = [(weighed.reshape([a.size for a in axes]), axes)]
    operands += [s.operand(moments, free, known) for s in member.product.stats if s is not own]
    shape = moments[block].statistic(own.which).shape
    value = coefficients_of_statistic(own, operands, shape)
    return None if value is None else (own.which, value.reshape(shape))

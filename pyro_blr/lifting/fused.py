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

from . import host
from .axes import Axis, common_device
from .blocks import Block
from .contraction import Operand, along
from .moments import Moments
from .plan import Plan, Product, Stat, coefficients_of_statistic
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
    """The products that are fused.

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
        self._weighed: tuple[Tensor, Tensor] | None = None

    @cached_property
    def _split(self) -> tuple[_Group | None, Plan]:
        """The products that are fused, if there are some, and the plan of the others."""
        out = self.plan.out
        of_constants = {a for p in self.plan.products for _, axes in p.constants for a in axes}
        rows = tuple(a for a in out if a in of_constants)
        columns = tuple(a for a in out if a not in of_constants)
        found: list[_Member] = []
        left = []
        for product in self.plan.products:
            member = _member(product, rows, columns)
            if member is None or not _is_finite(product):
                left.append(product)
            else:
                found.append(member)
        if len(found) < 2 or not rows:
            return None, self.plan
        each = [_features(m, rows) for m in found]
        device = common_device(each)  # those made of plain numbers are on the host
        features = torch.cat([f.to(device) for f in each], 1)
        return _Group(rows, columns, tuple(found), features), Plan(self.plan.dims, tuple(left))

    def values(self, moments: Mapping[Block, Moments], free: tuple[Tensor, ...]) -> Tensor:
        """The expectation along the plan's dims."""
        group, rest = self._split
        if group is None:
            return self.plan.values(moments, free)
        device = common_device(moments[b].leaves[0] for b in self.plan.blocks)
        known: dict[int, Tensor] = {}
        table = torch.cat([_columns(m, group, moments, known, device) for m in group.members], 1)
        value = table @ group.features.to(device).T
        axes = group.columns + group.rows
        order = [axes.index(a) for a in self.plan.out]
        value = value.reshape([a.size for a in axes]).permute(order).reshape(self._shape)
        return rest.values(moments, free) + value if rest.products else value

    def coefficients(
        self,
        moments: Mapping[Block, Moments],
        free: tuple[Tensor, ...],
        block: Block,
        weights: Tensor,
    ) -> dict[Statistic, Tensor] | None:
        """What multiplies each mean parameter of a block in the weighted sum of the values."""
        group, rest = self._split
        if group is None or weights.shape != self._shape:
            return self.plan.coefficients(moments, free, block, weights)
        total = rest.coefficients(moments, free, block, weights) if rest.products else {}
        if total is None:
            return None
        known: dict[int, Tensor] = {}
        each = self._weigh(group, weights).split([m.width for m in group.members], 1)
        for member, own in zip(group.members, each, strict=True):
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

    def _weigh(self, group: _Group, weights: Tensor) -> Tensor:
        """The weighted sums of the features; once for the same weights. # shape: (columns, F)"""
        if self._weighed is None or self._weighed[0] is not weights:
            out = self.plan.out
            order = [out.index(a) for a in group.columns + group.rows]
            laid = weights.reshape([a.size for a in out]).permute(order)
            table = laid.reshape(-1, len(group.features)) @ group.features.to(weights.device)
            self._weighed = (weights, table)
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


def _is_finite(product: Product) -> bool:
    """Whether a product may be a column of a matrix: the log of what cannot be may not.

    It is -inf, and in the derivative of the matrix's product it would meet zeros.
    """
    if product.stats:
        return True
    return all(host.settled(constant.isfinite().all()) for constant, _ in product.constants)


def _features(member: _Member, rows: tuple[Axis, ...]) -> Tensor:
    """The constants of a product. # shape: (rows, width)"""
    value = along(list(member.product.constants), rows + member.over)
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
    value = along(operands, group.columns + member.over)
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

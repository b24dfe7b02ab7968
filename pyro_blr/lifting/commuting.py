# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Moving rearrangements in front of elementwise functions: ``exp(u)[i]`` is ``exp(u[i])``.

Where a log density has one scalar of shape (items,) and one of shape (responses,), the first is
indexed behind an elementwise function. With the indexing in front, both have the shape of the
responses, and their covariance is elementwise.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .elementwise import is_affine, is_elementwise, rearranges
from .tensor import Call, LiftedTensor

Move = Callable[[Any], Any]


class _Stuck(Exception):
    """A rearrangement that joins tensors or has several results stays where it is."""


def commuted(density: LiftedTensor) -> LiftedTensor | None:
    """The same program with every rearrangement at an affine node, or None if one cannot move.

    Its nodes have no polynomials but for the affine ones.
    """
    try:
        return _Commuting().of(density)
    except _Stuck:
        return None


class _Commuting:
    """One rewriting of a program; every node is rewritten once."""

    def __init__(self) -> None:
        self._rewritten: dict[int, LiftedTensor] = {}
        self._moved: dict[tuple[int, int], tuple[Call, LiftedTensor, LiftedTensor]] = {}

    def of(self, node: LiftedTensor) -> LiftedTensor:
        """A node with the rearrangements in it moved inwards."""
        if is_affine(node):
            return node
        if id(node) not in self._rewritten:
            self._rewritten[id(node)] = self._rewrite(node)
        return self._rewritten[id(node)]

    def _rewrite(self, node: LiftedTensor) -> LiftedTensor:
        call = node.call
        if call is None or not is_elementwise(node):
            raise _Stuck
        if not rearranges(node):
            inputs = {id(n): self.of(n) for n in call.inputs}
            return _again(node, node.shape, lambda value: inputs.get(id(value), value))
        first, *more = call.inputs
        if more or call.args[0] is not first:
            raise _Stuck
        return self._move(call, self.of(first))

    def _move(self, call: Call, inner: LiftedTensor) -> LiftedTensor:
        """The rearrangement of a rewritten node."""
        key = (id(call), id(inner))
        if key not in self._moved:
            self._moved[key] = (call, inner, self._moved_once(call, inner))
        return self._moved[key][2]

    def _moved_once(self, call: Call, inner: LiftedTensor) -> LiftedTensor:
        if is_affine(inner):
            moved: LiftedTensor = _applied(call, inner)
            return moved
        if inner.call is None or hasattr(inner.call.function, "elementwise"):
            raise _Stuck  # a log density holds tensors that are not among its arguments

        def move(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.dim() == 0:
                return value
            if isinstance(value, LiftedTensor):
                if value.shape != inner.shape:
                    expand = Call(torch.Tensor.expand, (value, inner.shape), {})
                    value = self._move(expand, value)
                return self._move(call, value)
            return _applied(call, value.expand(inner.shape))

        shape = _applied(call, torch.empty(inner.shape, device="meta")).shape
        return _again(inner, shape, move)


def _applied(call: Call, value: Any) -> Any:
    """A rearrangement of one tensor; a lifted one must stay affine."""
    result = call.function(value, *call.args[1:], **call.kwargs)
    if not isinstance(result, Tensor):
        raise _Stuck
    if isinstance(result, LiftedTensor) and not is_affine(result):
        raise _Stuck
    return result


def _again(node: LiftedTensor, shape: torch.Size, change: Move) -> LiftedTensor:
    """The node's call on changed arguments."""
    assert node.call is not None
    args, kwargs = node.call.args, node.call.kwargs
    if any(isinstance(a, list | tuple) for a in (*args, *kwargs.values())):
        raise _Stuck
    changed = Call(
        node.call.function, tuple(map(change, args)), {k: change(v) for k, v in kwargs.items()}
    )
    return LiftedTensor(
        shape,
        node.dtype,
        node.device,
        poly=None,
        call=changed,
        output=node.output,
        reason=node.reason,
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A call with its tensors taken out: hashable, and filled again with others.

What torch itself does with a call is asked of torch: its errors, shapes and dtypes by running it on
the meta device (:func:`on_meta`), its index maps and matrices by running it on numbered elements
and on unit vectors (``operations.moving``, ``operations.linear``).
"""

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils import _pytree as pytree

from .result_kinds import Kind, kind_by_rule
from .tensor import Call, LiftedTensor


@dataclass(frozen=True)
class Slot:
    """The place of a tensor: the number of a lifted or of a given one."""

    lifted: bool
    number: int


@dataclass(frozen=True)
class Node:
    """A container in the arguments, with what it holds."""

    kind: type
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Template:
    """A torch function and its arguments, with slots in the place of tensors.

    :param function: the torch function.
    :param form: its arguments, positional and by keyword.
    """

    function: Any
    form: Node

    def filled(self, lifted: Sequence[Any], given: Sequence[Any]) -> Any:
        """The call with tensors in its slots."""
        args, kwargs = _filled(self.form, lifted, given)
        return self.function(*args, **kwargs)


def take_apart(call: Call) -> tuple[Template, list[LiftedTensor], list[Tensor]]:
    """The template of a call, its lifted tensors and its given ones."""
    lifted: list[LiftedTensor] = []
    given: list[Tensor] = []
    form = _form((tuple(call.args), dict(call.kwargs)), lifted, given)
    return Template(call.function, form), lifted, given


def _form(value: Any, lifted: list[LiftedTensor], given: list[Tensor]) -> Any:
    if isinstance(value, LiftedTensor):
        lifted.append(value)
        return Slot(True, len(lifted) - 1)
    if isinstance(value, Tensor):
        given.append(value)
        return Slot(False, len(given) - 1)
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return Node(kind, tuple(_form(v, lifted, given) for v in value))
    if isinstance(value, Mapping):
        return Node(dict, tuple((k, _form(v, lifted, given)) for k, v in value.items()))
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return Node(slice, tuple(_form(v, lifted, given) for v in parts))
    return value


def _filled(form: Any, lifted: Sequence[Any], given: Sequence[Any]) -> Any:
    if isinstance(form, Slot):
        return (lifted if form.lifted else given)[form.number]
    if not isinstance(form, Node):
        return form
    if form.kind is dict:
        return {k: _filled(v, lifted, given) for k, v in form.items}
    values = [_filled(v, lifted, given) for v in form.items]
    if form.kind is slice:
        return slice(*values)
    return form.kind(values)


#: What runs on the meta device in the place of functions that know sparse tensors only.
_DENSE = {"_sparse_mm": torch.mm, "_sparse_addmm": torch.addmm, "smm": torch.mm}


def on_meta(call: Call) -> Any:
    """The results of a call without their values: shapes and dtypes as torch has them.

    :raises NotImplementedError: if they depend on values.
    """
    plain = _plain_arguments(call)
    if plain is None:
        return _by_template(call)
    # 1 and 1.0 are equal, and have different results.
    key = (call.function, torch.get_default_dtype(), *((type(a), a) for a in plain))
    if key in _PLAIN_RESULTS:
        return _PLAIN_RESULTS[key]
    kind = kind_by_rule(call.function, plain)
    result = _by_template(call) if kind is None else _empty(kind)
    if len(_PLAIN_RESULTS) < MOST_PLAIN:
        _PLAIN_RESULTS[key] = result
    return result


#: Results of calls on tensors and numbers, which a loop over time makes by the thousand.
_PLAIN_RESULTS: dict[tuple[Any, ...], Any] = {}
MOST_PLAIN = 4096
_OF_TORCH = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)


def _plain_arguments(call: Call) -> list[Any] | None:
    """Numbers and kinds of tensors, if these and the function are all that a call depends on."""
    if call.kwargs or not _is_torchs(call.function):
        return None  # functions that are made for a call would fill the table
    found: list[Any] = []
    for argument in call.args:
        if isinstance(argument, LiftedTensor):
            found.append(argument.kind)
        elif isinstance(argument, Tensor):
            found.append((argument.shape, argument.dtype))
        elif type(argument) in (int, float):
            found.append(argument)
        else:
            return None
    return found


def _is_torchs(function: Any) -> bool:
    if isinstance(function, _OF_TORCH):
        return True
    is_function = isinstance(function, types.FunctionType)
    return is_function and function.__module__.partition(".")[0] == "torch"


def _by_template(call: Call) -> Any:
    template, lifted, given = take_apart(call)
    dense = _DENSE.get(call.name)
    if dense is not None:
        template = Template(dense, template.form)
    kinds = tuple(t.kind for t in lifted), tuple((t.shape, t.dtype) for t in given)
    try:
        hash(template)
    except TypeError:  # an argument that no key can hold
        return _run_on_meta.__wrapped__(template, *kinds, torch.get_default_dtype())
    return _run_on_meta(template, *kinds, torch.get_default_dtype())


def _empty(kind: Kind) -> Tensor:
    shape, dtype = kind
    return torch.empty(shape, dtype=dtype, device="meta")


def _empty_or_index(kind: Kind) -> Tensor | int:
    shape, dtype = kind
    whole = (torch.long, torch.int, torch.short, torch.uint8)
    return 0 if not shape and dtype in whole else _empty(kind)


@lru_cache(maxsize=4096)
def _run_on_meta(
    template: Template, lifted: tuple[Kind, ...], given: tuple[Kind, ...], default: torch.dtype
) -> Any:
    try:
        # torch reads an index without dims; a class among them picks as any number does.
        is_index = getattr(template.function, "__name__", "") == "__getitem__"
        make = _empty_or_index if is_index else _empty
        return template.filled([make(k) for k in lifted], [make(k) for k in given])
    except RuntimeError as error:
        if "meta tensor" not in str(error):
            raise
        raise NotImplementedError("the result depends on values") from error


def from_shapes(compute: Callable[..., Any], tensors: Sequence[Tensor], *extra: Any) -> Any:
    """``compute(tensors, *extra)``, with values where no tensors are given.

    Tables that are made from shapes alone have values also while the tensors of a model are fake;
    copies of them are then as fake as the rest.
    """
    if tensors:
        return compute(tensors, *extra)
    with unset_fake_temporarily():
        made = compute(tensors, *extra)
    return pytree.tree_map_only(Tensor, Tensor.clone, made)

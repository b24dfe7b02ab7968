# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What happens when a torch function meets a lifted tensor: it is recorded, or refused."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .polynomial import Polynomial
from .recall import recalled
from .template import on_meta
from .tensor import (
    BELOW,
    Call,
    LiftedTensor,
    control_flow,
    function_name,
    polynomial_of,
    put_together,
    replay,
    taken_apart,
)
from .terms import NotPolynomial

Operation = Callable[..., Any]


@dataclass(frozen=True)
class WholeCall:
    """A handler that takes the recorded call itself, to run torch's own function on other values.

    :param handle: from the call to polynomials.
    :param keeps: what it keeps, in words for the documentation.
    """

    handle: Callable[[Call], Any]
    keeps: str


#: Operations that keep a polynomial, by the torch function's name; see ``operations``.
OPERATIONS: dict[str, Operation | WholeCall] = {}

_METADATA = frozenset(
    """
    size dim ndimension numel nelement element_size is_floating_point is_complex is_contiguous
    stride get_device is_signed is_tensor type_as_dtype requires_grad_ __hash__ storage_offset
    is_inference is_same_size _is_view is_nonzero_shape has_names is_conj is_neg is_storage
    result_type register_hook retain_grad __len__ __repr__
    """.split()  # noqa: SIM905 - a table reads better than one word a line
)
_ATTRIBUTES = frozenset(
    """
    shape ndim dtype device requires_grad is_leaf layout grad_fn grad is_cuda is_sparse is_meta
    names is_quantized is_mkldnn is_cpu itemsize nbytes _version output_nr is_nested retains_grad
    """.split()  # noqa: SIM905
)
_SHAPE_ATTRIBUTES = {"T": "t_all", "mT": "mT", "H": "t_all", "mH": "mT"}
_IDENTITY_ATTRIBUTES = frozenset({"data", "real"})

#: They take a dtype and a device from the lifted tensor and nothing else.
_FACTORIES = frozenset({"new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"})

#: Options by which a gradient is another than the derivative of the value, which draws need.
_GRADIENT_OPTIONS: Mapping[str, frozenset[str]] = {
    "embedding": frozenset({"padding_idx", "scale_grad_by_freq", "sparse"}),
    "embedding_bag": frozenset({"scale_grad_by_freq", "sparse"}),
}

_REFUSED = {
    "__bool__": ("`if`, `while`, `and` or `bool()`", "write the branch with torch.where"),
    "is_nonzero": ("`is_nonzero`", "write the branch with torch.where"),
    "__contains__": ("`in`", "compare with torch.eq"),
    "equal": ("`torch.equal`", "compare with torch.eq"),
    "allclose": ("`torch.allclose`", "compare with torch.isclose"),
    "_is_all_true": ("a check of values", "leave the check out of the model"),
    "_is_any_true": ("a check of values", "leave the check out of the model"),
    "__float__": ("`float()` or `torch.tensor`", "keep it a tensor; join latents by torch.stack"),
    "__int__": ("`int()`", "keep it a tensor"),
    "__complex__": ("`complex()`", "keep it a tensor"),
    "__index__": ("an index or `range()`", "index with torch.gather or sum over the cases"),
    "item": ("`.item()`", "keep it a tensor"),
    "tolist": ("`.tolist()`", "keep it a tensor; join latents by torch.stack"),
    "numpy": ("`.numpy()`", "use the torch function of the same name"),
    "__array__": ("NumPy", "use the torch function of the same name"),
    "__dlpack__": ("DLPack", "use the torch function of the same name"),
    "nonzero": ("`nonzero`", "use torch.where with three arguments"),
    "unique": ("`unique`", "its result has no fixed shape; leave it out of the model"),
    "masked_select": ("`masked_select`", "multiply by the mask instead"),
    "data_ptr": ("its memory", "keep it a tensor"),
    "untyped_storage": ("its memory", "keep it a tensor"),
    "backward": ("`backward`", "leave differentiation to BLR"),
}
_SET_ITEM = (
    "an assignment into a tensor",
    "build the tensor with torch.stack, torch.cat or torch.where",
)
_IN_PLACE = (
    "an in-place operation",
    "use the operation without the trailing underscore, as in `x = x + 1`",
)


def dispatch(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run a torch function on arguments with lifted tensors among them."""
    name = function_name(func)
    if name in ("__get__", "__set__", "__delete__"):
        return _attribute(func, name, args)
    if name in _REFUSED:
        raise control_flow(_REFUSED[name][0], args, _REFUSED[name][1])
    if name in ("__setitem__", "index_put_", "copy_", "fill_", "masked_fill_", "scatter_"):
        raise control_flow(_SET_ITEM[0], (args, kwargs), _SET_ITEM[1])
    if name in _METADATA:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)
    if name in _FACTORIES:
        like = torch.empty((), dtype=args[0].dtype, device=args[0].device)
        return getattr(like, name)(*args[1:], **kwargs)
    if name in ("pow", "__pow__") and _is_zero(args[1] if len(args) > 1 else kwargs["exponent"]):
        base = args[0] if args else kwargs["self" if "self" in kwargs else "input"]
        return torch.ones(base.shape, dtype=base.dtype, device=base.device)  # a latent no more
    if _in_place(name) or kwargs.get("out") is not None:
        raise control_flow(_IN_PLACE[0], (args, kwargs), _IN_PLACE[1])
    if name in _GRADIENT_OPTIONS:
        kwargs = {k: v for k, v in kwargs.items() if k not in _GRADIENT_OPTIONS[name]}
        # Here torch.nn.functional gives them by name; torch.embedding takes them by place as well.
        args = args[:2] if func is torch.embedding else args
    return record(func, name, args, kwargs)


def _is_zero(exponent: Any) -> bool:
    return type(exponent) in (int, float) and exponent == 0


def _in_place(name: str) -> bool:
    dunder = name.startswith("__")
    augmented = dunder and name.startswith("__i") and name not in ("__invert__", "__index__")
    return augmented or (not dunder and name.endswith("_") and not name.startswith("_"))


def _attribute(func: Callable[..., Any], name: str, args: tuple[Any, ...]) -> Any:
    attribute = getattr(func.__self__, "__name__", "")  # type: ignore[attr-defined]
    if name != "__get__":
        raise control_flow(f"an assignment to `.{attribute}`", args, _IN_PLACE[1])
    if attribute in ("real", "imag") and args[0].is_complex():
        return record(func, attribute, args, {})
    if attribute in _IDENTITY_ATTRIBUTES:
        return args[0]
    if attribute in _SHAPE_ATTRIBUTES:
        return record(func, _SHAPE_ATTRIBUTES[attribute], args, {})
    if attribute in _ATTRIBUTES:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args)
    raise control_flow(f"`.{attribute}`", args, "use a torch function instead")


def record(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Record a call, and keep the polynomial if the operation allows it.

    :raises Exception: what torch itself raises for these shapes and arguments.
    """
    call = Call(func, args, kwargs)
    if any(_is_transformed(t) for t in call.tensors):
        raise control_flow("a transform of torch.func", (args, kwargs), BELOW)
    operation = OPERATIONS.get(name)
    if operation is None:
        reason = _first_reason(call.inputs) or f"`{name}` has no closed-form expectation"
        return _wrap_unknown(call, reason)
    try:
        expected = on_meta(call)
    except NotImplementedError:  # its result's shape depends on values: a boolean mask's does
        expected = None
    left = _first_reason(call.inputs)
    if left and not isinstance(operation, WholeCall):  # no polynomial comes of one that is none
        return _wrap_unknown(call, _named(left, name), expected)
    try:
        result = recalled(name, lambda: _run_operation(operation, name, call), (args, kwargs))
        return _wrap_polynomials(call, name, result, expected)
    except NotPolynomial as error:
        reason = _named(str(error), name)
    return _wrap_unknown(call, reason, expected)


def _named(reason: str, name: str) -> str:
    """A reason with the operation's name, if it has none."""
    return reason if "`" in reason else f"`{name}`: {reason}"


def _run_operation(operation: Operation | WholeCall, name: str, call: Call) -> Any:
    """The polynomial of a call; one that its handler does not understand leaves the algebra."""
    if name not in _SPARSE and any(
        t.layout != torch.strided for t in call.tensors if not isinstance(t, LiftedTensor)
    ):
        raise NotPolynomial(f"`{name}` with a sparse tensor")
    try:
        if isinstance(operation, WholeCall):
            return operation.handle(call)
        arguments = [polynomial_of(a) for a in call.args]
        keywords = {k: polynomial_of(v) for k, v in call.kwargs.items()}
        if keywords:
            first, rest, keywords = _renamed(operation, keywords)
            arguments = [*first, *arguments, *rest]
        return operation(*arguments, **keywords)
    except TypeError as error:
        raise NotPolynomial(f"`{name}` with these arguments ({error})") from error


#: Operations that know sparse constants.
_SPARSE = frozenset({"matmul", "__matmul__", "__rmatmul__", "mm", "mv", "_sparse_mm", "smm"})

#: Torch's names of arguments, and what handlers call them: the first that is a handler's own.
_SYNONYMS = {
    **{"axis": ("dim",), "keepdims": ("keepdim",), "size": ("shape",), "sizes": ("shape",)},
    **dict.fromkeys(("input", "self"), ("start", "base", "left", "value", "index")),
    **dict.fromkeys(("mat", "mat1", "batch1", "vec1", "tensor1", "x", "x1", "a"), ("left",)),
    **dict.fromkeys(("mat2", "batch2", "vec2", "vec", "tensor2", "tensor", "y", "x2"), ("right",)),
    **{"b": ("right",), "other": ("right",)},
}


def _renamed(
    operation: Operation, keywords: dict[str, Any]
) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Keywords by the names of the handler's parameters; what it takes by position is apart.

    :returns: what stands first and last by position, and the keywords.
    """
    own, spread = _parameters(operation)
    named: dict[str, Any] = {}
    rest: list[Any] = []
    for keyword, value in keywords.items():
        choices = (keyword, *_SYNONYMS.get(keyword, ()))
        name = next((c for c in choices if c in own), keyword)
        if name == spread:
            rest.append(value)
        else:
            named[name] = value
    first = [named.pop(own[0])] if rest and own[0] in named else []
    return first, rest, named


@lru_cache(maxsize=1024)
def _parameters(operation: Operation) -> tuple[tuple[str, ...], str | None]:
    """The names of a handler's parameters, and of the one that takes the positional rest."""
    parameters = inspect.signature(operation).parameters.values()
    spread = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    return tuple(p.name for p in parameters if p.kind is not p.VAR_KEYWORD), spread


def _is_transformed(tensor: Tensor) -> bool:
    """Whether a tensor stands for a batch or a tangent of torch.func, which a record would lose."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def _first_reason(inputs: list[LiftedTensor]) -> str:
    return next((t.reason for t in inputs if t.poly is None), "")


def _wrap_polynomials(call: Call, name: str, result: Any, expected: Any) -> Any:
    """Wrap the outputs of a call; torch has said what their shapes and dtypes are.

    A handler that reads an argument otherwise than torch does is never silently believed.
    """
    device = call.inputs[0].device
    polynomials = (result,) if isinstance(result, Polynomial) else tuple(result)
    if expected is None:
        dtype = _result_dtype(call)
        kinds = [(p.shape, dtype) for p in polynomials]
        spec = None if len(kinds) == 1 else pytree.tree_structure(polynomials)
    else:
        leaves, spec = taken_apart(expected)
        kinds = [(t.shape, t.dtype) for t in leaves]
    if [p.shape for p in polynomials] != [shape for shape, _ in kinds]:
        raise NotPolynomial(f"`{name}` with these arguments")
    counts = all(_is_integer(t.dtype) for t in call.inputs)
    for own, (_, dtype) in zip(polynomials, kinds, strict=True):
        is_count = _is_integer(dtype) and (counts or own.is_integral)
        if not dtype.is_floating_point and not is_count:
            raise NotPolynomial(f"`{name}` to {dtype}")
    wrapped = [
        LiftedTensor(p.shape, dtype, device, poly=p, call=call, output=i)
        for i, (p, (_, dtype)) in enumerate(zip(polynomials, kinds, strict=True))
    ]
    return put_together(wrapped, spec)


def _is_integer(dtype: torch.dtype) -> bool:
    """Whether a dtype holds the values of a class; what rounds a number to one is refused."""
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def _wrap_unknown(call: Call, reason: str, expected: Any = None) -> Any:
    """Wrap the outputs of a call without a polynomial.

    :param expected: the results on the meta device, where they are known already.
    """
    device = call.inputs[0].device
    if expected is None:
        try:
            expected = on_meta(call)
        except (NotImplementedError, RuntimeError) as error:
            name = call.name or str(call.function)
            mend = f"its result's shape must not depend on values, nor its call fail ({error})"
            raise control_flow(f"`{name}`", call.inputs, mend) from error
    leaves, spec = taken_apart(expected)
    wrapped = [
        LiftedTensor(t.shape, t.dtype, device, poly=None, call=call, output=i, reason=reason)
        if isinstance(t, Tensor)
        else t
        for i, t in enumerate(leaves)
    ]
    known = {id(t): p for t in call.inputs if (p := _constant(t)) is not None}
    if len(known) == len({id(t) for t in call.inputs}):
        wrapped = replay(wrapped, known)
    return put_together(wrapped, spec)


def _constant(value: LiftedTensor) -> Tensor | None:
    """The value of a tensor in which no latent is left: a part of what was put beside one."""
    if value.poly is None or not value.poly.is_constant:
        return None
    return value.poly.constant_value().to(value.device, value.dtype)


def _result_dtype(call: Call) -> torch.dtype:
    """Torch's promotion among the floating arguments: tensors with dims before 0-d ones."""
    named = call.kwargs.get("dtype")
    if isinstance(named, torch.dtype) and named.is_floating_point:
        return named
    arrays: torch.dtype | None = None
    scalars: torch.dtype | None = None
    for tensor in call.tensors:
        if not tensor.dtype.is_floating_point:
            continue
        if tensor.dim():
            arrays = torch.promote_types(arrays or tensor.dtype, tensor.dtype)
        else:
            scalars = (
                tensor.dtype if scalars is None else torch.promote_types(scalars, tensor.dtype)
            )
    return arrays or scalars or call.inputs[0].dtype

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Lifted tensors: what a latent's value is while the model runs.

A :class:`LiftedTensor` is a ``torch.Tensor`` without storage. Ordinary torch operations on it are
recorded through ``__torch_function__``: the call itself (so that the very program of the user can
be replayed on draws or at quadrature nodes) and, as long as the operations allow, the polynomial
that the value is (so that expectations can be exact). A value without a polynomial keeps the
reason.

Since a draw is the replay of recorded calls on one draw of each latent, every occurrence of a
latent in a factor sees the same draw: provenance needs no bookkeeping.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import ControlFlowError
from .polynomial import Polynomial, leaf
from .recall import recalled
from .terms import LatentSite, NotPolynomial

_counter = itertools.count()


class Call:
    """One recorded call of a torch function; its results are shared by the outputs.

    :param function: the torch function.
    :param args: its arguments, lifted tensors among them. Lists are copied: a model may append to
        one that it has stacked.
    """

    __slots__ = ("args", "function", "inputs", "kwargs", "order", "tensors")

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.function = function
        self.args = tuple(_copied(a) for a in args)
        self.kwargs = {name: _copied(a) for name, a in kwargs.items()}
        #: The tensors among the arguments, and the lifted ones among these.
        self.tensors = tensors_in((self.args, self.kwargs))
        self.inputs = [t for t in self.tensors if isinstance(t, LiftedTensor)]
        self.order = next(_counter)

    @property
    def name(self) -> str:
        """The name of the torch function."""
        return function_name(self.function)


def function_name(function: Any) -> str:
    """The name of a torch function, without the overload of a custom one (``bump.default``)."""
    name: str = getattr(function, "__name__", "")
    return name.partition(".")[0]


def _copied(argument: Any) -> Any:
    return list(argument) if type(argument) is list else argument


class LiftedTensor(torch.Tensor):
    """A latent's value, or anything computed from one. See the module's docstring."""

    #: The latent, for the leaves of the recorded program.
    site: LatentSite | None
    #: The recorded call and the place among its outputs, for everything else.
    call: Call | None
    output: int
    #: The value in the exact algebra, or None and the reason.
    poly: Polynomial | None
    reason: str
    #: Its shape and dtype.
    kind: tuple[torch.Size, torch.dtype]
    #: Whether it is the value of a latent, made from its variable by q's own transform.
    is_value: bool = False
    #: Of a log density of discrete latents, its sum over their values; see ``enumerated``.
    enumeration: Any = None
    #: The nodes that it depends on, once they are asked for; itself apart, which would be a cycle.
    _behind: "list[LiftedTensor] | None" = None

    def __new__(
        cls,
        shape: Iterable[int],
        dtype: torch.dtype,
        device: torch.device,
        *,
        poly: Polynomial | None,
        site: LatentSite | None = None,
        call: Call | None = None,
        output: int = 0,
        reason: str = "",
    ) -> "LiftedTensor":
        size = torch.Size(shape)
        self: LiftedTensor = torch.Tensor._make_wrapper_subclass(
            cls, size, dtype=dtype, device=device
        )
        self.kind = (size, dtype)
        self.site, self.call, self.output = site, call, output
        self.poly, self.reason = poly, reason
        return self

    @classmethod
    def of_site(cls, site: LatentSite, dtype: torch.dtype, device: torch.device) -> "LiftedTensor":
        """The variable of a latent."""
        poly = recalled(site, lambda: leaf(site), ())
        return cls(site.shape, dtype, device, poly=poly, site=site)

    # Attributes of a tensor cost a turn through ``__torch_function__`` each; a trace asks for these
    # some forty times.

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        return self.kind[0]

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.kind[1]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        with torch._C.DisableTorchFunctionSubclass():
            return super().device

    @property
    def ndim(self) -> int:  # type: ignore[override]
        return len(self.kind[0])

    def dim(self) -> int:
        return len(self.kind[0])

    def numel(self) -> int:
        return self.kind[0].numel()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        what = f"latent {self.site.name!r}" if self.site else f"from {', '.join(self.site_names)}"
        return f"<lifted {what}, shape {tuple(self.shape)}>"

    @property
    def sites(self) -> tuple[LatentSite, ...]:
        """The latents that the value depends on."""
        return tuple(n.site for n in program([self]) if n.site is not None)

    @property
    def site_names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(s.name for s in self.sites)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        from .dispatch import dispatch  # the table of operations knows this class

        return dispatch(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        raise control_flow(f"{func} below torch's Python functions", args, BELOW)

    # What has no value asks for it here. Iteration is explicit, or ``for`` would not end.

    def __iter__(self) -> Iterator[Tensor]:
        if self.dim() == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind(0))

    def __len__(self) -> int:
        if self.dim() == 0:
            raise TypeError("len() of a 0-d tensor")
        return int(self.shape[0])

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise control_flow("NumPy", [self], _NUMPY)

    def __deepcopy__(self, memo: dict[int, Any]) -> "LiftedTensor":
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise control_flow("pickle", [self], _PICKLE)


BELOW = (
    "use the torch function itself instead of torch.func.vmap, torch.func.grad or torch.jit around "
    "it (lifted tensors broadcast), or hide the site: AutoNatural(poutine.block(model, hide=[...]))"
)
_PICKLE = (
    "do not store a latent's value outside the model; of blr.influence(...) and blr.info, which "
    "hold the model's program, keep the numbers"
)
_NUMPY = "use the torch function of the same name, so that the operation can be recorded"


#: The last refusal: TorchScript, vmap and others replace an error that passes through them by one
#: of their own, which would hide the mend.
last_refusal: ContextVar[ControlFlowError | None] = ContextVar("pyro_blr_refusal", default=None)


def control_flow(what: str, inputs: Any, mend: str) -> ControlFlowError:
    """The error for a use of a latent that needs its value."""
    names = sorted({n for t in lifted_in(inputs) for n in t.site_names})
    sites = ", ".join(repr(n) for n in names) or "of the model"
    error = ControlFlowError(
        f"latent {sites} is used by {what}, which needs its value; while BLR runs the model a "
        f"latent stands for its whole distribution and has no value. Mend: {mend}."
    )
    last_refusal.set(error)
    return error


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in nested containers."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [t for item in tree for t in tensors_in(item)]


def lifted_in(tree: Any) -> list[LiftedTensor]:
    """The lifted tensors in nested containers."""
    return [t for t in tensors_in(tree) if isinstance(t, LiftedTensor)]


def taken_apart(result: Any) -> tuple[list[Any], Any]:
    """What a call returned as a list, and how it was put together; None for one tensor alone.

    Most calls return one, and each use of pytree leaves a cycle for the garbage collector.
    """
    return ([result], None) if isinstance(result, Tensor) else pytree.tree_flatten(result)


def put_together(leaves: list[Any], spec: Any) -> Any:
    """The inverse."""
    return leaves[0] if spec is None else pytree.tree_unflatten(leaves, spec)


def program(outputs: Iterable[LiftedTensor], given: Collection[Any] = ()) -> list[LiftedTensor]:
    """Every node that the outputs depend on, inputs first.

    :param given: the ``id`` of nodes whose value is known, behind which nothing is needed.
    """
    wanted = list(outputs)
    whole = wanted[0] if len(wanted) == 1 and not given else None
    if whole is not None and whole._behind is not None:
        return [*whole._behind, whole]
    seen: dict[int, LiftedTensor] = {}
    stack = wanted.copy()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen[id(node)] = node
        if node.call is not None and id(node) not in given:
            stack.extend(node.call.inputs)
    nodes = sorted(seen.values(), key=lambda n: -1 if n.call is None else n.call.order)
    if whole is not None:
        whole._behind = nodes[:-1]
    return nodes


def replay(outputs: list[Any], values: Mapping[Any, Tensor]) -> list[Any]:
    """Run the recorded program on values of its leaves.

    :param outputs: lifted tensors, or anything else, which is passed through.
    :param values: a tensor for each leaf, by its :class:`LatentSite`; a value given by ``id`` of
        any other node replaces it (quadrature puts nodes in the place of a predictor), and so does
        one of a constant that a call was given.
    :returns: the values of the outputs.
    """
    done: dict[int, Any] = {key: v for key, v in values.items() if isinstance(key, int)}
    calls: dict[int, list[Any]] = {}

    for node in program(lifted_in(outputs), given=values):
        if id(node) in done:
            continue
        if node.call is None:
            done[id(node)] = values[node.site]
        else:
            call = node.call
            if id(call) not in calls:
                args = tuple(_value_of(a, done) for a in call.args)
                kwargs = {k: _value_of(v, done) for k, v in call.kwargs.items()}
                calls[id(call)] = taken_apart(call.function(*args, **kwargs))[0]
            done[id(node)] = calls[id(call)][node.output]
    return [_value_of(o, done) for o in outputs]


# No function inside replay: one that calls itself is a cycle, which would keep all values.
def _value_of(item: Any, done: Mapping[int, Any]) -> Any:
    """An argument with the values of what was replaced and of lifted tensors in their places."""
    if isinstance(item, LiftedTensor):
        return done[id(item)]
    if isinstance(item, Tensor):
        return done.get(id(item), item)
    if isinstance(item, list | tuple) and any(id(t) in done for t in tensors_in(item)):
        return type(item)(_value_of(i, done) for i in item)
    return item


def polynomial_of(value: Any) -> Any:
    """The algebra's view of an argument: a polynomial for a lifted tensor, anything else as it is.

    :raises NotPolynomial: with the reason, if the tensor has none.
    """
    if isinstance(value, LiftedTensor):
        if value.poly is None:
            raise NotPolynomial(value.reason)
        return value.poly
    if isinstance(value, list | tuple) and lifted_in(value):
        return type(value)(polynomial_of(v) for v in value)
    return value

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
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
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
    :param args: its arguments, lifted tensors among them.
    """

    __slots__ = ("args", "function", "kwargs", "order")

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.order = next(_counter)

    @property
    def inputs(self) -> list["LiftedTensor"]:
        """The lifted tensors among the arguments."""
        return lifted_in((self.args, self.kwargs))


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
    #: Whether it is the value of a latent, made from its variable by q's own transform.
    is_value: bool = False

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
        self: LiftedTensor = torch.Tensor._make_wrapper_subclass(
            cls, torch.Size(shape), dtype=dtype, device=device
        )
        self.site, self.call, self.output = site, call, output
        self.poly, self.reason = poly, reason
        return self

    @classmethod
    def of_site(cls, site: LatentSite, dtype: torch.dtype, device: torch.device) -> "LiftedTensor":
        """The variable of a latent."""
        poly = recalled(site, lambda: leaf(site), ())
        return cls(site.shape, dtype, device, poly=poly, site=site)

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
        raise control_flow("pickle", [self], "do not store a latent's value outside the model")


BELOW = (
    "use the torch function itself instead of torch.func.vmap, torch.func.grad or torch.jit around "
    "it (lifted tensors broadcast), or hide the site: AutoNatural(poutine.block(model, hide=[...]))"
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


def lifted_in(tree: Any) -> list[LiftedTensor]:
    """The lifted tensors in nested containers."""
    if isinstance(tree, LiftedTensor):
        return [tree]
    if isinstance(tree, list | tuple):
        return [t for item in tree for t in lifted_in(item)]
    if isinstance(tree, Mapping):
        return [t for item in tree.values() for t in lifted_in(item)]
    return []


def program(outputs: Iterable[LiftedTensor], given: Container[Any] = ()) -> list[LiftedTensor]:
    """Every node that the outputs depend on, inputs first.

    :param given: the ``id`` of nodes whose value is known, behind which nothing is needed.
    """
    seen: dict[int, LiftedTensor] = {}
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen[id(node)] = node
        if node.call is not None and id(node) not in given:
            stack.extend(node.call.inputs)
    return sorted(seen.values(), key=lambda n: -1 if n.call is None else n.call.order)


def replay(outputs: list[Any], values: Mapping[Any, Tensor]) -> list[Any]:
    """Run the recorded program on values of its leaves.

    :param outputs: lifted tensors, or anything else, which is passed through.
    :param values: a tensor for each leaf, by its :class:`LatentSite`; a value given by ``id`` of
        any other node replaces it (quadrature puts nodes in the place of a predictor).
    :returns: the values of the outputs.
    """
    done: dict[int, Any] = {}
    calls: dict[int, list[Any]] = {}

    def value_of(item: Any) -> Any:
        if isinstance(item, LiftedTensor):
            return done[id(item)]
        if isinstance(item, list | tuple) and lifted_in(item):
            return type(item)(value_of(i) for i in item)
        return item

    for node in program(lifted_in(outputs), given=values):
        if id(node) in values:
            done[id(node)] = values[id(node)]
        elif node.call is None:
            done[id(node)] = values[node.site]
        else:
            call = node.call
            if id(call) not in calls:
                args = tuple(value_of(a) for a in call.args)
                kwargs = {k: value_of(v) for k, v in call.kwargs.items()}
                calls[id(call)] = pytree.tree_leaves(call.function(*args, **kwargs))
            done[id(node)] = calls[id(call)][node.output]
    return [value_of(o) for o in outputs]


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

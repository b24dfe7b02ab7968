# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Finding the one Gaussian scalar per element that a log density depends on.

The recorded program of a log density is walked from its result towards the latents, through
elementwise operations only, until the values are affine in Gaussian latents. If all these values
are one and the same affine expression f, the density is elementwise a function of the Gaussian
scalar f, and quadrature on the marginal mean and variance of f is its expectation.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .polynomial import key_of
from .tensor import LiftedTensor, program

#: Torch functions that act element by element. Others may too; a name belongs here if and only if
#: each element of the result depends on one element of each (broadcast) argument.
ELEMENTWISE = frozenset(
    """
    abs absolute acos arccos acosh add addcdiv addcmul angle asin asinh atan atan2 ceil celu clamp
    clamp_max clamp_min clip cos cosh deg2rad digamma div divide elu erf erfc erfinv exp exp2 expit
    expm1 float_power floor fmod frac gelu hardsigmoid hardtanh hypot i0 leaky_relu lerp lgamma log
    log10 log1p log2 log_ndtr logaddexp logaddexp2 logit log_sigmoid logsigmoid max maximum min
    minimum mish mul multiply mvlgamma ndtr neg negative polygamma positive pow rad2deg reciprocal
    relu relu6 round rsqrt rsub selu sgn sigmoid sign silu sin sinc sinh softplus softsign sqrt
    square sub subtract tan tanh tanhshrink true_divide trunc where xlog1py xlogy zeta eq ne lt le
    gt ge less greater less_equal greater_equal isfinite isnan logical_and logical_or logical_not
    masked_fill nan_to_num clone contiguous double float to type type_as full_like zeros_like
    ones_like hardshrink softshrink threshold special_expit special_logit special_ndtr
    special_log_ndtr special_erf special_erfc special_erfcx special_xlogy special_xlog1py
    special_exp2 special_expm1 special_log1p special_gammaln __add__ __radd__ __sub__ __rsub__
    __mul__ __rmul__ __truediv__ __rtruediv__ __div__ __rdiv__ __pow__ __rpow__ __neg__ __pos__
    __abs__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __and__ __or__ __invert__
    """.split()  # noqa: SIM905 - a table of words reads better than a list of a hundred lines
)

#: Operations that are linear in their first argument and may stand between the elementwise log
#: density and the factor: its elements' expectations are passed through them.
LINEAR_TAIL = frozenset(
    "sum mean neg __neg__ reshape view squeeze unsqueeze expand broadcast_to".split()  # noqa: SIM905
)


#: Operations that move or repeat elements without mixing them. They name shapes, so that the
#: program has to be mapped over the nodes instead of broadcast.
REARRANGING = frozenset(
    """
    expand expand_as broadcast_to broadcast_tensors reshape view view_as unsqueeze squeeze
    transpose swapaxes permute movedim flatten unflatten t t_all mT __getitem__ index_select
    select narrow flip repeat tile roll unbind split chunk stack cat
    """.split()  # noqa: SIM905 - as above
)


#: Operations with jumps: at draws, the gradient of what they enter lacks the part of the jump.
JUMPING = frozenset(
    """
    sign sgn floor ceil round trunc frac fmod remainder heaviside argmax argmin eq ne lt le gt ge
    less greater less_equal greater_equal logical_and logical_or logical_not bucketize searchsorted
    __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __and__ __or__ __invert__ __floordiv__ __mod__
    """.split()  # noqa: SIM905 - as above
)


@dataclass(frozen=True, eq=False)
class Predictor:
    """The Gaussian scalar of an elementwise log density.

    :param density: the node of the elementwise log density.
    :param nodes: the nodes that are the predictor (equal as polynomials).
    :param rearranges: whether the program from the predictor to the density moves elements.
    """

    density: LiftedTensor
    nodes: tuple[LiftedTensor, ...]
    rearranges: bool

    @property
    def value(self) -> LiftedTensor:
        """The predictor itself."""
        return self.nodes[0]


def _found(density: LiftedTensor, frontier: list[LiftedTensor]) -> Predictor | str:
    """The predictor, if every element of the density depends on one element of it only."""
    between = _between(density, frontier)
    rearranges = any(_name(n) in REARRANGING for n in between)
    if rearranges and not _follows_one_element(density, frontier, between):
        return "it depends on several elements of one Gaussian expression"
    return Predictor(density, tuple(frontier), rearranges)


def _name(node: LiftedTensor) -> str:
    return "" if node.call is None else getattr(node.call.function, "__name__", "")


def _between(density: LiftedTensor, frontier: list[LiftedTensor]) -> list[LiftedTensor]:
    """The nodes from the frontier (left out) to the density, inputs first."""
    found: dict[int, LiftedTensor] = {}
    stop = {id(n) for n in frontier}
    stack = [density]
    while stack:
        node = stack.pop()
        if id(node) in stop or id(node) in found or node.call is None:
            continue
        found[id(node)] = node
        stack.extend(node.call.inputs)
    return [n for n in program([density]) if id(n) in found]


def _follows_one_element(
    density: LiftedTensor, frontier: list[LiftedTensor], between: list[LiftedTensor]
) -> bool:
    """Run the program on element numbers: ``p[0] * p[1]`` meets two, ``p[group]`` one.

    -1 numbers what depends on no element of the predictor.
    """
    numbers = {id(n): torch.arange(n.numel(), device=n.device).reshape(n.shape) for n in frontier}
    for node in between:
        assert node.call is not None
        if _name(node) in REARRANGING:
            numbers[id(node)] = _rearranged(node, numbers)
            continue
        merged = torch.full((), -1, device=density.device)
        for own in (numbers[id(n)] for n in node.call.inputs):
            merged, own = torch.broadcast_tensors(merged, own)
            if bool(((merged != own) & (merged >= 0) & (own >= 0)).any()):
                return False
            merged = torch.maximum(merged, own)
        numbers[id(node)] = merged.expand(torch.broadcast_shapes(merged.shape, node.shape))
    return True


def _rearranged(node: LiftedTensor, numbers: dict[int, Tensor]) -> Tensor:
    call = node.call
    assert call is not None
    joins = _name(node) in ("stack", "cat", "broadcast_tensors")

    def number(value: Any) -> Any:
        if isinstance(value, LiftedTensor):
            return numbers[id(value)]
        if isinstance(value, Tensor) and joins:
            return torch.full_like(value, -1, dtype=torch.long)
        if isinstance(value, list | tuple):
            return type(value)(number(v) for v in value)
        return value

    kwargs = {k: number(v) for k, v in call.kwargs.items()}
    outputs = pytree.tree_leaves(call.function(*(number(a) for a in call.args), **kwargs))
    return outputs[node.output]  # type: ignore[no-any-return]


def jumping_operations(density: LiftedTensor) -> tuple[str, ...]:
    """The operations with jumps that a log density went through."""
    return tuple(sorted({_name(n) for n in program([density])} & JUMPING))


def is_elementwise(node: LiftedTensor) -> bool:
    """Whether a node was computed element by element."""
    assert node.call is not None
    declared = getattr(node.call.function, "elementwise", None)
    if declared is not None:
        return bool(declared)
    name = getattr(node.call.function, "__name__", "")
    if name in ("max", "min", "sum", "mean"):  # elementwise only in their two-tensor form
        return (
            name in ("max", "min")
            and len(node.call.args) == 2
            and hasattr(node.call.args[1], "dim")
        )
    return name in ELEMENTWISE or name in REARRANGING


def is_affine(node: LiftedTensor) -> bool:
    """Whether a node is affine in Gaussian latents, with constant coefficients."""
    return node.poly is not None and all(
        t.is_constant
        or (
            len(t.atoms) == 1
            and not t.exponentials
            and t.atoms[0].site.gaussian
            and t.atoms[0].kind == "power"
            and t.atoms[0].power == 1
        )
        for t in node.poly.terms
    )


def find_predictor(density: LiftedTensor) -> Predictor | str:
    """The predictor of a log density, or the reason why there is none."""
    while density.call is not None and _is_tail(density):
        (density,) = density.call.inputs
    found = _frontier(density)
    if isinstance(found, str):
        return found
    frontier = found
    while True:
        keys = {id(n): _key(n) for n in frontier}
        if len(set(keys.values())) == 1:
            return _found(density, frontier)
        expanded = _expand_last(frontier)
        if expanded is None:
            return "it depends on several Gaussian scalars per element"
        frontier = expanded


def _is_tail(node: LiftedTensor) -> bool:
    assert node.call is not None
    name = getattr(node.call.function, "__name__", "")
    return name in LINEAR_TAIL and len(node.call.inputs) == 1 and not is_affine(node)


def _key(node: LiftedTensor) -> object:
    assert node.poly is not None
    structure, free = key_of(node.poly)
    return structure, tuple(id(t) for t in free)


def _frontier(density: LiftedTensor) -> list[LiftedTensor] | str:
    """The nearest affine nodes on every path, through elementwise operations."""
    frontier: dict[int, LiftedTensor] = {}
    seen: set[int] = set()
    stack = [density]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if is_affine(node):
            frontier[id(node)] = node
        elif node.call is None or not is_elementwise(node):
            return node.reason or f"{node!r} is not Gaussian"
        else:
            stack.extend(node.call.inputs)
    return list(frontier.values())


def _expand_last(frontier: list[LiftedTensor]) -> list[LiftedTensor] | None:
    """Replace the node recorded last by its inputs, if it was computed element by element."""
    order = {id(n): i for i, n in enumerate(program(frontier))}
    last = max(frontier, key=lambda n: order[id(n)])
    if last.call is None or not is_elementwise(last):
        return None
    inputs = last.call.inputs
    if not all(is_affine(n) for n in inputs):
        return None
    rest = [n for n in frontier if n is not last]
    return list({id(n): n for n in (*rest, *inputs)}.values())

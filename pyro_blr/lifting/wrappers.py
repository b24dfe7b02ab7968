# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities of any distribution at lifted values or with lifted parts, wrappers taken apart.

A wrapper's log density follows from its base's: events are summed, masks multiply, a change of
variables is undone on the value. What has no rule here is one recorded call of its ``log_prob``.
"""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions.transforms import IndependentTransform, Transform
from torch.nn.functional import logsigmoid

from ..errors import ControlFlowError
from ..shapes import broadcast_shapes
from . import constants
from .declared import event_dim_of
from .densities import Density, density_of
from .distribution import LiftedDistribution
from .polynomial import Polynomial
from .recall import recalled
from .recorded import LogDensity, density_dtype, lifted_parts, no_formula
from .tensor import LiftedTensor, last_refusal, polynomial_of
from .terms import NotPolynomial
from .transforms import inverse, log_jacobian, same_transform, sum_rightmost

_Transformed = torch.distributions.TransformedDistribution


def log_density(fn: Any, value: Any) -> Any:
    """The log density of a site along its batch dims: lifted where anything in it is.

    :param fn: any Pyro distribution, lifted or not, with its wrappers.
    """
    if isinstance(fn, LiftedDistribution):
        return fn.log_prob(value)
    holds_lifted = bool(lifted_parts(fn))
    if not isinstance(value, LiftedTensor) and not holds_lifted:
        return fn.log_prob(value)
    rule = _rule_of(fn)
    if rule is None:
        return _own(fn, value) if holds_lifted else _of_plain(fn, value)
    before = last_refusal.get()
    try:
        result = rule(fn, value)
    except (ControlFlowError, NotImplementedError):
        last_refusal.set(before)
        return _opaque(fn, value, no_formula(fn))
    one_element = not holds_lifted and not fn.event_shape
    if one_element and isinstance(result, LiftedTensor) and result.poly is None:
        # As one call it is a function of each element, whatever its code goes through.
        return _opaque(fn, value, NotPolynomial(result.reason))
    return result


def without_mask(fn: Any) -> tuple[Any, Any]:
    """A distribution without the constant masks of its whole events, and these as one, or None."""
    masks: list[Any] = []
    if isinstance(fn, LiftedDistribution):
        masks = [mask for level, mask in fn.masks if level == fn.reinterpreted]
        if any(isinstance(mask, LiftedTensor) for mask in masks):
            return fn, None
        kept = tuple(pair for pair in fn.masks if pair[0] != fn.reinterpreted)
        fn = fn.with_masks(kept) if masks else fn
    while isinstance(fn, dist.MaskedDistribution) and not isinstance(fn._mask, LiftedTensor):
        masks.append(fn._mask)
        fn = fn.base_dist
    total: Any = None
    for mask in masks:
        total = both_masks(total, mask)
    shape = broadcast_shapes(getattr(total, "shape", ()), fn.batch_shape)
    return fn if shape == fn.batch_shape else fn.expand(shape), total


def both_masks(first: Any, second: Any) -> Any:
    """What two masks leave; None and True leave everything. Of the same ones it is the same."""
    if first is None or second is None or first is True or second is True:
        return second if first is None or first is True else first
    if first is False or second is False:
        return False
    return constants.memo(torch.logical_and, (first, second))


def _rule_of(fn: Any) -> Callable[[Any, Any], Any] | None:
    kinds = type(fn).__mro__
    for kind, rule in _RULES.items():
        if kind in kinds:
            return rule
    if density_of(type(fn)) is not None:
        return None
    if dist.FoldedDistribution in kinds:
        return _folded
    if type(fn) is dist.ZeroInflatedDistribution:
        return _zero_inflated
    if isinstance(fn, _Transformed) and type(fn).log_prob is _Transformed.log_prob:
        return _transformed
    return None


def _independent(fn: Any, value: Any) -> Any:
    inner = log_density(fn.base_dist, value)
    shape = broadcast_shapes(inner.shape, fn.base_dist.batch_shape)
    inner = inner if tuple(inner.shape) == tuple(shape) else inner.expand(shape)
    return sum_rightmost(inner, fn.reinterpreted_batch_ndims)


def _expanded(fn: Any, value: Any) -> Any:
    inner = log_density(fn.base_dist, value)
    return inner.expand(broadcast_shapes(inner.shape, fn.batch_shape))


def _masked(fn: Any, value: Any) -> Any:
    mask = fn._mask
    inner = log_density(fn.base_dist, value)
    return inner * (mask if isinstance(mask, Tensor) else float(mask))


#: The rules of wrappers, whatever is within.
_RULES: dict[type, Callable[[Any, Any], Any]] = {
    torch.distributions.Independent: _independent,
    ExpandedDistribution: _expanded,
    dist.MaskedDistribution: _masked,
}


def _folded(fn: Any, value: Any) -> Any:
    """``log(p(value) + p(-value))``."""
    negative = -value
    return torch.logaddexp(log_density(fn.base_dist, value), log_density(fn.base_dist, negative))


def _zero_inflated(fn: Any, value: Any) -> Any:
    """``log((1 - gate) p(value) + gate [value = 0])``, as sums of logarithms."""
    if "gate" in fn.__dict__:
        log_gate, log_open = fn.gate.log(), (-fn.gate).log1p()
    else:
        log_gate, log_open = logsigmoid(fn.gate_logits), logsigmoid(-fn.gate_logits)
    counted = log_open + log_density(fn.base_dist, value)
    return torch.where(value == 0, torch.logaddexp(log_gate, counted), counted)


def _transformed(fn: Any, value: Any) -> Any:
    """``log p(x) - log |dy / dx|``, each transform undone on the value y in turn."""
    event_dim, y = len(fn.event_shape), value
    jacobian: Any = 0.0
    for transform in reversed(fn.transforms):
        x = inverse(transform, y)
        event_dim += transform.domain.event_dim - transform.codomain.event_dim
        own = log_jacobian(transform, x, y)
        jacobian = jacobian + sum_rightmost(own, event_dim - transform.domain.event_dim)
        y = x
    base = sum_rightmost(log_density(fn.base_dist, y), event_dim - len(fn.base_dist.event_shape))
    return base - jacobian


def pulled_back(fn: Any, transform: Transform) -> Any:
    """The law of x where ``transform(x)`` has law fn, if fn says so itself; else None.

    q's variable is mapped to the support by the same transform that many priors are made with: the
    two Jacobians cancel, and what is left is the base's density.
    """
    if isinstance(transform, IndependentTransform):
        if not isinstance(fn, dist.Independent | torch.distributions.Independent):
            return None
        base = pulled_back(fn.base_dist, transform.base_transform)
        return None if base is None else base.to_event(fn.reinterpreted_batch_ndims)
    if not isinstance(fn, _Transformed) or _rule_of(fn) is not _transformed:
        return None
    own, undone = _parts(fn.transforms), _parts([transform])
    left = own[: len(own) - len(undone)]
    if len(own) < len(undone) or lifted_parts(fn.transforms):
        return None
    if not all(map(same_transform, own[len(left) :], undone)):
        return None
    base = dist.TransformedDistribution(fn.base_dist, left) if left else fn.base_dist
    change = transform.codomain.event_dim - transform.domain.event_dim
    return base if len(fn.event_shape) - len(base.event_shape) == change else None


def _parts(transforms: list[Any]) -> list[Any]:
    return [p for t in transforms for p in (_parts(t.parts) if hasattr(t, "parts") else [t])]


def _of_plain(fn: Any, value: LiftedTensor) -> Any:
    """A distribution without lifted parts at a lifted value: by its formula, or one call."""
    density = density_of(type(fn))
    if density is None:
        return _opaque(fn, value, no_formula(fn))
    try:
        poly = _by_formula(density, fn, value)
    except NotPolynomial as error:
        return _opaque(fn, value, error)
    call = LogDensity(fn, _is_elementwise(fn)).of(value)
    dtype = density_dtype(value)
    return LiftedTensor(poly.shape, dtype, value.device, poly=poly, call=call)


def _by_formula(density: Density, fn: Any, value: LiftedTensor) -> Polynomial:
    arguments, variable = density.reads(fn), polynomial_of(value)
    poly: Polynomial = recalled(
        density.formula, lambda: density.formula(variable, **arguments), (variable, arguments)
    )
    return poly


def _own(fn: Any, value: Any) -> Any:
    """A distribution that holds lifted parts: its own code on lifted tensors, or one call."""
    before = last_refusal.get()
    try:
        return fn.log_prob(value)
    except (ControlFlowError, NotImplementedError):
        last_refusal.set(before)
        return _opaque(fn, value, no_formula(fn))


def _opaque(fn: Any, value: Any, reason: NotPolynomial) -> Any:
    elementwise = _is_elementwise(fn) and not lifted_parts(fn)
    call = LogDensity(fn, elementwise).of(value)
    like = call.inputs[0]
    batch = value.shape[: value.dim() - len(fn.event_shape)]
    shape = broadcast_shapes(fn.batch_shape, batch)
    dtype = density_dtype(like)
    return LiftedTensor(shape, dtype, like.device, poly=None, call=call, reason=str(reason))


def _is_elementwise(fn: Any) -> bool:
    return not fn.event_shape and event_dim_of(fn.support) == 0

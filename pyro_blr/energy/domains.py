# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Data against supports, constant arguments against their domains: each looked at once.

While a model runs on lifted latents the checks of torch and Pyro are off: they ask for the values
of latents. What is constant is checked here instead, through :mod:`..lifting.constants`: data and
arguments that were seen before cost a look into the cache.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from numbers import Number
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.distribution import COERCIONS
from pyro.distributions.hmm import HiddenMarkovModel
from torch import Tensor

from .. import errors
from ..lifting import constants, host
from ..lifting.densities import as_given, density_of
from ..lifting.distribution import LiftedDistribution
from ..lifting.elementwise import is_affine
from ..lifting.tensor import LiftedTensor
from ..shapes import broadcast_shapes


def check_arguments(name: str, fn: Any) -> None:
    """Check the constant arguments of a site's distribution, and of what it wraps.

    :raises ParameterError: if one of them lies outside its domain.
    :raises NonFiniteError: if one of them is NaN.
    """
    for inner in _distributions(fn):
        kind, declared, given = _arguments(inner)
        for argument, value in given.items():
            constraint = declared.get(argument)
            if _may_leave(value, constraint):
                raise _leaving_argument(name, kind, argument, value)
            if constraint is None or not _can_be_checked(constraint, value):
                continue
            if not _is_inside(value, constraint):
                raise _wrong_argument(name, kind, argument, value, constraint)


def _may_leave(value: Any, constraint: Any) -> bool:
    """Whether a Gaussian expression, whose mass is everywhere, is to be positive or a probability.

    What is more than affine is not looked at: its range is not known.
    """
    bounded = constraint in _BOUNDED
    if not bounded or not isinstance(value, LiftedTensor) or not is_affine(value):
        return False
    return value.poly is not None and bool(value.poly.sites)  # where it is chosen anywhere


_BOUNDED = (
    dist.constraints.positive,
    dist.constraints.nonnegative,
    dist.constraints.unit_interval,
)


def _leaving_argument(name: str, kind: str, argument: str, value: LiftedTensor) -> errors.BLRError:
    sites = ", ".join(repr(n) for n in value.site_names)
    link = "torch.sigmoid(...)" if argument == "probs" else ".exp() or F.softplus(...)"
    return errors.ParameterError(
        f"the `{argument}` of {kind} at site {name!r} is linear in the Gaussian latent {sites}, "
        f"and so lies outside its domain with some probability. Mend: put {link} around it, or "
        "give the latent a prior on the domain."
    )


def _distributions(fn: Any) -> Iterator[Any]:
    """A distribution and those that it is made of."""
    yield fn
    for part in ("base_dist", "_component_distribution", "_mixture_distribution"):
        inner = getattr(fn, "__dict__", {}).get(part)
        if inner is not None:
            yield from _distributions(inner)
    for argument in getattr(fn, "arguments", {}).values():
        if isinstance(argument, torch.distributions.Distribution):
            yield from _distributions(argument)


def _arguments(fn: Any) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """The class's name, the domains of its arguments, and the arguments themselves."""
    if isinstance(fn, LiftedDistribution):
        declared = getattr(fn.distribution, "arg_constraints", {})
        return _kind(fn), declared if isinstance(declared, dict) else {}, fn.arguments
    density = density_of(type(fn))
    given = as_given(fn) if density is None else density.reads(fn)
    return _kind(fn), fn.arg_constraints, given


def _can_be_checked(constraint: Any, value: Any) -> bool:
    if isinstance(value, LiftedTensor) or not isinstance(value, Tensor | float | int):
        return False
    if isinstance(value, Tensor) and (value.requires_grad or not host.readable(value)):
        return False  # a pyro.param has its own domain, a fake tensor no value
    return not dist.constraints.is_dependent(constraint) and not _is_real(constraint)


def _is_inside(value: Any, constraint: Any) -> bool:
    same = _Same(constraint)
    if not isinstance(value, Tensor):
        return bool(constants.memo(_number_inside, (), float(value), same))
    # A batch that was expanded is as good as one of its elements.
    for d in range(value.dim() - constraint.event_dim):
        if value.stride(d) == 0 and value.shape[d] > 1:
            value = value.narrow(d, 0, 1)
    return bool(constants.memo(_inside, (value,), same))


def _number_inside(value: float, same: "_Same") -> bool:
    return host.truth(same.support.check(torch.tensor(value, dtype=torch.float64)).all())


@contextmanager
def checked_matrices() -> Iterator[None]:
    """Check constant matrices when a distribution is made: torch factors them at once.

    :raises ParameterError: without the site's name, which it does not have yet.
    """
    COERCIONS.append(_check_matrices)
    try:
        yield
    finally:
        if _check_matrices in COERCIONS:
            COERCIONS.remove(_check_matrices)


def _check_matrices(distribution: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    declared = getattr(distribution, "arg_constraints", {})
    if not isinstance(declared, dict):
        return
    matrices = [k for k, c in declared.items() if c is dist.constraints.positive_definite]
    if not matrices:
        return
    given = dict(zip(distribution.__signature__.parameters, args, strict=False)) | dict(kwargs)
    for argument in matrices:
        value, constraint = given.get(argument), declared[argument]
        if _can_be_checked(constraint, value) and not _is_inside(value, constraint):
            raise _wrong_argument("", distribution.__name__, argument, value, constraint)


def _wrong_argument(
    name: str, kind: str, argument: str, value: Any, constraint: Any
) -> errors.BLRError:
    what = f"the argument {argument!r} of {kind}" + (f" at site {name!r}" if name else "")
    value = torch.as_tensor(value)
    if not host.truth((value == value).all()):
        return errors.NonFiniteError(
            f"{what} holds a NaN. Mend: look for the place where it is computed."
        )
    return errors.ParameterError(
        f"{what} lies outside its domain, {constraint}. Mend: {_mend(constraint)}."
    )


def _mend(constraint: Any) -> str:
    if constraint is dist.constraints.positive_definite:
        return "give a symmetric matrix whose eigenvalues are positive, or its scale_tril"
    if constraint is dist.constraints.unit_interval:
        return "give a probability between 0 and 1, or pass its log-odds as logits"
    return "correct the value, or map it into the domain, as F.softplus does for scales and rates"


def checked_value(name: str, fn: Any, value: Any, mask: Any, room: int | None = None) -> Any:
    """An observed value as log densities take it, checked against its support once.

    Masked places may hold anything. Labels and counts of an integer or boolean dtype become
    float64, which holds each of them that is not refused: a log density does arithmetic on them.

    :param room: how many dims plates may take; left of them are the values of discrete latents,
        one of which has to allow the data. No latent is summed out if it is ``None``.
    :raises ArgumentError: for what is neither a tensor nor a number, such as a NumPy array.
    """
    if isinstance(value, Number):
        value = _number(getattr(value, "item", lambda: value)(), *_defaults())
    if not isinstance(value, Tensor):
        raise errors.ArgumentError(
            f"the observed value of site {name!r} is a {type(value).__name__}, not a tensor. Mend: "
            "torch.as_tensor of it, once and outside of the model, so that it is known again."
        )
    if value.dtype is torch.bool:  # the check of a support does arithmetic too
        value = constants.memo(_as_double, (value,))
    value = _checked(name, fn, value, mask, room)
    is_real = value.is_floating_point() or value.is_complex()
    if not is_real:
        value = constants.memo(_as_double, (value,))
    return value


@lru_cache(maxsize=256, typed=True)
def _number(value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor, the same one at each call, so that it is known again."""
    return torch.tensor(value, dtype=dtype if isinstance(value, float) else None, device=device)


def _defaults() -> tuple[torch.dtype, torch.device]:
    return torch.get_default_dtype(), torch.get_default_device()


def _as_double(value: Tensor) -> Tensor:
    return value.double()


def _checked(name: str, fn: Any, value: Tensor, mask: Any, room: int | None) -> Any:
    """The value, with harmless numbers at masked places."""
    _check_shape(name, fn, value)
    support = _support(fn)
    if support is None:
        return value
    if isinstance(mask, Tensor):
        value = filled(value, mask, support)
    elif mask is False:
        return filled(value, torch.zeros((), dtype=torch.bool), support)
    if _is_real(support):
        return value
    if not constants.memo(_possible, (value,), _Same(support), room):
        raise outside(name, fn, value)
    if support.is_discrete and not constants.memo(_is_exact_count, (value,)):
        raise errors.SupportError(
            f"a count of site {name!r} is beyond 2**{_exact_bits(value.dtype)}, from where on "
            f"{value.dtype} does not hold every integer. Mend: give the counts in torch.float64, "
            "or model so large a count as a real number."
        )
    return value


def _is_homogeneous(fn: Any) -> bool:
    """Whether a hidden Markov model is the same at every step, so that it has no length."""
    while isinstance(fn, dist.Independent) or hasattr(fn, "base_dist"):
        fn = fn.base_dist
    kind = getattr(fn, "distribution", type(fn))
    is_chain = isinstance(kind, type) and issubclass(kind, HiddenMarkovModel)
    steps = fn.event_shape[:1] if is_chain else ()
    duration = getattr(fn, "arguments", {}).get("duration", getattr(fn, "_duration", None))
    return tuple(steps) == (1,) and duration is None


def _check_shape(name: str, fn: Any, value: Tensor) -> None:
    event = tuple(fn.event_shape)
    cut = value.dim() - len(event)
    if _is_homogeneous(fn) and cut >= 0:  # any number of steps
        event = (value.shape[cut], *event[1:])
    if cut >= 0 and tuple(value.shape[cut:]) == event:
        try:
            broadcast_shapes(fn.batch_shape, value.shape[:cut])
            return
        except RuntimeError:
            pass
    raise errors.SupportError(
        f"the observed value of site {name!r} has shape {tuple(value.shape)}, which does not fit "
        f"{_kind(fn)} of batch shape {tuple(fn.batch_shape)} and event shape {event}. Mend: "
        "reshape the data, or change the event dims by .to_event() or a plate."
    )


def _exact_bits(dtype: torch.dtype) -> int:
    """Up to 2 to this power every integer is a floating number: that of the digits of one."""
    wide = dtype if dtype.is_floating_point else torch.float64
    return 1 - round(math.log2(torch.finfo(wide).eps))


def _is_exact_count(value: Tensor) -> bool:
    if not value.is_floating_point() and value.element_size() < 8:
        return True  # every integer of these dtypes is a float64; they do not hold the limit itself
    return host.truth((value.abs() <= 2 ** _exact_bits(value.dtype)).all())


def outside(name: str, fn: Any, value: Tensor) -> errors.BLRError:
    """The error for data that the distribution of a site cannot have."""
    if value.is_floating_point() and not host.truth(torch.isfinite(value).all()):
        return errors.NonFiniteError(
            f"the data of site {name!r} hold a NaN or an infinity. Mend: remove these rows, or "
            "mask them: poutine.mask(mask=~torch.isnan(y))."
        )
    support = str(_support(fn))
    shown = (
        f", {support}" if len(support) < 120 and "\n" not in support else ""
    )  # a tensor's bounds
    return errors.SupportError(
        f"an observed value of site {name!r} lies outside the support of {_kind(fn)}{shown}. "
        "Mend: check the data and their encoding, mask the wrong ones by poutine.mask, or choose "
        "another distribution."
    )


def _kind(fn: Any) -> str:
    return str(getattr(fn, "distribution", type(fn)).__name__)


def _support(fn: Any) -> Any:
    """The support where it can be named without values of latents."""
    try:
        support = fn.support
    except (NotImplementedError, errors.ControlFlowError):
        return None
    if not hasattr(support, "check") or isinstance(support, property):
        return None
    return support


def _is_real(support: Any) -> bool:
    base = getattr(support, "base_constraint", support)
    return base is dist.constraints.real


class _Same:
    """A support as part of a key: supports with bounds are new objects at each trace."""

    def __init__(self, support: Any) -> None:
        self.support = support
        self.key = _content(support)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _content(item: Any) -> Any:
    """A constraint as a key; its bounds may be tensors, of which ``str`` shows a few elements."""
    if isinstance(item, Tensor):
        return constants.key_of(item)
    if isinstance(item, dist.constraints.Constraint):
        return type(item), tuple((k, _content(v)) for k, v in vars(item).items())
    return str(item)


def _inside(value: Tensor, same: _Same) -> bool:
    return host.truth(same.support.check(value).all())


def _possible(value: Tensor, same: _Same, room: int | None) -> bool:
    """Whether every datum is in the support at some value of the discrete latents."""
    inside = same.support.check(value)
    values = 0 if room is None else max(0, inside.dim() - room)
    return host.truth((inside.flatten(0, values - 1).any(0) if values else inside).all())


def filled(value: Tensor, mask: Tensor, support: Any) -> Tensor:
    """The data with numbers of the support at masked places."""
    return constants.memo(_filled, (value, mask), _Same(support))  # type: ignore[no-any-return]


def _filled(value: Tensor, mask: Tensor, same: _Same) -> Tensor:
    """The data with harmless values at masked places (NaN times 0 would be NaN)."""
    support, event_dim = same.support, same.support.event_dim
    shown = mask.reshape(mask.shape + (1,) * event_dim).to(value.device)
    inside = support.check(value)
    good = inside.reshape(inside.shape + (1,) * event_dim)
    if host.truth(good.all()):
        return value
    return harmless(value, shown | good, support)


def harmless(value: Tensor, kept: Tensor, support: Any) -> Tensor:
    """The data with a number of the support, 1 or 0, where they are not kept."""
    filler = 1.0 if host.truth(support.check(torch.ones_like(value)).all()) else 0.0
    return torch.where(kept, value, torch.full_like(value, filler))

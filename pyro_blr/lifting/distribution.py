# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Distributions with lifted arguments, and log densities of any distribution at lifted values.

Pyro calls the hooks in ``COERCIONS`` before a distribution's constructor runs (``poutine.collapse``
uses them too), so ``dist.Normal(X @ w, tau ** -0.5)`` becomes a :class:`LiftedDistribution` and
never reaches torch's constructor. Its log density is one recorded call that replays the real
distribution, with the polynomial of its formula where there is one.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from .densities import density_of, takes_arguments_of
from .polynomial import Polynomial
from .tensor import Call, LiftedTensor, control_flow, lifted_in, polynomial_of
from .terms import NotPolynomial


class LogDensity:
    """``log p(value | arguments)`` of a distribution class, as a function that can be recorded."""

    __name__ = "log_prob"

    def __init__(
        self, distribution: type, names: tuple[str, ...], fixed: Mapping[str, Any]
    ) -> None:
        self.distribution = distribution
        self.names = names
        self.fixed = fixed

    @property
    def elementwise(self) -> bool:
        """Whether each element depends on one element of the value and of each argument."""
        constraints = getattr(self.distribution, "arg_constraints", {})
        if not isinstance(constraints, dict):
            return False
        support = getattr(self.distribution, "support", None)
        dims = [getattr(c, "event_dim", 0) for c in constraints.values()]
        own = getattr(support, "event_dim", 0)
        return not any(dims) and isinstance(own, int) and own == 0 and bool(constraints)

    def __call__(self, value: Any, *arguments: Any) -> Tensor:
        value, *wide = promoted((value, *arguments))
        given = dict(zip(self.names, wide, strict=True))
        with unchecked():
            fn = self.distribution(**given, **self.fixed)
            return fn.log_prob(value)  # type: ignore[no-any-return]


@contextmanager
def unchecked() -> Iterator[None]:
    """Leave out the checks of values: nodes and draws are q's own, and a check waits for them."""
    default = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(default)


def promoted(values: tuple[Any, ...]) -> list[Any]:
    """Floating tensors in their widest dtype; some of torch's densities return the narrowest."""
    dtypes = [v.dtype for v in values if isinstance(v, Tensor) and v.dtype.is_floating_point]
    if torch.float64 not in dtypes or len(set(dtypes)) == 1:
        return list(values)
    return [
        v.double() if isinstance(v, Tensor) and v.dtype.is_floating_point else v for v in values
    ]


class BoundLogDensity:
    """``log p(value)`` of a distribution without lifted arguments."""

    __name__ = "log_prob"

    def __init__(self, fn: Any) -> None:
        self.fn = fn

    @property
    def elementwise(self) -> bool:
        """As :attr:`LogDensity.elementwise`."""
        return not self.fn.event_shape and not self.fn.support.event_dim

    def __call__(self, value: Any) -> Tensor:
        with unchecked():
            return self.fn.log_prob(value)  # type: ignore[no-any-return]


def log_density(fn: Any, value: Any) -> Any:
    """The log density of a site along its batch dims: lifted where anything in it is.

    :param fn: any Pyro distribution, lifted or not, with its wrappers.
    """
    if isinstance(fn, LiftedDistribution):
        return fn.log_prob(value)
    if not isinstance(value, LiftedTensor):
        return fn.log_prob(value)
    base, summed = fn, 0
    while True:
        if isinstance(base, dist.Independent | torch.distributions.Independent):
            summed += base.reinterpreted_batch_ndims
        elif not isinstance(base, dist.torch_distribution.ExpandedDistribution):
            break
        base = base.base_dist
    shape = tuple(fn.batch_shape) + tuple(fn.event_shape)[:summed]
    result = _of_plain(base, value)
    if tuple(result.shape) != shape:
        result = result.expand(torch.broadcast_shapes(result.shape, shape))
    return result.sum(tuple(range(-summed, 0))) if summed else result


def _of_plain(fn: Any, value: LiftedTensor) -> Tensor:
    density = density_of(type(fn))
    call = Call(BoundLogDensity(fn), (value,), {})
    try:
        if density is None:
            raise NotPolynomial(f"{type(fn).__name__} has no formula in the statistics of q")
        result = density.formula(polynomial_of(value), **density.reads(fn))
        return LiftedTensor(result.shape, value.dtype, value.device, poly=result, call=call)
    except NotPolynomial as error:
        batch = value.shape[: value.dim() - len(fn.event_shape)]
        shape = torch.broadcast_shapes(fn.batch_shape, batch)
        return LiftedTensor(
            shape, value.dtype, value.device, poly=None, call=call, reason=str(error)
        )


class LiftedDistribution(TorchDistribution):
    """A Pyro distribution some of whose arguments are lifted.

    :param distribution: the Pyro class.
    :param arguments: its arguments by name.
    """

    has_rsample = False
    arg_constraints: Mapping[str, Any] = {}

    def __init__(
        self,
        distribution: type,
        arguments: Mapping[str, Any],
        batch_shape: torch.Size | None = None,
        reinterpreted: int = 0,
        masks: tuple[tuple[int, Any], ...] = (),
    ) -> None:
        self.distribution = distribution
        self.arguments = dict(arguments)
        self.reinterpreted = reinterpreted
        self.masks = masks
        own, event = _shapes(distribution, self.arguments)
        full = own if batch_shape is None else batch_shape
        cut = len(full) - reinterpreted
        self.full_batch = full
        super().__init__(full[:cut], full[cut:] + event, validate_args=False)

    def __repr__(self) -> str:
        return f"<lifted {self.distribution.__name__}>"

    @property
    def support(self) -> Any:
        """The class's support; where it depends on the arguments, the class says so."""
        support = self._own_support
        if self.reinterpreted:
            return dist.constraints.independent(support, self.reinterpreted)
        return support

    @property
    def _own_support(self) -> Any:
        """Counts and classes bound their values without the value of a latent."""
        count = self.arguments.get("total_count")
        if issubclass(self.distribution, dist.Categorical):
            given: Any = self.arguments.get("probs", self.arguments.get("logits"))
            return dist.constraints.integer_interval(0, given.shape[-1] - 1)
        if issubclass(self.distribution, dist.Binomial) and not isinstance(count, LiftedTensor):
            return dist.constraints.integer_interval(0, 1 if count is None else count)
        return self.distribution.support  # type: ignore[attr-defined]

    def _with(self, **changes: Any) -> "LiftedDistribution":
        given: dict[str, Any] = {
            "batch_shape": self.full_batch,
            "reinterpreted": self.reinterpreted,
            "masks": self.masks,
        } | changes
        return LiftedDistribution(self.distribution, self.arguments, **given)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LiftedDistribution":
        inner = self.full_batch[len(self.full_batch) - self.reinterpreted :]
        return self._with(batch_shape=torch.Size(batch_shape) + inner)

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> "LiftedDistribution":
        more = reinterpreted_batch_ndims
        return self._with(
            reinterpreted=self.reinterpreted + (len(self.batch_shape) if more is None else more)
        )

    def mask(self, mask: Any) -> "LiftedDistribution":
        return self._with(masks=(*self.masks, (self.reinterpreted, mask)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """``pyro.factor`` asks for the empty value of its ``Unit``; no other value is drawn."""
        if issubclass(self.distribution, dist.Unit):
            return torch.empty((*sample_shape, *self.batch_shape, 0))
        raise control_flow(
            "a draw from a distribution",
            list(self.arguments.values()),
            "declare the draw as a latent of its own by pyro.sample",
        )

    rsample = sample

    def log_prob(self, value: Any) -> Any:
        """The log density, recorded; with the formula's polynomial where it has one."""
        result = self._own_log_prob(value)
        full = torch.broadcast_shapes(result.shape, self.full_batch)
        if tuple(result.shape) != tuple(full):
            result = result.expand(full)
        # A mask acts at the event dims that there were when it was set: Normal.mask(m).to_event(1)
        # drops elements of an event, Normal.to_event(1).mask(m) whole events.
        summed = 0
        for level, mask in (*self.masks, (self.reinterpreted, None)):
            if level > summed:
                result = result.sum(tuple(range(summed - level, 0)))
                summed = level
            if mask is not None:
                result = result * (mask if isinstance(mask, Tensor) else float(mask))
        return result

    def _own_log_prob(self, value: Any) -> Tensor:
        if issubclass(self.distribution, dist.Unit):
            return self.arguments["log_factor"]  # type: ignore[no-any-return]
        names = tuple(k for k, v in self.arguments.items() if isinstance(v, Tensor))
        fixed = {k: v for k, v in self.arguments.items() if k not in names}
        function = LogDensity(self.distribution, names, fixed)
        call = Call(function, (value, *(self.arguments[k] for k in names)), {})
        inputs = call.inputs
        try:
            result = self._polynomial(value)
            return LiftedTensor(
                result.shape, inputs[0].dtype, inputs[0].device, poly=result, call=call
            )
        except NotPolynomial as error:
            batch, event = _shapes(self.distribution, self.arguments)
            own = value.shape[: len(value.shape) - len(event)]
            shape = torch.broadcast_shapes(batch, own)
            return LiftedTensor(
                shape, inputs[0].dtype, inputs[0].device, poly=None, call=call, reason=str(error)
            )

    def _polynomial(self, value: Any) -> Polynomial:
        density = density_of(self.distribution)
        if density is None or not takes_arguments_of(self.distribution):
            raise NotPolynomial(
                f"{self.distribution.__name__} has no formula in the statistics of q"
            )
        return density.formula(
            polynomial_of(value), **{k: polynomial_of(v) for k, v in self.arguments.items()}
        )


def _shapes(distribution: type, arguments: Mapping[str, Any]) -> tuple[torch.Size, torch.Size]:
    if issubclass(distribution, dist.Unit):
        return torch.Size(arguments["log_factor"].shape), torch.Size((0,))
    if issubclass(distribution, dist.Delta):
        shape = torch.Size(arguments["v"].shape)
        cut = len(shape) - int(arguments.get("event_dim", 0))
        return shape[:cut], shape[cut:]
    shapes = {
        k: tuple(v.shape) if isinstance(v, Tensor) else ()
        for k, v in arguments.items()
        if isinstance(v, Tensor | int | float)
    }
    batch, event = distribution.infer_shapes(**shapes)  # type: ignore[attr-defined]
    return torch.Size(batch), torch.Size(event)


def coerce(distribution: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Pyro's hook: a lifted distribution where an argument is lifted, None elsewhere."""
    if issubclass(distribution, LiftedDistribution):
        return None
    given = (*args, *kwargs.values())
    if not lifted_in(given) and not any(isinstance(a, LiftedDistribution) for a in given):
        return None
    names = [n for n in distribution.__signature__.parameters]  # type: ignore[attr-defined]
    arguments = dict(zip(names, args, strict=False)) | dict(kwargs)
    arguments = {k: v for k, v in arguments.items() if v is not None and k != "validate_args"}
    wrapped = _wrapper(distribution, arguments)
    if wrapped is not None:
        return wrapped
    if any(isinstance(v, LiftedDistribution) for v in arguments.values()):
        return None
    if not _can_be_lifted(distribution):
        return None
    return LiftedDistribution(distribution, arguments)


def _can_be_lifted(distribution: type) -> bool:
    return (
        not issubclass(
            distribution, dist.TransformedDistribution | dist.Independent | dist.MaskedDistribution
        )
        or density_of(distribution) is not None
    )


def _wrapper(distribution: type, arguments: Mapping[str, Any]) -> Any:
    """``dist.Independent(lifted, n)`` and ``dist.MaskedDistribution(lifted, mask)`` spelled out."""
    base = arguments.get("base_dist", arguments.get("base_distribution"))
    if not isinstance(base, LiftedDistribution):
        return None
    if issubclass(distribution, dist.Independent):
        return base.to_event(arguments["reinterpreted_batch_ndims"])
    if issubclass(distribution, dist.MaskedDistribution):
        return base.mask(arguments["mask"])
    return None

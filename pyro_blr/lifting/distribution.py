# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Distributions with lifted arguments.

Pyro calls the hooks in ``COERCIONS`` before a distribution's constructor runs (``poutine.collapse``
uses them too), so ``dist.Normal(X @ w, tau ** -0.5)`` becomes a :class:`LiftedDistribution` and
never reaches torch's constructor. Its log density is one recorded call that replays the real
distribution, with the polynomial of its formula where there is one.
"""

import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from ..errors import ArgumentError
from ..shapes import broadcast_shapes
from .declared import event_dim_of, is_elementwise, shapes_of, support_of
from .densities import density_of, takes_arguments_of
from .polynomial import Polynomial
from .recall import recalled
from .recorded import LogDensity, density_dtype, lifted_parts, no_formula
from .tensor import LiftedTensor, control_flow, polynomial_of
from .terms import NotPolynomial

#: Families whose density depends on the value and ``loc`` through their difference alone.
LOCATED = (dist.Normal, dist.StudentT, dist.Cauchy, dist.Laplace, dist.Logistic, dist.Gumbel)


class LiftedDistribution(TorchDistribution):
    """A Pyro distribution some of whose arguments are lifted.

    :param distribution: the Pyro class.
    :param arguments: its arguments by name.
    """

    has_rsample = False
    arg_constraints: Mapping[str, Any] = {}
    #: What a call of the class makes: ``type(fn)(...)`` of a reparameterisation is as ``fn`` is.
    of: type | None = None

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
        self.own_batch, self.own_event = shapes_of(distribution, self.arguments)
        full = self.own_batch if batch_shape is None else batch_shape
        cut = len(full) - reinterpreted
        self.full_batch = full
        self.__class__ = _class_of(distribution)
        super().__init__(full[:cut], full[cut:] + self.own_event, validate_args=False)

    def __getattr__(self, name: str) -> Any:
        """An argument, as torch's distributions have it: expanded to the batch shape."""
        value = self.__dict__.get("arguments", {}).get(name)
        if value is None and name in type(self).arg_constraints:
            value = _default(self.distribution, name)
        if value is None:
            kind = self.__dict__.get("distribution", type(self)).__name__
            raise AttributeError(f"a {kind} with lifted arguments has no attribute {name!r}")
        if name not in type(self).arg_constraints or self.own_event:
            return value
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
        return tensor.expand(self.full_batch)

    def __repr__(self) -> str:
        return f"<lifted {self.distribution.__name__}>"

    @property
    def support(self) -> Any:
        """The class's support; where it depends on the arguments, the class says so."""
        support = support_of(self.distribution, self.arguments)
        if self.reinterpreted:
            return dist.constraints.independent(support, self.reinterpreted)
        return support

    @property
    def has_enumerate_support(self) -> bool:
        """Whether the class lists its values, and no latent says how many there are."""
        count = self.arguments.get("total_count")
        listed = bool(getattr(self.distribution, "has_enumerate_support", False))
        return listed and not isinstance(count, LiftedTensor)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Every value, along a new dim in front; they depend on no latent's value."""
        if self.reinterpreted:
            raise NotImplementedError("values of an event that was made by to_event")
        event_dims = {n: event_dim_of(c) or 0 for n, c in type(self).arg_constraints.items()}
        arguments = {
            name: _one_row(value, event_dims.get(name, 0)) if lifted_parts(value) else value
            for name, value in self.arguments.items()
        }
        values: Tensor = _given(self.distribution, arguments).enumerate_support(expand=False)
        values = values.reshape(len(values), *(1,) * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values

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

    def with_masks(self, masks: tuple[tuple[int, Any], ...]) -> "LiftedDistribution":
        """The same with other masks, each with the event dims that it acts behind."""
        return self._with(masks=masks)

    def built(self, valued: Callable[[Any], Any]) -> Any:
        """The real distribution with values for what is lifted, shaped and masked as this one.

        :param valued: gives anything with values in the place of lifted tensors.
        """
        fn = self.distribution(**valued(self.arguments))
        # Not otherwise: nodes of a quadrature rule come with a dim of their own in front.
        fn = fn if self.full_batch == self.own_batch else fn.expand(self.full_batch)
        done = 0
        for level, mask in (*self.masks, (self.reinterpreted, True)):
            fn = fn.to_event(level - done) if level > done else fn
            fn, done = fn if mask is True else fn.mask(valued(mask)), level
        return fn

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """``pyro.factor`` asks for the empty value of its ``Unit``; no other value is drawn."""
        if issubclass(self.distribution, dist.Unit):
            return torch.empty((*sample_shape, *self.batch_shape, 0))
        raise control_flow(
            "a draw from a distribution",
            list(lifted_parts(self.arguments)),
            "declare the draw as a latent of its own by pyro.sample",
        )

    rsample = sample

    def log_prob(self, value: Any) -> Any:
        """The log density, recorded; with the formula's polynomial where it has one."""
        if any(mask is False for _, mask in self.masks):
            return torch.zeros(self.batch_shape)
        result = self._own_log_prob(value)
        full = broadcast_shapes(result.shape, self.full_batch)
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
        elementwise = is_elementwise(self.distribution, self.arguments, self.own_event)
        try:
            poly = self._polynomial(value)
            call = LogDensity(self._bare(self.arguments), elementwise).of(value)
            like = call.inputs[0]
            return LiftedTensor(poly.shape, density_dtype(like), like.device, poly=poly, call=call)
        except NotPolynomial as error:
            shifted, arguments = self._centred(value)
            call = LogDensity(self._bare(arguments), elementwise).of(shifted)
            like = call.inputs[0]
            own = value.shape[: len(value.shape) - len(self.own_event)]
            shape = broadcast_shapes(self.own_batch, own)
            return LiftedTensor(
                shape, density_dtype(like), like.device, poly=None, call=call, reason=str(error)
            )

    def _bare(self, arguments: Mapping[str, Any]) -> Any:
        """The distribution of some arguments, its own shape aside; a real one of given ones."""
        is_shaped = self.full_batch != self.own_batch or self.reinterpreted or self.masks
        if arguments is self.arguments and not is_shaped:
            return self
        made = LiftedDistribution if lifted_parts(arguments) else _given
        return made(self.distribution, arguments)

    def _centred(self, value: Any) -> tuple[Any, Mapping[str, Any]]:
        """A latent less its lifted location, at the location 0: one scalar in the place of two."""
        location = self.arguments.get("loc")
        if not isinstance(value, LiftedTensor) or not isinstance(location, LiftedTensor):
            return value, self.arguments
        if not issubclass(self.distribution, LOCATED):
            return value, self.arguments
        origin = torch.zeros((), dtype=location.dtype, device=location.device)
        return value - location, {**self.arguments, "loc": origin.expand(location.shape)}

    def _polynomial(self, value: Any) -> Polynomial:
        density = density_of(self.distribution)
        if density is None or not takes_arguments_of(self.distribution):
            raise no_formula(self.distribution)
        formula, arguments = density.formula, self.arguments

        def compute() -> Polynomial:
            given = {k: polynomial_of(v) for k, v in arguments.items()}
            return formula(polynomial_of(value), **given)

        poly: Polynomial = recalled(formula, compute, (value, arguments))
        return poly


@lru_cache(maxsize=1024)
def _class_of(distribution: type) -> type:
    """The class of a distribution's lifted ones."""
    constraints = getattr(distribution, "arg_constraints", {})
    known = constraints if isinstance(constraints, Mapping) else {}
    name = f"Lifted{distribution.__name__}"
    inside = {"of": distribution, "arg_constraints": known}
    made: type = types.new_class(name, (LiftedDistribution,), {}, lambda own: own.update(inside))
    return made


def _given(distribution: type, arguments: Mapping[str, Any]) -> Any:
    return distribution(**arguments, validate_args=False)


def _one_row(value: Tensor, event_dim: int) -> Tensor:
    """A stand-in for a lifted argument, of one batch element: any point inside every domain."""
    cut = value.dim() - event_dim
    shape = (*(1,) * cut, *value.shape[cut:])
    return torch.full(shape, 0.5, dtype=value.dtype, device=value.device)


def _default(distribution: type, name: str) -> Any:
    """What an argument is where it is not given."""
    parameter = distribution.__signature__.parameters.get(name)  # type: ignore[attr-defined]
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def coerce(distribution: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Pyro's hook: a lifted distribution where an argument is lifted, None elsewhere.

    :raises ArgumentError: for a distribution that has no log density.
    """
    if issubclass(distribution, LiftedDistribution):
        return None if distribution.of is None else distribution.of(*args, **kwargs)
    if not lifted_parts((args, kwargs)):
        return None
    names = [n for n in distribution.__signature__.parameters]  # type: ignore[attr-defined]
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    arguments = {k: v for k, v in given.items() if v is not None and k != "validate_args"}
    base = arguments.get("base_dist", arguments.get("base_distribution"))
    if isinstance(base, LiftedDistribution):
        if issubclass(distribution, dist.Independent):
            return base.to_event(arguments["reinterpreted_batch_ndims"])
        if issubclass(distribution, dist.MaskedDistribution):
            return base.mask(arguments["mask"])
    if _is_wrapper(distribution):
        return None
    if distribution is dist.LinearHMM:
        raise ArgumentError(
            "a LinearHMM with random arguments has no log density in Pyro, and LinearHMMReparam "
            "asks for their values. Mend: write the states as a latent z along time, whose z[1:] "
            "has a law given z[:-1]; or dist.GaussianHMM, where the noises are Gaussian."
        )
    return LiftedDistribution(distribution, arguments)


def _is_wrapper(distribution: type) -> bool:
    """Whether the class itself is made of distributions that may be lifted: see ``wrappers``."""
    return distribution in _WRAPPERS


_WRAPPERS = (
    dist.Independent,
    dist.MaskedDistribution,
    dist.ExpandedDistribution,
    dist.TransformedDistribution,
    dist.FoldedDistribution,
    dist.ZeroInflatedDistribution,
)

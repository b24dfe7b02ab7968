# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What can be said of a distribution before its arguments have values: shapes, support, reach."""

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.utils import _pytree as pytree

from ..shapes import broadcast_shapes
from .recorded import lifted_parts, realised, unchecked
from .tensor import LiftedTensor

Arguments = Mapping[str, Any]


def shapes_of(distribution: Any, arguments: Arguments) -> tuple[torch.Size, torch.Size]:
    """The batch and event shapes of a distribution with these arguments."""
    if issubclass(distribution, dist.Unit):
        return torch.Size(arguments["log_factor"].shape), torch.Size((0,))
    if issubclass(distribution, dist.Delta):
        shape = torch.Size(arguments["v"].shape)
        cut = len(shape) - int(arguments.get("event_dim", 0))
        return shape[:cut], shape[cut:]
    if issubclass(distribution, dist.DiscreteHMM):
        return _shapes_of_chain(arguments)
    if issubclass(distribution, dist.GaussianHMM):
        return _shapes_of_gaussian_chain(arguments)
    shapes = {
        k: tuple(v.shape) if isinstance(v, Tensor) else ()
        for k, v in arguments.items()
        if isinstance(v, Tensor | int | float)
    }
    if len(shapes) == len(arguments):
        try:
            batch, event = distribution.infer_shapes(**shapes)
            return torch.Size(batch), torch.Size(event)
        except (NotImplementedError, AttributeError, TypeError, KeyError):
            pass  # Pyro infers the shapes of scalar densities, and of those that define them
    return _constructed_shapes(distribution, arguments)


def _shapes_of_chain(arguments: Arguments) -> tuple[torch.Size, torch.Size]:
    """Those of a DiscreteHMM, whose own constructor computes before it tells them."""
    law = arguments["observation_dist"]
    first, matrix = arguments["initial_logits"], arguments["transition_logits"]
    if not law.batch_shape or first.dim() < 1 or matrix.dim() < 2:
        return _constructed_shapes(dist.DiscreteHMM, arguments)
    batch = broadcast_shapes((*first.shape[:-1], 1), matrix.shape[:-2], law.batch_shape[:-1])
    steps = arguments.get("duration") or batch[-1]
    return batch[:-1], torch.Size((steps, *law.event_shape))


def _shapes_of_gaussian_chain(arguments: Arguments) -> tuple[torch.Size, torch.Size]:
    """Those of a GaussianHMM, whose own constructor computes with its distributions."""
    first, step, error = (arguments[f"{n}_dist"] for n in ("initial", "transition", "observation"))
    move, see = arguments["transition_matrix"], arguments["observation_matrix"]
    states, seen = tuple(see.shape[-2:])
    fits = first.event_shape == step.event_shape == (states,) and error.event_shape == (seen,)
    if not fits or tuple(move.shape[-2:]) != (states, states):
        return _constructed_shapes(dist.GaussianHMM, arguments)  # whose checks say what is wrong
    laws = ((*first.batch_shape, 1), step.batch_shape, error.batch_shape)
    batch = broadcast_shapes(*laws, move.shape[:-2], see.shape[:-2])
    return batch[:-1], torch.Size((arguments.get("duration") or batch[-1], seen))


def _constructed_shapes(distribution: Any, arguments: Arguments) -> tuple[torch.Size, torch.Size]:
    """The shapes of the distribution itself, made of tensors without values."""
    stand_ins = {id(t): _on_meta(t) for t in lifted_parts(arguments)}
    given = pytree.tree_map(_on_meta, realised(dict(arguments), stand_ins))
    with unchecked():
        fn = distribution(**given)
    return fn.batch_shape, fn.event_shape


def _on_meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device="meta")


def support_of(distribution: Any, arguments: Arguments) -> Any:
    """The support, where it depends on no latent; a class's own property where it does."""
    count = arguments.get("total_count", 1)
    if issubclass(distribution, dist.OrderedLogistic):
        return constraints.integer_interval(0, arguments["cutpoints"].shape[-1])
    if issubclass(distribution, dist.Categorical):
        given: Any = arguments.get("probs", arguments.get("logits"))
        return constraints.integer_interval(0, given.shape[-1] - 1)
    if not isinstance(count, LiftedTensor):
        if issubclass(distribution, dist.Binomial | dist.BetaBinomial):
            return constraints.integer_interval(0, count)
        if issubclass(distribution, dist.Multinomial | dist.DirichletMultinomial):
            return constraints.multinomial(count)
    bound = arguments.get("scale")
    if issubclass(distribution, dist.Pareto) and not isinstance(bound, LiftedTensor):
        return constraints.greater_than_eq(bound)
    return distribution.support


def is_elementwise(distribution: Any, arguments: Arguments, event_shape: torch.Size) -> bool:
    """Whether each element depends on one element of the value and of each lifted argument."""
    declared = getattr(distribution, "arg_constraints", {})
    if event_shape or not isinstance(declared, dict):
        return False
    for name, argument in arguments.items():
        if isinstance(argument, LiftedTensor):
            if name not in declared or event_dim_of(declared[name]) != 0:
                return False
        elif lifted_parts(argument):
            return False
    return True


def event_dim_of(constraint: Any) -> int | None:
    """The number of event dims of a constraint, or None where it does not say."""
    try:
        return int(constraint.event_dim)
    except (NotImplementedError, AttributeError):
        return None

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A model in which data count less, more, or not at all, and the posterior under it."""

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .. import errors
from .._compat import without_state
from ..engine import detached
from ..fit import Fit
from ..guides.natural_guide import NaturalGuide
from ..state import OPTIONS
from ..steps.cone import residual
from .data import Data
from .removal import Removal


class Weighing(Messenger):
    """Multiplies the log densities of data by weights; data of weight 0 are masked.

    :param data: what a datum is.
    :param weights: # shape: that of the data's plates
    """

    def __init__(self, data: Data, weights: Tensor) -> None:
        super().__init__()
        self.names = frozenset(s.name for s in data.sites)
        depth = max(-d for d in data.dims)
        shape = [1] * depth
        for dim, size in zip(data.dims, data.shape, strict=True):
            shape[dim] = size
        self.weights = weights.reshape(shape)

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] not in self.names:
            return
        weights = self.weights.to(msg["value"].device)
        msg["scale"] = msg["scale"] * weights
        counts = weights > 0
        if not bool(counts.all()):
            msg["mask"] = counts if msg["mask"] is None else msg["mask"] & counts


def weighted_model(model: Callable[..., Any], data: Data, weights: Tensor) -> Callable[..., Any]:
    """The model with its data weighted."""

    @functools.wraps(model, updated=())
    def weighted(*args: Any, **kwargs: Any) -> Any:
        with Weighing(data, weights):
            return model(*args, **kwargs)

    return weighted


class Reweighted:
    """The posterior with some data removed, or weighted: a guide, and how good it is.

    :ivar guide: a guide of its own: sample from it, ask it for ``median``, ``marginal``, pass it to
        ``Predictive``. The guide of the fit with all data is left as it is.
    :ivar blr: an engine for the weighted data, that :meth:`fit` steps.
    :ivar bool is_exact: whether it is the posterior of the family to rounding, without a step.
    :ivar float loss: -ELBO of the weighted data there, in nats.
    :ivar float residual: half the squared length of the step that is left, in nats; 0 where exact.
    :ivar weights: # shape: that of the data's plates
    """

    def __init__(self, blr: Any, call: Any, weights: Tensor, is_exact: bool) -> None:
        self.guide, self.blr, self._call = blr.guide, blr, call
        self.weights, self.is_exact = weights, is_exact
        self._fit: Fit | None = None
        self._look()

    def _look(self) -> None:
        args, kwargs = self._call
        self.loss = float(self.blr.evaluate_loss(*args, **kwargs))
        self.residual = 0.0 if self.is_exact else left_over(self.blr, args, kwargs)

    @property
    def how(self) -> str:
        """How it was found, in words."""
        if self.is_exact:
            return "exact, as no message depends on q"
        if self._fit is not None:
            return f"fitted anew: {self._fit.reason}"
        left = f"a step would move it by {self.residual:.1e} nats"
        return f"at first order in what is left; {left}, and .fit() goes on from there"

    def fit(self, **limits: Any) -> Fit:
        """Go on from here to the optimum of the weighted data, as :meth:`~pyro_blr.BLR.fit` does.

        :param limits: ``max_steps``, ``tol``, ``progress``.
        """
        args, kwargs = self._call
        self._fit = self.blr.fit(*args, **limits, **kwargs)
        self._look()
        return self._fit

    def __repr__(self) -> str:
        out = int((self.weights == 0).sum())
        count = self.weights.numel()
        return f"<posterior of {count - out} of {count} data, loss {self.loss:.6f}: {self.how}>"


def checked_weights(weights: Any, data: Data) -> Tensor:
    """Weights as a tensor of the data's shape.

    :raises ArgumentError: for another shape, or weights that are negative or not finite.
    """
    try:
        given = torch.as_tensor(weights, dtype=torch.float64).detach()
        given = given.expand(data.shape) if given.dim() == 0 else given.reshape(data.shape)
    except (TypeError, ValueError, RuntimeError) as error:
        raise errors.ArgumentError(
            f"the weights do not have one number for each of the {data.count} data, whose plates "
            f"have the shape {data.shape}. Mend: torch.ones({', '.join(map(str, data.shape))}) and "
            "change what you will."
        ) from error
    if not bool(((given >= 0) & (given < math.inf)).all()):
        raise errors.ArgumentError(
            "weights must be finite and not negative. Mend: 0 leaves a datum out, 1 has it count "
            "once, 2 twice."
        )
    return given


def reweighted(blr: Any, removal: Removal, call: Any, weights: Tensor) -> Reweighted:
    """The posterior of weighted data.

    :param call: the arguments and keywords of the model.
    :raises ImproperPosteriorError: if there is none.
    :raises GuideError: for a guide that is no natural one.
    """
    if not isinstance(blr.guide, NaturalGuide):
        raise errors.GuideError(
            f"a {type(blr.guide).__name__} keeps its parameters in Pyro's store, by name, so that "
            "a second one beside it would share them. Mend: use AutoNatural(model); loo and scores "
            "need no second guide."
        )
    args, kwargs = call
    other = _beside(blr, weighted_model(blr.model, removal.data, weights))
    if removal.is_exact:
        other.step_size = 1.0
        other.step(*args, **kwargs)
        other.step_size = blr.step_size
        return Reweighted(other, call, weights, True)
    rows = (weights.reshape(-1) != 1).nonzero().flatten()
    if len(rows):
        before, start = other.evaluate_loss(*args, **kwargs), detached(other.guide.naturals())
        moved = removal.together(rows, 1 - weights.reshape(-1)[rows])
        by_name = {b.name: n for b, n in moved.items()}
        other.guide.write({b: by_name[b.name] for b in start})
        if not other.evaluate_loss(*args, **kwargs) <= before:
            other.guide.write(start)
    return Reweighted(other, call, weights, False)


def _beside(blr: Any, model: Callable[..., Any]) -> Any:
    """An engine for another model with the same options, and a copy of the guide as it stands."""
    options = {name: getattr(blr, name) for name in OPTIONS}
    guide = copy.deepcopy(blr.guide)
    other = type(blr)(model, guide, without_state(blr.optim), blr.loss, **options)
    other._is_laid_out = True
    return other


def with_rows_apart(blr: Any, data: Data, call: Any) -> tuple[Any, Any]:
    """An engine, and its objective, where each row has a covariance of its own.

    Rows that share one do not without the datum of one of them. The optimum is the same.

    :raises GuideError: for a guide that is no natural one.
    """
    args, kwargs = call
    other = _beside(blr, weighted_model(blr.model, data, torch.ones(data.shape)))
    other.fit(*args, **kwargs)
    objective = other._objective(args, kwargs)
    if any(b.row_dims for b in objective.energy.blocks):
        names = [b.name for b in objective.energy.blocks if b.row_dims]
        raise errors.GuideError(
            f"the rows of {names[0]!r} share one covariance, which they do not without one of "
            "their data. Mend: a covariance of its own for each, "
            f"AutoNatural(model, families={{{names[0]!r}: 'MultivariateNormal'}})."
        )
    return other, objective


def left_over(blr: Any, args: Any, kwargs: Any) -> float:
    """Half the squared length of a full step, in nats."""
    messages = blr.messages(*args, **kwargs)
    naturals = detached(blr.view.naturals())
    return residual(naturals, {b: messages[b.name] for b in naturals})

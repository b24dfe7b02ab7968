# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A model in which data count less, more, or not at all, and the posterior under it."""

import copy
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .. import errors
from .._compat import without_state
from ..engine import detached
from ..families import Natural
from ..fit import Fit, counted
from ..guides.natural_guide import NaturalGuide
from ..lifting.blocks import Block
from ..state import OPTIONS
from ..steps.taken import residual
from .data import Data
from .removal import Removal

#: Steps of the weighted model that are taken from the first-order answer.
STEPS = 100

#: Steps of a fit without a datum that matters.
REFIT_STEPS = 500

#: The residual in nats up to which what was found is at an optimum.
SETTLED = 1e-4


class Weighing(Messenger):
    """Multiplies the log densities of data by weights; data of weight 0 are masked.

    Parameters of the model are held where they are.

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

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        msg["stop"] = True  # unseen by the engine, which would move it

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        if isinstance(msg["value"], Tensor):
            msg["value"] = msg["value"].detach()


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
    :ivar int steps: the steps that were taken beyond the first order.
    :ivar weights: # shape: that of the data's plates
    """

    def __init__(
        self, blr: Any, call: Any, weights: Tensor, is_exact: bool, steps: int = 0
    ) -> None:
        self.steps = steps
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
        left = f"a further step would move it by {self.residual:.1e} nats"
        done = f"at first order in what is left, then {counted(self.steps, 'step')}; {left}"
        return done if self.is_settled else f"{done}: not settled, call .fit()"

    @property
    def is_settled(self) -> bool:
        """Whether a further step would hardly move it, as at an optimum."""
        return self.residual <= SETTLED

    def fit(self, **limits: Any) -> Fit:
        """Go on from here to the optimum of the weighted data, as :meth:`~pyro_blr.BLR.fit` does.

        Parameters of the model (``pyro.param``) are held: they are those of the fit with all data.

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
    if not len(rows):
        return Reweighted(other, call, weights, False)
    before, start = other.evaluate_loss(*args, **kwargs), detached(other.guide.naturals())
    by_name = {b.name: n for b, n in _moved(removal, rows, weights.reshape(-1)[rows]).items()}
    other.guide.write({b: by_name[b.name] for b in start})
    if not other.evaluate_loss(*args, **kwargs) <= before:
        other.guide.write(start)
    fit = other.fit(*args, max_steps=STEPS, **kwargs)
    return Reweighted(other, call, weights, False, fit.steps)


def _moved(removal: Removal, rows: Tensor, weights: Tensor) -> Mapping[Block, Natural]:
    """q without shares of some data, from which steps go on: of one datum as its scores have it."""
    if len(rows) == 1 and float(weights[0]) == 0.0:
        left = removal.leaving(removal.part(rows)).naturals
        return {b: tuple(t[0] for t in n) for b, n in left.items()}
    return removal.together(rows, 1 - weights)


def refitted(blr: Any, data: Data, call: Any, datum: int) -> dict[str, Natural] | None:
    """q fitted without a datum, by block; None if there is no such fit, or it does not converge.

    :param call: the arguments and keywords of the model.
    """
    if not isinstance(blr.guide, NaturalGuide):
        return None
    args, kwargs = call
    weights = torch.ones(data.count, dtype=torch.float64)
    weights[datum] = 0.0
    other = _beside(blr, weighted_model(blr.model, data, weights.reshape(data.shape)))
    try:
        fit = other.fit(*args, max_steps=REFIT_STEPS, **kwargs)
    except errors.BLRError:
        return None
    if not (fit.converged or left_over(other, args, kwargs) <= SETTLED):
        return None
    return {b.name: n for b, n in detached(other.guide.naturals()).items()}


def _beside(blr: Any, model: Callable[..., Any]) -> Any:
    """An engine for another model with the same options, and a copy of the guide as it stands."""
    options = {name: getattr(blr, name) for name in OPTIONS} | {"params": "optim"}
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

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A log joint density with its gradients, and the parameters in it that an optimiser moves."""

from collections.abc import Mapping

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from .. import errors
from ..energy.log_joint import LogJoint
from ..energy.work import Work
from ..steps.gradients import check_gradients
from ..steps.mixture import State


class Differentiated:
    """log p and its gradient at points.

    :param own: the log joint.
    :param leaves: the parameters of the model that may move, by name.
    :param work: counts the gradients.
    """

    def __init__(self, own: LogJoint, leaves: Mapping[str, Tensor], work: Work) -> None:
        self.own = own
        self.leaves = dict(leaves)
        self.work = work

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """# shape: (K, S, D) -> (K, S), (K, S, D)"""
        variable = points.detach().requires_grad_()
        value = self.own(variable)
        self.work.gradients += value.numel()
        if not value.requires_grad:
            return value, torch.zeros_like(points)
        (gradient,) = torch.autograd.grad(value.sum(), variable, allow_unused=True)
        gradient = torch.zeros_like(points) if gradient is None else gradient
        return value.detach(), gradient

    def slopes(self, state: State) -> dict[str, Tensor]:
        """The gradient of -ELBO in each parameter, at the points of a state.

        :raises NonFiniteError: naming a parameter whose gradient is NaN or infinite.
        """
        if not self.leaves:
            return {}
        mixture = state.mixture
        value = mixture.log_weights.exp() @ self.own(mixture.points).mean(1)
        leaves = list(self.leaves.values())
        found = torch.autograd.grad(-value, leaves, allow_unused=True, materialize_grads=True)
        gradients = dict(zip(self.leaves, found, strict=True))
        check_gradients(gradients)
        return gradients

    def optimise(self, optim: PyroOptim, state: State) -> None:
        """A step of the optimiser on -ELBO, at the points of a state.

        :raises NonFiniteError: naming the parameter; nothing has moved then.
        """
        gradients = self.slopes(state)
        if not gradients:
            return
        for name, leaf in self.leaves.items():
            leaf.grad = gradients[name]
        optim(set(self.leaves.values()))
        for leaf in self.leaves.values():
            leaf.grad = None

    def error(self, points: Tensor) -> errors.NonFiniteError:
        """The error for a log joint that is NaN or infinite at some points, naming the term."""
        with torch.no_grad():
            terms = self.own.terms(points.reshape(-1, points.shape[-1]))
        bad = {n: int((~torch.isfinite(t)).sum()) for n, t in terms.items()}
        named = [n for n, count in bad.items() if count]
        what = f"site {named[0]!r}: its log density" if named else "the gradient of the log joint"
        gradient = "write it without a root or logarithm of 0 there, or "
        mend = "" if named else gradient
        where = f" at {bad[named[0]]} of {points[..., 0].numel()} points of q" if named else ""
        return errors.NonFiniteError(
            f"{what} is NaN or infinite{where}; nothing was moved. Mend: {mend}look for NaN or "
            "infinity in the data, keep arguments that overflow (exp) in bounds, or start "
            "elsewhere (init_loc_fn)."
        )

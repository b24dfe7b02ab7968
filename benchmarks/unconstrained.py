# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A Pyro model as a function: the log joint density of many points of the unconstrained space."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor
from torch.distributions import biject_to

from .stan_models.example import origin


class LogJoint:
    """log p(x, z(u)) + log |dz/du|, for a batch of u.

    The latents lie in u in the order of the model, each flat, as Pyro's AutoContinuous guides
    pack them.

    :param callable model: the model; it must give every site an independent draw of its own.
    :param tuple args: what it is called with.
    """

    def __init__(self, model: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.model, self.args = model, args
        self.slices: dict[str, slice] = {}
        self._sites: dict[str, tuple[torch.Size, Any]] = {}
        self.dim = 0
        # An improper prior has no draws; only the shapes of the values are looked at.
        started = InitMessenger(origin)(model)
        prototype = poutine.util.prune_subsample_sites(poutine.trace(started).get_trace(*args))
        for name, site in prototype.nodes.items():
            if site["type"] != "sample" or site["is_observed"]:
                continue
            transform = biject_to(site["fn"].support)
            shape = transform.inv(site["value"]).shape
            self.slices[name] = slice(self.dim, self.dim + shape.numel())
            self._sites[name] = (shape, transform)
            self.dim += shape.numel()

    def __call__(self, u: Tensor) -> Tensor:
        """In nats. # shape: (draws, dim) -> (draws,)"""
        # Validation looks at values, which vmap does not have.
        with pyro.validation_enabled(False):
            result: Tensor = torch.func.vmap(self._one)(u)
        return result

    def values(self, u: Tensor) -> dict[str, Tensor]:
        """The latents at points of the unconstrained space. # shape: (draws, dim)"""
        return {
            name: transform(u[:, self.slices[name]].reshape(len(u), *shape))
            for name, (shape, transform) in self._sites.items()
        }

    def inverse(self, values: Mapping[str, Tensor]) -> Tensor:
        """The points of the unconstrained space at values of the latents. # shape: (draws, dim)"""
        parts = [
            t.inv(values[name]).reshape(len(values[name]), -1)
            for name, (_, t) in self._sites.items()
        ]
        return torch.cat(parts, -1)

    def _one(self, u: Tensor) -> Tensor:
        values, jacobian = {}, u.new_zeros(())
        for name, (shape, transform) in self._sites.items():
            part = u[self.slices[name]].reshape(shape)
            values[name] = transform(part)
            jacobian = jacobian + transform.log_abs_det_jacobian(part, values[name]).sum()
        trace = poutine.trace(poutine.condition(self.model, values)).get_trace(*self.args)
        result: Tensor = trace.log_prob_sum() + jacobian
        return result

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The one place where a q's ELBO is found: on draws that are the same for every side.

A Gaussian over the unconstrained space is ``loc + scale @ normal``, on fixed draws that no side has
seen: of two that are near each other the errors cancel. Any other q brings draws of its own with
its log density at them, and the standard error of their mean is told.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..draws import FixedDraws
from ..unconstrained import LogJoint
from .problem import Problem

#: Numbers that go through the model at a time, about: draws times what the model is given.
CHUNK = 1_000_000
#: Of a first look, at a q that may be far off, and how far is too far for a second one.
FEW, FAR = 32, 30.0


class Judged(NamedTuple):
    """An ELBO in nats, and the standard error of what draws of its own have left in it."""

    elbo: float
    error: float = 0.0


class Judge:
    """Of one problem."""

    def __init__(self, problem: Problem) -> None:
        self.joint = LogJoint(problem.judged or problem.marginal, problem.args)
        self.normal = fixed_normal(problem.draws, self.joint.dim)
        size = sum(a.numel() for a in problem.args if torch.is_tensor(a))
        self.chunk = max(1, min(256, CHUNK // max(1, size)))
        self.few = min(FEW, problem.draws // 8)
        #: Of independent Gaussians, and of those with a full covariance: one may be far below.
        self.best = {1: -math.inf, 2: -math.inf}

    def of(self, q: dict[str, Any]) -> Judged:
        """A q as peers give it: ``loc`` and ``scale`` by ``sites``, or ``values`` and ``log_q``."""
        return self._of_draws(q) if "values" in q else self._of_gaussian(q)

    def _of_gaussian(self, q: dict[str, Any]) -> Judged:
        loc, scale = self.ordered(q)
        if not (loc.isfinite().all() and scale.isfinite().all()):
            return Judged(math.nan)
        spread = scale.diagonal() if scale.dim() == 2 else scale
        entropy = float(spread.abs().log().sum()) + len(loc) / 2 * (math.log(2 * math.pi) + 1)
        half = self.normal[: self.few // 2]
        few = torch.cat([half, -half])
        elbo = entropy + float(self._log_joint(_placed(loc, scale, few)).mean())
        if not elbo > self.best[scale.dim()] - FAR:
            return Judged(elbo)
        elbo = entropy + float(self._log_joint(_placed(loc, scale, self.normal)).mean())
        self.best[scale.dim()] = max(self.best[scale.dim()], elbo)
        return Judged(elbo)

    def _of_draws(self, q: dict[str, Any]) -> Judged:
        u = self.unconstrained(q)
        jacobian = 0.0 if q.get("unconstrained") else self._jacobian(u)
        weights = self._log_joint(u) - torch.as_tensor(q["log_q"]) - jacobian
        return Judged(float(weights.mean()), float(weights.std()) / math.sqrt(len(weights)))

    def _log_joint(self, u: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.joint(part) for part in u.split(self.chunk)])

    def _jacobian(self, u: Tensor) -> Tensor:
        """log |dz/du|: the density of q at z is given, that of the joint at u."""
        total = u.new_zeros(len(u))
        for name, (shape, transform) in self.joint._sites.items():
            part = u[:, self.joint.slices[name]].reshape(len(u), *shape)
            log = transform.log_abs_det_jacobian(part, transform(part))
            total = total + log.reshape(len(u), -1).sum(-1)
        return total

    def ordered(self, q: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean and scale in the order of the model, whatever the peer's own."""
        places, at = {}, 0
        for name, size in q["sites"]:
            places[name], at = range(at, at + size), at + size
        order = [i for name in self.joint.slices for i in places[name]]
        loc, scale = (
            torch.from_numpy(np.array(q[k], dtype=float))[order] for k in ("loc", "scale")
        )
        if scale.dim() == 2 and order != sorted(order) and scale.isfinite().all():
            # The factor of the reordered covariance: L' of the QR of scale'.
            scale = torch.linalg.qr(scale.T).R.T
        return loc, scale

    def unconstrained(self, q: dict[str, Any]) -> Tensor:
        """Draws of the sites as points. # shape: (draws, dim)"""
        values = {n: torch.from_numpy(np.array(v, dtype=float)) for n, v in q["values"].items()}
        if q.get("unconstrained"):
            parts = [values[n].reshape(len(values[n]), -1) for n in self.joint.slices]
            return torch.cat(parts, -1)
        return self.joint.inverse(values)

    def moments(self, q: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each unconstrained coordinate. # shape: (dim,)"""
        if "values" in q:
            u = self.unconstrained(q)
            return u.mean(0), u.std(0)
        loc, scale = self.ordered(q)
        return loc, scale.norm(dim=1) if scale.dim() == 2 else scale.abs()


def fixed_normal(count: int, dim: int) -> Tensor:
    """Standard normal points in antithetic pairs; even ones where there are enough of them."""
    if count >= 2 * dim:
        return FixedDraws(count, dim, 0, seed=7).normal
    half = torch.randn(count // 2, dim, generator=torch.Generator().manual_seed(7))
    return torch.cat([half, -half])


def _placed(loc: Tensor, scale: Tensor, normal: Tensor) -> Tensor:
    return loc + (normal @ scale.T if scale.dim() == 2 else normal * scale)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The groups of a fit as ``xarray`` data sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..draws import Draws
from ..draws.dims import Dims
from ..draws.predictive import Predictions
from ..fit import Fit
from .constants import dims_of_constant
from .names import Names

#: The dims of draws: they are independent, and are one chain, as ArviZ asks for.
SAMPLES = ("chain", "draw")


@dataclass(frozen=True, eq=False)
class Groups:
    """Makes data sets whose dims have the same names in all of them.

    :param attrs: what each of them says of where it comes from.
    """

    names: Names
    attrs: Mapping[str, Any]

    def at_draws(
        self,
        values: Mapping[str, Tensor],
        dims: Mapping[str, Dims],
        whole: Mapping[str, Dims] | None = None,
    ) -> Any:
        """Variables with a value at each draw. # shapes: (S, *site)

        :param whole: how values lie, where the variables are log densities.
        """
        held = {}
        for name, value in values.items():
            own = self.names.of(name, dims[name], (whole or {}).get(name))
            held[self.names.variable(name)] = (
                (*SAMPLES, *own),
                _numpy(value, (1, len(value), *dims[name].shape)),
            )
        return self._dataset(held)

    def constant(self, values: Mapping[str, Tensor], dims: Mapping[str, Dims]) -> Any:
        """Variables without draws."""
        held = {
            self.names.variable(name): (
                tuple(self.names.of(name, dims[name])),
                _numpy(value, dims[name].shape),
            )
            for name, value in values.items()
        }
        return self._dataset(held)

    def constants(self, values: Mapping[str, Tensor], draws: Draws) -> Any:
        """The model's arguments."""
        return self.constant(values, {n: dims_of_constant(v, draws) for n, v in values.items()})

    def statistics(self, draws: Draws) -> Any:
        """``log_p`` and, unless q is a point, ``log_q`` of each draw, in nats."""
        held = {"log_p": (SAMPLES, _numpy(draws.log_p, (1, -1)))}
        if draws.log_q is not None:
            held["log_q"] = (SAMPLES, _numpy(draws.log_q, (1, -1)))
        points = {"points": sorted(draws.points)} if draws.points else {}
        auxiliary = {"auxiliary": sorted(draws.auxiliary)} if draws.auxiliary else {}
        return self._dataset(held, {**points, **auxiliary})

    def history(self, fit: Fit) -> Any:
        """-ELBO at the entry of each step, and how the fit ended."""
        held = {"loss": (("step",), np.asarray(fit.losses, dtype=float))}
        ended = {
            "steps": fit.steps,
            "converged": int(fit.converged),
            "reason": fit.reason,
            "residual": float(fit.residual),
            "gap": float(fit.gap),
            "gradients": fit.gradients,
        }
        return self._dataset(held, ended)

    def predictions(self, found: Predictions) -> Any:
        """Variables that the model drew."""
        return self.at_draws(found.values, found.dims)

    def _dataset(
        self,
        held: Mapping[str, tuple[Sequence[str], Any]],
        attrs: Mapping[str, Any] | None = None,
    ) -> Any:
        from xarray import Dataset

        coords: dict[str, Any] = {}
        for dims, array in held.values():
            for dim, size in zip(dims, array.shape, strict=True):
                is_own = dim in SAMPLES or dim == "step"
                coords[dim] = np.arange(size) if is_own else self.names.labels(dim)
        return Dataset(held, coords=coords, attrs={**self.attrs, **(attrs or {})})


def _numpy(value: Tensor, shape: tuple[int, ...]) -> Any:
    value = value.detach().cpu()
    if value.dtype in (torch.bfloat16, torch.float16):  # NumPy has no bfloat16, netCDF neither
        value = value.float()
    return value.numpy().reshape(shape)

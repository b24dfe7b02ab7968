# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Saved values of ``pyro.param`` and of their optimisers, until the model makes the parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from . import errors
from ._compat import optimiser_of, optimiser_state, set_optimiser_state
from .energy.parameters import Parameter


@dataclass
class SavedParameters:
    """What was loaded and not yet given to a parameter, by name.

    :param values: unconstrained values.
    :param optim: states of optimisers.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    optim: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "SavedParameters":
        """From a saved state."""
        return cls(dict(state["values"]), dict(state["optim"]))

    def give(self, parameters: Mapping[str, Parameter], optim: PyroOptim | None) -> bool:
        """Set the parameters of a run of the model; whether one was set.

        :raises CheckpointError: for a value of another shape, for parameters that were renamed, and
            for an optimiser that is missing or another one.
        """
        if not self.values:
            return False
        self._check(parameters)
        if self.optim and optim is None:
            raise errors.CheckpointError(
                f"the saved state holds that of an optimiser for {sorted(self.optim)}, but BLR was "
                "made without one. Mend: BLR(model, guide, optim) with the optimiser that was used."
            )
        given = [name for name in parameters if name in self.values]
        for name in given:
            leaf = parameters[name].leaf
            with torch.no_grad():
                leaf.copy_(self.values.pop(name))
            if optim is not None and name in self.optim:
                self._give_optimiser(name, leaf, optim)
        return bool(given)

    def _check(self, parameters: Mapping[str, Parameter]) -> None:
        wrong = [
            f"{name!r} was saved with the shape {tuple(self.values[name].shape)}, and has "
            f"{tuple(parameter.leaf.shape)} (unconstrained)"
            for name, parameter in parameters.items()
            if name in self.values and self.values[name].shape != parameter.leaf.shape
        ]
        left, new = sorted(set(self.values) - set(parameters)), sorted(set(parameters))
        if left and new and not set(self.values) & set(new):
            wrong.append(f"{left} were saved, and the model has {new}")
        if wrong:
            raise errors.CheckpointError(
                f"the saved state is of another model: parameters {'; '.join(wrong)}. Mend: give "
                "each pyro.param the name and the shape that it had when the state was saved."
            )

    def _give_optimiser(self, name: str, leaf: Tensor, optim: PyroOptim) -> None:
        state = self.optim.pop(name)
        now = optimiser_of(optim, leaf)
        held = getattr(now, "optimizer", now)
        (saved,) = state.get("optimizer", state)["param_groups"]
        if set(held.param_groups[0]) - {"initial_lr"} != set(saved) - {"initial_lr"}:
            raise errors.CheckpointError(
                f"the optimiser of {name!r} was saved with the options {sorted(saved)}, which are "
                f"not those of {type(held).__name__}. Mend: give BLR the optimiser that was used."
            )
        set_optimiser_state(optim, leaf, state)


def parameters_state(
    leaves: Mapping[str, Tensor], optim: PyroOptim | None, pending: SavedParameters
) -> dict[str, Any]:
    """The parameters' values and optimisers as tensors, numbers and strings, by name.

    :param pending: what was loaded and not yet taken up.
    """
    values = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    states = {}
    if optim is not None:
        found = {name: optimiser_state(optim, leaf) for name, leaf in leaves.items()}
        states = {name: state for name, state in found.items() if state is not None}
    return {"values": {**values, **pending.values}, "optim": {**states, **pending.optim}}

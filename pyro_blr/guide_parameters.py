# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The parameters of a guide that holds them itself: Pyro's own guides and hand-written ones."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.optim import PyroOptim
from torch import Tensor

from .energy.parameters import Parameter
from .random_state import same_random_state
from .saved_parameters import SavedParameters, parameters_state


class GuideParameters:
    """What must be saved of such a guide: its unconstrained parameters, and their optimisers.

    :param guide: a module has its own parameters; of a function all those of the param store are
        taken, since which of them it will make is not known.
    """

    def __init__(self, guide: Callable[..., Any], optim: PyroOptim) -> None:
        self.guide = guide
        self.optim = optim
        self._saved = SavedParameters()

    def _leaves(self) -> dict[str, Tensor]:
        if isinstance(self.guide, torch.nn.Module):
            return dict(self.guide.named_parameters())
        return dict(pyro.get_param_store().named_parameters())

    def state(self) -> dict[str, Any]:
        """The parameters and their optimisers' states, to be saved."""
        return parameters_state(self._leaves(), self.optim, self._saved)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what was saved, once the guide has made its parameters."""
        self._saved = SavedParameters.of(state)

    def take_up(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Give the guide's parameters what was loaded; the guide is run once to make them.

        :raises CheckpointError: for parameters of another guide.
        """
        if not self._saved.values:
            return
        with same_random_state(), torch.no_grad(), poutine.block():
            self.guide(*args, **kwargs)
        real = torch.distributions.constraints.real
        made = {n: Parameter(n, t, t.detach(), real) for n, t in self._leaves().items()}
        self._saved.give(made, self.optim)

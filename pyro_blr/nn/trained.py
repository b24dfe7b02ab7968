# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Weights of a network that are parameters of Pyro's, which an optimiser moves in place."""

from uuid import uuid4

import pyro
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .._compat import stored_leaf
from ..errors import ParameterError

#: Of which network a parameter is, where that is known.
_NETWORKS = WeakTensorKeyDictionary()


class Trained:
    """Parameters of one network. Its copies share them, as all that Pyro's store has by name.

    Pyro would keep a contiguous copy of a parameter with gaps in its memory, and move that.

    :param parameters: which an optimiser is to move.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        # A network that is in another model already is the same one; one that shares some is not.
        known = {_NETWORKS.get(p) for p in parameters}
        is_known = len(known) == 1 and None not in known
        self._network: str = known.pop() if is_known else uuid4().hex
        for parameter in parameters:
            _NETWORKS.setdefault(parameter, self._network)
            if not parameter.is_contiguous():
                with torch.no_grad():
                    parameter.data = parameter.data.contiguous()

    def value(self, name: str, parameter: Tensor) -> Tensor:
        """A parameter as Pyro has it.

        :raises ParameterError: if Pyro's store has another network's in its place.
        """
        name = f"module$$${name}"
        held = stored_leaf(name)
        if held is None or held is parameter:
            _NETWORKS[parameter] = self._network
        elif held.shape != parameter.shape or _NETWORKS.get(held) not in (None, self._network):
            raise ParameterError(
                f"Pyro's store has the parameter {name!r} of another network, which would be moved "
                "in the place of this one's. Mend: pyro.clear_param_store() before the next "
                "network, blr.state_dict() of the last one kept."
            )
        value: Tensor = pyro.param(name, parameter)
        return value

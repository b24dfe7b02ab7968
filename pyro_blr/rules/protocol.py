# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a rule without lifted latents is: a step, a loss, an explanation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer.elbo import ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from .. import errors
from ..energy.explanation import Explanation
from ..guides.leaf import leaf_of
from ..random_state import same_random_state
from ..steps.cone import Safety
from .sites import Sites, find_sites, tempered


class Rule(ABC):
    """A rule for one guide, as it is.

    :param loss: Pyro's loss, whose value and gradient the rule takes.
    :param optim: moves what the rule itself does not.
    :param reason: why the latents are not lifted.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        loss: ELBO,
        optim: PyroOptim,
        temperature: float,
        reason: str,
    ) -> None:
        self.model = tempered(model, temperature)
        self.guide = guide
        self.elbo = loss
        self.optim = optim
        self.reason = reason
        self.safety = Safety()
        #: The certified distance to the local optimum at the entry of the last step, or None.
        self.gap: float | None = None
        self._is_checked = False

    @abstractmethod
    def step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], rho: float) -> float:
        """Move every parameter; return -ELBO at the entry, in nats."""

    @abstractmethod
    def explain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Explanation:
        """How each factor is evaluated and each parameter moved."""

    @property
    @abstractmethod
    def uncertified(self) -> str:
        """Why the last step has no certificate; empty if it has one."""

    def loss(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        """-ELBO in nats, without a step."""
        self.check(args, kwargs)
        with torch.no_grad():
            return float(self.elbo.loss(self.model, self.guide, *args, **kwargs))

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Before the first step: whether guide and model fit, and their shapes their plates."""
        if not self._is_checked:
            self.sites(args, kwargs).check(self.elbo)
            self._is_checked = True

    def sites(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sites:
        """The sites of one run of the guide and of the model, which takes no random numbers."""
        with same_random_state():
            return find_sites(self.model, self.guide, args, kwargs, self.elbo)


def captured(trace: poutine.Trace) -> dict[str, Tensor]:
    """The unconstrained leaves of the parameters in a trace that may move, by full name."""
    leaves = {}
    for name, site in trace.nodes.items():
        if site["type"] == "param":
            leaf = leaf_of(site["value"])
            if leaf.requires_grad:
                leaves[name] = leaf
    return leaves


def check_number(loss: float) -> None:
    """Refuse a loss that is NaN or infinite, before anything moves.

    :raises NonFiniteError: if it is.
    """
    if loss - loss != 0:
        raise errors.NonFiniteError(
            f"-ELBO is {loss} at the guide's draws; nothing was moved. Mend: look for NaN or "
            "infinity in the data and in the arguments of the distributions, for a guide whose "
            "support is not the model's, and start from a narrower guide or a smaller lr."
        )

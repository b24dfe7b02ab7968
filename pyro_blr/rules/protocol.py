# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a rule without lifted latents is: a step, a loss, an explanation."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer.elbo import ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from ..energy.explanation import Explanation
from ..guides.leaf import leaf_of
from ..random_state import same_random_state
from ..steps.acceleration import Anderson
from ..steps.cone import Safety
from .sites import Sites, find_sites, tempered
from .watch import Watch, watched


class Rule(ABC):
    """A rule for one guide, as it is.

    :param loss: Pyro's loss, whose value and gradient the rule takes.
    :param optim: moves what the rule itself does not.
    :param reason: why the latents are not lifted.
    """

    #: How its factors are evaluated, in the words of ``explain``.
    tier: str
    #: What its guide is, after "the guide": why it has no natural parameters.
    what: str
    #: Whether its certificate has the error of draws, so that less is asked for by default.
    is_sampled = False
    #: The length of the last full step in nats, where it is known.
    residual = math.inf

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
        #: The gap that is worth a search for negative curvature.
        self.tol = 1e-6
        #: Whether every further step would be as the last one, which moved nothing.
        self.is_stuck = False
        self._is_checked = False

    @abstractmethod
    def step(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], size: float | None, count: int
    ) -> float:
        """Move every parameter; return -ELBO at the entry, in nats.

        :param size: of the step; None for ``step_size="auto"``.
        :param count: the steps that were taken before.
        :raises NonFiniteError: naming the site or the parameter; nothing has moved then.
        """

    @abstractmethod
    def probe(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """What a step evaluates, and no step.

        :raises NonFiniteError: as the step does.
        """

    @abstractmethod
    def explain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Explanation:
        """How each factor is evaluated and each parameter moved."""

    @property
    @abstractmethod
    def uncertified(self) -> str:
        """Why the last step has no certificate, and the mend; empty if it has one."""

    def begin_fit(self) -> None:  # noqa: B027
        """Forget what an earlier fit knew of its distance to the optimum."""

    def look(self) -> None:  # noqa: B027
        """After a step of a fit: find its gap, where that takes more than a step does."""

    def accelerate(self, acceleration: Anderson) -> None:  # noqa: B027
        """Go further than the last step, in a fit; nothing, where a rule's steps are not slow."""

    @property
    def about(self) -> str:
        """What a fit says beside its gap, as the end of a sentence."""
        return ""

    def loss(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        """-ELBO in nats, without a step."""
        self.check(args, kwargs)
        watch = Watch()
        with torch.no_grad(), watched(watch):
            loss = float(self.elbo.loss(self.model, self.guide, *args, **kwargs))
        if not math.isfinite(loss):
            raise watch.error(loss)
        return loss

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Before the first step: whether guide and model fit, and their shapes their plates."""
        if not self._is_checked:
            self.sites(args, kwargs).check()
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

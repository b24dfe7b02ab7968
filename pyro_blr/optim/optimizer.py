# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""One step of a diagonal Gaussian over weights: its Hessian, its two rates, its root."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor

from ..errors import ArgumentError
from ..families import Natural, Normal
from ..lifting import host
from ..steps.diagonal import each, newton_directions, retraction
from .absent import option_of
from .draws import Draws, State
from .factors import FactorOptimizer
from .noise import Noise
from .parts import in_parts
from .places import multiplies, place_of_gradients, put_masked
from .rows import prepared
from .sharding import local, whole


class GaussianOptimizer(FactorOptimizer):
    """A diagonal Gaussian over the weights, whose step is taken from gradients at draws.

    With m the means, h the Hessian of the mean loss and d the weight decay, q has the precision
    ``S = ess (h + d)``, and a step is that of :mod:`pyro_blr.steps.diagonal`. What an option of a
    group is where the group has none:

    - ``hessian``, from what h is estimated: that of the class;
    - ``retraction``, whether h takes the second-order term that keeps it positive: but for squares
      of each datum;
    - ``at``, ``power``, ``damping`` and ``debias_hessian``: those of :mod:`.absent`.
    """

    #: The estimate of groups that do not say.
    _hessian = "price"
    _state_keys = ("momentum", "hessian")

    def _needs_factor(self, group: State) -> bool:
        return self._hessian_of(group) == "price" or multiplies(group)

    def _hessian_of(self, group: State) -> str:
        name: str = group.get("hessian", self._hessian)
        return name

    # Where gradients are taken

    def _prepare(self, parameter: Tensor, group: State) -> None:
        first = {"momentum": 0.0, "hessian": group["hessian_init"]}
        prepared(parameter, self.state[parameter], first)

    def _put(
        self, group: State, parameters: Sequence[Tensor], draws: Draws, noise: Noise, counts: bool
    ) -> None:
        place = place_of_gradients(group, counts)
        if place == "masked":
            put_masked(parameters, draws.points(parameters), draws, noise, group)
            draws.show(parameters)
        elif place == "draw":
            if option_of(group, "at") != "draw":  # whose own steps would not need a width
                self._check_width(group, parameters)
            draws.draw(parameters, [self.state[p]["hessian"] for p in parameters], noise, group)

    # The Hessian

    def _estimates(
        self, group: State, scale: float, gradients: list[Tensor], source: list[Tensor],
        precisions: list[Tensor],
    ) -> list[Tensor]:  # fmt: skip
        """The Hessian of the mean loss, of one part; may use ``source`` as its memory.

        :param scale: by which gradients were multiplied, and what was summed has to be.
        :param precisions: ``h + d``.
        """
        hessian = self._hessian_of(group)
        if hessian == "squared_gradient":
            squares: list[Tensor] = each._foreach_mul(gradients, gradients)
            each._foreach_mul_(squares, group["batch_size"])
            return squares
        if hessian == "per_example":
            each._foreach_div_(source, self._draws.data)
            return source
        if self._sums_products():
            each._foreach_mul_(source, scale)
        else:  # the draw minus the mean
            each._foreach_mul_(source, gradients)
        each._foreach_mul_(source, precisions)
        each._foreach_mul_(source, group["ess"])
        return source

    def _changes(self, group: State, gaps: list[Tensor], precisions: list[Tensor]) -> list[Tensor]:
        """What is added to h.

        :param gaps: h minus the estimate.
        """
        if group.get("retraction", self._hessian_of(group) != "per_example"):
            return retraction(gaps, precisions, 1 - group["betas"][1])
        each._foreach_mul_(gaps, group["betas"][1] - 1)
        return gaps

    def _sources(self, group: State, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensors from which Hessians are estimated."""
        hessian = self._hessian_of(group)
        if hessian == "price":
            return self._products(parameters)
        if hessian == "per_example":
            return [self._draws.product(p) for p in parameters]
        return parameters  # not read

    # The step

    def _advance(
        self, group: State, parameters: Sequence[Tensor], states: Sequence[State], scale: float
    ) -> None:
        gradients = self._gradients(parameters)
        if multiplies(group):
            gradients = self._multiplied(parameters, gradients)
        columns = in_parts(
            [s.get("mean", p) for p, s in zip(parameters, states, strict=True)],
            [s["momentum"] for s in states],
            [s["hessian"] for s in states],
            gradients,
            self._sources(group, parameters),
        )
        for part in columns:
            self._advance_part(group, states[0]["step"], scale, *part)
        for parameter, state in zip(parameters, states, strict=True):
            if "mean" in state:
                parameter.copy_(state["mean"])

    def _advance_part(
        self, group: State, step: int, scale: float, means: list[Tensor], momenta: list[Tensor],
        hessians: list[Tensor], gradients: list[Tensor], source: list[Tensor],
    ) -> None:  # fmt: skip
        """The step of one part, in place."""
        decay, (b1, _) = group["weight_decay"], group["betas"]
        gradients = [g.to(m.dtype) for g, m in zip(gradients, means, strict=True)]
        if scale != 1.0:
            gradients = each._foreach_mul(gradients, scale)
        if self._hessian_of(group) != "fixed":
            precisions = each._foreach_add(hessians, decay)
            estimates = self._estimates(group, scale, gradients, source, precisions)
            gaps = each._foreach_sub(hessians, estimates)
            each._foreach_add_(hessians, self._changes(group, gaps, precisions))
        each._foreach_lerp_(momenta, gradients, 1 - b1)
        divisors = _divisors(group, step, hessians)
        directions = each._foreach_div(momenta, 1 - b1**step if group["debias"] else 1.0)
        each._foreach_add_(directions, means, alpha=decay)
        directions = newton_directions(directions, divisors)
        if group["clip_radius"] < math.inf:
            each._foreach_clamp_min_(directions, -group["clip_radius"])
            each._foreach_clamp_max_(directions, group["clip_radius"])
        rescale = group["hessian_init"] + decay if group["rescale_lr"] else 1.0
        each._foreach_add_(means, directions, alpha=-group["lr"] * rescale)

    # What it has learnt

    def _natural_of(self, group: State, parameter: Tensor) -> Natural:
        """The natural parameters of q, element by element, of a parameter that was drawn."""
        if group["ess"] is None:
            raise ArgumentError(
                f"{type(self).__name__} was not told the number of data, which sets the width of "
                "the posterior. Mend: ess=len(data)."
            )
        self._check_width(group, [parameter])
        state = self.state[parameter]
        precision = group["ess"] * (whole(state["hessian"]) + group["weight_decay"])
        return precision * whole(state.get("mean", parameter.detach())), -0.5 * precision

    _family = Normal()

    def _check_width(self, group: State, parameters: Sequence[Tensor]) -> None:
        """Refuse to look at q where it has no width, as where nothing but the prior would give it.

        :raises ArgumentError: if ``h + d`` is 0 or less somewhere.
        """
        found = [local(self.state[p]["hessian"]) for p in parameters]
        least = min((host.number(h.min()) for h in found if h.numel()), default=math.inf)
        if least + group["weight_decay"] > 0:
            return
        raise ArgumentError(
            f"{type(self).__name__}: hessian + weight_decay is {least + group['weight_decay']:g} "
            "somewhere, as before a first step or where no gradient was seen: the posterior has no "
            "width there. Mend: weight_decay above 0, the prior's precision over ess; or "
            "leave ess out, for predictions at the mean."
        )

    def _least_precision(self) -> float:
        found = [
            host.number((local(self.state[p]["hessian"]) + g["weight_decay"]).min())
            for g in self.param_groups
            for p in g["params"]
            if local(p).numel() and "hessian" in self.state[p]
        ]
        return min(itertools.chain(found, [math.inf]))


def _divisors(group: State, step: int, hessians: list[Tensor]) -> list[Tensor]:
    """By what a step of the means is divided: ``(h + d)^power + damping``."""
    decay, power, damping = (
        group["weight_decay"],
        option_of(group, "power"),
        option_of(group, "damping"),
    )
    if option_of(group, "debias_hessian"):
        hessians = each._foreach_div(hessians, 1 - group["betas"][1] ** step)
    if power == 1.0:
        added: list[Tensor] = each._foreach_add(hessians, decay + damping)
        return added
    roots: list[Tensor] = each._foreach_add(hessians, decay)
    each._foreach_pow_(roots, power)
    each._foreach_add_(roots, damping)
    return roots

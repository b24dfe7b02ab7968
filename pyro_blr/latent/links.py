# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A transition from one latent to the next of its kind."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .. import errors
from ..families import Categorical
from .conjugation import Conjugated
from .design import Design
from .reading import Reading, natural_of_site
from .setting import Setting
from .spaces import Part, Space

#: A gap of this many units of rounding is none, after the steps of a sequence.
ROUNDING = 4096


@dataclass(frozen=True)
class Link:
    """A transition between two values of one space.

    :param eta: the natural parameters of the next latent at the design's values of this one.
        # shape: (points, statistics)
    :param initial: those of the first latent. # shape: (statistics,)
    :param eps: the rounding of the model's numbers.
    """

    space: Space
    design: Design
    nx: Tensor
    weights: Tensor
    eta: Tensor
    initial: Tensor
    eps: float

    def fit(self, values: Tensor, checked: bool) -> Tensor:
        """The slope of a function of a latent, given at the design's values of it.

        :param values: # shape: (*batch, points)
        :param checked: whether to make sure that it is linear in the statistics.
        :raises NotConjugatedError: if it is not.
        """
        values = values.movedim(-1, 0).unsqueeze(0)
        constant, slope = self.design.fit(values)
        if not checked:
            return slope[0]
        gap = (values - self.design.predict(constant, slope)).detach().abs().max()
        scale = max(1.0, float(values.detach().abs().max()))
        if not float(gap) <= ROUNDING * self.eps * scale:
            raise errors.NotConjugatedError(
                f"the law of the next latent is off by {float(gap):.1e} nats from the family of "
                "this one: the chain leaves its family at the first step. Mend: use Gaussian "
                "latents with a linear mean and constant noise, or discrete ones."
            )
        return slope[0]

    @cached_property
    def r(self) -> Tensor:
        """The conjugation parameters of the transition. # shape: (statistics,)"""
        return self.fit(self.space.log_partition(self.eta), True)

    def predict(self, natural: Tensor, checked: bool) -> Tensor:
        """The law of the next latent from that of this one. # shape: (*batch, statistics)"""
        joint = (natural - self.r).unsqueeze(-2)
        turned = self.design.basis[:, 1:] @ self.weights
        return self.nx + self.fit(self.space.log_partition(joint + turned), checked)

    def message_back(self, message: Tensor, checked: bool) -> Tensor:
        """What a message to the next latent says of this one. # shape: (*batch, statistics)"""
        values = self.space.log_partition(self.eta + message.unsqueeze(-2))
        return self.fit(values, checked) - self.r


def link_of(transition: Conjugated) -> Link:
    """A transition in the packing of its latent.

    :raises NotConjugatedError: if the next latent is not of its family.
    :raises ParameterError: if a probability is 0, which has no natural parameters.
    """
    setting = transition.setting()
    _check(setting)
    reading = Reading(setting.census, setting.space, setting.layout, setting.design)
    site = reading.sites[setting.census.observed[0]]
    found = transition.at(setting)
    if not found.states:
        (part,) = setting.space.parts
        eta = natural_of_site(part, site, reading)
        space, design, initial = setting.space, setting.design, found.prior.reshape(-1)
    else:
        size = found.states[0]
        part = Part(setting.census.latents, Categorical(), ((),), False, ((size - 1,),))
        eta = natural_of_site(part, site, reading)
        space, design = Space((part,)), _one_hot(size, setting.census.device)
        weight = found.log_weight.reshape(-1)
        initial = weight[:-1] - weight[-1]
    if eta is None or eta.numel() != design.size * space.size:
        raise errors.NotConjugatedError(
            f"the next latent {site.name!r} is not in the family of this one, {part.family.name} "
            "of the same size. Mend: give both the same kind of distribution."
        )
    eta = eta.reshape(design.size, space.size)
    if not bool(eta.isfinite().all() & initial.isfinite().all()):
        raise errors.ParameterError(
            f"a probability of the transition to {site.name!r}, or of the first latent, is 0 or "
            "not finite, and its log-odds are infinite. Mend: give "
            "what cannot be a probability of 1e-300, or let dist.DiscreteHMM or a loop over "
            "pyro.markov, which take zeros, sum the states out under BLR."
        )
    nx, weights = design.fit(eta.unsqueeze(0))
    return Link(space, design, nx[0], weights[0], eta, initial, transition.residuals.eps)


def _one_hot(size: int, device: torch.device) -> Design:
    basis = torch.eye(size, dtype=torch.float64, device=device)[:, : size - 1]
    basis = torch.cat([torch.ones_like(basis[:, :1]), basis], -1)
    return Design({}, basis, torch.linalg.inv(basis))


def _check(setting: Setting) -> None:
    """Refuse transitions of several latents, of none, or of many at once."""
    if len(setting.census.observed) != 1 or len(setting.census.latents) != 1:
        raise errors.GuideError(
            "a transition has one latent and one site that stands for the next one; this one has "
            f"the latents {', '.join(setting.census.latents)} and the data "
            f"{', '.join(setting.census.observed)}. Mend: join the latents in one site, and name "
            'the next one: conjugated(transition, observed="next").'
        )
    if setting.layout.own:
        raise errors.GuideError(
            "the latent of the transition is in a plate. Mend: write the transition of one latent."
        )

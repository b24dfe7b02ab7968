# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Models with discrete latents, in Pyro and in BayesPy, from the same q of their parameters.

BayesPy holds a q of every discrete latent and has it first in a sweep; pyro_blr sums them out. The
bounds are the same where BayesPy's q of the discrete latents is at its optimum.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr.guides import AutoNatural

from .rows import Skipped

Natural = tuple[Tensor, ...]


class Nodes(NamedTuple):
    """BayesPy's nodes: of the parameters by site, of the discrete latent, and the observed one."""

    parameters: dict[str, Any]
    discrete: Any
    observed: Any


@dataclass(frozen=True, eq=False)
class DiscreteProblem:
    """One model in both packages, with its data.

    :param start: the law of each parameter at the start, in the shape of its site.
    :param callable nodes: BayesPy's nodes, given `args`.
    :param transposed: sites whose plates BayesPy has the other way round.
    """

    name: str
    model: Callable[..., None]
    args: tuple[Any, ...]
    start: Mapping[str, Any]
    nodes: Callable[..., Nodes]
    transposed: frozenset[str] = frozenset()

    def guide(self) -> AutoNatural:
        """A guide at the start."""
        guide = AutoNatural(self.model)
        guide.set_natural({name: natural_of(law) for name, law in self.start.items()})
        return guide

    def bayespy(self, laws: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """BayesPy's engine at the start, or at other laws, and its nodes by site."""
        try:
            from bayespy.inference import VB
        except ImportError as missing:
            raise Skipped(f"needs BayesPy: pip install pyro-blr[bench] ({missing})") from missing
        parameters, discrete, observed = self.nodes(*self.args)
        for name, law in (laws or self.start).items():
            arrays = (a.numpy() for a in bayespy_parameters(law))
            if name in self.transposed:
                arrays = (a.T for a in arrays)
            parameters[name].initialize_from_parameters(*arrays)
        # Nothing is saved; without a name it would open a file of its own and leave it open.
        engine = VB(discrete, *parameters.values(), observed, autosave_filename=os.devnull)
        # It would otherwise warn where the bound falls by its own rounding.
        engine.ignore_bound_checks = True
        return engine, {"": discrete, **parameters}

    def naturals_of(self, latents: Mapping[str, Any]) -> dict[str, Natural]:
        """BayesPy's q of the parameters, after its q of the discrete latent went to its optimum."""
        latents[""].update()
        result = {}
        for name, law in self.start.items():
            arrays = [np.array(phi) for phi in latents[name].phi]
            if name in self.transposed:
                arrays = [a.T for a in arrays]
            shapes = [n.shape for n in natural_of(law)]
            found = natural_of_bayespy(law, [torch.from_numpy(a.copy()) for a in arrays])
            result[name] = tuple(t.expand(s) for t, s in zip(found, shapes, strict=True))
        return result


def natural_of(law: Any) -> Natural:
    """The natural parameters of a law, as pyro_blr packs them."""
    if isinstance(law, dist.Dirichlet):
        return (law.concentration - 1,)
    if isinstance(law, dist.Gamma):
        return law.concentration - 1, -law.rate
    if isinstance(law, dist.Normal):
        precision = law.scale**-2
        return precision * law.loc, -precision / 2
    if isinstance(law, dist.MultivariateNormal):
        precision = law.precision_matrix
        return (precision @ law.loc[..., None])[..., 0], -precision / 2
    if isinstance(law, dist.Wishart):
        size = law.event_shape[-1]
        return (law.df - size - 1) / 2, -law.precision_matrix / 2
    raise NotImplementedError(type(law).__name__)


def bayespy_parameters(law: Any) -> tuple[Tensor, ...]:
    """What BayesPy's node takes as its parents' values; the matrix of a Wishart is 1 / scale."""
    if isinstance(law, dist.Dirichlet):
        return (law.concentration,)
    if isinstance(law, dist.Gamma):
        return law.concentration, law.rate
    if isinstance(law, dist.Normal):
        return law.loc, law.scale**-2
    if isinstance(law, dist.MultivariateNormal):
        return law.loc, law.precision_matrix
    if isinstance(law, dist.Wishart):
        return law.df, law.precision_matrix
    raise NotImplementedError(type(law).__name__)


def natural_of_bayespy(law: Any, phi: list[Tensor]) -> Natural:
    """BayesPy has a Dirichlet's (a), a Gamma's (-b, a) and a Wishart's (-V^-1/2, n/2)."""
    if isinstance(law, dist.Dirichlet):
        return (phi[0] - 1,)
    if isinstance(law, dist.Gamma):
        return phi[1] - 1, phi[0]
    if isinstance(law, dist.Wishart):
        return phi[1] - (law.event_shape[-1] + 1) / 2, phi[0]
    return phi[0], phi[1]

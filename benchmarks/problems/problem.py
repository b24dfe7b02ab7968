# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a problem is: one model on one set of data, that every peer is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer.autoguide.initialization import init_to_value

#: Chains of a reference where a gradient takes milliseconds.
FEWER = (500, 1000, 2)


@dataclass(frozen=True, eq=False)
class Problem:
    """One of the ten.

    :param callable model: as a user of Pyro writes it.
    :param callable summed: the same density with discrete latents summed out, for what takes
        gradients, and for the judge; the model itself where there are none.
    :param callable judged: the same for the judge, where ``vmap`` cannot run that, or it is slow.
    :param Mapping told: what else a peer of this problem must know.
    :param bayespy: the problem as the benchmarks against BayesPy have it, where there is one.
    :param Mapping start: where every side starts, by site, as laws; each side's default if empty.
    :param tuple families: of Gaussians over the unconstrained space that are compared.
    :param tuple peers: by their names in the registry, in the order in which they run.
    :param tuple ours: what BLR is run in: its default, and those families that it can have here.
    :param int draws: of the judge.
    :param str reference: "nuts" for moments of long chains; why there are none otherwise.
    :param tuple chains: warm-up, draws of a chain and chains of the reference.
    """

    name: str
    title: str
    model: Callable[..., None]
    args: tuple[Any, ...]
    peers: tuple[str, ...]
    summed: Callable[..., None] | None = None
    judged: Callable[..., None] | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    bayespy: Any = None
    start: Mapping[str, Any] = field(default_factory=dict)
    families: tuple[str, ...] = ("mean-field", "full")
    ours: tuple[str, ...] = ("default", "mean-field", "full")
    draws: int = 2048
    reference: str = "nuts"
    chains: tuple[int, int, int] = (1000, 4000, 4)

    @property
    def marginal(self) -> Callable[..., None]:
        """The model without discrete latents."""
        return self.summed or self.model

    @property
    def init_loc_fn(self) -> Callable[..., Any] | None:
        """Where Gaussian guides start: at the means of the start, if there is one."""
        if not self.start:
            return None
        values = {name: mean_of(law) for name, law in self.start.items()}
        begin: Callable[..., Any] = init_to_value(values=values)
        return begin


def mean_of(law: Any) -> torch.Tensor:
    """Of a law, in the shape of its site."""
    if isinstance(law, dist.Wishart):
        return law.df[..., None, None] * law.covariance_matrix
    mean: torch.Tensor = law.mean
    return mean

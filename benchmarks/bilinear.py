# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Bilinear Gaussian models, in Pyro and in BayesPy: principal components, matrix factorisation.

Both sides start at the same q, which breaks the symmetry of the columns by random means, and go
over the latents in the same order, each once a sweep, with the bound computed once a sweep.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr.guides import AutoNatural

from .rows import Skipped

Natural = tuple[Tensor, Tensor]

#: Precision of every Gaussian of q at the start; shape and rate of every Gamma.
START_PRECISION = 100.0
START_GAMMA = (1.0, 1.0)
#: Shape and rate of the vague Gamma priors of principal components.
VAGUE = 1e-3


@dataclass(frozen=True, eq=False)
class Problem:
    """One model in both packages, with its data.

    :param means: where the Gaussians of q start, by site. # shape of each: that of the site
    :param vectors: the Gaussian sites with an event dim.
    :param gammas: the shapes of the Gamma sites.
    :param callable nodes: BayesPy's nodes by site, in the order of a sweep, and the observed one.
    """

    name: str
    model: Callable[..., None]
    args: tuple[Any, ...]
    means: Mapping[str, Tensor]
    vectors: frozenset[str]
    gammas: Mapping[str, tuple[int, ...]]
    nodes: Callable[..., tuple[dict[str, Any], Any]]

    def guide(self) -> AutoNatural:
        """A guide at the start."""
        guide = AutoNatural(self.model)
        guide.set_natural(self.start())
        return guide

    def start(self) -> dict[str, Natural]:
        """The natural parameters of the start."""
        a, b = START_GAMMA
        gammas = {n: (torch.full(s, a - 1), torch.full(s, -b)) for n, s in self.gammas.items()}
        return gammas | {name: self._gaussian(name) for name in self.means}

    def _gaussian(self, name: str) -> Natural:
        mean = self.means[name]
        precision = torch.ones_like(mean)
        if name in self.vectors:
            precision = torch.diag_embed(precision)
        return START_PRECISION * mean, -START_PRECISION / 2 * precision

    def bayespy(self) -> tuple[Any, dict[str, Any]]:
        """BayesPy's engine at the start, and its nodes by site."""
        try:
            from bayespy.inference import VB
        except ImportError as missing:
            raise Skipped(f"needs BayesPy: pip install pyro-blr[bench] ({missing})") from missing
        latents, observed = self.nodes(*self.args)
        for name, node in latents.items():
            if name in self.gammas:
                node.initialize_from_parameters(*START_GAMMA)
            else:
                mean = self.means[name].numpy()
                node.initialize_from_parameters(mean, START_PRECISION)
        engine = VB(*latents.values(), observed)
        # It would otherwise warn where the bound falls by its own rounding.
        engine.ignore_bound_checks = True
        return engine, latents

    def naturals_of(self, latents: Mapping[str, Any]) -> dict[str, Natural]:
        """BayesPy's q in natural parameters; it has (-rate, shape) of a Gamma."""
        result = {}
        for name, node in latents.items():
            first, second = (torch.from_numpy(np.array(phi)) for phi in node.phi)
            if name in self.gammas:
                shape = self.gammas[name]
                result[name] = (second - 1).expand(shape), first.expand(shape)
            else:
                own = self.means[name].shape
                square = (*own, own[-1]) if name in self.vectors else own
                result[name] = _broadcast(first, own), _broadcast(second, square)
        return result


def _broadcast(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """BayesPy keeps what is the same along a plate once, and has plates of size one in front."""
    return tensor.reshape(tensor.shape[max(0, tensor.dim() - len(shape)) :]).expand(shape)


def ppca_model(y: Tensor, K: int) -> None:
    """Probabilistic principal components; alpha is the precision of each column of W."""
    N, D = y.shape
    columns, rows = pyro.plate("columns", D, dim=-1), pyro.plate("rows", N, dim=-2)
    with rows:
        x = pyro.sample("x", dist.Normal(torch.zeros(K), 1.0).to_event(1))
    alpha = pyro.sample("alpha", dist.Gamma(torch.full((K,), VAGUE), VAGUE).to_event(1))
    with columns:
        W = pyro.sample("W", dist.Normal(torch.zeros(K), alpha.rsqrt()).to_event(1))
    tau = pyro.sample("tau", dist.Gamma(VAGUE, VAGUE))
    with rows, columns:
        pyro.sample("y", dist.Normal((x * W).sum(-1), tau.rsqrt()), obs=y)


def ppca_nodes(y: Tensor, K: int) -> tuple[dict[str, Any], Any]:
    """The same in BayesPy."""
    from bayespy.nodes import Gamma, GaussianARD, SumMultiply

    N, D = y.shape
    alpha, tau = Gamma(VAGUE, VAGUE, plates=(K,)), Gamma(VAGUE, VAGUE)
    W = GaussianARD(0, alpha, shape=(K,), plates=(1, D))
    x = GaussianARD(0, 1, shape=(K,), plates=(N, 1))
    observed = GaussianARD(SumMultiply("i,i", W, x), tau)
    observed.observe(y.numpy())
    return {"x": x, "alpha": alpha, "W": W, "tau": tau}, observed


def ppca(N: int, D: int, K: int, noise: float = 2.0, seed: int = 0) -> Problem:
    """K components, three of which are there; W starts at the principal components.

    From a random W the columns would have to turn to the axes of the optimum, which takes either
    side thousands of sweeps; x starts at random and is the first to be updated.
    """
    make = torch.Generator().manual_seed(seed)
    W, x = torch.randn(D, 3, generator=make), torch.randn(N, 3, generator=make)
    y = x @ W.T + noise * torch.randn(N, D, generator=make)
    _, lengths, axes = torch.linalg.svd(y, full_matrices=False)
    components = (axes[:K].T * lengths[:K] / N**0.5).contiguous()
    means = {"W": components, "x": torch.randn(N, 1, K, generator=make)}
    return Problem(
        f"N={N} D={D} K={K}",
        ppca_model,
        (y, K),
        means,
        frozenset({"W", "x"}),
        {"alpha": (K,), "tau": ()},
        ppca_nodes,
    )


def factorisation_model(user: Tensor, item: Tensor, y: Tensor, sizes: tuple[int, int, int]) -> None:
    """Ratings: the product of a user's and an item's K features."""
    users, items, K = sizes
    with pyro.plate("users", users):
        u = pyro.sample("u", dist.Normal(torch.zeros(K), 1.0).to_event(1))
    with pyro.plate("items", items):
        v = pyro.sample("v", dist.Normal(torch.zeros(K), 1.0).to_event(1))
    tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    with pyro.plate("ratings", len(y)):
        pyro.sample("y", dist.Normal((u[user] * v[item]).sum(-1), tau.rsqrt()), obs=y)


def biased_model(user: Tensor, item: Tensor, y: Tensor, sizes: tuple[int, int, int]) -> None:
    """The same with a bias of each user and each item."""
    users, items, K = sizes
    with pyro.plate("users", users):
        u = pyro.sample("u", dist.Normal(torch.zeros(K), 1.0).to_event(1))
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("items", items):
        v = pyro.sample("v", dist.Normal(torch.zeros(K), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    mean = (u[user] * v[item]).sum(-1) + a[user] + b[item]
    with pyro.plate("ratings", len(y)):
        pyro.sample("y", dist.Normal(mean, tau.rsqrt()), obs=y)


def factorisation_nodes(
    user: Tensor, item: Tensor, y: Tensor, sizes: tuple[int, int, int], biases: bool = False
) -> tuple[dict[str, Any], Any]:
    """Both in BayesPy."""
    from bayespy.nodes import Add, Gamma, GaussianARD, SumMultiply, Take

    users, items, K = sizes
    tau = Gamma(1.0, 1.0)
    u = GaussianARD(0, 1, shape=(K,), plates=(users,))
    v = GaussianARD(0, 1, shape=(K,), plates=(items,))
    i, j = user.numpy(), item.numpy()
    latents, mean = {"u": u, "v": v, "tau": tau}, SumMultiply("i,i", Take(u, i), Take(v, j))
    if biases:
        a, b = GaussianARD(0, 1, plates=(users,)), GaussianARD(0, 1, plates=(items,))
        latents = {"u": u, "a": a, "v": v, "b": b, "tau": tau}
        mean = Add(mean, Take(a, i), Take(b, j))
    observed = GaussianARD(mean, tau)
    observed.observe(y.numpy())
    return latents, observed


def factorisation(
    ratings: int,
    users: int,
    items: int,
    K: int,
    biases: bool = False,
    noise: float = 2.0,
    seed: int = 0,
) -> Problem:
    """Ratings of random pairs; with much less noise, either side needs hundreds of sweeps."""
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make)

    user, item = (torch.randint(n, (ratings,), generator=make) for n in (users, items))
    y = (normal(users, K)[user] * normal(items, K)[item]).sum(-1)
    y = y + noise * normal(ratings)
    means = {"u": normal(users, K), "v": normal(items, K)}
    name = f"{ratings} ratings, {users} x {items}, K={K}"
    if biases:
        y = y + normal(users)[user] + normal(items)[item]
        means |= {"a": torch.zeros(users), "b": torch.zeros(items)}
    return Problem(
        f"{name}, biases" if biases else name,
        biased_model if biases else factorisation_model,
        (user, item, y, (users, items, K)),
        means,
        frozenset({"u", "v"}),
        {"tau": ()},
        functools.partial(factorisation_nodes, biases=biases),
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A karate club that split: blocks of members, from who met whom.

    python -m examples.karate [--out FOLDER]

The blocks of all members depend on each other, so q gives each member probabilities of its own
(``discrete="factorised"``). Blocks of equal chances tell those who know many from those who know
few; where the chance of a pair grows with the degrees of both (Karrer & Newman 2011), the blocks
are the halves into which the club split.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from . import data, show

#: Which rate a pair of two blocks has: the same in either order.
PAIRS = torch.tensor([[0, 1], [1, 2]])


class Found(NamedTuple):
    """What one model says."""

    elbo: float
    second: Tensor  # the probability of the second block, shape: (members,)


def equal_chances(met: Tensor) -> None:
    """Members of a block are alike. # shape: (N, N)"""
    chance = pyro.sample("chance", dist.Beta(torch.ones(3), 1.0).to_event(1))
    src, dst, block = pairs_and_blocks(len(met))
    with pyro.plate("pairs", len(src)):
        own = chance[PAIRS[block[src], block[dst]]]
        pyro.sample("met", dist.Bernoulli(own), obs=met[src, dst])


def by_degree(met: Tensor) -> None:
    """Members of a block differ by how many they meet. # shape: (N, N)"""
    rate = pyro.sample("rate", dist.Gamma(torch.ones(3), 1.0).to_event(1))
    src, dst, block = pairs_and_blocks(len(met))
    degree = met.sum(0)
    expected = degree[src] * degree[dst] / degree.sum()
    with pyro.plate("pairs", len(src)):
        own = rate[PAIRS[block[src], block[dst]]]
        pyro.sample("met", dist.Poisson(expected * own), obs=met[src, dst])


def pairs_and_blocks(members: int) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of members, and the block of each member."""
    share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("members", members):
        block = pyro.sample("block", dist.Categorical(share))
    src, dst = torch.triu_indices(members, members, 1)
    return src, dst, block


def fit(name: str, a_model: Callable[[Tensor], None], met: Tensor) -> Found:
    """The blocks of one model."""
    pyro.clear_param_store()
    blr = BLR(a_model, AutoNatural(a_model), discrete="factorised")
    fitted = blr.fit(met)
    show.report(name, blr, fitted, met)
    second = blr.discrete_marginals(met)["block"].probs[:, 1]
    print(f"block of each member: {(second > 0.5).long().tolist()}\n")
    return Found(-blr.evaluate_loss(met), second)


def places(met: Tensor) -> Tensor:
    """Where members are drawn: all push each other off, and those who met pull. # shape: (N, 2)

    Fruchterman & Reingold 1991, from two eigenvectors of the graph's Laplacian.
    """
    root = met.sum(0).sqrt()
    _, vectors = torch.linalg.eigh(met / (root[:, None] * root))
    where = vectors[:, -3:-1] / root[:, None]
    where = where / where.std(0)
    for step in torch.linspace(0.3, 0.0, 300):
        away = where[:, None] - where
        distance = away.norm(dim=-1).clamp_min(0.01)
        force = (0.4 / distance**2 - met * distance / 0.6)[..., None] * away
        move = force.sum(1)
        where = where + step * move / move.norm(dim=-1, keepdim=True).clamp_min(1.0)
    return where


def draw(met: Tensor, half: Tensor, found: dict[str, Found], out: Path) -> Path:
    """The graph, each member in the colour of its block, as sure as that is."""
    figure, axes = show.picture(1, len(found), figsize=(9.5, 4.6))
    where, degree = places(met), met.sum(0)
    for axis, (name, one) in zip(axes, found.items(), strict=True):
        for i, j in met.triu().nonzero().tolist():
            axis.plot(where[[i, j], 0], where[[i, j], 1], color="0.85", linewidth=0.7, zorder=0)
        for label, marker in ((0, "o"), (1, "s")):
            own = half == label
            points = axis.scatter(
                *where[own].T,
                c=one.second[own],
                s=20 + 12 * degree[own],
                marker=marker,
                cmap="coolwarm",
                vmin=0.0,
                vmax=1.0,
                edgecolors="0.3",
                linewidths=0.6,
            )
            axis.scatter([], [], marker=marker, color="0.6", label=f"joined half {label + 1}")
        axis.set_title(f"{name}: ELBO {one.elbo:.1f} nats")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.legend(loc="lower left", fontsize=8)
    figure.colorbar(points, ax=axes, label="probability of the second block", shrink=0.8)
    return show.save(figure, out, "karate")


def main(out: Path) -> dict[str, Found]:
    """Fit both models, print and draw what they say."""
    met, half = data.karate()
    found = {
        "equal chances": fit("equal chances", equal_chances, met),
        "chances by degree": fit("chances by degree", by_degree, met),
    }
    second = (found["chances by degree"].second > 0.5).long()
    right = int((second == half).sum())
    print(f"in the half that its block joined: {max(right, 34 - right)} of 34 members")
    draw(met, half, found, out)
    return found


if __name__ == "__main__":
    show.run(main)

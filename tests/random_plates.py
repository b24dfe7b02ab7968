# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Random models whose factors multiply elements of plates with each other, from a seed.

Most factors are a weighted sum over rows of products of random *reals* (elements of plates by index
tables, running sums, contractions), *positives* (precisions, variances, proportions) and
exponentials of affine expressions; a contraction of vectors and matrices of elements; or a
likelihood with such a location. So one plate occurs several times in one product, at equal and at
different elements.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_blr import families

Env = dict[str, Tensor]


@dataclass(frozen=True)
class Tables:
    """Constants of a model: index tables, and a design matrix. # shape: (N,), (N, D)"""

    first: Tensor
    second: Tensor
    flat: Tensor
    permutation: Tensor
    design: Tensor


#: Real values along rows, or single ones, by the latents that they take.
REALS: dict[str, Callable[[Env, Tables], Tensor]] = {
    "a": lambda e, t: e["a"],
    "b at a table": lambda e, t: e["b"][t.first],
    "b at two tables": lambda e, t: e["b"][t.permutation][t.first],
    "running sum of b": lambda e, t: e["b"].cumsum(0)[t.first],
    "mean of b": lambda e, t: e["b"].mean(),
    "c at two tables": lambda e, t: e["c"][t.first, t.second],
    "c as a vector": lambda e, t: e["c"].reshape(-1)[t.flat],
    "c over rows": lambda e, t: e["c"].sum(0)[t.second],
    "c over columns": lambda e, t: e["c"].sum(1)[t.first],
    "trace of c": lambda e, t: e["c"].diagonal().sum(),
    "v by the design": lambda e, t: (t.design * e["v"][t.first]).sum(-1),
    "sum of v": lambda e, t: e["v"].sum(),
    "w by the design": lambda e, t: t.design @ e["w"],
    "w by v": lambda e, t: (e["v"][t.first] * e["w"]).sum(-1),
}
POSITIVES: dict[str, Callable[[Env, Tables], Tensor]] = {
    "s at a table": lambda e, t: e["s"][t.first],
    "1 / s at a table": lambda e, t: 1 / e["s"][t.first],
    "p at a table": lambda e, t: e["p"][t.first],
    "1 - p at a table": lambda e, t: 1 - e["p"][t.first],
    "1 / u": lambda e, t: 1 / e["u"],
    "root of u": lambda e, t: e["u"].sqrt(),
}
#: Groups, columns, the length of vectors, rows.
SIZES = [(2, 2, 2, 4), (3, 3, 1, 5), (2, 2, 1, 3), (3, 2, 2, 1), (1, 2, 1, 3)]
#: What is affine in Gaussian latents: an exponent, a location.
AFFINE = tuple(name for name in REALS if name != "w by v")
FAMILIES = {"s": families.Gamma, "p": families.Beta, "u": families.InverseGamma}
#: Operands of a contraction: a vector along groups, or a square matrix of groups and columns.
VECTORS: dict[str, Callable[[Env, Tables], Tensor]] = {
    "b": lambda e, t: e["b"],
    "b permuted": lambda e, t: e["b"][t.permutation],
    "exp b": lambda e, t: torch.exp(0.3 * e["b"]),
    "s": lambda e, t: e["s"],
}
MATRICES: dict[str, Callable[[Env, Tables], Tensor]] = {
    "c": lambda e, t: e["c"],
    "exp c": lambda e, t: torch.exp(0.3 * e["c"]),
}
KINDS = ("product", "product", "contraction", "contraction", "contraction", "normal", "scaled")

Affine = tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Factor:
    """One factor: its kind, what it multiplies, its exponents or its location, and its data.

    :param operands: of a contraction, each with the letters of its dims.
    """

    kind: str
    reals: tuple[str, ...]
    positives: tuple[str, ...]
    affine: tuple[Affine, ...]
    operands: tuple[tuple[str, str], ...]
    weight: Tensor
    mask: Tensor


class PlateModel:
    """A model made from a seed.

    :param seed: every size, table, factor and start follows from it.
    """

    def __init__(self, seed: int) -> None:
        self._choose = random.Random(f"plates {seed}")
        self._generator = torch.Generator().manual_seed(seed)
        sizes = self._choose.choice(
            [(2, 2, 2, 4), (3, 3, 1, 5), (2, 2, 1, 3), (3, 2, 2, 1), (1, 2, 1, 3)]
        )
        self.groups, self.columns, self.width, self.rows = sizes
        self.tables = Tables(
            self._table(self.groups),
            self._table(self.columns),
            self._table(self.groups * self.columns),
            torch.randperm(self.groups, generator=self._generator),
            self._normal(self.rows, self.width),
        )
        self.factors = tuple(self._factor() for _ in range(3))
        self.start = self._start()

    def _table(self, size: int) -> Tensor:
        return torch.randint(size, (self.rows,), generator=self._generator)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator)

    def _affine(self) -> Affine:
        pick = self._choose
        count = pick.choice([1, 1, 2, 3])
        return tuple((pick.choice([0.3, -0.3, 0.5]), pick.choice(AFFINE)) for _ in range(count))

    def _operand(self) -> tuple[str, str]:
        pick = self._choose
        if self.groups == self.columns and pick.random() < 0.7:
            return pick.choice(list(MATRICES)), pick.choice(["ij", "ji", "jk", "ki", "ii"])
        return pick.choice(list(VECTORS)), pick.choice("ijk")

    def _factor(self) -> Factor:
        pick = self._choose
        return Factor(
            kind=pick.choice(KINDS),
            reals=tuple(pick.choice(list(REALS)) for _ in range(pick.choice([1, 2, 2, 3]))),
            positives=tuple(pick.sample(list(POSITIVES), pick.choice([0, 0, 1]))),
            affine=tuple(self._affine() for _ in range(pick.choice([1, 1, 2]))),
            operands=tuple(self._operand() for _ in range(pick.choice([2, 3]))),
            weight=0.4 * self._normal(self.rows),
            mask=self._uniform(self.rows) < 0.7,
        )

    def _start(self) -> dict[str, Any]:
        """A q with every element at its own mean and width."""
        groups, columns, width = self.groups, self.columns, self.width

        def normal(*shape: int) -> Any:
            return dist.Normal(self._normal(*shape), 0.2 + 0.4 * self._uniform(*shape))

        def around(*shape: int) -> tuple[Tensor, Tensor]:
            return 9 + 5 * self._uniform(*shape), 6 + 4 * self._uniform(*shape)

        return {
            "a": normal(),
            "b": normal(groups),
            "c": normal(groups, columns),
            "v": normal(groups, width).to_event(1),
            "w": normal(width).to_event(1),
            "s": dist.Gamma(*around(groups)),
            "p": dist.Beta(*around(groups)),
            "u": dist.InverseGamma(*around()),
        }

    def __call__(self) -> None:
        env: Env = {"a": pyro.sample("a", dist.Normal(0.2, 1.0))}
        env["u"] = pyro.sample("u", dist.InverseGamma(3.0, 2.0))
        env["w"] = pyro.sample("w", dist.Normal(torch.zeros(self.width), 1.0).to_event(1))
        with pyro.plate("groups", self.groups):
            env["s"] = pyro.sample("s", dist.Gamma(2.0, 2.0))
            env["p"] = pyro.sample("p", dist.Beta(2.0, 2.0))
            env["b"] = pyro.sample("b", dist.Normal(0.0, 1.0))
            env["v"] = pyro.sample("v", dist.Normal(torch.zeros(self.width), 1.0).to_event(1))
        with (
            pyro.plate("cells", self.groups, dim=-2),
            pyro.plate("columns", self.columns, dim=-1),
        ):
            env["c"] = pyro.sample("c", dist.Normal(0.0, 1.0))
        for i, factor in enumerate(self.factors):
            with pyro.plate(f"rows_{i}", self.rows), pyro.poutine.mask(mask=factor.mask):
                self._observe(f"f_{i}", factor, env)

    def _observe(self, name: str, factor: Factor, env: Env) -> None:
        affine = [affine_of(one, env, self.tables) for one in factor.affine]
        if factor.kind == "contraction":
            letters = ",".join(own for _, own in factor.operands)
            known = VECTORS | MATRICES
            tensors = [known[operand](env, self.tables) for operand, _ in factor.operands]
            pyro.factor(name, factor.weight * torch.einsum(f"{letters}->", *tensors))
        elif factor.kind == "normal":
            pyro.sample(name, dist.Normal(affine[0], torch.exp(affine[-1])), obs=factor.weight)
        elif factor.kind == "scaled":
            pyro.sample(name, dist.Normal(affine[0], F.softplus(affine[-1])), obs=factor.weight)
        else:
            value = factor.weight
            for real in factor.reals:
                value = value * REALS[real](env, self.tables)
            for positive in factor.positives:
                value = value * POSITIVES[positive](env, self.tables)
            for exponent in affine:
                value = value * torch.exp(exponent)
            pyro.factor(name, value)


def affine_of(affine: Affine, env: Env, tables: Tables) -> Tensor:
    """The sum of an affine expression's terms."""
    first, *rest = (k * REALS[n](env, tables) for k, n in affine)
    for term in rest:
        first = first + term
    return first

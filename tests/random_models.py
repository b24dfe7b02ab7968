# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Random small models that mix known and unknown operations on shared latents, for hypothesis."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from tests.estimates import Site

X = torch.tensor([0.5, -1.0, 1.5], dtype=torch.float64)
Y = torch.tensor([0.4, -0.9, 1.3], dtype=torch.float64)
COUNTS = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
LABELS = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)

Expression = tuple[Any, ...]

# Functions that the algebra of lifted tensors does not know, bounded or of linear growth, so that
# every expectation and its Monte Carlo variance exist.
UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "sin": torch.sin,
    "atan": torch.atan,
    "sigmoid": torch.sigmoid,
    "hypot": lambda a: torch.hypot(a, torch.ones(())),
    "logaddexp": lambda a: torch.logaddexp(a, -a),
    "relu": torch.relu,
    # These grow faster: only ever applied to one Gaussian leaf.
    "exp": lambda a: torch.exp(0.3 * a),
    "cosh": lambda a: torch.cosh(0.5 * a),
}
SLOW = ["softplus", "tanh", "sin", "atan", "sigmoid", "hypot", "logaddexp", "relu"]


def evaluate(node: Expression, env: dict[str, Tensor]) -> Any:
    """The expression by ordinary torch operations on whatever the latents are."""
    head, *rest = node
    match head:
        case "latent":
            return env[rest[0]]
        case "element":
            return env[rest[0]][..., rest[1]]
        case "const":
            return torch.tensor(rest[0])
        case "data":
            return X
        case "call":
            return UNKNOWN[rest[0]](evaluate(rest[1], env))
        case "pow":
            return evaluate(rest[1], env) ** rest[0]
        case "log":
            return torch.log(evaluate(rest[0], env))
        case "neg":
            return -evaluate(rest[0], env)
    a, b = evaluate(rest[0], env), evaluate(rest[1], env)
    if head == "add":
        return a + b
    if head == "sub":
        return a - b
    if head == "dot":
        return torch.stack([a, b * X[0], b]) @ torch.tensor([0.3, -0.5, 0.4])
    assert head == "mul"
    return a * b


@dataclass(frozen=True)
class Latent:
    """A latent: its kind, its q, and, of a real one, the loc and scale of its prior."""

    name: str
    kind: str
    leaves: tuple[float, float]
    loc: Expression = ("const", 0.2)
    scale: Expression = ("const", 1.0)

    def prior(self, env: dict[str, Tensor]) -> Any:
        if self.kind == "gamma":
            return dist.Gamma(3.0, evaluate(self.scale, env))
        if self.kind == "beta":
            return dist.Beta(2.0, 3.0)
        loc, scale = evaluate(self.loc, env), evaluate(self.scale, env)
        if self.kind == "multivariate":
            return dist.Normal(loc, scale).expand([2]).to_event(1)
        return dist.Normal(loc, scale)

    def site(self) -> Site:
        a, b = self.leaves
        if self.kind == "multivariate":
            root = torch.tensor([[b, 0.0], [0.4 * b, 0.7 * b]])
            return Site(self.kind, torch.tensor([a, -0.5 * a]), root)
        return Site(self.kind, a, b)


@dataclass(frozen=True)
class Spec:
    """A random model: its latents in order, and the observed sites as (kind, real, positive)."""

    latents: tuple[Latent, ...]
    observed: tuple[tuple[str, Expression, Expression], ...]

    def model(self) -> None:
        env: dict[str, Tensor] = {}
        for latent in self.latents:
            env[latent.name] = pyro.sample(latent.name, latent.prior(env))
        for i, (kind, real, positive) in enumerate(self.observed):
            r, p = evaluate(real, env), evaluate(positive, env)
            with pyro.plate(f"data_{i}", 3):
                if kind == "normal":
                    pyro.sample(f"y_{i}", dist.Normal(r, p), obs=Y)
                elif kind == "poisson":
                    pyro.sample(f"y_{i}", dist.Poisson(p), obs=COUNTS)
                elif kind == "exponential":
                    pyro.sample(f"y_{i}", dist.Exponential(p), obs=Y.abs())
                elif kind == "gamma":
                    pyro.sample(f"y_{i}", dist.Gamma(2.0, p), obs=Y.abs())
                else:
                    pyro.sample(f"y_{i}", dist.Bernoulli(logits=r), obs=LABELS)


def _leaves(latents: list[Latent], kinds: tuple[str, ...]) -> list[Expression]:
    found: list[Expression] = []
    for latent in latents:
        if latent.kind not in kinds:
            continue
        if latent.kind == "multivariate":
            found += [("element", latent.name, j) for j in (0, 1)]
        else:
            found.append(("latent", latent.name))
    return found


@st.composite
def reals(draw: Any, latents: list[Latent], depth: int) -> Expression:
    leaves = _leaves(latents, ("normal", "multivariate"))
    if depth == 0 or not draw(st.integers(0, 4)):
        return draw(st.sampled_from([*leaves, *leaves, ("const", 0.7), ("data",)]))
    below = reals(latents, depth - 1)
    heads = ["add", "sub", "mul", "neg", "call", "call", "dot", "log", "positive"]
    match head := draw(st.sampled_from(heads)):
        case "call":
            return ("call", draw(st.sampled_from(SLOW)), draw(below))
        case "neg":
            return ("neg", draw(below))
        case "log":
            return ("log", draw(positives(latents, depth - 1)))
        case "positive":
            return draw(positives(latents, depth - 1))
        case "dot":
            # Of scalars only: the three entries are stacked without their plate.
            scalars = st.sampled_from(leaves or [("const", 0.7)])
            return ("dot", draw(scalars), draw(scalars))
    return (head, draw(below), draw(below))


@st.composite
def positives(draw: Any, latents: list[Latent], depth: int) -> Expression:
    leaves = _leaves(latents, ("gamma", "beta"))
    gaussians = _leaves(latents, ("normal", "multivariate"))
    if depth == 0 or not draw(st.integers(0, 4)):
        return draw(st.sampled_from([*leaves, *leaves, ("const", 0.8)]))
    below = positives(latents, depth - 1)
    heads = ["sum", "product", "softplus", "square"]
    heads += ["power"] * bool(leaves) + ["fast"] * bool(gaussians)
    match draw(st.sampled_from(heads)):
        case "sum":
            return ("add", draw(below), draw(below))
        case "product":
            return ("mul", draw(below), draw(below))
        case "softplus":
            return ("add", ("call", "softplus", draw(reals(latents, depth - 1))), ("const", 0.3))
        case "square":
            return ("add", ("pow", 2, draw(reals(latents, depth - 1))), ("const", 0.5))
        case "fast":
            return (
                "call",
                draw(st.sampled_from(["exp", "cosh"])),
                draw(st.sampled_from(gaussians)),
            )
    return ("pow", draw(st.sampled_from([-0.5, 0.5, 2, -1])), draw(st.sampled_from(leaves)))


Q_LEAVES = {
    # Concentrated enough that t^-4 and the like have a fourth moment, wide enough for curvature.
    "gamma": st.tuples(st.floats(24, 30), st.floats(18, 30)),
    "beta": st.tuples(st.floats(16, 24), st.floats(10, 20)),
    "normal": st.tuples(st.floats(-1, 1), st.floats(0.2, 0.5)),
    "multivariate": st.tuples(st.floats(-1, 1), st.floats(0.2, 0.5)),
}


@st.composite
def specs(draw: Any, kinds: tuple[str, ...]) -> Spec:
    """A random model with latents of these kinds, in this order."""
    latents: list[Latent] = []
    for i, kind in enumerate(kinds):
        q = draw(Q_LEAVES[kind])
        extra: dict[str, Expression] = {}
        if latents and kind == "normal" and draw(st.booleans()):
            # A prior that depends on earlier latents, of scalars: no data in it.
            extra["loc"] = _without_data(draw(reals(latents, 1)))
        if latents and kind in ("normal", "gamma") and draw(st.booleans()):
            extra["scale"] = _without_data(draw(positives(latents, 1)))
        latents.append(Latent(f"z{i}", kind, q, **extra))
    likelihoods = st.sampled_from(["normal", "normal", "poisson", "exponential", "gamma", "coin"])
    observed = [
        (draw(likelihoods), draw(reals(latents, 3)), draw(positives(latents, 2)))
        for _ in range(draw(st.integers(1, 3)))
    ]
    return Spec(tuple(latents), tuple(observed))


def _without_data(node: Expression) -> Expression:
    if node == ("data",):
        return ("const", -0.4)
    return tuple(_without_data(n) if isinstance(n, tuple) else n for n in node)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""three_men1-ldaK2 of posteriordb: two topics of six documents.

    PYRO_BLR_DATA=FOLDER python -m examples.topics [--out FOLDER]

The topic of each token is summed out, by both bounds: ``"mean_field"`` of the topics of tokens and
the rest, and ``"marginal"``, Stan's, which is tighter. posteriordb has no reference draws of it.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from . import data, show

NAME = "three_men1-ldaK2"
K = 2
BOUNDS = ("mean_field", "marginal")
#: Draws of q in a step of the second bound, which certify 0.01 nats, and the most steps.
POINTS, STEPS = 128, 8
#: Words that the picture shows of each topic.
SHOWN = 12


class Found(NamedTuple):
    """What one bound says; the topic of the first document comes first."""

    elbo: float
    theta: dist.Dirichlet  # of each document
    phi: dist.Dirichlet  # of each topic


def model(words: Tensor, document: Tensor, vocabulary: int, documents: int) -> None:
    """Latent Dirichlet allocation with flat priors. # shapes: (tokens,)"""
    with pyro.plate("documents", documents):
        theta = pyro.sample("theta", dist.Dirichlet(torch.ones(K)))
    with pyro.plate("topics", K):
        phi = pyro.sample("phi", dist.Dirichlet(torch.ones(vocabulary)))
    with pyro.plate("tokens", len(words)):
        z = pyro.sample("z", dist.Categorical(theta[document]))
        pyro.sample("w", dist.Categorical(phi[z]), obs=words)


def arguments() -> tuple[Tensor, Tensor, int, int]:
    """The tokens, with words and documents counted from 0."""
    block = data.posterior(NAME)
    return torch.tensor(block["w"]) - 1, torch.tensor(block["doc"]) - 1, block["V"], block["M"]


def fit(*args: Any) -> dict[str, Found]:
    """The optimum of the first bound, and from there that of the second."""
    pyro.clear_param_store()
    guide, found = AutoNatural(model), {}
    for bound in BOUNDS:
        if bound == "mean_field":
            blr = BLR(model, guide)
            fitted = blr.fit(*args)
        else:
            options: dict[str, Any] = {"num_draws": POINTS, "on_sampled": "ignore"}
            blr = BLR(model, guide, discrete=bound, **options)
            fitted = blr.fit(*args, max_steps=STEPS)
        show.report(bound, blr, fitted, *args)
        theta, phi = (guide.marginal(n).concentration.detach().clone() for n in ("theta", "phi"))
        order = theta[0].argsort(descending=True)
        laws = dist.Dirichlet(theta[:, order]), dist.Dirichlet(phi[order])
        found[bound] = Found(-fitted.losses[-1], *laws)
    return found


def draw(found: dict[str, Found], out: Path) -> Path:
    """The share of a topic in each document, and the words that set the topics apart."""
    figure, axes = show.picture(1, 1 + K, figsize=(11, 4.2), width_ratios=(1.15, 1, 1))
    shift = {"mean_field": -0.15, "marginal": 0.15}
    for (bound, one), colour in zip(found.items(), (show.COLOURS[1], show.COLOURS[0]), strict=True):
        first = one.theta.concentration[:, 0]
        law = dist.Beta(first, one.theta.concentration.sum(-1) - first)
        place = torch.arange(1, len(first) + 1) + shift[bound]
        low, high = (torch.from_numpy(beta_quantile(law, p)) for p in (0.025, 0.975))
        bars = torch.stack([law.mean - low, high - law.mean]).clamp(min=0)
        axes[0].errorbar(
            place.numpy(),
            law.mean.numpy(),
            bars.numpy(),
            fmt="o",
            ms=4,
            color=colour,
            label=bound,
            capsize=2,
        )
    axes[0].set(xlabel="document", ylabel="share of topic 1", ylim=(-0.05, 1.05))
    axes[0].set_title("topics of the documents, 95% of q")
    axes[0].legend(loc="center right")
    phi = found["marginal"].phi.mean
    ratio = (phi[0] / phi[1]).log()
    for k, axis in enumerate(axes[1:]):
        words = (ratio * (1 - 2 * k)).argsort(descending=True)[:SHOWN].flip(0)
        rows = torch.arange(SHOWN)
        for topic in range(K):
            height = (rows + 0.2 * (1 - 2 * topic)).numpy()
            label = f"topic {topic + 1}"
            axis.barh(
                height,
                (100 * phi[topic, words]).numpy(),
                0.38,
                color=show.COLOURS[2 + topic],
                label=label,
            )
        axis.set_yticks(rows.tolist(), [f"word {int(w) + 1}" for w in words])
        axis.set_xlabel("probability (%)")
        axis.set_title(f"words that set topic {k + 1} apart")
        axis.legend(loc="lower right")
    return show.save(figure, out, "topics")


def beta_quantile(law: dist.Beta, probability: float) -> Any:
    """The quantile of a Beta distribution."""
    from scipy.special import betaincinv

    return betaincinv(law.concentration1.numpy(), law.concentration0.numpy(), probability)


def main(out: Path) -> dict[str, Found]:
    """Fit with both bounds, print and draw the topics."""
    pyro.set_rng_seed(0)
    found = fit(*arguments())
    for bound, one in found.items():
        shares = ", ".join(f"{100 * float(p):.1f}%" for p in one.theta.mean[:, 0])
        print(f"{bound}: topic 1 has {shares} of the documents")
    draw(found, out)
    return found


if __name__ == "__main__":
    show.run(main)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Old Faithful: kinds of eruption, as a mixture of Gaussians with full covariances.

    python -m examples.old_faithful [--out FOLDER]

Each class has a mean and a precision matrix in one Normal-Wishart law; the class of an eruption is
summed out. The number of classes is the one with the highest ELBO.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from . import data, show

CLASSES = range(1, 6)


class Found(NamedTuple):
    """Means of q in minutes, the class of short eruptions first."""

    share: Tensor  # shape: (K,)
    mean: Tensor  # shape: (K, 2)
    covariance: Tensor  # shape: (K, 2, 2)
    probs: Tensor  # shape: (eruptions, K)


def model(y: Tensor, K: int) -> None:
    """A mixture of K Gaussians of standardised rows. # shape of y: (N, 2)"""
    share = pyro.sample("share", dist.Dirichlet(torch.ones(K)))
    with pyro.plate("classes", K):
        L = pyro.sample("L", dist.Wishart(torch.tensor(5.0), torch.eye(2)))
        mu = pyro.sample("mu", dist.MultivariateNormal(torch.zeros(2), precision_matrix=0.1 * L))
    with pyro.plate("eruptions", len(y)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("y", dist.MultivariateNormal(mu[z], precision_matrix=L[z]), obs=y)


def standardised(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows in standard deviations about their mean; that mean and those deviations."""
    centre, width = rows.mean(0), rows.std(0)
    return (rows - centre) / width, centre, width


def fit(rows: Tensor, K: int) -> tuple[BLR, Any]:
    """A mixture of K classes, which starts by itself, and is searched from eight random starts."""
    pyro.clear_param_store()
    blr = BLR(model, AutoNatural(model))
    return blr, blr.fit(standardised(rows)[0], K)


def evidence(fitted: Any, K: int) -> float:
    """The ELBO of one labelling of the classes, and as many again for each other one."""
    return -float(fitted.losses[-1]) + math.lgamma(K + 1)


def found(blr: BLR, rows: Tensor, K: int) -> Found:
    """What q says, in minutes."""
    y, centre, width = standardised(rows)
    precision = blr.guide.marginal("L")
    df = precision.df[:, None, None]
    # The mean of the inverse of a Wishart matrix.
    covariance = torch.linalg.inv(precision.mean / df) / (df - 3)
    mean = centre + width * blr.guide.marginal("mu").mean
    order = mean[:, 0].argsort()
    share = blr.guide.marginal("share").mean
    probs = blr.discrete_marginals(y, K)["z"].probs
    return Found(
        share[order], mean[order], (covariance * width.outer(width))[order], probs[:, order]
    )


def ellipse(axis: Axes, mean: Any, covariance: Any, **style: Any) -> None:
    """Two standard deviations about a mean."""
    values, vectors = np.linalg.eigh(covariance)
    angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
    small, large = 4 * np.sqrt(values)
    axis.add_patch(Ellipse(tuple(mean), large, small, angle=angle, fill=False, **style))


def draw(
    rows: Tensor, two: Found, peer: GaussianMixture, elbos: dict[int, float], out: Path
) -> Path:
    """Eruptions by their class, and the ELBO of each number of classes."""
    figure, (left, right) = show.picture(1, 2, figsize=(9.5, 4.4), width_ratios=(1.7, 1))
    label = two.probs.argmax(-1)
    for k, colour in enumerate(show.COLOURS[:2]):
        here = rows[label == k]
        left.scatter(*here.T, s=12, color=colour, alpha=0.55, linewidth=0)
        name = f"class {k + 1}: {two.share[k]:.0%} of eruptions"
        ellipse(left, two.mean[k], two.covariance[k], color=colour, linewidth=2, label=name)
    for k in range(2):
        name = "scikit-learn, maximum likelihood" if k == 0 else None
        style = {"color": "black", "linewidth": 1, "linestyle": "--", "label": name}
        ellipse(left, peer.means_[k], peer.covariances_[k], **style)
    left.set_xlabel("length of the eruption (minutes)")
    left.set_ylabel("wait for the next one (minutes)")
    left.set_title("Old Faithful: classes and their 2 sd ellipses")
    left.legend(loc="upper left")
    right.plot(list(elbos), list(elbos.values()), "o-", color=show.COLOURS[0])
    right.set_xticks(CLASSES)
    right.set_xlabel("number of classes K")
    right.set_ylabel("ELBO + log K! (nats)")
    right.set_title("how many classes?")
    return show.save(figure, out, "old_faithful")


def main(out: Path) -> tuple[Found, dict[int, float]]:
    """Fit one to five classes, print and draw what two say. Return that, and the ELBO by K."""
    rows = data.old_faithful()
    elbos = {K: evidence(fit(rows, K)[1], K) for K in CLASSES}
    for K, value in elbos.items():
        print(f"K={K}: ELBO + log K! {value:.2f} nats")
    blr, fitted = fit(rows, 2)
    show.report("two classes", blr, fitted, standardised(rows)[0], 2)
    two = found(blr, rows, 2)
    peer = GaussianMixture(2, random_state=0, tol=1e-8, max_iter=500).fit(rows.numpy())
    order = peer.means_[:, 0].argsort()
    peer.means_, peer.covariances_ = peer.means_[order], peer.covariances_[order]
    for k in range(2):
        ours, theirs = (np.round(np.asarray(m), 2) for m in (two.mean[k], peer.means_[k]))
        print(f"class {k + 1}: share {two.share[k]:.3f}, mean {ours}, scikit-learn {theirs}")
    unsure = int((two.probs.amax(-1) < 0.99).sum())
    print(f"{unsure} of {len(rows)} eruptions are less than 99% sure of their class")
    draw(rows, two, peer, elbos, out)
    return two, elbos


if __name__ == "__main__":
    show.run(main)

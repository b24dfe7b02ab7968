# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Handwritten digits: a mixture of factor analysers.

    python -m examples.digits [--out FOLDER]

Each class has a mean image and loadings, the directions in which its images vary; each image has a
class, which is summed out, and scores along the loadings. Labels are only looked at in the end.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from . import data, show

K, Q = 10, 3
#: Values of pixels, 0 to 16, are divided by this.
UNIT = 5.0
STEPS = 40


class Found(NamedTuple):
    """What q says; images are in the units of the data."""

    losses: list[float]
    mean: Tensor  # shape: (K, 64)
    loadings: Tensor  # shape: (K, 64, Q)
    label: Tensor  # shape: (images,)
    purity: float


def model(y: Tensor, K: int, Q: int) -> None:
    """A mixture of K factor analysers with Q factors each. # shape of y: (N, D)"""
    N, D = y.shape
    share = pyro.sample("share", dist.Dirichlet(torch.ones(K)))
    tau = pyro.sample("tau", dist.Gamma(torch.full((D,), 2.0), 0.5).to_event(1))
    with pyro.plate("classes", K):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        W = pyro.sample("W", dist.Normal(torch.zeros(D, Q), 0.5).to_event(2))
    with pyro.plate("images", N):
        z = pyro.sample("z", dist.Categorical(share))
        x = pyro.sample("x", dist.Normal(torch.zeros(Q), 1.0).to_event(1))
        image = mean[z] + (W[z] @ x.unsqueeze(-1)).squeeze(-1)
        pyro.sample("y", dist.Normal(image, tau.rsqrt()).to_event(1), obs=y)


def fit(y: Tensor, steps: int) -> tuple[BLR, Any]:
    """Start at the centres that k-means finds, as scikit-learn's mixtures do."""
    pyro.clear_param_store()
    centres = torch.from_numpy(KMeans(K, n_init=3, random_state=0).fit(y.numpy()).cluster_centers_)
    guide = AutoNatural(model)
    guide.set_natural({"mean": dist.Normal(centres, 0.1).to_event(1)})
    blr = BLR(model, guide)
    return blr, blr.fit(y, K, Q, max_steps=steps)


def purity(found: Tensor, labels: Tensor) -> float:
    """The share of images whose digit is the most frequent one of their class."""
    table = torch.zeros(K, 10)
    table.index_put_((found, labels), torch.ones(len(labels)), accumulate=True)
    return float(table.amax(1).sum() / len(labels))


def draw(found: Found, out: Path) -> Path:
    """A column for each class: its mean, and how each loading changes it."""
    rows = 1 + Q
    figure, axes = show.picture(rows, K, figsize=(10.5, 4.9))
    names = ["mean", *(f"loading {q + 1}" for q in range(Q))]
    widest = float(found.loadings.abs().max())
    for k in range(K):
        axes[0, k].set_title(f"{int((found.label == k).sum())}\nimages", fontsize=8)
        shown = axes[0, k].imshow(
            found.mean[k].reshape(8, 8).numpy(), cmap="gray_r", vmin=0, vmax=16
        )
        for q in range(Q):
            loading = found.loadings[k, :, q].reshape(8, 8).numpy()
            change = axes[q + 1, k].imshow(loading, cmap="RdBu_r", vmin=-widest, vmax=widest)
        for axis, name in zip(axes[:, k], names, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if k == 0:
                axis.set_ylabel(name)
    figure.colorbar(shown, ax=axes[0], label="grey value")
    figure.colorbar(change, ax=axes[1:], label="change of the grey value at a score of 1")
    figure.suptitle(f"Classes of digits found without labels: {found.purity:.0%} pure")
    return show.save(figure, out, "digits")


def main(out: Path, every: int = 1, steps: int = STEPS) -> Found:
    """Fit all images, or each of some, print and draw what was found."""
    images, labels = (t[::every] for t in data.digits())
    centre = images.mean(0)
    y = (images - centre) / UNIT
    blr, fitted = fit(y, steps)
    show.report(f"{len(y)} images", blr, fitted, y, K, Q)
    label = blr.discrete_marginals(y, K, Q)["z"].probs.argmax(-1)
    mean = centre + UNIT * blr.guide.marginal("mean").mean
    loadings = UNIT * blr.guide.marginal("W").mean
    found = Found(fitted.losses, mean, loadings, label, purity(label, labels))
    print(f"{found.purity:.1%} of the images have the most frequent digit of their class")
    draw(found, out)
    return found


if __name__ == "__main__":
    show.run(main)

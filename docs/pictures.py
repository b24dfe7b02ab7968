# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The pictures of the documentation: ``python -m docs.pictures`` draws them anew."""

from pathlib import Path

import matplotlib
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STATIC = Path(__file__).resolve().parent / "_static"
BLUE, ORANGE, GREY = "#1f5fa8", "#d1701f", "#777777"
START, STEPS = (2.5, 1.5), 300
#: The grid on which -ELBO is drawn.
MEANS, LOG_SDS = torch.linspace(-1.2, 3.2, 80), torch.linspace(-2.4, 0.9, 70)


def normal_model(y):
    z = pyro.sample("z", dist.Normal(0.0, 2.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def bernoulli_model(y):
    z = pyro.sample("z", dist.Normal(0.0, 2.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=z), obs=y)


def blr_path(model, y):
    """Mean and standard deviation of q after each step of BLR."""
    pyro.clear_param_store()
    guide = AutoNatural(model, init_loc_fn=lambda site: torch.tensor(START[0]), init_scale=START[1])
    blr, path = BLR(model, guide), [START]
    for _ in range(6):
        blr.step(y)
        law = guide.marginal("z")
        path.append((float(law.mean), float(law.stddev)))
    return blr, guide, path


def svi_path(model, y):
    """The same after each step of Adam on Pyro's diagonal Gaussian guide."""
    pyro.clear_param_store()
    guide = AutoDiagonalNormal(model, init_loc_fn=lambda site: torch.tensor(START[0]))
    guide._init_scale = START[1]
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), TraceMeanField_ELBO())
    path = [START]
    for _ in range(STEPS):
        svi.step(y)
        path.append((guide.loc.detach().item(), guide.scale.detach().item()))
    return path


def surface(blr, guide, y):
    """-ELBO on the grid of means and standard deviations."""
    rows = []
    for log_sd in LOG_SDS:
        row = []
        for mean in MEANS:
            guide.set_natural({"z": dist.Normal(mean, log_sd.exp())})
            row.append(blr.evaluate_loss(y))
        rows.append(row)
    return torch.tensor(rows)


def panel(axes, model, y, title):
    blr, guide, steps = blr_path(model, y)
    loss = surface(blr, guide, y)
    levels = [float(loss.min()) + 0.02 * 2.2**k for k in range(1, 10)]
    axes.contour(MEANS, LOG_SDS.exp(), loss, levels, colors="0.8", linewidths=0.8)
    axes.plot(*zip(*svi_path(model, y), strict=True), color=ORANGE, linewidth=1, label="SVI (Adam)")
    axes.plot(*zip(*steps, strict=True), "o-", color=BLUE, markersize=5, label="BLR")
    axes.annotate("start", START, (7, 3), textcoords="offset points", color=GREY)
    axes.set(xlabel="mean of q", title=title, yscale="log", ylim=(0.1, 2.2))
    axes.set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
    axes.minorticks_off()


def how_it_works():
    """Paths of SVI and of BLR over -ELBO, for a conjugate model and for one that is not."""
    pyro.set_rng_seed(0)
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.7), layout="constrained", sharey=True)
    panel(axes[0], normal_model, 0.5 + torch.randn(20), "Normal data: conjugate, one step")
    labels = torch.tensor([1.0] * 13 + [0.0] * 7)
    panel(axes[1], bernoulli_model, labels, "binary data: a few steps")
    axes[0].set_ylabel("standard deviation of q")
    axes[1].legend(loc="lower right", frameon=False)
    figure.savefig(STATIC / "how_it_works.png", dpi=160)
    plt.close(figure)


if __name__ == "__main__":
    how_it_works()

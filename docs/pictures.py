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
from pyro_blr.geometry import FiniteModel, flow
from pyro_blr.guides import AutoNatural, AutoNaturalMixture

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STATIC = Path(__file__).resolve().parent / "_static"
BLUE, ORANGE, GREY = "#1f5fa8", "#d1701f", "#777777"
#: Of x, of y given each x, of z given each x: where a flow begins, and the law that it goes to.
START_BAYES = (0.61, 0.56, 0.38, 0.30, 0.67)
TARGET_BAYES = (0.57, 0.61, 0.46, 0.73, 0.15)
FIELDS = ("elbo", "recognition", "evidence")
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


def star(z):
    """Five arms, each N((1.5, 0), diag(1, 1/100)) turned by a fifth of the circle."""
    angle = 2 * torch.pi * torch.arange(5, dtype=z.dtype) / 5
    along = torch.stack([angle.cos(), angle.sin()], -1)
    across = torch.stack([-angle.sin(), angle.cos()], -1)
    x, y = z @ along.mT - 1.5, 10 * (z @ across.mT)
    return (-0.5 * (x.square() + y.square())).logsumexp(-1)


def star_model():
    z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    pyro.factor("star", star(z))


def ellipses(axes, q):
    """Each component at two standard deviations, as thick as its weight."""
    turn = torch.linspace(0, 2 * torch.pi, 100, dtype=torch.float64)
    circle = torch.stack([turn.cos(), turn.sin()])
    components, weights = q.component_distribution, q.mixture_distribution.probs
    for loc, root, weight in zip(components.loc, components.scale_tril, weights, strict=True):
        edge = loc.unsqueeze(-1) + 2 * root @ circle
        axes.plot(*edge, color=BLUE, linewidth=0.5 + 6 * float(weight))
        axes.plot(*loc, ".", color=BLUE, markersize=4)


def five_arms():
    """A star, and ten Gaussians after a step from where they start, and where they end."""
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(3)
    line = torch.linspace(-4.2, 4.2, 300)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.8), layout="constrained", sharey=True)
    guide = AutoNaturalMixture(star_model, components=10)
    blr = BLR(star_model, guide)
    for part, steps in zip(axes, [1, 60], strict=True):
        while blr.num_steps < steps:
            blr.fit(max_steps=min(60, steps - blr.num_steps), tol=1e-9)
        part.contourf(line, line, star(grid).exp(), 12, cmap="Greys")
        ellipses(part, guide.get_posterior())
        part.set(title=f"{steps} step{'s' * (steps > 1)}", aspect="equal")
    figure.savefig(STATIC / "mixture.png", dpi=150)
    plt.close(figure)


def given(p):
    """The probabilities of two values, the first one p."""
    return torch.stack([p, 1 - p], -1)


def product(theta):
    """Three independent binary values."""
    return given(theta[0])[:, None, None] * given(theta[1])[:, None] * given(theta[2])


def naive_bayes(theta):
    """x -> y and x -> z, all binary."""
    x, y, z = given(theta[0]), given(theta[1:3]), given(theta[3:5])
    return x[:, None, None] * y[:, :, None] * z[:, None, :]


def flows(axes, table, start, target, title):
    """KL of the visible law along the three flows."""
    model = FiniteModel(table, dims=("x", "y", "z"), hidden="x")
    words = ("ELBO, joint target", "ELBO, perfect recognition", "evidence")
    looks = ((ORANGE, "-", 4), (BLUE, "-", 2), ("black", "--", 1))
    for field, word, (colour, dash, width) in zip(FIELDS, words, looks, strict=True):
        path = flow(*(model, start, table(target), field), step=0.05, steps=100, singular="pinv")
        time = 0.05 * torch.arange(101)
        axes.plot(time, path.divergence, dash, color=colour, linewidth=width, label=word)
    axes.set(title=title, xlabel="time", yscale="log", ylim=(1e-7, 20))


def geometry_flows():
    """Flows of ELBO and evidence in a cylindrical model, and in one that is not."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.5), layout="constrained", sharey=True)
    start = torch.tensor([0.02, 0.95, 0.02], dtype=torch.float64)
    target = torch.tensor([0.95, 0.1, 0.9], dtype=torch.float64)
    flows(axes[0], product, start, target, "x independent of y and z: cylindrical")
    start = torch.tensor(START_BAYES, dtype=torch.float64)
    target = torch.tensor(TARGET_BAYES, dtype=torch.float64)
    flows(axes[1], naive_bayes, start, target, "x → y, x → z: not cylindrical")
    axes[0].set_ylabel("KL(target, visible law), nats")
    axes[1].legend(loc="lower left", frameon=False)
    figure.savefig(STATIC / "geometry.png", dpi=160)
    plt.close(figure)


PICTURES = (how_it_works, geometry_flows, five_arms)

if __name__ == "__main__":
    for picture in PICTURES:
        picture()

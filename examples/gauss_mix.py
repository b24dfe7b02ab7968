# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""low_dim_gauss_mix of posteriordb: two Gaussians on a line, against the reference draws.

    PYRO_BLR_DATA=FOLDER python -m examples.gauss_mix [--out FOLDER]

The components are summed out. Stan's model has a half-normal prior of each scale and orders the
means; here q has a law of each scale on the positive numbers, and starts in that order. Both bounds
are fitted: ``"mean_field"`` of the components and the rest, and ``"marginal"``, which is tighter.
"""

import os
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.stan_models.database import find, read_draws
from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from . import data, show

NAME = "low_dim_gauss_mix-low_dim_gauss_mix"
BOUNDS = ("mean_field", "marginal")
#: Stan's parameters in its notation, by what they are here.
PARAMETERS = {
    "share of the first": "theta",
    "first mean": "mu[1]",
    "second mean": "mu[2]",
    "first sd": "sigma[1]",
    "second sd": "sigma[2]",
}
DRAWS = 20_000


def model(y: Tensor) -> None:
    """Two components. # shape of y: (N,)"""
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    with pyro.plate("components", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(1 - theta)).long()
        pyro.sample("y", dist.Normal(mu[z], sigma[z]), obs=y)


def fit(y: Tensor, discrete: str) -> dict[str, Tensor]:
    """Draws of q in Stan's notation."""
    pyro.clear_param_store()
    guide = AutoNatural(model)
    guide.set_natural({"mu": dist.Normal(torch.tensor([-1.0, 1.0]), 0.1)})
    fitted = (blr := BLR(model, guide)).fit(y)
    if discrete == "marginal":  # from the other optimum it is near
        blr = BLR(model, guide, discrete=discrete, on_sampled="ignore")
        fitted = blr.fit(y)
    show.report(discrete, blr, fitted, y)
    drawn = guide.sample_posterior(DRAWS)
    mu, sigma = drawn["mu"].reshape(DRAWS, 2), drawn["sigma"].reshape(DRAWS, 2)
    columns = drawn["theta"], *mu.T, *sigma.T
    return dict(zip(PARAMETERS.values(), columns, strict=True))


def reference() -> dict[str, Tensor]:
    """The reference draws of posteriordb."""
    folder = os.environ.get("PYRO_BLR_DATA")
    draws = read_draws(find(Path(folder) if folder else None), NAME)
    assert draws is not None
    return draws


def draw(
    y: Tensor, exact: dict[str, Tensor], fits: dict[str, dict[str, Tensor]], out: Path
) -> Path:
    """The data with the mixture's density, and the marginals of the parameters."""
    figure, axes = show.picture(2, 3, figsize=(10, 5.4))
    axis = axes[0, 0]
    axis.hist(y, 50, density=True, color="0.85", label="data")
    grid = torch.linspace(float(y.min()), float(y.max()), 300)
    mean = {n: float(v.mean()) for n, v in fits["marginal"].items()}
    both = torch.zeros_like(grid)
    for k, share in ((1, mean["theta"]), (2, 1 - mean["theta"])):
        law = dist.Normal(mean[f"mu[{k}]"], mean[f"sigma[{k}]"])
        both += share * law.log_prob(grid).exp()
    axis.plot(grid, both, color=show.COLOURS[0], label="mixture at the mean of q")
    axis.set(xlabel="y", ylabel="density", ylim=(0, 1.35 * float(both.max())), title="data")
    axis.legend(loc="upper left", fontsize=8)
    for axis, (title, name) in zip(axes.flat[1:], PARAMETERS.items(), strict=True):
        axis.hist(exact[name], 50, density=True, color="0.85", label="reference draws")
        for (bound, drawn), style in zip(fits.items(), ("--", "-"), strict=True):
            grid, values = density(drawn[name])
            colour = show.COLOURS[1] if style == "--" else show.COLOURS[0]
            axis.plot(grid, values, style, color=colour, label=bound)
        axis.set(title=title, xlabel=name, yticks=[])
    axes[0, 1].legend(loc="upper left", fontsize=8)
    axes[0, 1].set_ylim(0, 1.5 * axes[0, 1].get_ylim()[1])
    return show.save(figure, out, "gauss_mix")


def density(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """A kernel estimate of a density on a grid."""
    from scipy.stats import gaussian_kde

    grid = torch.linspace(float(drawn.min()), float(drawn.max()), 200)
    return grid, torch.from_numpy(gaussian_kde(drawn[:4000].numpy())(grid.numpy()))


def main(out: Path) -> dict[str, Any]:
    """Fit with both bounds, print and draw the posteriors beside the reference."""
    y = torch.tensor(data.posterior(NAME)["y"])
    exact = reference()
    fits = {bound: fit(y, bound) for bound in BOUNDS}
    print(f"{'':20}{'reference':>20}{BOUNDS[0]:>20}{BOUNDS[1]:>20}")
    for title, name in PARAMETERS.items():
        columns = (exact, *fits.values())
        cells = (f"{float(c[name].mean()):.4f} +- {float(c[name].std()):.4f}" for c in columns)
        print(f"{title:20}" + "".join(f"{cell:>20}" for cell in cells))
    draw(y, exact, fits, out)
    return {"reference": exact, **fits}


if __name__ == "__main__":
    show.run(main)

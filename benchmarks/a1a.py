# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Logistic regression on a1a: the reference run step by step, and the optimum from every start.

The reference is conjugate-computation variational inference (arXiv 1703.04265) with the test
log-loss in bits of the predictive integral. Needs ``a1a.npz`` in the folder PYRO_BLR_DATA: arrays
X_train (1605, 123), y_train, X_test (30956, 123), y_test, labels in {0, 1}.
"""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.infer.autoguide.initialization import init_to_uniform
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from .classification import log_loss_bits, model
from .rows import Check, Row, Settings, Skipped
from .timing import fresh, seconds

NAME = "a1a"
#: Precision of the prior on the weights and on the bias, whose column of ones goes in front.
WEIGHTS, BIAS = 2.8072, 1e-4
#: The start of the reference: each datum's site, first natural parameter and precision.
SITE_FIRST, SITE_PRECISION = 0.01, 0.005
#: rho -> iteration -> (test log-loss in bits, ELBO in nats).
REFERENCE = {
    2 / 7: {0: (1.96295, -2791.2302), 1: (0.52711, -662.7255), 5: (0.48961, -596.2740),
            10: (0.48860, -594.7973)},
    1.0: {0: (1.96295, -2791.2302), 1: (0.55915, -687.1349), 5: (0.48838, -594.7279),
          10: (0.48837, -594.7263)},
}  # fmt: skip
LIMIT = (0.48837, -594.726301)
LIMIT_ITERATION = 60  # (1 - 2/7)^(2 * 60) is 3e-18
ACCURACY = 0.84304
#: Half a unit of the last printed digit, and a little for the rounding of the difference.
LOSS_TOLERANCE, ELBO_TOLERANCE, LIMIT_TOLERANCE = 0.51e-5, 0.51e-4, 0.51e-6
#: A fall of the ELBO up to this times its size is rounding.
ROUNDING = 64 * torch.finfo(torch.float64).eps
UNIFORM_STARTS, FAR_TOLERANCE = 20, 1e-3


@dataclass(frozen=True)
class Data:
    """The two halves, with the column of ones in front, and the prior."""

    X: Tensor
    y: Tensor
    X_test: np.ndarray
    y_test: np.ndarray
    prior_precision: Tensor

    @property
    def args(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the model is called with."""
        return self.X, self.y, self.prior_precision


def run(settings: Settings) -> Iterator[Row]:
    """The table of the reference, then the starts."""
    data = load(settings)
    for rho, reference in REFERENCE.items():
        yield from reference_rows(data, rho, reference)
    yield start_row(data, "default start", [lambda: AutoNatural(model)])
    yield start_row(data, "from the prior", [lambda: from_prior(data)])
    count = 2 if settings.tiny else UNIFORM_STARTS
    starts = [lambda: AutoNatural(model, init_loc_fn=init_to_uniform)] * count
    yield start_row(data, f"{count} uniform(-2, 2) starts", starts)


def load(settings: Settings) -> Data:
    """Read the file.

    :raises Skipped: without it.
    """
    path = settings.data / "a1a.npz" if settings.data else None
    if path is None or not path.exists():
        raise Skipped("needs a1a.npz; set PYRO_BLR_DATA to the folder that has it")
    with np.load(path) as arrays:
        halves = {k: np.asarray(arrays[k], dtype=np.float64) for k in arrays.files}
    X, X_test = (np.c_[np.ones(len(A)), A] for A in (halves["X_train"], halves["X_test"]))
    precision = torch.full((X.shape[1],), WEIGHTS)
    precision[0] = BIAS
    y = torch.from_numpy(halves["y_train"])
    return Data(torch.from_numpy(X), y, X_test, halves["y_test"], precision)


def reference_rows(
    data: Data, rho: float, reference: dict[int, tuple[float, float]]
) -> Iterator[Row]:
    """One row for each recorded iteration, and one for the limit."""
    fresh()
    guide = AutoNatural(model)
    precision = torch.diag(data.prior_precision) + SITE_PRECISION * data.X.T @ data.X
    guide.set_natural({"w": (SITE_FIRST * data.X.sum(0), -precision / 2)})
    engine = BLR(model, guide, step_size=rho)
    elbo = -engine.evaluate_loss(*data.args)
    times: list[float] = []
    for iteration in range(LIMIT_ITERATION + 1):
        if iteration:
            times.append(seconds(lambda: engine.step(*data.args))[0])
        if iteration in reference or iteration == LIMIT_ITERATION:
            elbo = -engine.evaluate_loss(*data.args)
            figures = (*log_loss_bits(data.X_test, data.y_test, guide.marginal("w")), elbo)
            yield reference_row(rho, iteration, reference.get(iteration), figures, times)


def reference_row(
    rho: float,
    iteration: int,
    expected: tuple[float, float] | None,
    figures: tuple[float, float, float],
    times: list[float],
) -> Row:
    """Differences from the recorded figures; the limit where none is recorded."""
    bits, accuracy, elbo = figures
    name, tolerance = f"iteration {iteration}", ELBO_TOLERANCE
    quality = []
    if expected is None:
        expected, name, tolerance = LIMIT, "limit", LIMIT_TOLERANCE
        quality = [Check("accuracy's", abs(accuracy - ACCURACY), LOSS_TOLERANCE)]
    return Row(
        NAME,
        f"rho={rho:.4f}, {name}",
        Check("ELBO's difference", abs(elbo - expected[1]), tolerance),
        [Check("log-loss's", abs(bits - expected[0]), LOSS_TOLERANCE), *quality],
        {"step": times[-1:]},
        f"ELBO {elbo:.6f}, test log-loss {bits:.5f} bits, accuracy {accuracy:.5f}",
    )


def from_prior(data: Data) -> AutoNatural:
    """A guide that starts at the prior."""
    guide = AutoNatural(model)
    zero = torch.zeros_like(data.prior_precision)
    guide.set_natural({"w": (zero, -torch.diag(data.prior_precision) / 2)})
    return guide


def start_row(data: Data, name: str, guides: list[Any]) -> Row:
    """Fits with ``step_size="auto"``, one for each guide; the worst of them is shown."""
    errors, falls, steps, times, converged = [], [], [], [], []
    for seed, make in enumerate(guides):
        fresh(seed)
        engine = BLR(model, make(), step_size="auto")
        elapsed, fit = seconds(lambda engine=engine: engine.fit(*data.args))
        losses = [*fit.losses, engine.evaluate_loss(*data.args)]
        errors.append(abs(losses[-1] + LIMIT[1]))
        falls.append(largest_fall(losses))
        steps.append(fit.steps)
        times.append(elapsed)
        converged.append(fit.converged)
    return Row(
        NAME,
        f'{name}, step_size="auto"',
        Check("nats from the optimum", max(errors), FAR_TOLERANCE),
        [
            Check("largest fall / 64 eps |ELBO|", max(falls), 1.0),
            Check("not converged", converged.count(False), 0),
        ],
        {"fit": times},
        f"{min(steps)} to {max(steps)} steps, median {statistics.median(times):.2f} s",
    )


def largest_fall(losses: list[float]) -> float:
    """The largest rise of the loss, in units of what rounding may do.

    The size of an ELBO is at most the sum of the sizes of its terms, so this allows less than
    the rounding of that sum.
    """
    pairs = itertools.pairwise(losses)
    return max(0.0, *((new - old) / (ROUNDING * abs(old)) for old, new in pairs))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""statsmodels' Kalman smoother for counts, iterated to the mode: the Laplace approximation.

Counts are no Gaussians: each pass smooths the Gaussian data that have the curvature and the slope
of the counts at the last states (Durbin and Koopman, *Time Series Analysis by State Space Methods*,
10.6).
"""

from typing import Any

import numpy as np
from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother

from .stepping import Clock

#: The mode is found when no state moves by more.
STILL, MOST_PASSES = 1e-8, 50


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Means and standard deviations of the states."""
    (y,) = given["args"]
    cold, warm = Clock(), Clock()
    for clock in (cold, warm):
        with clock:
            mean, sd, passes = laplace(y, *given["walk"])
    run = {
        "setting": f"{passes} passes",
        "looks": [{"seconds": warm.seconds, "gradients": 0}],
        "answers": {"x": (mean, sd)},
    }
    return {"compile": max(0.0, cold.seconds - warm.seconds), "runs": [run]}


def laplace(
    y: np.ndarray, first: float, spread: float, move: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """The mode, the curvature's standard deviations, and the passes that they took.

    :param spread: the standard deviation of the first state, about ``first``.
    """
    x, passes, moved = np.log(y + 0.5), 0, np.inf
    while moved > STILL and passes < MOST_PASSES:
        passes += 1
        rate = np.exp(x)
        smoother = KalmanSmoother(k_endog=1, k_states=1, k_posdef=1)
        smoother.bind(x + y / rate - 1)
        smoother["design"] = np.ones((1, 1))
        smoother["transition"] = np.ones((1, 1))
        smoother["selection"] = np.ones((1, 1))
        smoother["state_cov"] = np.full((1, 1), move**2)
        smoother["obs_cov"] = (1 / rate)[None, None, :]
        smoother.initialize_known(np.array([first]), np.array([[spread**2]]))
        found = smoother.smooth()
        moved = np.abs(found.smoothed_state[0] - x).max()
        x = found.smoothed_state[0]
    return x, np.sqrt(found.smoothed_state_cov[0, 0]), passes

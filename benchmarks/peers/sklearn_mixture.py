# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""scikit-learn's GaussianMixture: EM with diagonal covariances, without any prior."""

from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture

from .stepping import Clock

#: It stops when an iteration gains less, in nats over all rows.
GAIN, MOST_ITERATIONS = 0.01, 1000


def run(given: dict[str, Any]) -> dict[str, Any]:
    """The means, from the start that every side has."""
    y, K = given["args"]
    start = given["start"]
    cold, warm = Clock(), Clock()
    for clock in (cold, warm):
        model = GaussianMixture(
            K,
            covariance_type="diag",
            tol=GAIN / len(y),
            max_iter=MOST_ITERATIONS,
            weights_init=np.full(K, 1 / K),
            means_init=start["mu"],
            precisions_init=start["tau"],
        )
        with clock:
            model.fit(y)
    run = {
        "setting": f"{model.n_iter_} iterations",
        "looks": [{"seconds": warm.seconds, "gradients": 0}],
        "answers": {"mu": (model.means_, None)},
        "converged": bool(model.converged_),
    }
    return {"compile": max(0.0, cold.seconds - warm.seconds), "runs": [run]}

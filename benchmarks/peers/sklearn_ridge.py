# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""scikit-learn's BayesianRidge, with the precision of the weights held at that of the prior."""

from typing import Any

import numpy as np
from sklearn.linear_model import BayesianRidge

from .stepping import Clock

#: A Gamma(HELD, HELD) holds the precision of the weights at one.
HELD = 1e10


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Means and standard deviations of the weights, at the best noise."""
    X, y = given["args"]
    clocks = []
    for _ in range(2):
        model = BayesianRidge(lambda_1=HELD, lambda_2=HELD, lambda_init=1.0, tol=1e-8)
        clocks.append(Clock())
        with clocks[-1]:
            model.fit(X, y)
    cold, warm = (clock.seconds for clock in clocks)
    look = {"seconds": warm, "gradients": 0}
    answer = {"w": (model.coef_, np.sqrt(np.diag(model.sigma_)))}
    run = {"setting": f"{model.n_iter_} iterations", "looks": [look], "answers": answer}
    return {"compile": max(0.0, cold - warm), "runs": [run]}

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The score-function estimate, for values of f whose derivative says nothing: jumps, counts."""

from torch import Tensor


def score_function(values: Tensor, log_q: Tensor) -> Tensor:
    """E_q[f], a scalar whose derivative is ``E_q[(f - b) d log q]`` (REINFORCE, Williams 1992).

    The control variate b of each draw is the mean of f over the others, which leaves the estimate
    unbiased (Kool, van Hoof & Welling 2019). With one draw there is none.

    :param values: f at draws; a graph of its own (of parameters) is kept. # shape: (draws,)
    :param log_q: log q at the same draws, differentiable in what q depends on. # shape: (draws,)
    """
    held = values.detach()
    count = len(held)
    baseline = (held.sum() - held) / (count - 1) if count > 1 else 0.0 * held
    return values.mean() + ((held - baseline) * (log_q - log_q.detach())).mean()

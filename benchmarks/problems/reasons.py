# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Why BLR loses where it loses, in a sentence that the page and the rows both tell."""

from typing import Any

from ..peers.registry import Peer

_EM = (
    "its EM finds a point, without a prior and without a posterior; BLR's fit has the spread of "
    "the parameters, and certifies its optimum"
)
#: By problem and peer.
REASONS = {
    ("diabetes", "sklearn_ridge"): (
        "it is a closed form of eleven weights, a millisecond. BLR's time is that of tracing the "
        "model in Python and of finding its factors, which hardly grows with the data"
    ),
    ("a1a", "laplace_torch"): (
        "L-BFGS to the mode and one Hessian, written for a linear layer: quicker to where it ends, "
        "0.65 nats below the best Gaussian, and never within 0.1 nats of it"
    ),
    ("mixture", "sklearn_mixture"): _EM,
    ("hidden_markov", "dynamax_em"): _EM,
    ("counts", "dynamax_moments"): (
        "one compiled pass of a filter, whose answer is an approximation that is never improved: "
        "see its errors"
    ),
    ("counts", "statsmodels_kalman"): (
        "a few passes of a compiled filter for one state, to the mode: Laplace's approximation in "
        "place of the best Gaussian. BLR's chain is found in the model, and its steps are Python"
    ),
    ("banana", "gpytorch_ngd"): (
        "the same natural gradients, written for this one model, at the best of three rates: they "
        "neither trace a model nor choose a quadrature nor search for a length of their steps"
    ),
    ("banana", "gpjax_natural"): (
        "the same natural gradients, written for this one model and compiled, at the best of three "
        "rates; with its compilation it is slower"
    ),
    ("topics", "sklearn_topics"): (
        "the same sweeps in compiled code for this one model; it tells no bound unless it is asked"
    ),
}


def general_reason(peer: Peer, records: Any, record: Any) -> str:
    """Of a general peer."""
    from .table import met

    theirs, ours = met(records, record)
    if ours is None:
        return "BLR ended below the best of the family"
    if theirs.first >= ours.first:
        return (
            "compiled beforehand, its steps cost microseconds, and BLR's are Python: so small a "
            "model costs BLR's overhead alone. With its compilation it is slower"
        )
    return "its steps are cheaper than BLR's on this model, and few of them do"

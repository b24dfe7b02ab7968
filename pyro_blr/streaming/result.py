# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What adding, removing or merging data did."""

from dataclasses import dataclass

from ..fit import Fit, counted


@dataclass(frozen=True, eq=False)
class Streamed:
    """What :meth:`~pyro_blr.BLR.update`, ``forget`` or ``merge`` did to the posterior.

    :param bool is_exact: whether it was a sum of natural parameters that depend on no q, so that
        the order, the batches and what was in between make no difference but rounding.
    :param loss: -ELBO of the data in nats, the posterior of all others in the place of the prior:
        at least ``-log p(data | others)``, and that where exact and normalised. None of a merge.
    :param int steps: the steps that were taken; none where it was a sum.
    :param bool converged: whether q is the optimum, by a sum that is exact or by the certificate.
    :param float gap: the certified distance to the optimum in nats; infinite where it is not known.
    :param str reason: how it was done, in words.
    """

    is_exact: bool
    loss: float | None
    steps: int
    converged: bool
    gap: float
    reason: str

    def __repr__(self) -> str:
        loss = "" if self.loss is None else f", loss {self.loss:.6f}"
        how = "exact" if self.is_exact else f"after {counted(self.steps, 'step')}"
        return f"<{how}{loss}: {self.reason}>"


def of_fit(fit: Fit, loss: float, is_exact: bool) -> Streamed:
    """What steps did."""
    return Streamed(is_exact, loss, fit.steps, fit.converged, fit.gap, fit.reason)

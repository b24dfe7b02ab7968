# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What adding, removing or merging data did."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..families import Natural
from ..fit import counted


@dataclass(frozen=True, eq=False)
class Streamed:
    """What :meth:`~pyro_blr.BLR.update`, ``forget`` or ``merge`` did to the posterior.

    :meth:`~pyro_blr.BLR.forget` takes it back. It may be pickled and kept in the place of the data.

    :param bool is_exact: whether it was a sum of natural parameters that depend on no q, so that
        the order, the batches and what was in between make no difference but rounding.
    :param loss: -ELBO of the data in nats, the posterior of all others in the place of the prior:
        at least ``-log p(data | others)``, and that where exact. None where there are no data.
    :param int steps: the steps that were taken; none where it was a sum.
    :param bool converged: whether q is the optimum, by a sum that is exact or by the certificate.
    :param float gap: the certified distance to the optimum in nats; infinite where it is not known.
    :param str reason: how it was done, in words.
    :param change: what was added to the natural parameters of latents that all data share, as
        :meth:`~pyro_blr.BLR.forget` reads it; None of first data whose prior is no fixed message.
    """

    is_exact: bool
    loss: float | None
    steps: int
    converged: bool
    gap: float
    reason: str
    change: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def messages(self) -> dict[str, Natural]:
        """What was added to the natural parameters, by block."""
        blocks = () if self.change is None else self.change["blocks"]
        return {b["name"]: tuple(b["natural"]) for b in blocks}

    def __repr__(self) -> str:
        loss = "" if self.loss is None else f", loss {self.loss:.6f}"
        how = "exact" if self.is_exact else f"after {counted(self.steps, 'step')}"
        return f"<{how}{loss}: {self.reason}>"

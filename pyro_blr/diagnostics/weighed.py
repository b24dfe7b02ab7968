# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of q with their importance weights, and nothing that grows with the data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..draws.draws import draws_of
from ..draws.fitted import Fitted
from .call import check_call, finite_data
from .pareto import CONSTANT, FEWEST_DRAWS, PSIS, psis

#: Draws that are evaluated together: the model's log densities of each datum are held for so many.
TOGETHER = 500
#: The rounding of a log density, in units of its last digit: sums over data and over elements.
ROUNDING = 64
#: The rounding of log weights whose terms are computed of large values that nearly cancel, in
#: units of the last digit of a value over its sd: twice the reach of thousands of draws.
CANCELLING = 16


@dataclass(frozen=True, eq=False)
class Weighed:
    """Draws of q, and the weights that make them draws of the posterior.

    :param values: of each latent. # shape: (S, *site)
    :param log_p: the log joint, in nats. # shape: (S,)
    :param log_q: the log density of q, in nats. # shape: (S,)
    :param parts: the sites of each part of q.
    :param points: the sites that q holds as points, which no weight judges.
    :param psis: the smoothed weights.
    """

    values: Mapping[str, Tensor]
    log_p: Tensor
    log_q: Tensor
    parts: tuple[tuple[str, ...], ...]
    points: frozenset[str]
    psis: PSIS

    @property
    def log_ratios(self) -> Tensor:
        """``log_p - log_q``: the log weights as they are. # shape: (S,)"""
        return self.log_p - self.log_q

    @property
    def elbo(self) -> float:
        """The mean of the log weights, in nats."""
        return float(self.log_ratios.mean())

    @property
    def divergence(self) -> float:
        """KL(q || posterior) in nats, by importance."""
        return divergence(self.log_ratios)


def weigh(
    own: Fitted,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    num_samples: int,
    caller: str,
) -> Weighed:
    """Draw from the guide of a fit and weigh the draws.

    :param caller: the function that the user called, for errors.
    :raises ArgumentError: for fewer draws than a tail can be fitted to, and for arguments that are
        not the model's.
    :raises GuideError: if q is a point.
    :raises NonFiniteError: if a draw or its log density is NaN or infinite, naming the site.
    """
    if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples < 100:
        raise errors.ArgumentError(
            f"num_samples must be an integer of at least 100, not {num_samples!r}: the tail of the "
            f"weights is fitted to a fifth of them. Mend: {caller}(fit, *args, num_samples=4000)."
        )
    check_call(own.model, args, kwargs, caller)
    with finite_data(args, kwargs, caller):
        chunks = [draws_of(own, args, kwargs, n, caller) for n in in_chunks(num_samples)]
    first = chunks[0]
    log_weights = torch.cat([c.log_weights for c in chunks])
    log_p = torch.cat([c.log_p for c in chunks])
    values = {n: torch.cat([c.latents[n] for c in chunks]) for n in first.latents}
    smoothed = psis(log_weights, rounding=rounding_of(values, log_p, log_p - log_weights))
    return Weighed(
        *(values, log_p, log_p - log_weights),
        *(tuple(first.log_q_parts), first.points, smoothed),
    )


def in_chunks(count: int) -> Iterator[int]:
    """A number of draws in parts that are evaluated together."""
    while count > 0:
        # No part may be so small that it has a tail of its own: the last one takes the rest.
        size = count if count < TOGETHER + FEWEST_DRAWS else TOGETHER
        yield size
        count -= size


def rounding_of(values: Mapping[str, Tensor], log_p: Tensor, log_q: Tensor) -> float:
    """How far rounding may take apart log weights that are equal, in nats.

    That of a log density is by its size, and that of its terms by what they are computed of: a
    mean of a thousand with an sd of a hundredth has lost five digits of its place in q.
    """
    kinds = [v.dtype for v in values.values() if v.is_floating_point()]
    eps = max(torch.finfo(kind).eps for kind in kinds or [torch.get_default_dtype()])
    size = float(torch.maximum(log_p.abs(), log_q.abs()).max())
    lost = sum(_in_sds(v) for v in values.values() if v.is_floating_point())
    return max(CONSTANT, eps * (ROUNDING * size + CANCELLING * lost))


def _in_sds(value: Tensor) -> float:
    """How many sds of q the values of a site are from 0, elements added as errors are."""
    flat = value.detach().double().cpu().reshape(len(value), -1)
    far = flat.abs().mean(0) / flat.std(0)
    return float(far[torch.isfinite(far)].square().sum().sqrt())


def divergence(log_ratios: Tensor) -> float:
    """KL(q || p) in nats: the log of the mean ratio (evidence) less the mean of logs (ELBO).

    :param log_ratios: ``log p - log q`` at draws of q, p known up to a factor. # shape: (S,)
    """
    centred = log_ratios - log_ratios.max()
    return float(centred.exp().mean().log() - centred.mean())

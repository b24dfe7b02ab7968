# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Pareto smoothed importance sampling: the tail of the weights, and weights without its noise."""

import math
from dataclasses import dataclass

import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

from .. import errors
from ..on_host import on_host

#: Fewer draws have too few in the tail for a fit of two parameters.
FEWEST_DRAWS = 25
#: Values in the tail below which its index is not fitted.
FEWEST_IN_TAIL = 5
#: Weights that differ by less (in nats) are constant: q is then 5e-13 nats from its target.
CONSTANT = 1e-6
#: The sd of log weights in nats up to which they are even, if draws are worth so large a share: q
#: is then some 0.03 nats from its target, as a normal law is from one that is a fifth wider. The
#: share is for Student tails, whose log weights are even, a few with a quarter of all weight; and
#: no draw may have more than the last, which its neighbours would not bear out.
EVEN, WORTH, LARGEST = 0.25, 0.8, 0.02
#: The k-hat above which the weights surely have an index above 1, and no mean, its error at 4000
#: draws (0.15) allowed for twice. Weights of a density have a mean: these still grow where the
#: draws end, and what lies there is not known, however even they are.
NO_MEAN = 1.3


@dataclass(frozen=True)
class PSIS:
    """Pareto smoothed importance weights (Vehtari, Simpson, Gelman, Yao & Gabry 2024).

    :param Tensor log_weights: normalised, the tail smoothed. # shape: (S,)
    :param float khat: the index of the tail: the weights have finite moments of order below
        ``1 / k``. Minus infinity where the weights are constant, or their largest ones are equal:
        they are then bounded, and there is no tail to fit.
    :param float spread: the largest log weight less the least, in nats.
    :param float log_sd: the sd of the log weights before they are smoothed, in nats.
    :param bool is_constant: whether the spread is rounding, so that q is its target exactly.
    """

    log_weights: Tensor
    khat: float
    spread: float
    log_sd: float
    is_constant: bool

    @property
    def weights(self) -> Tensor:
        """The normalised weights. # shape: (S,)"""
        return self.log_weights.exp()

    @property
    def effective_draws(self) -> float:
        """1 / sum of squared weights: so many draws of the target are worth as much as these."""
        return float(torch.exp(-torch.logsumexp(2 * self.log_weights, 0)))

    @property
    def is_even(self) -> bool:
        """Whether the weights are so even that their tail hardly matters.

        The tail of a skewed posterior against a normal q has an index near 1, and begins where
        there is next to no mass. An index surely above 1 is no such tail: it points beyond the
        draws, and a guide in the lesser of two modes has it, its weights as even as can be.
        """
        size = len(self.log_weights)
        is_worth = self.effective_draws >= WORTH * size
        no_giant = float(self.weights.max()) <= max(LARGEST, 5 / size)
        return self.khat <= NO_MEAN and self.log_sd <= EVEN and is_worth and no_giant

    @property
    def limit(self) -> float:
        """The k-hat up to which so many draws give estimates with a useful error."""
        return khat_limit(len(self.log_weights))

    @property
    def is_reliable(self) -> bool:
        """Whether estimates by these weights have a useful error."""
        return self.khat <= self.limit


def khat_limit(num_draws: int) -> float:
    """``min(1 - 1 / log10 S, 0.7)``: above it S draws are too few (Vehtari et al. 2024).

    The error of an estimate needs ``S > 10 ** (1 / (1 - k))`` draws: 2200 at k = 0.7, and more than
    anyone takes soon after.

    :param int num_draws: S.
    """
    return min(1 - 1 / math.log10(num_draws), 0.7)


@on_host
def psis(log_ratios: Tensor, *, rounding: float = CONSTANT) -> PSIS:
    r"""Smooth the importance weights :math:`w_s \propto p(z_s) / q(z_s)` of draws of q.

    The largest ``min(S / 5, 3 sqrt(S))`` of them are taken for draws of a generalised Pareto
    distribution, whose index k is fitted by Zhang and Stephens's (2009) method (Pyro's
    ``fit_generalized_pareto``), and are replaced by its expected order statistics.

    Example::

        smoothed = psis(log_p - log_q)
        smoothed.khat, smoothed.effective_draws

    :param Tensor log_ratios: ``log p - log q`` at draws of q, up to a constant. # shape: (S,)
    :param float rounding: the spread in nats up to which they are taken to be equal.
    :raises ArgumentError: if they are no vector, or fewer than 25.
    :raises NonFiniteError: if one of them is NaN or plus infinity. Minus infinity is a draw outside
        the support of the target, which has no weight.
    """
    log_ratios = _checked(log_ratios)
    centred = log_ratios - log_ratios.max()
    spread = float(-centred.min()) + 0.0  # -0.0 where all are equal
    log_sd = float(centred.std()) if math.isfinite(spread) else math.inf
    if spread <= rounding:
        return PSIS(_normalised(centred), -math.inf, spread, log_sd, True)
    size = len(centred)
    ordered, order = torch.sort(centred)
    in_tail = int(min(0.2 * size, 3 * math.sqrt(size)))
    cutoff = ordered[size - in_tail - 1]
    is_tail = ordered > cutoff
    tail = ordered[is_tail]
    khat, smoothed = _smooth(tail, float(cutoff))
    result = torch.empty_like(centred)
    result[order] = torch.cat([ordered[~is_tail], smoothed])
    return PSIS(_normalised(result), khat, spread, log_sd, False)


def _checked(log_ratios: Tensor) -> Tensor:
    log_ratios = torch.as_tensor(log_ratios).detach().double().cpu()
    if log_ratios.dim() != 1 or len(log_ratios) < FEWEST_DRAWS:
        raise errors.ArgumentError(
            f"importance weights need a vector of at least {FEWEST_DRAWS} log ratios, not a tensor "
            f"of shape {tuple(log_ratios.shape)}. Mend: take more draws (1000 are usual)."
        )
    bad = torch.isnan(log_ratios) | (log_ratios == math.inf)
    if bad.any() or bool((log_ratios == -math.inf).all()):
        count = int(bad.sum()) or len(log_ratios)
        raise errors.NonFiniteError(
            f"{count} of {len(log_ratios)} log ratios log p - log q are not finite. Mend: look at "
            "the draws whose log density is NaN or infinite; the guide may have diverged, or the "
            "data have a NaN."
        )
    return log_ratios


def _smooth(tail: Tensor, cutoff: float) -> tuple[float, Tensor]:
    """The tail's index, and its expected order statistics.

    :param tail: ascending log weights, at most 0, above the cutoff.
    """
    # exp(tail) - exp(cutoff), without cancellation where weights are nearly constant.
    excess = -torch.exp(tail) * torch.expm1(cutoff - tail)
    size = len(tail)
    if size < FEWEST_IN_TAIL or excess[0] == excess[-1]:
        return -math.inf, tail
    if excess[int(size / 4 - 0.5)] == 0:  # one weight is so large that the others round to nothing
        return math.inf, tail
    scale = float(excess[-1])
    khat, sigma = fit_generalized_pareto(excess / scale)
    if not math.isfinite(khat):
        return math.inf, tail
    share = (torch.arange(1, size + 1, dtype=torch.float64) - 0.5) / size
    quantile = sigma * scale * _expm1_over(khat, -torch.log1p(-share))
    smoothed = torch.log(quantile + math.exp(cutoff))
    return khat, smoothed.clamp(max=float(tail[-1]))


def _expm1_over(k: float, x: Tensor) -> Tensor:
    """``(exp(k x) - 1) / k``, which is x at k = 0."""
    return x if k == 0 else torch.expm1(k * x) / k


def _normalised(log_weights: Tensor) -> Tensor:
    return log_weights - torch.logsumexp(log_weights, 0)

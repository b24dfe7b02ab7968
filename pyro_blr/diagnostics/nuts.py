# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A guide against a short run of NUTS, which needs no weights and may see other modes."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import MCMC, NUTS, config_enumerate
from pyro.infer.autoguide.initialization import init_to_value
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from .. import errors
from ..draws.fitted import Fitted, fitted
from ..draws.guides import guide_draws
from ..text_table import text_table
from .moments import Moments
from .site_khat import central
from .site_report import SiteReport, site_named

#: Split R-hat above which the chain's halves differ too much to be a reference.
MIXED = 1.1
#: Draws of q that its own means and sds are taken from.
DRAWS = 10_000


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """A guide against NUTS. Prints as a table with the verdict.

    :param tuple sites: a :class:`~pyro_blr.diagnostics.site_report.SiteReport` for each latent,
        whose posterior moments are NUTS's.
    :param dict r_hat: the largest split R-hat of each site.
    :param dict effective_draws: the smallest number of effective draws of NUTS of each site.
    :param int divergences: divergent transitions after the warm-up.
    """

    sites: tuple[SiteReport, ...]
    r_hat: dict[str, float]
    effective_draws: dict[str, float]
    divergences: int

    @property
    def has_mixed(self) -> bool:
        """Whether the run is long enough to be a reference."""
        return all(r <= MIXED for r in self.r_hat.values())

    @property
    def verdict(self) -> str:
        """In words; begins with ``agrees``, ``too ...``, ``off ...`` or ``no reference``."""
        if not self.has_mixed:
            worst = max(self.r_hat, key=lambda name: self.r_hat[name])
            return (
                f"no reference: NUTS has not mixed (R-hat {self.r_hat[worst]:.2f} of {worst}). "
                "Mend: larger num_samples and warmup_steps, or a decentred model"
            )
        found = "; ".join(words for s in self.sites if (words := s.words()))
        if found:
            return found
        left = ", ".join(s.name for s in self.sites if s.is_open)
        if left:
            return f"agrees with NUTS as far as its draws tell, which are few for {left}"
        return "agrees with NUTS: no mean is surely off by 0.1 sd, and no sd by 10 %"

    def __getitem__(self, site: str) -> SiteReport:
        return site_named(self.sites, site)

    def plot(self) -> Any:
        """Means and sds of q against NUTS's, as a matplotlib figure.

        :raises ArgumentError: if matplotlib is missing.
        """
        from .pictures import plot_comparison

        return plot_comparison(self)

    def __str__(self) -> str:
        head = ("site", "elements", "mean off (error)", "sd / q's (error)", "R-hat", "draws")
        rows = [
            (
                *(s.name, str(s.moments.mean.numel())),
                f"{s.shift:+.2f} ({s.shift_error:.2f})",
                f"{s.ratio:.2f} ({s.ratio_error:.2f})",
                *(f"{self.r_hat[s.name]:.2f}", f"{self.effective_draws[s.name]:.0f}"),
            )
            for s in self.sites
        ]
        lines = [
            text_table(head, rows),
            "of the worst element, in sds of q: NUTS's mean less q's, NUTS's sd, with Monte Carlo "
            "errors",
        ]
        if self.divergences:
            lines.append(
                f"{self.divergences} divergent transitions: parts of the posterior are missed"
            )
        return "\n".join([*lines, f"verdict: {self.verdict}"])

    __repr__ = __str__


def against_nuts(
    fit: Any,
    *args: Any,
    num_samples: int = 300,
    warmup_steps: int = 200,
    **kwargs: Any,
) -> Comparison:
    """Compare q's means and sds with those of a short run of Pyro's NUTS, started inside q.

    Pyro takes some milliseconds for a gradient, and NUTS some ten gradients a draw: a model of a
    dozen parameters takes half a minute.

    Example::

        print(diagnostics.against_nuts(fit, X, y))

    :param fit: what ``BLR.fit`` returned, a ``BLR``, or an ``SVI`` with any guide.
    :param args: the arguments of the model, with all of the data.
    :param int num_samples: draws of NUTS after its warm-up.
    :param int warmup_steps: steps of its warm-up.
    :raises ArgumentError: if an argument cannot be used.
    """
    for name, value in (("num_samples", num_samples), ("warmup_steps", warmup_steps)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 20:
            raise errors.ArgumentError(
                f"{name} must be an integer of at least 20, not {value!r}. Mend: "
                "against_nuts(fit, *args, num_samples=300, warmup_steps=200)."
            )
    own = fitted(fit, "against_nuts")
    with torch.no_grad():
        drawn = guide_draws(own, args, kwargs, DRAWS, "against_nuts")
    values = {n: v for n, v in drawn.values.items() if n not in drawn.points}
    run = _run(own, args, kwargs, drawn.values, num_samples, warmup_steps)
    chains = {n: v.double() for n, v in run.get_samples(group_by_chain=True).items() if n in values}
    sites = tuple(SiteReport(n, _compared(values[n], chains[n])) for n in values)
    return Comparison(
        sites,
        {n: _worst(split_gelman_rubin(c), c, max) for n, c in chains.items()},
        {n: _worst(effective_sample_size(c), c, min) for n, c in chains.items()},
        sum(len(found) for found in run.diagnostics().get("divergences", {}).values()),
    )


def _run(
    own: Fitted,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    values: Mapping[str, Tensor],
    num_samples: int,
    warmup_steps: int,
) -> Any:
    """A chain that starts at the draw of q that is nearest to its mean."""
    (start,) = central(values, 1)
    near = init_to_value(values={n: v[start].detach() for n, v in values.items()})
    kernel = NUTS(config_enumerate(own.target), init_strategy=near)
    run = MCMC(kernel, num_samples, warmup_steps=warmup_steps, disable_progbar=True)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        run.run(*args, **kwargs)
    return run


def _compared(values: Tensor, chain: Tensor) -> Moments:
    """The moments of q and of a chain.

    :param values: # shape: (S, *site)
    :param chain: # shape: (1, draws, *site)
    """
    mean, sd, mean_error, sd_error = _moments(values.detach().double().cpu()[None], True)
    other, other_sd, other_error, other_sd_error = _moments(chain.cpu(), False)
    sd = sd.where(sd > 0, math.nan)
    return Moments(
        *(mean, sd, other, other_sd),
        *((other - mean) / sd, torch.hypot(mean_error, other_error) / sd),
        *((other_sd / sd).log(), torch.hypot(sd_error / sd, other_sd_error / other_sd)),
    )


def _moments(chain: Tensor, independent: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and sd of a chain, and their Monte Carlo errors."""
    draws = chain[0]
    mean, sd = draws.mean(0), draws.std(0)
    squares = (draws - mean) ** 2
    count: Tensor | float = float(len(draws))
    count_of_squares: Tensor | float = count
    if not independent:
        count, count_of_squares = _effective(chain), _effective((chain - mean) ** 2)
    mean_error = sd / count**0.5
    sd_error = squares.std(0) / count_of_squares**0.5 / (2 * sd)
    return mean, sd, mean_error, sd_error


def _effective(chain: Tensor) -> Tensor:
    """Effective draws of each element; of an anticorrelated chain no more than it has."""
    found: Tensor = effective_sample_size(chain)
    return found.clamp(min=1.0, max=float(chain.shape[1]))


def _worst(found: Tensor, chain: Tensor, which: Any) -> float:
    """The worst value of a site's elements that vary."""
    varies = (chain != chain[:, :1]).any(1).any(0)
    kept = found[varies].reshape(-1).tolist() if found.dim() else [float(found)]
    return float(which(kept)) if kept else 1.0

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A guide against short chains of NUTS, which need no weights and may see other modes."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import MCMC, NUTS, config_enumerate
from pyro.infer.autoguide.initialization import init_to_sample, init_to_uniform, init_to_value
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from .. import errors
from ..draws.data import Data, KnownData
from ..draws.fitted import Fitted, fitted
from ..draws.guides import guide_draws
from ..draws.program import Program
from ..on_host import on_host
from ..text_table import text_table
from .call import check_call, discrete_sites, finite_data
from .moments import Moments
from .site_khat import central
from .site_report import SiteReport, site_named

#: Split R-hat above which a chain's halves, or the chains, differ too much to be a reference.
MIXED = 1.1
#: Draws and steps of the warm-up of a chain, at least.
FEWEST = 20
#: Draws of q that its own means and sds are taken from.
DRAWS = 10_000


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """A guide against NUTS. Prints as a table with the verdict.

    :param tuple sites: a :class:`~pyro_blr.diagnostics.site_report.SiteReport` for each latent,
        whose posterior moments are NUTS's.
    :param dict r_hat: the largest split R-hat of each site, between the halves of all chains.
    :param dict own_r_hat: the same between the halves of one chain, the worst of the chains.
    :param dict effective_draws: the smallest number of effective draws of NUTS of each site.
    :param int divergences: divergent transitions after the warm-up.
    :param int num_chains: how many chains: the first was started inside q, the others elsewhere.
    """

    sites: tuple[SiteReport, ...]
    r_hat: dict[str, float]
    own_r_hat: dict[str, float]
    effective_draws: dict[str, float]
    divergences: int
    num_chains: int

    @property
    def has_mixed(self) -> bool:
        """Whether the chains agree, so that they may be a reference."""
        return all(r <= MIXED for r in self.r_hat.values())

    @property
    def verdict(self) -> str:
        """In words; begins with ``agrees``, ``too ...``, ``off ...``, ``no reference`` or ``not
        decided``.
        """
        if not self.has_mixed:
            worst = max(self.r_hat, key=lambda name: self.r_hat[name])
            if self.own_r_hat[worst] <= MIXED < self.r_hat[worst]:
                return (
                    f"not decided: chains disagree (R-hat {self.r_hat[worst]:.2f} of {worst}, and "
                    f"within chains no more than {self.own_r_hat[worst]:.2f}): they are in "
                    "different modes, of which q holds one at most, or have not arrived. Mend: "
                    "larger warmup_steps; if they still disagree, fit from other starts "
                    "(init_loc_fn=)"
                )
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
            f"errors; R-hat is over {self.num_chains} chains, one started inside q",
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
    warmup_steps: int = 100,
    num_chains: int = 4,
    **kwargs: Any,
) -> Comparison:
    """Compare q's means and sds with those of short chains of Pyro's NUTS.

    The first chain starts at the centre of q, the others at draws of the prior and, one of three,
    uniformly within 2 of 0 on the unconstrained space. A mode that q does not hold is seen if a
    chain ends in it: the chains then disagree, and nothing is decided. A mode that no start leads
    to is missed, so that agreement is no proof.

    Latents that q leaves at their prior given the others (``at_prior``) are functions of their
    noise, of which NUTS has draws as well; what is compared is what q holds.

    Pyro takes some milliseconds for a gradient, and NUTS some ten gradients a draw: a model of a
    dozen parameters takes a minute.

    Example::

        print(diagnostics.against_nuts(fit, X, y, num_samples=100, warmup_steps=50))

    :param fit: what ``BLR.fit`` returned, a ``BLR``, or an ``SVI`` with any guide.
    :param args: the arguments of the model, with all of the data.
    :param int num_samples: draws of NUTS after the warm-up, of all chains together; each has at
        least 20.
    :param int warmup_steps: steps of the warm-up of each chain.
    :param int num_chains: how many chains. With 1 no other mode can be seen.
    :raises ArgumentError: if an argument cannot be used.
    :raises GuideError: if all latents are discrete, of which NUTS has no draws.
    :raises PlateSizeError: if the model takes a subsample of a plate.
    """
    _check_counts(num_samples, warmup_steps, num_chains)
    own = fitted(fit, "against_nuts", args, kwargs)
    check_call(own.model, args, kwargs, "against_nuts")
    with torch.no_grad():
        drawn = guide_draws(own, args, kwargs, DRAWS, "against_nuts")
    # NUTS has discrete latents summed out, also those that q holds.
    latents = {n: v for n, v in drawn.values.items() if n not in discrete_sites(own)}
    values = {n: v for n, v in latents.items() if n not in drawn.points}
    if not values:
        raise errors.GuideError(
            "q holds discrete latents or points alone, and NUTS has draws of neither. Mend: "
            "diagnostics.report(fit, *args), whose weights judge discrete latents too."
        )
    each = max(FEWEST, -(-num_samples // num_chains))
    (start,) = central(latents, 1)
    near = {n: v[start].detach() for n, v in latents.items()}
    with finite_data(args, kwargs, "against_nuts"):
        # Refuses what NUTS does not take, such as a subsample of a plate, in words of its own.
        Program(own.target, args, kwargs, "against_nuts", must_know=True).run(near)
    elsewhere = (init_to_sample, init_to_uniform, init_to_sample)
    starts = [init_to_value(values=near)]
    starts += [elsewhere[k % len(elsewhere)] for k in range(num_chains - 1)]
    runs = [_run(own, args, kwargs, s, each, warmup_steps) for s in starts]
    drawn_by = [run.get_samples(group_by_chain=True) for run in runs]
    chains = {n: torch.cat([d[n].double() for d in drawn_by]) for n in values}
    sites = tuple(SiteReport(n, _compared(values[n], chains[n])) for n in values)
    return Comparison(
        sites,
        {n: _worst(split_gelman_rubin(c), c, max) for n, c in chains.items()},
        {
            n: max(_worst(split_gelman_rubin(o), o, max) for o in c.split(1))
            for n, c in chains.items()
        },
        {n: _worst(_effective(c), c, min) for n, c in chains.items()},
        sum(len(d) for run in runs for d in run.diagnostics().get("divergences", {}).values()),
        num_chains,
    )


def _check_counts(num_samples: int, warmup_steps: int, num_chains: int) -> None:
    counts = (
        *(("num_samples", num_samples, FEWEST), ("warmup_steps", warmup_steps, FEWEST)),
        ("num_chains", num_chains, 1),
    )
    for name, value, least in counts:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise errors.ArgumentError(
                f"{name} must be an integer of at least {least}, not {value!r}. Mend: "
                "against_nuts(fit, *args, num_samples=300, warmup_steps=100, num_chains=4)."
            )


def _run(
    own: Fitted,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    start: Any,
    num_samples: int,
    warmup_steps: int,
) -> Any:
    """A chain from a start."""
    kernel = NUTS(config_enumerate(_with_data(own.joint or own.target)), init_strategy=start)
    run = MCMC(kernel, num_samples, warmup_steps=warmup_steps, disable_progbar=True)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            with finite_data(args, kwargs, "against_nuts"):
                run.run(*args, **kwargs)
        except NotImplementedError as error:
            raise errors.ArgumentError(
                "a site of the model has a distribution without draws (an improper prior), and "
                "Pyro's NUTS draws from all of them once. Mend: give it a proper prior."
            ) from error
    return run


def _with_data(model: Callable[..., Any]) -> Callable[..., Any]:
    """A model whose data are those that a fit takes: labels of any dtype, NaN where masked."""
    known = KnownData()

    def run(*args: Any, **kwargs: Any) -> Any:
        with Data(known, checks=True):
            return model(*args, **kwargs)

    return run


@on_host
def _compared(values: Tensor, chain: Tensor) -> Moments:
    """The moments of q and of chains.

    :param values: # shape: (S, *site)
    :param chain: # shape: (chains, draws, *site)
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
    """Mean and sd of chains, and their Monte Carlo errors."""
    draws = chain.flatten(0, 1)
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
    """Effective draws of each element; of anticorrelated chains no more than they have."""
    found: Tensor = effective_sample_size(chain)
    return found.clamp(min=1.0, max=float(chain.shape[0] * chain.shape[1]))


def _worst(found: Tensor, chain: Tensor, which: Any) -> float:
    """The worst value of a site's elements that vary."""
    varies = (chain != chain[:1, :1]).any(1).any(0)
    kept = found[varies].reshape(-1).tolist() if found.dim() else [float(found)]
    return float(which(kept)) if kept else 1.0

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A report on a fit: how far q is from the posterior, in numbers and in words."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..draws.fitted import fitted
from ..fit import Fit
from ..text_table import text_table
from .bounds import error_bounds
from .call import discrete_sites
from .curvature import Curvature, curvatures
from .moments import moments
from .site_khat import SiteKhat, each_site
from .site_report import SiteReport, site_named
from .supports import narrower_supports
from .verdict import Verdict, judge
from .weighed import Weighed, weigh


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """How far a guide is from the posterior. Prints as a table with the verdict.

    :param Weighed weighed: the draws of q and their weights; ``.psis.khat`` is that of the guide.
    :param tuple sites: a :class:`~pyro_blr.diagnostics.site_report.SiteReport` for each latent.
    :param tuple site_khats: a :class:`SiteKhat` for each site or each group that q holds together,
        the worst first.
    :param judgement: the verdict with its advice.
    :param fit: what ``BLR.fit`` returned, if that was given.
    :param frozenset discrete: the discrete latents that q holds: the weights judge them, and they
        have no row of means and sds.
    """

    weighed: Weighed
    sites: tuple[SiteReport, ...]
    site_khats: tuple[SiteKhat, ...]
    judgement: Verdict
    fit: Fit | None = None
    discrete: frozenset[str] = frozenset()

    @property
    def khat(self) -> float:
        """Pareto k-hat of the whole guide; minus infinity where its weights are constant."""
        return self.weighed.psis.khat

    @property
    def effective_draws(self) -> float:
        """1 / sum of squared weights."""
        return self.weighed.psis.effective_draws

    @property
    def verdict(self) -> str:
        """In words; it begins with ``exact``, ``good``, ``too ...``, ``off ...``, ``not decided``,
        or ``do not trust``.
        """
        return self.judgement.text

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do, and what the numbers do not see."""
        return self.judgement.advice

    def __getitem__(self, site: str) -> SiteReport:
        return site_named(self.sites, site)

    def plot(self) -> Any:
        """Weights, sites and the way to the optimum, as a matplotlib figure.

        :raises ArgumentError: if matplotlib is missing.
        """
        from .pictures import plot_report

        return plot_report(self)

    def __str__(self) -> str:
        head = (
            "site",
            "elements",
            "k-hat",
            "nats",
            "mean off (error)",
            "sd / q's (error)",
            "bounds",
        )
        lines = [
            *_summary(self),
            "",
            text_table(head, [_row(s) for s in self.sites]),
            *_legend(self),
        ]
        lines += ["", f"verdict: {self.verdict}", *(f"- {line}" for line in self.advice)]
        return "\n".join(lines)

    __repr__ = __str__


def report(fit: Any, *args: Any, num_samples: int = 4000, **kwargs: Any) -> Report:
    """Say how far a guide is from the posterior, and where.

    Draws of q are weighted by ``p(x, z) / q(z)``. From the weights come Pareto k-hat of the guide
    and of each site, the number of draws of the posterior that they are worth, KL(q || posterior),
    the errors of q's means and sds with Monte Carlo errors, bounds on these errors, and a verdict.

    Nothing here sees what q does not reach: a mode without draws has no weight. :func:`sbc` and
    :func:`against_nuts` may.

    Example::

        fit = BLR(model, AutoNatural(model)).fit(X, y)
        found = diagnostics.report(fit, X, y)
        print(found)
        found.verdict, found.khat, found["w"].moments.target_sd

    :param fit: what ``BLR.fit`` returned, a ``BLR``, or an ``SVI`` with any guide.
    :param args: the arguments of the model, with all of the data.
    :param int num_samples: draws of q; as many again for each site.
    :raises ArgumentError: if ``fit``, ``num_samples`` or an argument of the model cannot be used.
    :raises GuideError: if q is a point.
    :raises NonFiniteError: if draws or data are not finite.
    """
    own = fitted(fit, "report", args, kwargs)
    with torch.no_grad():
        weighed = weigh(own, args, kwargs, num_samples, "report")
        khats = each_site(own, args, kwargs, num_samples, "report", weighed)
        discrete = discrete_sites(own)
        left_out = weighed.points | discrete
        judged = {n: v for n, v in weighed.values.items() if n not in left_out and v.numel()}
        curved = curvatures(judged, weighed.log_ratios)
        sites = tuple(_site(name, weighed, khats, curved[name]) for name in judged)
        judgement = judge(weighed, sites, khats, own.fit, narrower_supports(own, args, kwargs))
    return Report(weighed, sites, khats, judgement, own.fit, discrete)


def _site(
    name: str, weighed: Weighed, khats: tuple[SiteKhat, ...], curvature: Curvature
) -> SiteReport:
    values = weighed.values[name]
    known = next((k for k in khats if name in k.sites), None)
    return SiteReport(
        name,
        moments(values, weighed.psis.weights),
        error_bounds(values, weighed.psis),
        curvature,
        math.nan if known is None else known.khat,
        math.nan if known is None else known.divergence,
    )


def _summary(found: Report) -> list[str]:
    smoothed = found.weighed.psis
    size = len(smoothed.log_weights)
    khat = "no tail" if math.isinf(found.khat) and found.khat < 0 else f"{found.khat:.2f}"
    lines = [
        f"draws of q: {size}, worth {found.effective_draws:.0f} of the posterior",
        f"Pareto k-hat: {khat} (up to {smoothed.limit:.2f} the weights serve)",
        f"KL(q || posterior): {max(found.weighed.divergence, 0.0):.3g} nats; ELBO "
        f"{found.weighed.elbo + 0.0:.4f}",
    ]
    if found.fit is not None:
        lines.append(
            f"fit: {'converged' if found.fit.converged else 'not converged'} after "
            f"{found.fit.steps} steps, gap {found.fit.gap:.1e} nats, residual "
            f"{found.fit.residual:.1e}"
        )
    return lines


def _row(site: SiteReport) -> tuple[str, ...]:
    assert site.bounds is not None
    bounds = tuple(_largest_ratio(b, site.moments.sd) for b in (site.bounds.mean, site.bounds.sd))
    return (
        site.name,
        str(site.moments.mean.numel()),
        _number(site.khat),
        "-" if math.isnan(site.divergence) else f"{site.divergence:.2g}",
        f"{site.shift:+.2f} ({site.shift_error:.2f})",
        f"{site.ratio:.2f} ({site.ratio_error:.2f})",
        "none" if math.isinf(bounds[0]) else "{:.2g}, {:.2g}".format(*bounds),
    )


def _number(khat: float) -> str:
    if math.isnan(khat):
        return "-"
    return "no tail" if khat == -math.inf else f"{khat:.2f}"


def _largest_ratio(bound: torch.Tensor, sd: torch.Tensor) -> float:
    if torch.isinf(bound).any():
        return math.inf
    ratio = (bound / sd)[sd > 0]
    return float(ratio.max()) if len(ratio) else 0.0


def _legend(found: Report) -> list[str]:
    lines = [
        "k-hat and nats: of q(site | others) against its full conditional.",
        "Of the worst element, in sds of q: the posterior mean less q's, and its sd, with",
        "Monte Carlo errors; bounds on the errors of mean and sd (none without a second moment).",
    ]
    together = [k.sites for k in found.site_khats if len(k.sites) > 1]
    if together:
        held = ", ".join("{" + ", ".join(sites) + "}" for sites in together)
        lines.append(f"held together by q, with one k-hat: {held}")
    if found.discrete:
        lines.append(f"discrete, in the weights alone: {', '.join(sorted(found.discrete))}")
    if found.weighed.points:
        lines.append(f"points, not judged: {', '.join(sorted(found.weighed.points))}")
    return lines

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

r"""Pareto k-hat of each site, given the others.

The k-hat of a guide says that q is bad, and not where. Let q have a site (or a part of sites that
it holds together) with the value :math:`z_i`, and the others with the value :math:`z_{-i}`. The
weights of the whole guide at draws that differ in :math:`z_i` alone are, up to a constant,

.. math::

    r_i(z_i) = \frac{p(x, z_i, z_{-i})}{q(z_i \mid z_{-i})}
             \propto \frac{p(z_i \mid z_{-i}, x)}{q(z_i \mid z_{-i})},
    \qquad z_i \sim q(z_i \mid z_{-i}),

the importance ratios of the site's full conditional. The k-hat of a site is the median of theirs
with the others at some draws of q, a few of them the nearest to its mean, and its divergence the
least of :math:`KL(q(z_i | z_{-i}) \,\|\, p(z_i | z_{-i}, x))` there, in nats: what is left where
the others suit it best.

What it means. It judges q's law of the site alone where the others are held: its family, its
width, where it lies. If it is high, q is wrong there, and another family or more steps mend it. It
does not judge what q leaves out *between* sites: where the k-hat of the whole guide is high and
that of every site low, the sites depend on each other in the posterior as they do not in q, and a
joint guide mends it. (The best mean-field guide of a Gaussian posterior has exact full
conditionals at its mean, and log-linear ratios, whose k is 0, elsewhere; the k of the whole guide
may be near 1.) In a guide that is one Gaussian over several sites q(site | others) is its
conditional law. A k-hat says nothing of size: a site of 0.001 nats may have a high one, and no
matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ..draws.fitted import Fitted, fitted
from ..draws.guides import GuideDraws
from ..draws.program import Program
from ..draws.together import at_draws
from .call import check_call, finite_data
from .pareto import psis
from .units import Unit, Units, units_of
from .weighed import Weighed, divergence, in_chunks, rounding_of, weigh

#: Draws of q at which the other sites are held: of them the nearest to its mean, where a mean-field
#: guide is at its best; the rest are any, where the scale of many sites is as it is.
CENTRAL, ANCHORS = 4, 16
#: Draws of a site at each of them, at least.
FEWEST = 50


@dataclass(frozen=True)
class SiteKhat:
    """How far q's law of a site is from its full conditional.

    :param tuple sites: the site, or those that q holds together.
    :param float khat: the median Pareto k-hat of the ratios; minus infinity where they have no
        tail.
    :param float divergence: the least KL(q || full conditional), in nats.
    :param bool is_exact: whether all ratios are constant to rounding.
    """

    sites: tuple[str, ...]
    khat: float
    divergence: float
    is_exact: bool


def site_khat(fit: Any, *args: Any, num_samples: int = 4000, **kwargs: Any) -> tuple[SiteKhat, ...]:
    """The k-hat of each site given the others, the worst first.

    Empty where q(site | others) is not known: a guide of several parts that depend on each other,
    and no Gaussian.

    Example::

        for site in site_khat(fit, X, y):
            print(site.sites, site.khat, site.divergence)

    :param fit: what ``BLR.fit`` returned, a ``BLR``, or an ``SVI`` with any guide.
    :param args: the arguments of the model, with all of the data.
    :param int num_samples: draws of each site.
    :raises ArgumentError: if ``fit``, ``num_samples`` or an argument of the model cannot be used.
    :raises NonFiniteError: if draws or data are not finite.
    """
    own = fitted(fit, "site_khat", args, kwargs)
    check_call(own.model, args, kwargs, "site_khat")
    with finite_data(args, kwargs, "site_khat"):
        return each_site(own, args, kwargs, num_samples, "site_khat")


def each_site(
    own: Fitted,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    num_samples: int,
    caller: str,
    weighed: Weighed | None = None,
) -> tuple[SiteKhat, ...]:
    """See :func:`site_khat`.

    :param weighed: draws of the guide, if there are any already.
    """
    with torch.no_grad():
        units = units_of(own, args, kwargs, caller)
        if not units.units:
            return ()
        if len(units.units) == 1:  # no others: the ratios are the weights of the guide
            whole = weigh(own, args, kwargs, num_samples, caller) if weighed is None else weighed
            return (_whole(units.units[0].sites, whole),)
        program = Program(own.target, args, kwargs, caller, must_know=True)
        fresh = units.drawn(num_samples)
        anchors = [*central(fresh.values, CENTRAL), *range(ANCHORS - CENTRAL)]
        anchors = anchors[: max(1, num_samples // FEWEST)]
        found = [_site(units, u, fresh, program, anchors) for u in units.units]
    return tuple(sorted(found, key=lambda site: -site.divergence))


def _whole(sites: tuple[str, ...], weighed: Weighed) -> SiteKhat:
    smoothed = weighed.psis
    return SiteKhat(sites, smoothed.khat, max(weighed.divergence, 0.0), smoothed.is_constant)


def _site(
    units: Units, unit: Unit, fresh: GuideDraws, program: Program, anchors: Sequence[int]
) -> SiteKhat:
    each = len(next(iter(fresh.values.values()))) // len(anchors)
    khats, divergences, constant = [], [], True
    for k, anchor in enumerate(anchors):
        values, log_q = units.given(unit, fresh, anchor, slice(k * each, (k + 1) * each))
        held = {n: v[anchor].expand(each, *v.shape[1:]) for n, v in fresh.values.items()}
        log_p = log_joint(program, {**held, **values}, each)
        ratio = log_p - log_q
        smoothed = psis(ratio, rounding=rounding_of(values, log_p, log_q))
        khats.append(smoothed.khat)
        divergences.append(divergence(ratio))
        constant = constant and smoothed.is_constant
    return SiteKhat(unit.sites, median(khats), max(min(divergences), 0.0), constant)


def central(values: Mapping[str, Tensor], count: int) -> list[int]:
    """The draws that are nearest to the mean, in sds, with equal weight of each site."""
    distance: Tensor | float = 0.0
    for value in values.values():
        flat = value.detach().double().cpu().reshape(len(value), -1)
        scores = ((flat - flat.mean(0)) / flat.std(0)).square().nan_to_num(nan=0.0)
        distance = distance + scores.mean(-1)
    return [int(i) for i in torch.as_tensor(distance).argsort()[:count]]


def log_joint(program: Program, values: Mapping[str, Tensor], count: int) -> Tensor:
    """The log joint of a model at given values of its latents, in nats. # shape: (S,)"""
    parts, start = [], 0
    for size in in_chunks(count):
        own = {n: v[start : start + size] for n, v in values.items()}
        sites = at_draws(program, own, size)
        parts.append(torch.stack([s.total for s in sites.values()]).sum(0))
        start += size
    return torch.cat(parts)

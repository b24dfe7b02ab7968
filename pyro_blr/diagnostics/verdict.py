# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The verdict on a guide, in words, with what to do about it.

It does not rest on k-hat alone, which does not separate good guides from bad ones: it judges the
tail of the weights, and a guide with 0.63 may have every mean and sd right and one with 0.60 may
not. Where k-hat allows estimates, the estimated errors of means and sds decide, with their Monte
Carlo errors; where it does not, they are lower bounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..fit import Fit
from .bounds import NO_SECOND_MOMENT
from .pareto import CONSTANT, NO_MEAN, PSIS
from .site_khat import SiteKhat
from .site_report import SiteReport
from .weighed import Weighed

#: Nats by which q's law of a site is off on its own: of an sd that is off by a third.
OWN = 0.1

#: KL in nats below which it says more than the limits: no mean is then off by a twentieth of an sd.
NEAR = 1e-3
#: Effective draws below which nothing is said by weighted sds.
FEW_DRAWS = 20

#: How far above its limit the k-hat of 4000 draws may be by chance: three of its errors.
CHANCE = 0.3
#: The k-hat from which weights may lack a second moment, the error of a k-hat allowed for, and
#: correct a mean or sd in part: those of the draws that would matter most are too rare.
PARTLY = NO_SECOND_MOMENT - 0.1

UNSEEN = (
    "weights see only what q reaches: a mode without draws is missed. diagnostics.against_nuts "
    "starts chains elsewhere too, and diagnostics.sbc looks over data; a far mode may escape both"
)
ELSEWHERE = (
    "there may be mass where q has no draws: fit again from other starts (the guide's "
    "init_loc_fn=) and compare losses, and look with diagnostics.against_nuts(fit, *args)"
)
OWN_SUPPORT = (
    "give q a law on the model's own support (of a positive site a LogNormal or a Gamma, of a real "
    "one a Normal), or AutoNatural(model)"
)


@dataclass(frozen=True)
class Verdict:
    """The verdict.

    :param str status: ``"exact"``, ``"good"``, ``"off"``, ``"undecided"`` or ``"untrusted"``.
    :param str text: in words.
    :param tuple advice: what to do.
    """

    status: str
    text: str
    advice: tuple[str, ...]


def judge(
    weighed: Weighed,
    sites: Sequence[SiteReport],
    khats: Sequence[SiteKhat],
    fit: Fit | None,
    left_out: Mapping[str, str],
) -> Verdict:
    """The verdict on draws of q and their weights.

    :param left_out: what q leaves out of the support of a site, in words, by site.
    """
    smoothed = weighed.psis
    if left_out:
        where = "; ".join(f"in site {name} {words}" for name, words in left_out.items())
        text = f"do not trust: {where}, and no weight sees what the posterior has there"
        return Verdict("untrusted", text, (OWN_SUPPORT, UNSEEN))
    if smoothed.is_constant:
        rounding = " (rounding of large terms)" if smoothed.spread > CONSTANT else ""
        text = (
            f"exact: the weights are constant to {smoothed.spread:.0e} nats{rounding}, so q is the "
            "posterior"
        )
        return Verdict("exact", text, (UNSEEN,))
    doubt = "" if smoothed.is_even else _doubt(smoothed, sites, khats)
    if doubt:
        status, text = _untrusted(doubt, smoothed, sites, khats)
    else:
        status, text = _by_moments(weighed, sites, khats)
    advice: tuple[str, ...] = ()
    if status in ("off", "untrusted"):
        advice = _advice(smoothed, khats, fit, len(weighed.parts), status == "off")
        if smoothed.khat > NO_MEAN:
            advice = (ELSEWHERE, *advice)
    elif status == "undecided":
        more = 8 * len(smoothed.log_weights)
        advice = (f"take more draws: report(fit, *args, num_samples={more})",)
    return Verdict(status, text, (*advice, UNSEEN))


def _doubt(smoothed: PSIS, sites: Sequence[SiteReport], khats: Sequence[SiteKhat]) -> str:
    """Why the weights are of no use, empty if they are.

    The tail of the guide's weights is at least as heavy as that of a site's, and that of a law
    which is too narrow as heavy as its width makes it; k-hat of 4000 draws has an error of 0.1.
    """
    limit = smoothed.limit
    if smoothed.khat > limit:
        return f"k-hat {smoothed.khat:.2f} is above {limit:.2f}{_lacking(smoothed.khat)}"
    whole = f"while that of the guide, {max(smoothed.khat, -1.0):.2f}, is not"
    heavy = max((k for k in khats if _matters(k)), key=lambda k: k.khat, default=None)
    if heavy is not None and heavy.khat > limit:
        names = ", ".join(heavy.sites)
        return f"k-hat {heavy.khat:.2f} of {names} given the others is above {limit:.2f}, {whole}"
    far = max(sites, key=lambda s: s.tail, default=None)
    if far is not None and far.tail > limit:
        return f"the tail of so narrow a law in {far.name} has a k above {limit:.2f}, {whole}"
    return ""


def _lacking(khat: float) -> str:
    """What weights with such a tail do not have."""
    if khat > NO_MEAN:
        return (
            " (the weights have no mean: they still grow where the draws end, and there may be "
            "mass elsewhere)"
        )
    return " (the weights have no second moment)"


def _matters(khat: SiteKhat) -> bool:
    return khat.divergence > 0.1 * OWN


def _untrusted(
    doubt: str, smoothed: PSIS, sites: Sequence[SiteReport], khats: Sequence[SiteKhat]
) -> tuple[str, str]:
    text = f"do not trust: {doubt}"
    serve = smoothed.effective_draws >= FEW_DRAWS
    found = "; ".join(words for s in sites if (words := s.doubtful_words(serve)))
    if found:
        return "untrusted", f"{text}; {found}"
    own = off_alone(khats, smoothed.limit)
    if own and len(khats) > 1:
        return "untrusted", f"{text}; q is off in site {', '.join(own)}, given the others"
    share = smoothed.effective_draws / len(smoothed.log_weights)
    if smoothed.khat < smoothed.limit + CHANCE and share > 0.5:
        return "undecided", f"not decided: {doubt}, and no site stands out; it may be chance"
    return "untrusted", f"{text}, and no site stands out"


def _by_moments(
    weighed: Weighed, sites: Sequence[SiteReport], khats: Sequence[SiteKhat]
) -> tuple[str, str]:
    """The verdict where weighted estimates can be used."""
    khat = f"k-hat {max(weighed.psis.khat, -1.0):.2f}"
    if not weighed.psis.is_reliable:
        khat += (
            " is of a far tail, which may be heavier than q's; the draws' weights are even, and "
            "what is beyond them is not known"
        )
    found = "; ".join(words for s in sites if (words := s.words()))
    if found:
        # An sd that is known to be too small has a tail that k-hat of few draws may not show.
        tail = max([weighed.psis.khat, *(s.tail for s in sites)])
        return "off", f"{found}; {khat}, so weights correct it{' partly' * (tail > PARTLY)}"
    if any(s.is_open for s in sites):
        names = ", ".join(s.name for s in sites if s.is_open)
        return "undecided", f"not decided: the draws are too few to judge {names}; {khat}"
    if shape := _shape(weighed, sites, khats):
        return (
            "off",
            f"{shape}; {khat}, so weights correct it{' partly' * (weighed.psis.khat > PARTLY)}",
        )
    if weighed.divergence < NEAR:
        return (
            "good",
            f"good: q is {max(weighed.divergence, 0.0):.0e} nats from the posterior; {khat}",
        )
    return "good", f"good: no mean is surely off by 0.1 sd, and no sd by 10 %; {khat}"


def _shape(weighed: Weighed, sites: Sequence[SiteReport], khats: Sequence[SiteKhat]) -> str:
    """That q has another shape than the posterior though its means and sds are right, or nothing.

    Nats are those of an element: of many elements, each of which is nearly right, they add up.
    """
    sizes = {s.name: s.moments.mean.numel() for s in sites}
    far = {
        ", ".join(k.sites): k.divergence
        for k in khats
        if k.divergence > OWN * sum(sizes.get(n, 1) for n in k.sites)
    }
    if far:
        found = "; ".join(
            f"{names} ({nats:.2g} nats, given the others)" for names, nats in far.items()
        )
        return f"off in the shape of site {found}, with the posterior's means and sds"
    if weighed.divergence > OWN * sum(sizes.values()):
        return (
            f"off in shape: q is {weighed.divergence:.2g} nats from the posterior, with its means "
            "and sds"
        )
    return ""


def _advice(
    smoothed: PSIS, khats: Sequence[SiteKhat], fit: Fit | None, num_parts: int, weights_serve: bool
) -> tuple[str, ...]:
    lines = [_convergence(fit)] if fit is None or not fit.converged else []
    own = off_alone(khats, smoothed.limit)
    if not khats:
        lines.append("the guide's q(site | others) is not known, so no site has a k-hat")
    elif len(khats) == 1:
        lines.append(
            "q has not the posterior's shape: another family, another variable (a log, a decentred "
            "form), or more steps"
        )
    elif own:
        lines.append(
            f"q's own law of {', '.join(own)} is off also given the others: another family for it, "
            "another variable (a log, a decentred form), or more steps"
        )
    elif num_parts > 1:
        lines.append(
            "each site is nearly right given the others, so the posterior has dependence that q "
            "leaves out: AutoNaturalMultivariateNormal(model), or one block for the sites that "
            "belong together"
        )
    else:
        lines.append(
            "q is one law over all sites and has not the posterior's shape: another variable (a "
            "log, a decentred form), or families of their own (AutoNatural)"
        )
    if weights_serve:
        lines.append(
            "report.weighed.psis.weights are weights of the draws: with them means and sds are "
            "nearer to those of the posterior, and the nearer the lower k-hat is (from 0.4 on an "
            "sd may still be too small by more than its error)"
        )
    else:
        lines.append(
            "means and sds in the table are of weights that are too uneven: an sd is larger than "
            "they say"
        )
    return tuple(lines)


def _convergence(fit: Fit | None) -> str:
    if fit is None:
        return (
            "whether the fit has converged is not known: BLR(model, guide).fit(*args) goes on from "
            "here and certifies it"
        )
    return f"the fit has not converged ({fit.reason}): call blr.fit(*args) again first"


def off_alone(khats: Sequence[SiteKhat], limit: float) -> tuple[str, ...]:
    """The sites of which q's law is off even where the others suit it best."""
    off = [k for k in khats if k.divergence > OWN or (k.khat > limit and _matters(k))]
    return tuple(dict.fromkeys(name for k in off for name in k.sites))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What weighted draws say of one site: how far its means and sds are off, and how surely."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .. import errors
from .bounds import ErrorBounds
from .curvature import Curvature
from .moments import Moments

#: A mean is off from this share of q's sd on, and an sd from this share of itself.
MEAN_OFF, SD_OFF = 0.1, 0.1
#: How many times too narrow or too wide a site is by curvature before it is said.
TIMES = 1.5


@dataclass(frozen=True)
class SiteReport:
    """A site of q against the posterior.

    :param str name: the site.
    :param Moments moments: means and sds of q and of the posterior, element by element.
    :param ErrorBounds bounds: of their errors; None against NUTS.
    :param Curvature curvature: of the log weights along the site's directions; None against NUTS.
    :param float khat: given the others; NaN where q(site | others) is not known.
    :param float divergence: of q's law of the site from its full conditional, in nats; or NaN.
    """

    name: str
    moments: Moments
    bounds: ErrorBounds | None = None
    curvature: Curvature | None = None
    khat: float = math.nan
    divergence: float = math.nan

    @property
    def shift(self) -> float:
        """The posterior mean less q's where it is farthest, in sds of q."""
        return _at_worst(self.moments.shift, self.moments.shift)

    @property
    def shift_error(self) -> float:
        """Its Monte Carlo standard error."""
        return _at_worst(self.moments.shift, self.moments.shift_error)

    @property
    def ratio(self) -> float:
        """The posterior's sd over q's where it is farthest from 1."""
        return math.exp(_at_worst(self.moments.widening, self.moments.widening))

    @property
    def ratio_error(self) -> float:
        """Its Monte Carlo standard error."""
        return self.ratio * _at_worst(self.moments.widening, self.moments.widening_error)

    @property
    def widest(self) -> float:
        """The posterior's sd over q's where q is narrowest."""
        return math.exp(_at_worst(self.moments.widening.clamp(min=0), self.moments.widening))

    @property
    def narrowest(self) -> float:
        """The posterior's sd over q's where q is widest."""
        return math.exp(_at_worst(self.moments.widening.clamp(max=0), self.moments.widening))

    @property
    def tail(self) -> float:
        """The k that Gaussians of these sds would have, ``1 - (sd of q / sd of the posterior)^2``.

        A lower bound by the weighted sd, which reaches no further than q does, where q surely is
        too narrow, or what the curvature of the log weights says; 0 where neither says anything.
        """
        by_sd = 1 - self.widest**-2 if self.is_narrow else 0.0
        return max(by_sd, self.curve)

    @property
    def curve(self) -> float:
        """The curvature of the log weights where it is farthest from 0; 0 if none surely is not."""
        if self.curvature is None:
            return 0.0
        return self.curvature.farthest(self.moments.margin)

    @property
    def is_narrow(self) -> bool:
        """Whether q has a sd that is surely too small, by a tenth or more."""
        return self._any_above(self.moments.widening, self.moments.widening_error, SD_OFF)

    @property
    def is_wide(self) -> bool:
        """Whether q has a sd that is surely too large, by a tenth or more."""
        return self._any_above(-self.moments.widening, self.moments.widening_error, SD_OFF)

    @property
    def is_shifted(self) -> bool:
        """Whether q has a mean that is surely off, by a tenth of an sd or more."""
        return self._any_above(self.moments.shift.abs(), self.moments.shift_error, MEAN_OFF)

    @property
    def is_open(self) -> bool:
        """Whether a mean or sd may be off by more than a tenth, as far as the draws tell."""
        margin = self.moments.margin
        far = self.moments.shift.abs() + margin * self.moments.shift_error > 2 * MEAN_OFF
        wide = self.moments.widening.abs() + margin * self.moments.widening_error > 2 * SD_OFF
        return bool((far | wide).any())

    def _any_above(self, value: Tensor, error: Tensor, limit: float) -> bool:
        return bool(((value > limit) & (value > self.moments.margin * error)).any())

    def words(self) -> str:
        """What is surely wrong with it, empty if nothing is."""
        found = []
        if self.is_narrow:
            found.append(self.narrow_words())
        if self.is_wide:
            found.append(
                f"too wide in site {self.name} (the posterior's sd is {self.narrowest:.2f} times "
                "q's)"
            )
        if self.is_shifted:
            found.append(f"off in site {self.name} (by {abs(self.shift):.2f} sd)")
        return ", ".join(found)

    def narrow_words(self) -> str:
        """That it is too narrow, and by how much."""
        times = f"{self.widest:.2f} times q's"
        return f"too narrow in site {self.name} (the posterior's sd is {times})"

    def doubtful_words(self, moments_serve: bool) -> str:
        """What is wrong with its width where weights are too uneven to correct it.

        Such weights make an sd too small, so that one which is large even so is larger.

        :param moments_serve: whether the draws are worth enough to look at weighted sds.
        """
        curvature = self.curve
        times = None if self.curvature is None else self.curvature.times(self.moments.margin)
        known = "" if times is None else f"{times:.1f} times "
        found = []
        if moments_serve and self.is_narrow:
            found.append(f"the posterior's sd is at least {self.widest:.2f} times q's")
        if curvature > 1 - TIMES**-2:
            found.append(f"{known}by the curvature of the log weights")
        if found:
            return f"too narrow in site {self.name} ({', '.join(found)})"
        if curvature < 1 - TIMES**2:
            return f"too wide in site {self.name} ({_share(times)}by the curvature of log weights)"
        return ""


def _share(times: float | None) -> str:
    return "" if times is None else f"the posterior's sd is {times:.2f} times q's "


def site_named(sites: Sequence[SiteReport], name: str) -> SiteReport:
    """The report on a site.

    :raises ArgumentError: if there is none of that name.
    """
    for site in sites:
        if site.name == name:
            return site
    raise errors.ArgumentError(
        f"there is no site {name!r}. Mend: use one of {[s.name for s in sites]}."
    )


def _at_worst(by: Tensor, values: Tensor) -> float:
    """A value where another is farthest from 0; elements that do not vary are no numbers."""
    sizes = by.abs().nan_to_num(nan=-1.0).reshape(-1)
    worst = int(sizes.argmax())
    return float(values.reshape(-1)[worst]) if float(sizes[worst]) >= 0 else 0.0

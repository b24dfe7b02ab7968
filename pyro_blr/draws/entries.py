# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What one run of a program leaves of each of its sample sites."""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from pyro.distributions import Delta, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import constraints

from .._compat import site_is_subsample
from ..families.registry import unwrap
from ..shapes import broadcast_shapes


@dataclass(frozen=True, eq=False)
class Entry:
    """A site in one run.

    :param kind: ``"latent"``, ``"observed"``, ``"deterministic"``, ``"factor"``, or ``"datum"`` for
        one of several observed sites whose log density is of all of them together.
    :param value: None where a site stands for several.
    :param log_prob: along batch dims, without ``poutine.scale``; masked elements are 0.
    :param scaled: the same with ``poutine.scale``, as it counts in the log joint.
    :param plates: the plates of the batch dims, by dim counted from the right.
    :param numbers: of its value, its log density and its distribution's arguments.
    :param is_auxiliary: whether a guide drew it for the sake of other sites.
    :param is_delta: whether it is a value that was computed, or a point.
    """

    name: str
    kind: str
    value: Tensor | None
    log_prob: Tensor
    scaled: Tensor
    event_dim: int
    plates: Mapping[int, tuple[str, int]]
    numbers: int = 0
    is_auxiliary: bool = False
    is_delta: bool = False

    @property
    def is_data(self) -> bool:
        """Whether its value was observed."""
        return self.kind in ("observed", "datum")


def entries_of(trace: Any, latents: Container[str] = ()) -> list[Entry]:
    """The sites of a trace whose log densities are computed.

    :param latents: sites that count as latents though they may be observed in the trace.
    """
    return [
        entry(name, site, latents)
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    ]


def entry(name: str, site: Mapping[str, Any], latents: Container[str] = ()) -> Entry:
    """One site of a trace."""
    plates = {f.dim: (f.name, int(f.size)) for f in site["cond_indep_stack"] if f.vectorized}
    unscaled = scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"])
    kind, value, fn = kind_of(name, site, latents), site["value"], site["fn"]
    scale = site["scale"]
    is_scaled = isinstance(scale, Tensor) or scale != 1
    scaled = site["log_prob"] if is_scaled else unscaled
    outside = _outside(fn, value) if name in latents else None
    if outside is not None:
        outside = outside if site["mask"] is None else outside & site["mask"]
        unscaled = unscaled.masked_fill(outside, -math.inf)
        scaled = scaled.masked_fill(outside, -math.inf)
    if kind in ("latent", "observed"):
        value = value.expand(broadcast_shapes(value.shape, _shape(site)))
    arguments = [v for v in vars(unwrap(fn)).values() if isinstance(v, Tensor)]
    return Entry(
        *(name, kind, value, unscaled, scaled, int(fn.event_dim), plates),
        numbers=sum(t.numel() for t in (value, unscaled, *arguments)),
        is_auxiliary=bool(site["infer"].get("is_auxiliary")),
        is_delta=isinstance(unwrap(fn), Delta),
    )


#: Supports of numbers in bounds: rounding moves no draw out of them, as it does from a simplex.
BOUNDED = (
    *(constraints.greater_than, constraints.greater_than_eq, constraints.less_than),
    *(constraints.interval, constraints.half_open_interval),
)


def _outside(fn: Any, value: Tensor) -> Tensor | None:
    """Where a value has no density, which not every law says: an Exponential's goes on below 0."""
    if isinstance(fn, MaskedDistribution):
        return None
    support = fn.support
    bounds = getattr(support, "base_constraint", support)
    return ~support.check(value) if isinstance(bounds, BOUNDED) else None


def _shape(site: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of a site's distribution without the values of discrete latents summed out."""
    shape, event_dim = list(site["fn"].shape()), int(site["fn"].event_dim)
    for dim in site["infer"].get("_dim_to_id", {}):
        if len(shape) >= event_dim - dim:
            shape[len(shape) - event_dim + dim] = 1
    plates = max((-f.dim for f in site["cond_indep_stack"] if f.vectorized), default=0)
    kept = max(site["value"].dim(), plates + event_dim)
    while len(shape) > kept and shape[0] == 1:
        shape.pop(0)
    return tuple(shape)


def kind_of(name: str, site: Mapping[str, Any], latents: Container[str] = ()) -> str:
    """What a site is to its program."""
    if is_computed(site):
        return "deterministic"
    if name in latents or not site["is_observed"]:
        return "latent"
    return "factor" if site["infer"].get("is_auxiliary") else "observed"


def is_computed(site: Mapping[str, Any]) -> bool:
    """Whether a site is ``pyro.deterministic``, or what a reparameterisation put in its place."""
    if site["infer"].get("_deterministic"):
        return True
    fn = site["fn"]
    is_masked = isinstance(fn, MaskedDistribution) and fn._mask is False
    return bool(site["is_observed"] and is_masked and isinstance(fn.base_dist, Delta))

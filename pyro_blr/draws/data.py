# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Data as log densities take them, and latents that fit their plates: what a fit takes, too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from .. import errors
from .._compat import site_is_subsample
from ..energy.domains import harmless, outside
from ..energy.plates import changed_size
from .entries import Entry, is_computed


@dataclass(eq=False)
class KnownData:
    """The data of a program, once checked.

    :param used: what was observed at each site, and what densities take in its place.
    """

    used: dict[str, tuple[Any, Tensor]] = field(default_factory=dict)

    def of(self, name: str, fn: Any, raw: Any, mask: Any, checks: bool) -> Tensor:
        """The data that densities take: booleans and labels 0, 1 as real, no NaN where masked.

        :param checks: whether the values can be looked at: not under ``vmap``.
        """
        held = self.used.get(name)
        if held is not None and held[0] is raw:
            return held[1]
        value = raw if isinstance(raw, Tensor) else torch.as_tensor(raw)
        if value.dtype is torch.bool or (not value.is_floating_point() and _is_boolean(fn)):
            value = value.to(torch.get_default_dtype())
        if checks:
            value = _checked(name, fn, value, mask)
            self.used[name] = raw, value
        return value

    def observed(self, entries: Sequence[Entry]) -> list[Entry]:
        """Sites of a run with their data as they were given, NaN where masked."""
        return [self._as_given(e) for e in entries]

    def _as_given(self, entry: Entry) -> Entry:
        raw, used = self.used.get(entry.name, (None, None))
        if entry.value is None or not isinstance(raw, Tensor) or not raw.is_floating_point():
            return entry
        if raw is used or used is None or not entry.is_data:
            return entry
        return replace(entry, value=raw.expand(entry.value.shape))


class Data(Messenger):
    """Has observed sites take their data as :class:`KnownData` gives them."""

    def __init__(self, known: KnownData, checks: bool) -> None:
        super().__init__()
        self.known, self.checks = known, checks

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not msg["is_observed"] or site_is_subsample(msg) or is_computed(msg):
            return
        if not msg["infer"].get("is_auxiliary"):
            own = msg["name"], msg["fn"], msg["value"], msg["mask"]
            msg["value"] = self.known.of(*own, self.checks)


def _is_boolean(fn: Any) -> bool:
    """Whether data are 0 or 1, of which torch takes real numbers alone."""
    support = fn.support
    return getattr(support, "base_constraint", support) is constraints.boolean


def _checked(name: str, fn: Any, value: Tensor, mask: Any) -> Tensor:
    """The data, with harmless numbers at masked places.

    :raises NonFiniteError: for NaN and infinity that no mask hides.
    :raises SupportError: for another value that the distribution cannot have.
    """
    try:
        good = fn.support.check(value)
    except Exception:  # a law without a support, or data whose shape Pyro refuses
        return value
    finite = torch.isfinite(value)
    for _ in range(value.dim() - good.dim()):
        finite = finite.all(-1)
    good = good & finite
    if bool(good.all()):
        return value
    if isinstance(fn, MaskedDistribution):
        mask = fn._mask if mask is None else torch.as_tensor(mask) & fn._mask
    hidden = ~torch.as_tensor(True if mask is None else mask, device=good.device)
    if not bool((good | hidden).all()):
        raise outside(name, fn, value)
    shown = good.reshape(good.shape + (1,) * (value.dim() - good.dim()))
    return harmless(value, shown, fn.support)


def check_plates(name: str, msg: Mapping[str, Any], value: Tensor) -> None:
    """Refuse a draw that does not fit the plates, or the shape, of its site in this call.

    :raises PlateSizeError: naming the plate.
    :raises GuideError: for another shape.
    """
    event_dim = int(msg["fn"].event_dim)
    batch = value.shape[: value.dim() - event_dim]
    for frame in msg["cond_indep_stack"]:
        if frame.vectorized and frame.dim is not None and len(batch) >= -frame.dim:
            held, size = batch[frame.dim], int(frame.size)
            if held not in (1, size):
                raise changed_size(frame.name, name, size, held)
    event = tuple(msg["fn"].event_shape)
    own = tuple(value.shape[len(batch) :])
    if own != event:
        raise errors.GuideError(
            f"site {name!r} has the event shape {event} in this call, but the guide holds {own}. "
            "Mend: give the arguments that the fit had, or make a new guide for other data."
        )

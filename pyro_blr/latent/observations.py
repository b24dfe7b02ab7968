# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Observed values: which are missing, the support, what multiplies their log density."""

import torch
from torch import Tensor

from ..energy.domains import checked_value
from .peeling import peel
from .probe import Census, Record


def gaps(site: Record, event_dim: int) -> Tensor:
    """Which entries of an observed value are missing: NaN, or masked. # shape: that of the value

    :param event_dim: of the family of the site's elements.
    """
    value, peeled = site.value, peel(site.fn)
    gone = torch.isnan(value) if value.is_floating_point() else torch.zeros_like(value).bool()
    gone = gone.expand(torch.broadcast_shapes(value.shape, site.fn.shape()))
    for mask, inner in ((site.mask, peeled.elements + event_dim), (peeled.mask, event_dim)):
        if mask is not None:
            mask = torch.as_tensor(mask, dtype=torch.bool, device=value.device)
            gone = gone | ~mask.reshape(mask.shape + (1,) * inner)
    return gone


def filled(site: Record, gone: Tensor) -> Tensor:
    """The value in the family's arithmetic, with draws in the places of what is missing.

    :raises SupportError: if what is there lies outside the support.
    """
    value = site.value
    if bool(gone.any()):
        with torch.no_grad():
            value = torch.where(gone, site.fn.sample().to(value.dtype), value)
    checked: Tensor = checked_value(site.name, site.fn, value, None)
    return checked.double()


def scale_of(census: Census, site: Record) -> Tensor:
    """What multiplies a site's log density beyond what multiplies its latents' own."""
    own = census.sites[census.latents[0]].scale
    return torch.as_tensor(site.scale / own, dtype=torch.float64)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Observed values: their support, and what multiplies their log density."""

import torch
from torch import Tensor

from ..energy.domains import checked_value
from .probe import Census, Record


def filled(site: Record, gone: Tensor) -> Tensor:
    """The value, with draws in the places of what is missing."""
    value: Tensor = site.value
    if bool(gone.any()):
        with torch.no_grad():
            value = torch.where(gone, site.fn.sample().to(value.dtype), value)
    return value


def checked(site: Record, value: Tensor) -> Tensor:
    """A value in the family's arithmetic.

    :raises SupportError: if it lies outside the support.
    """
    found: Tensor = checked_value(site.name, site.fn, value, None)
    return found.double()


def scale_of(census: Census, site: Record) -> Tensor:
    """What multiplies a site's log density beyond what multiplies its latents' own."""
    own = census.sites[census.latents[0]].scale
    return torch.as_tensor(site.scale / own, dtype=torch.float64)

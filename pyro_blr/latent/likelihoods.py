# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Observed sites as members of exponential families."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from .. import errors
from ..families import ExponentialFamily, MultivariateNormal, Natural, find_family
from ..shapes import broadcast_shapes
from .peeling import narrowed, peel
from .probe import Record


@dataclass(frozen=True)
class Likelihood:
    """An observed site as a member of an exponential family, at some values of the latents.

    :param natural: of x given z. # shape: (*lead, elements, entries)
    :param log_partition: psi_x of it. # shape: (*lead, elements)
    """

    family: ExponentialFamily
    natural: Tensor
    log_partition: Tensor


def family_of(site: Record) -> ExponentialFamily | None:
    """The family of a site's elements; None if there is none, or no one that all are of."""
    base = peel(site.fn).base
    if not hasattr(base, "batch_shape"):
        return None
    try:
        return find_family(base)
    except errors.ArgumentError:  # binomials with a count each
        return None


def likelihood_of(site: Record, depth: int, data: Record) -> Likelihood | None:
    """The natural parameters of an observed site; None if it is in no registered family.

    :param depth: the number of plate dims.
    :param data: the site with its data, of which entries of Gaussian vectors may be missing.
    """
    peeled, family = peel(site.fn), family_of(site)
    if family is None:
        return None
    base = narrowed(peeled.base, depth, peeled.elements)
    gone = data.gaps_of_vectors if isinstance(family, MultivariateNormal) else None
    if isinstance(family, MultivariateNormal) and gone is not None:
        return _of_what_is_seen(family, base, gone, peeled.elements)
    blocks = tuple(b.double() for b in family.natural_of(base))
    psi = family.log_partition(blocks)
    natural = entries(family, blocks, peeled.elements)
    return Likelihood(family, natural, flat(psi, peeled.elements))


def _of_what_is_seen(
    family: MultivariateNormal, base: torch.distributions.MultivariateNormal, gone: Tensor, n: int
) -> Likelihood:
    """The marginal of each vector's entries that are there, with zeros for those that are not.

    :param gone: # shape: (*batch, size)
    """
    size = gone.shape[-1]
    patterns, which = gone.reshape(-1, size).unique(dim=0, return_inverse=True)
    which = which.reshape(gone.shape[:-1])
    covariance, loc = base.covariance_matrix.double(), base.loc.double()
    total_natural = total_psi = torch.zeros((), dtype=torch.float64, device=loc.device)
    for place, pattern in enumerate(patterns):
        seen = torch.eye(size, dtype=torch.float64, device=loc.device)[~pattern]
        if not len(seen):
            continue
        factor = torch.linalg.cholesky(seen @ covariance @ seen.T)
        precision = torch.cholesky_inverse(factor)
        own = ((precision @ (loc @ seen.T).unsqueeze(-1)).squeeze(-1), -0.5 * precision)
        psi = family.log_partition(own)
        blocks = (own[0] @ seen, seen.T @ own[1] @ seen)
        here = (which == place).double()
        total_natural = total_natural + _times(here, blocks, family, n)
        total_psi = total_psi + flat(psi * here, n)
    return Likelihood(family, total_natural, total_psi)


def _times(here: Tensor, blocks: Natural, family: ExponentialFamily, elements: int) -> Tensor:
    scaled = (blocks[0] * here.unsqueeze(-1), blocks[1] * here.unsqueeze(-1).unsqueeze(-1))
    return entries(family, scaled, elements)


def flat(value: Tensor, dims: int) -> Tensor:
    """The last dims in one; a new one if there are none."""
    lead = value.shape[: value.dim() - dims]
    return value.reshape(*lead, prod(value.shape[value.dim() - dims :]))


def entries(family: ExponentialFamily, blocks: Natural, elements: int) -> Tensor:
    """Natural parameters or statistics. # shape: (*lead, elements, entries)"""
    found = []
    for block, dims in zip(blocks, family.natural_event_dims, strict=True):
        event = block.shape[block.dim() - dims :]
        rest = block.reshape(*block.shape[: block.dim() - dims], prod(event))
        cut = rest.dim() - 1 - elements
        found.append(rest.reshape(*rest.shape[:cut], prod(rest.shape[cut:-1]), rest.shape[-1]))
    lead = broadcast_shapes(*(f.shape[:-1] for f in found))
    return torch.cat([f.expand(*lead, f.shape[-1]) for f in found], -1)

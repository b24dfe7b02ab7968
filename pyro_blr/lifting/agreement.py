# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Whether a polynomial is what a recorded program computes, at values drawn at random."""

from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor

from . import constants, host
from .keys import constants_of, key_of
from .polynomial import Polynomial
from .tensor import LiftedTensor, program, replay
from .terms import LatentSite
from .values import value_at

#: The relative error below which the two agree, in float64 and in float32: far above the rounding
#: of squares that are multiplied out, far below what another element makes.
AGREES = {torch.float64: 1e-6, torch.float32: 1e-3}

#: Random values at which they are compared.
PROBES = 3


Computed = Callable[[Mapping[LatentSite, Tensor]], Tensor]


def agrees(density: LiftedTensor, poly: Polynomial) -> bool:
    """Whether a polynomial is what the program of a tensor says; looked at once for its constants.

    What has constants that require a gradient is looked at anew.
    """
    structure, free = key_of(poly)
    key = None if free else ("agrees", structure)
    held = constants_of(poly.terms)
    return _once(key, held, lambda: _computes(density, lambda values: value_at(poly, values)))


def agrees_at_values(density: LiftedTensor, weights: Polynomial, given: LiftedTensor) -> bool:
    """The same of a sum of weights times another program along dims in front."""
    depth = weights.ndim - density.dim()

    def summed(values: Mapping[LatentSite, Tensor]) -> Tensor:
        with torch.no_grad():
            (own,) = replay([given], _in_dtypes(given, values))
        total: Tensor = value_at(weights, values).to(own.device) * own.double()
        return total.sum(tuple(range(depth)))

    calls = [n.call for n in program([density]) if n.call is not None]
    tables = [t for c in calls for t in c.tensors if not isinstance(t, LiftedTensor)]
    plain = not any(t.requires_grad for t in tables)
    names = tuple((getattr(c.function, "__name__", ""), c.inputs[0].kind) for c in calls)
    keys = tuple(map(constants.key_of, tables)) if plain else ()
    key = ("agrees at values", names, keys, key_of(weights)[0]) if plain else None
    return _once(key, tuple(tables), lambda: _computes(density, summed))


def _once(key: Hashable, held: tuple[Tensor, ...], look: Callable[[], bool]) -> bool:
    cache = constants.active()
    return look() if key is None or cache is None else bool(cache.lookup(key, look, held))


def _computes(density: LiftedTensor, compute: Computed) -> bool:
    generator = torch.Generator("cpu").manual_seed(0)
    for _ in range(PROBES):
        values = {s: _probe_value(s, generator) for s in density.sites}
        with torch.no_grad():
            (direct,) = replay([density], _in_dtypes(density, values))
            summed = compute(values).to(density.device)
        direct = direct.double().expand(density.shape)
        known = direct.isfinite() & summed.isfinite()
        size = 1.0 + torch.maximum(direct.abs(), summed.abs())
        far = (direct - summed).abs() > _tolerance(density) * size
        if host.truth((far & known).any()) or not host.truth(known.any() | (known.numel() == 0)):
            return False
    return True


def _probe_value(site: LatentSite, generator: torch.Generator) -> Tensor:
    """A value that a latent might have."""
    normal = torch.randn(site.shape, generator=generator, dtype=torch.float64, device="cpu")
    if site.is_discrete:
        shape = site.shape[: len(site.shape) - site.event_dim]
        places = torch.randint(len(site.levels), shape, generator=generator, device="cpu")
        return site.values_at(places)
    if site.gaussian:
        return normal
    if site.event_dim == 2:
        return normal @ normal.mT + torch.eye(site.shape[-1], dtype=torch.float64, device="cpu")
    return normal.softmax(-1) if site.event_dim else 0.2 + 0.6 * normal.sigmoid()


def _in_dtypes(
    density: LiftedTensor, values: Mapping[LatentSite, Tensor]
) -> dict[LatentSite, Tensor]:
    """Values as the program has them."""
    leaves = [n for n in program([density]) if n.site is not None]
    return {n.site: values[n.site].to(n.device, n.kind[1]) for n in leaves if n.site is not None}


def _tolerance(density: LiftedTensor) -> float:
    narrow = any(n.kind[1] == torch.float32 for n in program([density]))
    return AGREES[torch.float32 if narrow else torch.float64]

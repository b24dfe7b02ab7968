# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The continuous latents of a datum as one exponential family with a flat vector of statistics."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..families import ExponentialFamily, MultivariateNormal, Natural
from ..shapes import broadcast_shapes


@dataclass(frozen=True)
class Part:
    """Latents that one exponential family describes, independent of the other parts.

    :param names: its sites.
    :param event_shapes: of each site's value.
    :param is_joined: whether the family is one of vectors, and the value all sites' elements in a
        row; else there is one site, whose elements are independent members of the family.
    :param block_shapes: of each natural parameter of a datum, elements in front.
    """

    names: tuple[str, ...]
    family: ExponentialFamily
    event_shapes: tuple[tuple[int, ...], ...]
    is_joined: bool
    block_shapes: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """How many statistics there are."""
        return sum(prod(shape) for shape in self.block_shapes)

    @property
    def element_dims(self) -> int:
        """The number of dims of independent elements."""
        return 0 if self.is_joined else len(self.event_shapes[0]) - self.family.event_dim

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """One value of the family from the sites' values. # shape: (*lead, *event)"""
        if not self.is_joined:
            return values[self.names[0]]
        flat = []
        for name, shape in zip(self.names, self.event_shapes, strict=True):
            value = values[name]
            flat.append(value.reshape(*value.shape[: value.dim() - len(shape)], prod(shape)))
        lead = broadcast_shapes(*(f.shape[:-1] for f in flat))
        return torch.cat([f.expand(*lead, f.shape[-1]) for f in flat], -1)

    def cut(self, value: Tensor) -> dict[str, Tensor]:
        """The sites' values from one of the family."""
        if not self.is_joined:
            return {self.names[0]: value}
        sizes = [prod(shape) for shape in self.event_shapes]
        pieces = zip(self.names, self.event_shapes, value.split(sizes, -1), strict=True)
        return {name: piece.reshape((*piece.shape[:-1], *shape)) for name, shape, piece in pieces}

    def pack(self, blocks: Natural) -> Tensor:
        """Natural parameters, or statistics, as a vector. # shape: (*lead, size)"""
        flat = []
        for block, shape in zip(blocks, self.block_shapes, strict=True):
            flat.append(block.reshape(*block.shape[: block.dim() - len(shape)], prod(shape)))
        lead = broadcast_shapes(*(f.shape[:-1] for f in flat))
        return torch.cat([f.expand(*lead, f.shape[-1]) for f in flat], -1)

    def unpack(self, vector: Tensor) -> Natural:
        """Natural parameters from a vector."""
        pieces = vector.split([prod(shape) for shape in self.block_shapes], -1)
        pairs = zip(pieces, self.block_shapes, strict=True)
        return tuple(piece.reshape((*piece.shape[:-1], *shape)) for piece, shape in pairs)

    def statistics(self, values: Mapping[str, Tensor]) -> Tensor:
        """s(z) of the sites' values. # shape: (*lead, size)"""
        value = self.join(values).double()
        return self.pack(self.family.sufficient_statistics(value))

    def log_partition(self, vector: Tensor) -> Tensor:
        """psi_z. # shape: (*lead,)"""
        value = self.family.log_partition(self.unpack(vector))
        return value.sum(tuple(range(-self.element_dims, 0))) if self.element_dims else value

    def mean_params(self, vector: Tensor) -> Tensor:
        """E[s(z)]. # shape: (*lead, size)"""
        return self.pack(self.family.mean_params(self.unpack(vector)))

    def in_domain(self, vector: Tensor) -> Tensor:
        """Where the natural parameters are those of a distribution. # shape: (*lead,)"""
        inside = self.family.in_domain(self.unpack(vector))
        return inside.flatten(-self.element_dims).all(-1) if self.element_dims else inside

    def distribution(self, vector: Tensor) -> Any:
        """The Pyro distribution of the part's value."""
        found = self.family.distribution(self.unpack(vector))
        return found.to_event(self.element_dims) if self.element_dims else found

    def marginal(self, vector: Tensor, name: str) -> Any:
        """The Pyro distribution of one site; of all of them where only a joint one has a name."""
        law = self.distribution(vector)
        if not self.is_joined or not isinstance(self.family, MultivariateNormal):
            return law
        place = self.names.index(name)
        shape = self.event_shapes[place]
        start = sum(prod(other) for other in self.event_shapes[:place])
        own = slice(start, start + prod(shape))
        mean, covariance = law.loc[..., own], law.covariance_matrix[..., own, own]
        if len(shape) == 1:
            return law if len(self.names) == 1 else dist.MultivariateNormal(mean, covariance)
        scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        full = (*mean.shape[:-1], *shape)
        normal = dist.Normal(mean.reshape(full), scale.reshape(full))
        return normal.to_event(len(shape)) if shape else normal


@dataclass(frozen=True)
class Space:
    """All continuous latents of a datum; there may be none."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """How many statistics there are."""
        return sum(part.size for part in self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The sites."""
        return tuple(name for part in self.parts for name in part.names)

    def split(self, vector: Tensor) -> list[tuple[Part, Tensor]]:
        """Each part with its own vector."""
        pieces = vector.split([part.size for part in self.parts], -1)
        return list(zip(self.parts, pieces, strict=True))

    def statistics(self, values: Mapping[str, Tensor]) -> Tensor:
        """s(z). # shape: (*lead, size)"""
        return torch.cat([part.statistics(values) for part in self.parts], -1)

    def log_partition(self, vector: Tensor) -> Tensor:
        """psi_z(natural). # shape: (*lead,)"""
        total = vector.new_zeros(vector.shape[:-1])
        for part, own in self.split(vector) if self.parts else ():
            total = total + part.log_partition(own)
        return total

    def mean_params(self, vector: Tensor) -> Tensor:
        """E[s(z)]. # shape: (*lead, size)"""
        if not self.parts:
            return vector
        return torch.cat([part.mean_params(own) for part, own in self.split(vector)], -1)

    def in_domain(self, vector: Tensor) -> Tensor:
        """Where the natural parameters are those of a distribution. # shape: (*lead,)"""
        inside = torch.ones(vector.shape[:-1], dtype=torch.bool, device=vector.device)
        for part, own in self.split(vector) if self.parts else ():
            inside = inside & part.in_domain(own)
        return inside

    def sample(self, vector: Tensor) -> dict[str, Tensor]:
        """A draw of each site."""
        found: dict[str, Tensor] = {}
        for part, own in self.split(vector) if self.parts else ():
            found |= part.cut(part.distribution(own).sample())
        return found

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Views of Pyro's Gaussian guides: AutoNormal, AutoDiagonalNormal, the multivariate ones."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from ... import errors
from ...energy.energy import Naturals
from ...energy.explanation import ParameterExplanation
from ...energy.parameters import Parameter
from ...energy.traced import Traced
from ...families import Natural
from ...lifting.blocks import Block
from ..choice import gaussian_latents
from ..gaussian_guides import joint_block
from .leaves import parameter_of, symmetric_inverse
from .view import View, exactly


class _AutoView(View):
    """Every site is Gaussian on its unconstrained space; sites are in the prototype's order."""

    def find_latents(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        sites = dict(self.guide.prototype_trace.iter_stochastic_nodes())
        self.check_sites(sites)
        self.latents = gaussian_latents(sites)
        self.layout = {s.name: block for block in self._blocks_of() for s in block.sites}

    def check_sites(self, sites: Mapping[str, Any]) -> None:
        """Refuse what the guide cannot hold."""

    def _blocks_of(self) -> list[Block]:
        return [latent.block() for latent in self.latents.values()]

    @abstractmethod
    def parameters(self) -> list[Parameter]:
        """The parameters of the guide."""

    def explain(self) -> dict[str, ParameterExplanation]:
        return {p.name: exactly(p.name) for p in self.parameters()}


class _MeanFieldView(_AutoView):
    """One whose elements are all independent."""

    def lay_out(self, traced: Traced, how: str) -> tuple[str, ...]:
        """Keep the factorisation, and say what it is where AutoNatural has another."""
        names = [n.name for n in self.latents.values() if n.value_event_dim]
        if not names:
            return ()
        return (
            f"{self.name} is mean field, also between the elements of {', '.join(names)}; "
            "AutoNatural(model) has a full covariance within a vector",
        )


class NormalView(_MeanFieldView):
    """``AutoNormal``: a location and a scale a site, each element independent."""

    def parameters(self) -> list[Parameter]:
        return [p for name in self.latents for p in self._of_site(name)]

    def _of_site(self, name: str) -> tuple[Parameter, Parameter]:
        locs, scales = (parameter_of(self.guide, f"{kind}.{name}") for kind in ("locs", "scales"))
        return locs, scales

    def naturals(self) -> dict[Block, Natural]:
        result = {}
        for name, block in self.layout.items():
            loc, scale = (p.now.double().reshape(block.batch_shape) for p in self._of_site(name))
            result[block] = normal_natural(loc, scale)
        return result

    def set_naturals(self, naturals: Naturals) -> None:
        for block, natural in naturals.items():
            for parameter, value in zip(self._of_site(block.name), loc_scale(natural), strict=True):
                parameter.write(value.reshape(parameter.value.shape))


class VectorView(_AutoView):
    """A guide over one vector, the sites' unconstrained values one after the other."""

    def check_sites(self, sites: Mapping[str, Any]) -> None:
        """Refuse latents of a subsampled plate: this kind of guide holds the subsample's rows only.

        :raises GuideError: naming the site and the plate.
        """
        for name, site in sites.items():
            for frame in site["cond_indep_stack"]:
                if frame.full_size not in (None, frame.size):
                    raise errors.GuideError(
                        f"latent {name!r} is in the plate {frame.name!r}, of which the model takes "
                        f"{frame.size} of {frame.full_size} rows, and {self.name} has one vector "
                        "for the rows of every subsample. Mend: use AutoNormal, which holds a "
                        "location and a scale for each row."
                    )

    def _read(self, name: str) -> Parameter:
        return parameter_of(self.guide, name)


class DiagonalNormalView(VectorView, _MeanFieldView):
    """``AutoDiagonalNormal``: one vector of locations and one of scales."""

    def parameters(self) -> list[Parameter]:
        return [self._read("loc"), self._read("scale")]

    def _slices(self) -> Iterable[tuple[Block, slice]]:
        start = 0
        for block in self.layout.values():
            size = prod(block.batch_shape)
            yield block, slice(start, start + size)
            start += size

    def naturals(self) -> dict[Block, Natural]:
        loc, scale = (p.now.double() for p in self.parameters())
        return {
            b: normal_natural(loc[s].reshape(b.batch_shape), scale[s].reshape(b.batch_shape))
            for b, s in self._slices()
        }

    def set_naturals(self, naturals: Naturals) -> None:
        after = self.naturals() | dict(naturals)
        parts = [[v.reshape(-1) for v in loc_scale(after[b])] for b in self.layout.values()]
        for parameter, values in zip(self.parameters(), zip(*parts, strict=True), strict=True):
            parameter.write(torch.cat(values))


class MultivariateNormalView(VectorView):
    """``AutoMultivariateNormal``: a location and the factor ``scale[:, None] * scale_tril``.

    ``scale_tril`` has a unit diagonal, so that ``scale`` is the diagonal of the Cholesky factor and
    each covariance has one factor of this form.
    """

    def _blocks_of(self) -> list[Block]:
        return [joint_block(self.name, list(self.latents.values()))]

    def parameters(self) -> list[Parameter]:
        return [self._read(name) for name in ("loc", "scale", "scale_tril")]

    def naturals(self) -> dict[Block, Natural]:
        loc, scale, unit = (p.now.double() for p in self.parameters())
        precision = torch.cholesky_inverse(scale.unsqueeze(-1) * unit)
        (block,) = self.blocks
        return {block: (precision @ loc, -0.5 * precision)}

    def set_naturals(self, naturals: Naturals) -> None:
        ((linear, square),) = naturals.values()
        covariance, factor = symmetric_inverse(-2 * square)
        scale = factor.diagonal()
        values = (covariance @ linear, scale, factor / scale.unsqueeze(-1))
        for parameter, value in zip(self.parameters(), values, strict=True):
            parameter.write(value)


def normal_natural(loc: Tensor, scale: Tensor) -> Natural:
    """The natural parameters of independent Gaussians."""
    precision = scale.square().reciprocal()
    return precision * loc, -0.5 * precision


def loc_scale(natural: Natural) -> tuple[Tensor, Tensor]:
    """The means and standard deviations of independent Gaussians."""
    variance = -0.5 / natural[1]
    return natural[0] * variance, variance.sqrt()

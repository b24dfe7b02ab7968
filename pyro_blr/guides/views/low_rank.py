# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The view of Pyro's Gaussian guide whose covariance is of low rank but for its diagonal."""

from ...energy.energy import Naturals
from ...energy.explanation import ParameterExplanation
from ...energy.parameters import Parameter
from ...families import Natural
from ...lifting.blocks import Block
from ...lifting.low_rank_normal import LowRankNormal
from ..gaussian_guides import stacked
from ..low_rank_guide import from_pyro_parameters, to_pyro_parameters
from .gaussian import VectorView
from .leaves import parameter_of

#: What each parameter of the guide is, by the coordinates (m, W, log d).
MAPS = {"loc": "m", "scale": "d^1/2", "cov_factor": "diag(d)^-1/2 W"}


class LowRankView(VectorView):
    """``AutoLowRankMultivariateNormal``: the covariance is ``diag(s) (F F' + 1) diag(s)``.

    Such covariances are a curved family, whose coordinates (m, W, log d) are one to one with loc, F
    and s: the block is that of
    :class:`~pyro_blr.guides.AutoNaturalLowRankMultivariateNormal`, and what is written back is
    exact. No matrix of all pairs of elements is made where no factor asks for one. A rank of D or
    more is no error, as the guide itself allows it; D - 1 reaches every covariance, and beyond it
    the certificate may find no end of directions that change nothing.
    """

    def _blocks_of(self) -> list[Block]:
        return [stacked(list(self.latents.values()), LowRankNormal())]

    def parameters(self) -> list[Parameter]:
        return [parameter_of(self.guide, name) for name in MAPS]

    def naturals(self) -> dict[Block, Natural]:
        (block,) = self.blocks
        return {block: from_pyro_parameters(*(p.now for p in self.parameters()))}

    def set_naturals(self, naturals: Naturals) -> None:
        (coordinates,) = naturals.values()
        values = to_pyro_parameters(coordinates)
        for parameter, value in zip(self.parameters(), values, strict=True):
            parameter.write(value)

    def explain(self) -> dict[str, ParameterExplanation]:
        parameters = zip(self.parameters(), MAPS.values(), strict=True)
        return {
            p.name: ParameterExplanation(
                p.name, "written", "", (p.name,), f"from the coordinates (m, W, log d): {what}"
            )
            for p, what in parameters
        }

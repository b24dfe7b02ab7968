# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What families of a vector have that are no exponential ones: coordinates of their own."""

from typing import NoReturn

from torch import Tensor

from ..errors import DomainError
from .base import ExponentialFamily, MeanParams, Natural


class CurvedFamily(ExponentialFamily):
    """A family with coordinates where an exponential one has natural parameters.

    A curved subset of the multivariate normals, or mixtures of them. What only an exponential
    family has is refused; steps of such a family are made of what it has instead.
    """

    is_curved = True

    def log_partition(self, natural: Natural) -> Tensor:
        self._refuse()

    def mean_params(self, natural: Natural) -> MeanParams:
        self._refuse()

    def natural(self, mean_params: MeanParams) -> Natural:
        self._refuse()

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        self._refuse()

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise DomainError(
            f"{self.name} is no exponential family: it has coordinates, {self.coordinate_names}, "
            "and no natural parameters. Mend: take the MultivariateNormal of the same mean and "
            "covariance."
        )

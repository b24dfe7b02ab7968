# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Optimisers of networks that learn a law over the weights at about Adam's price."""

from .binary import BinaryBLR
from .gaussian import GaussianBLR
from .ivon import IVON
from .prediction import posterior, predict, sample_posterior
from .vogn import VOGN

__all__ = [
    "IVON",
    "VOGN",
    "BinaryBLR",
    "GaussianBLR",
    "posterior",
    "predict",
    "sample_posterior",
]

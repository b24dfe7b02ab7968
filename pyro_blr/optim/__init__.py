# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Optimisers of networks that learn a diagonal Gaussian over the weights at about Adam's price."""

from .ivon import IVON
from .prediction import posterior, predict, sample_posterior
from .vogn import VOGN

__all__ = ["IVON", "VOGN", "posterior", "predict", "sample_posterior"]

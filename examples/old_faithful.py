# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Old Faithful: two kinds of eruption, as a mixture of Gaussians with full covariances.

    python -m examples.old_faithful [--out FOLDER]

Each class has a mean and a precision matrix in one Normal-Wishart law; the class of an eruption is
summed out. The number of classes is the one with the highest ELBO.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from matplotlib.patches import Ellipse
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from . import data, show

CLASSES = range(1, 6)


class Found(NamedTuple):
    """What a fit of K classes found, in the units of the data, by the length of eruptions."""

    elbo: float
    share: Tensor  # shape: (K,)
    mean: Tensor  # shape: (K, 2)
    covariance: Tensor  # shape: (K, 2, 2)
    probs: Tensor  # shape: (272, K)


def model(y: Tensor, K: int) -> None:
    """A mixture of K Gaussians; y is standardised. # shape of y: (N, 2)"""
    share = pyro.sample("share", dist.Dirichlet(torch.ones(K)))
    with pyro.plate("classes", K):
        L = pyro.sample("L", dist.Wishart(torch.tensor(5.0), torch.eye(2)))
        mu = pyro.sample("mu", dist.MultivariateNormal(torch.zeros(2), precision_matrix=0.1 * L))
    with pyro.plate("eruptions", len(y)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("y", dist.MultivariateNormal(mu[z], precision_matrix=L[z]), obs=y)


def fit(rows: Tensor, K: int) -> tuple[BLR, Any, Found]:
    """The mixture of K classes; it starts by itself."""
    pyro.clear_param_store()
    centre, width = rows.mean(0), rows.std(0)
    args = ((rows - centre) / width, K)
    guide = AutoNatural(model)
    blr = BLR(model, guide)
    result = blr.fit(*args)
    mean = centre + width * guide.marginal("mu").mean
    L = guide.marginal("L")
    # E[covariance] under a Wishart law of the precision.
    covariance = torch.linalg.inv(L.precision_matrix)
    print(type(L), guide.marginal("mu"))
    return blr, result, args

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""One row a registered distribution: random arguments and values, a batch of 5."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

N, K = 5, 4
REAL = torch.tensor([-1.3, 0.2, 0.8, 2.4, -0.1])
OTHER = torch.tensor([0.4, -0.6, 1.1, -2.0, 0.3])
POSITIVE = torch.tensor([0.4, 1.7, 0.9, 3.1, 0.2])
SCALE = torch.tensor([0.7, 1.2, 2.5, 0.3, 1.0])
UNIT = torch.tensor([0.1, 0.4, 0.8, 0.55, 0.93])
PROBS = torch.tensor([0.3, 0.6, 0.2, 0.9, 0.45])
COUNT = torch.tensor([0.0, 3.0, 1.0, 7.0, 2.0])
TOTAL = torch.tensor([4.0, 5.0, 1.0, 9.0, 2.0])
CLASS = torch.tensor([0, 3, 1, 2, 2])
SIMPLEX = torch.softmax(torch.sin(torch.arange(N * K)).reshape(N, K), -1)
COUNTS = torch.arange(N * K).reshape(N, K).remainder(3).double()
VECTORS = torch.cos(torch.arange(N * 3.0)).reshape(N, 3)
ROOT = torch.tensor([[1.2, 0.0, 0.0], [0.3, 0.8, 0.0], [-0.4, 0.1, 0.6]])
COVARIANCE = ROOT @ ROOT.mT
MATRICES = COVARIANCE + VECTORS.unsqueeze(-1) * VECTORS.unsqueeze(-2)

Row = tuple[Callable[..., Any], dict[str, Any], Tensor]

ROWS: list[Row] = [
    (dist.Normal, {"loc": OTHER, "scale": SCALE}, REAL),
    (dist.Laplace, {"loc": OTHER, "scale": SCALE}, REAL),
    (dist.Gumbel, {"loc": OTHER, "scale": SCALE}, REAL),
    (dist.Uniform, {"low": -SCALE - 3, "high": SCALE + 3}, REAL),
    (
        dist.ImproperUniform,
        {"support": constraints.real, "batch_shape": (N,), "event_shape": ()},
        REAL,
    ),
    (
        dist.ImproperUniform,
        {"support": constraints.simplex, "batch_shape": (), "event_shape": (K,)},
        SIMPLEX,
    ),
    (dist.Delta, {"v": REAL, "log_density": OTHER}, REAL),
    (dist.Delta, {"v": SIMPLEX, "log_density": OTHER, "event_dim": 1}, SIMPLEX.clone()),
    (dist.HalfNormal, {"scale": SCALE}, POSITIVE),
    (dist.LogNormal, {"loc": OTHER, "scale": SCALE}, POSITIVE),
    (dist.Gamma, {"concentration": SCALE, "rate": UNIT}, POSITIVE),
    (dist.Exponential, {"rate": SCALE}, POSITIVE),
    (dist.InverseGamma, {"concentration": SCALE, "rate": UNIT}, POSITIVE),
    (dist.Chi2, {"df": SCALE * 4}, POSITIVE),
    (dist.Weibull, {"scale": SCALE, "concentration": POSITIVE.flip(0)}, POSITIVE),
    (dist.Pareto, {"scale": UNIT, "alpha": SCALE}, POSITIVE + 1),
    (dist.Beta, {"concentration1": SCALE, "concentration0": POSITIVE}, UNIT),
    (dist.Kumaraswamy, {"concentration1": SCALE, "concentration0": POSITIVE}, UNIT),
    (dist.ContinuousBernoulli, {"probs": PROBS}, UNIT),
    (dist.ContinuousBernoulli, {"logits": OTHER}, UNIT),
    (dist.Dirichlet, {"concentration": SIMPLEX * 6}, SIMPLEX.flip(0)),
    (dist.Bernoulli, {"probs": PROBS}, COUNT.clamp(max=1)),
    (dist.Binomial, {"total_count": TOTAL, "probs": PROBS}, COUNT),
    (dist.Poisson, {"rate": POSITIVE}, COUNT),
    (dist.Geometric, {"probs": PROBS}, COUNT),
    (dist.NegativeBinomial, {"total_count": TOTAL, "probs": PROBS}, COUNT),
    (dist.NegativeBinomial, {"total_count": TOTAL - 1, "probs": PROBS}, COUNT * 0),
    (dist.Categorical, {"probs": SIMPLEX}, CLASS),
    (dist.Categorical, {"logits": SIMPLEX * 5}, CLASS),
    (dist.OneHotCategorical, {"probs": SIMPLEX}, torch.nn.functional.one_hot(CLASS, K).double()),
    (dist.Multinomial, {"total_count": 9, "probs": SIMPLEX}, COUNTS),
    (dist.Multinomial, {"total_count": 9, "logits": SIMPLEX * 5}, COUNTS),
    (dist.MultivariateNormal, {"loc": VECTORS, "covariance_matrix": COVARIANCE}, VECTORS + 0.3),
    (dist.MultivariateNormal, {"loc": VECTORS, "precision_matrix": COVARIANCE}, VECTORS * 2),
    (dist.MultivariateNormal, {"loc": VECTORS, "scale_tril": ROOT}, VECTORS.flip(0)),
    (dist.Wishart, {"df": SCALE + 3, "precision_matrix": COVARIANCE}, MATRICES),
    (dist.Wishart, {"df": 4.5, "scale_tril": ROOT}, MATRICES),
    (dist.Wishart, {"df": 4.5, "covariance_matrix": COVARIANCE}, MATRICES),
    (dist.Wishart, {"df": 3 + POSITIVE, "scale_tril": ROOT}, MATRICES),
]

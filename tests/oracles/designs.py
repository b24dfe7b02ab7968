# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

r"""Moment-matched designs: exact expectations of a plain model, by evaluation and no rules.

Each latent is replaced by a few points whose weighted average has exactly the mean parameters of
its marginal, the plain model is evaluated on the product of all designs, and the log densities
are averaged. Mathematically, if log p is a sum of products of sufficient statistics, at most one
of each independent latent in a product, then

.. math:: \sum_i w_i \log p(x, z_i) = E_q[\log p(x, z)],

and the derivative through the points is the derivative of the expectation.

It is wrong, and nothing tells,

- where log p is no such sum: for Gaussians, anything of a degree above 3 in one block;
  for Gamma, anything but z and log z; for Beta, anything but log z and log(1 - z) (not z itself);
  for Dirichlet, anything but log z;
- where a factor mixes elements of one plate (``X @ w`` with ``w`` in a plate): the elements of a
  batch move together. Name such a site in ``product`` (all combinations of its elements), or give
  its marginal with the mixed dims declared as event dims (``Normal(m, s).to_event(1)``).

A LogNormal is integrated by Gauss-Hermite in its logarithm: powers z^p are right to rounding
while abs(p) * sd is below about 5.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from tests.oracles.log_joint import log_joints

# 64 nodes are exact to degree 127: the error for exp(c u), u ~ N(0, 1), is about
# (c^2)^64 / (2^64 64!) of its square, below 1e-16 of E[exp(c u)] for c < 5.
HERMITE_NODES = 64
LARGEST_GRID = 200_000


class Design(NamedTuple):
    """Points of one latent and their weights, which sum to one."""

    points: Tensor  # shape: (S, *batch, *event)
    weights: Tensor  # shape: (S,)


def expected_log_joint(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    q: Mapping[str, dist.Distribution],
    *,
    kwargs: Mapping[str, Any] | None = None,
    product: Collection[str] = (),
    vectorise: bool = True,
) -> Tensor:
    """Compute E_q[log p(data, z)] in nats, differentiable in the parameters of the marginals.

    :param q: the marginal of every latent site, independent of each other: Normal, LogNormal,
        Gamma, Beta (any batch, or declared one event by ``to_event``), MultivariateNormal,
        Dirichlet.
    :param product: sites of which a factor mixes the elements; costs (points)^(elements).
    :param vectorise: False runs the model point by point, for models that vmap cannot run.
    :raises ValueError: if the product of the designs is too large to be evaluated.
    """
    designs = {site: design(fn, product=site in product) for site, fn in q.items()}
    sizes = [len(d.weights) for d in designs.values()]
    if math.prod(sizes) > LARGEST_GRID:
        raise ValueError(f"a grid of {sizes} points is too large: use the Monte Carlo oracle")
    axes = torch.meshgrid(*(torch.arange(n) for n in sizes), indexing="ij")
    rows = [axis.reshape(-1) for axis in axes]
    values = {site: d.points[row] for (site, d), row in zip(designs.items(), rows, strict=True)}
    weights = math.prod(d.weights[row] for d, row in zip(designs.values(), rows, strict=True))
    return weights @ log_joints(model, args, values, kwargs=kwargs, vectorise=vectorise)


def design(q: dist.Distribution, product: bool = False) -> Design:
    """Choose the points of one latent.

    :param product: take all combinations of the elements' points instead of moving them together.
    :raises NotImplementedError: for a distribution without a design.
    """
    event_dim = 0
    while isinstance(q, dist.Independent | torch.distributions.Independent):
        event_dim, q = event_dim + q.reinterpreted_batch_ndims, q.base_dist
    if isinstance(q, dist.MultivariateNormal) and not product:
        return _gaussian(q.loc, q.scale_tril)
    if isinstance(q, dist.Normal) and event_dim and not product:
        loc = q.loc.flatten(-event_dim)  # shape: (*batch, D)
        axial = _gaussian(loc, q.scale.flatten(-event_dim).diag_embed())
        return Design(axial.points.reshape(-1, *q.loc.shape), axial.weights)
    if isinstance(q, dist.Dirichlet) and not product:
        return _plain(_dirichlet(q.concentration))
    shared = _elementwise(q)
    return _all_combinations(shared) if product or event_dim else shared


def _elementwise(q: dist.Distribution) -> Design:
    """The design of independent scalars that all move together."""
    if isinstance(q, dist.Normal):
        return _plain(torch.stack([q.loc + q.scale, q.loc - q.scale]))
    if isinstance(q, dist.LogNormal):
        nodes, weights = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
        u = q.loc.new_tensor(nodes).reshape(-1, *(1 for _ in q.loc.shape))
        return Design((q.loc + q.scale * u).exp(), q.loc.new_tensor(weights / weights.sum()))
    if isinstance(q, dist.Gamma):
        return _plain(_gamma(q.concentration, q.rate))
    if isinstance(q, dist.Beta):
        total = (q.concentration1 + q.concentration0).digamma()
        return _plain(
            _two_probabilities(
                q.concentration1.digamma() - total, q.concentration0.digamma() - total
            )
        )
    raise NotImplementedError(f"no design for {type(q).__name__}: use the Monte Carlo oracle")


def _plain(points: Tensor) -> Design:
    return Design(points, points.new_full((len(points),), 1 / len(points)))


def _all_combinations(shared: Design) -> Design:
    """Every element of the batch takes its points independently of the others."""
    S, elements = len(shared.weights), shared.points[0].numel()
    if S**elements > LARGEST_GRID:
        raise ValueError(f"{S} points for each of {elements} elements make too large a grid")
    choices = torch.cartesian_prod(*[torch.arange(S)] * elements).reshape(-1, elements)
    flat = shared.points.reshape(S, elements)
    points = flat[choices, torch.arange(elements)]  # shape: (S^elements, elements)
    weights = shared.weights[choices].prod(-1)
    return Design(points.reshape(-1, *shared.points.shape[1:]), weights)


def _gaussian(loc: Tensor, scale_tril: Tensor) -> Design:
    """m +- sqrt(D) L e_d: the average outer product of the deviations is L L'."""
    D = loc.shape[-1]
    steps = D**0.5 * scale_tril.movedim(-1, 0)  # shape: (D, *batch, D)
    return _plain(torch.cat([loc + steps, loc - steps]))


def _gamma(concentration: Tensor, rate: Tensor) -> Tensor:
    """The roots of x^2 - 2 t x + g^2, so that E z = t and E log z = log g for their average."""
    t = concentration / rate
    log_ratio = concentration.digamma() - concentration.log()  # log(g / t) < 0, by Jensen
    # 1 - (g/t)^2 through expm1: for a concentrated q the two terms agree in every digit.
    larger = t * (1 + (-torch.expm1(2 * log_ratio)).sqrt())
    return torch.stack([larger, t.square() * (2 * log_ratio).exp() / larger])


def _two_probabilities(log_p: Tensor, log_not_p: Tensor) -> Tensor:
    """Two p whose averages of log p and of log(1 - p) are as given.

    p1 p2 = P^2 and (1 - p1)(1 - p2) = Q^2 give p1 + p2 = 1 + P^2 - Q^2; the roots are real because
    P + Q <= E p + E(1 - p) = 1.
    """
    P, Q = log_p.exp(), log_not_p.exp()
    half_sum = (1 + P.square() - Q.square()) / 2
    root = (half_sum.square() - P.square()).sqrt()
    return torch.stack([half_sum + root, half_sum - root])


def _dirichlet(concentration: Tensor) -> Tensor:  # shape: (2, *batch, K)
    """Tilt the first half of the simplex against the second, keeping the ratios within each."""
    total = concentration.sum(-1, keepdim=True).digamma()
    p = (concentration.digamma() - total).exp()  # sums to less than one, by Jensen
    half = p.shape[-1] // 2
    left, right = p[..., :half], p[..., half:]
    P, Q = left.sum(-1, keepdim=True), right.sum(-1, keepdim=True)
    tilted = [
        torch.cat([left / P * a, right / Q * (1 - a)], -1)
        for a in _two_probabilities(P.log(), Q.log())
    ]
    return torch.stack(tilted)

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Fine quadrature of E[g(f)] under a Gaussian of one or two scalars, and its derivatives."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

# Beyond 40 sd the normal density is below exp(-800): only integrands that grow faster than
# exp(20 abs(u)) have anything there.
HALF_WIDTH = 40.0
NODES_PER_PANEL = 20  # exact to degree 39 in each panel
FIRST_PANELS = 640  # of width 1/8 sd
LAST_PANELS = 640 * 2**7  # of width 1/1024 sd
TOLERANCE = 1e-13  # change from one refinement to the next, relative to the integral of abs(.)


class Expectation(NamedTuple):
    """An expectation under N(mean, sd^2), and its derivatives in the moments of f."""

    value: float
    d_mean: float
    d_variance: float

    def message(self, mean: float) -> tuple[float, float]:
        """The derivatives in the mean parameters (E f, E f^2), by the chain rule."""
        return self.d_mean - 2 * mean * self.d_variance, self.d_variance


def expectation(
    g: Callable[[np.ndarray], Any],
    mean: float,
    sd: float,
    *,
    kinks: Sequence[float] = (),
    half_width: float = HALF_WIDTH,
) -> Expectation:
    """Integrate g against N(mean, sd^2) by Gauss-Legendre panels, halved until nothing moves.

    The derivatives are those of the density, so that g needs none:
    d/dmean = E[g(f) u] / sd  and  d/dvariance = E[g(f) (u^2 - 1)] / (2 sd^2),  u = (f - mean) / sd.

    :param g: maps an array of f to an array or a tensor of the same shape.
    :param kinks: values of f where g is not smooth; panels end there.
    :param half_width: how far to integrate, in sd.
    :raises ValueError: if g is not finite everywhere in the range.
    :raises ArithmeticError: if the refinement does not settle.
    """
    edges = [-half_width, *sorted((k - mean) / sd for k in kinks), half_width]
    edges = [u for u in edges if abs(u) <= half_width]
    panels, previous = FIRST_PANELS, None
    while panels <= LAST_PANELS:
        integrals, sizes = _integrate(g, mean, sd, _refine(edges, 2 * half_width / panels))
        if previous is not None and np.all(np.abs(integrals - previous) <= TOLERANCE * sizes):
            value, first, second = (float(x) for x in integrals)
            return Expectation(value, first / sd, second / (2 * sd**2))
        previous, panels = integrals, 2 * panels
    raise ArithmeticError("the quadrature did not settle: name the kinks of g in `kinks`")


def _refine(edges: Sequence[float], width: float) -> np.ndarray:
    """Split the intervals between the edges into panels of at most the width."""
    pieces = [np.linspace(a, b, 2 + int((b - a) / width))[:-1] for a, b in pairwise(edges) if b > a]
    return np.append(np.concatenate(pieces), edges[-1])


def _integrate(
    g: Callable[[np.ndarray], Any], mean: float, sd: float, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The integrals of g, g u and g (u^2 - 1) under N(0, 1), and of their absolute values."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES_PER_PANEL)
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    u = (middle[:, None] + half[:, None] * nodes).ravel()
    mass = (half[:, None] * weights).ravel() * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
    values = np.asarray(g(mean + sd * u), dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("g is not finite within the range: give a smaller `half_width`")
    # np.sum adds pairwise, so that the rounding of ~1e4 ... 1e6 terms stays near 1e-16 relative.
    terms = np.stack([values, values * u, values * (u**2 - 1)]) * mass
    return terms.sum(-1), np.abs(terms).sum(-1)


class JointExpectation(NamedTuple):
    """An expectation under N(mean, covariance) of two scalars, and its derivatives.

    The one in the covariance is by entries: the off-diagonal one is half that in the covariance of
    the two, which stands there twice.
    """

    value: float
    d_mean: np.ndarray
    d_covariance: np.ndarray


def joint_expectation(
    g: Callable[[np.ndarray, np.ndarray], Any],
    mean: Any,
    covariance: Any,
    *,
    half_width: float = 12.0,
    finest: float = 1 / 32,
) -> JointExpectation:
    """Integrate g(f1, f2) against N(mean, covariance) on a square of Gauss-Legendre panels.

    The panels lie along the eigenvectors of the covariance and are halved until nothing moves; the
    derivatives are those of the density, with u = f - mean and S the covariance:
    d/dmean = S^-1 E[g u]  and  d/dS = S^-1 (E[g uu'] - E[g] S) S^-1 / 2.

    :raises ArithmeticError: if the refinement does not settle.
    """
    mean, covariance = np.asarray(mean, float), np.asarray(covariance, float)
    scales, axes = np.linalg.eigh(covariance)
    root, inverse = axes * np.sqrt(scales), np.linalg.inv(covariance)
    width, previous = 1.0, None
    while width >= finest:
        edges = np.linspace(-half_width, half_width, 1 + round(2 * half_width / width))
        integrals, sizes = _integrate_square(g, mean, root, edges)
        if previous is not None and np.all(np.abs(integrals - previous) <= TOLERANCE * sizes):
            value, first = integrals[0], integrals[1:3]
            second = integrals[[3, 4, 4, 5]].reshape(2, 2)
            first, second = root @ first, root @ second @ root.T
            curved = inverse @ (second - value * covariance) @ inverse / 2
            return JointExpectation(float(value), inverse @ first, curved)
        previous, width = integrals, width / 2
    raise ArithmeticError("the quadrature did not settle")


def _integrate_square(
    g: Callable[[np.ndarray, np.ndarray], Any],
    mean: np.ndarray,
    root: np.ndarray,
    edges: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The integrals of g times 1, t, tt' under N(0, I), and of their absolute values."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES_PER_PANEL)
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    line = (middle[:, None] + half[:, None] * nodes).ravel()
    mass = (half[:, None] * weights).ravel() * np.exp(-(line**2) / 2) / np.sqrt(2 * np.pi)
    s, t = (x.ravel() for x in np.meshgrid(line, line, indexing="ij"))
    products = np.outer(mass, mass).ravel()
    f = mean[:, None] + root @ np.stack([s, t])
    values = np.asarray(g(f[0], f[1]), dtype=np.float64)
    terms = values * products * np.stack([np.ones_like(s), s, t, s * s, s * t, t * t])
    return terms.sum(-1), np.abs(terms).sum(-1)

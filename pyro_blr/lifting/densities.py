# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities of Pyro distributions as plain formulas over polynomials.

A formula takes the value and the distribution's arguments, each a polynomial, a tensor or a number,
and returns the log density along the batch dims; it raises ``NotPolynomial`` where the form that it
is given has none. Tests compare every formula with the distribution's own ``log_prob``. Functions
of constants go through :func:`of_constant`, so that data is read once, not at every trace.
"""

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from . import constants
from .axes import Axis, Gather
from .polynomial import Numeric, Polynomial, polynomial
from .terms import NotPolynomial, Term

Density = Callable[..., Polynomial]

_DENSITIES: dict[type, Density] = {}
_LOG_2PI = math.log(2 * math.pi)


def register_density(distribution: type) -> Callable[[Density], Density]:
    """Enter a formula for a Pyro distribution class and its subclasses."""

    def enter(density: Density) -> Density:
        _DENSITIES[distribution] = density
        return density

    return enter


def density_of(distribution: type) -> Density | None:
    """The formula of the most specific registered class, or None."""
    for base in distribution.__mro__:
        if base in _DENSITIES:
            return _DENSITIES[base]
    return None


def registered() -> tuple[type, ...]:
    """The classes with a formula."""
    return tuple(_DENSITIES)


def _as_tensor(value: Any) -> Tensor:
    """A number as a tensor; a tensor stays on its device (``torch.as_tensor`` may move it)."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def of_constant(function: Callable[..., Tensor], value: Numeric) -> Polynomial:
    """A function of a constant, computed once; a latent in its place leaves the algebra."""
    if isinstance(value, Polynomial):
        raise NotPolynomial(f"`{function.__name__.strip('_')}` of a latent")
    tensor = _as_tensor(value)
    return polynomial(constants.memo(function, (tensor,)))


def _log_factorial(value: Tensor) -> Tensor:
    return torch.lgamma(value.double() + 1)


def _lgamma(value: Tensor) -> Tensor:
    return torch.lgamma(value.double())


@register_density(dist.Normal)
def normal(value: Numeric, loc: Numeric, scale: Numeric) -> Polynomial:
    """``-(value - loc)^2 / (2 scale^2) - log(scale) - log(2 pi) / 2``."""
    scale = polynomial(scale)
    residual = polynomial(value) - loc
    return residual**2 * scale**-2.0 * -0.5 - scale.log() - 0.5 * _LOG_2PI


@register_density(dist.HalfNormal)
def half_normal(value: Numeric, scale: Numeric) -> Polynomial:
    """Twice the normal density around 0; the support is checked elsewhere."""
    return normal(value, 0.0, scale) + math.log(2)


@register_density(dist.LogNormal)
def log_normal(value: Numeric, loc: Numeric, scale: Numeric) -> Polynomial:
    """The normal density of ``log(value)``, less ``log(value)``."""
    log_value = polynomial(value).log()
    return normal(log_value, loc, scale) - log_value


@register_density(dist.MultivariateNormal)
def multivariate_normal(
    value: Numeric,
    loc: Numeric,
    covariance_matrix: Numeric | None = None,
    precision_matrix: Numeric | None = None,
    scale_tril: Numeric | None = None,
) -> Polynomial:
    """The normal density of a vector, its covariance (in any of three forms) a constant."""
    precision, half_log_det = _precision(covariance_matrix, precision_matrix, scale_tril)
    residual = polynomial(value) - loc
    rows = residual.with_dims((*residual.dims, None))
    columns = residual.with_dims((*residual.dims[:-1], None, residual.dims[-1]))
    quadratic = (rows * columns * precision).sum((-2, -1))
    return quadratic * -0.5 + half_log_det - 0.5 * _LOG_2PI * precision.shape[-1]


def _precision(
    covariance: Numeric | None, precision: Numeric | None, scale_tril: Numeric | None
) -> tuple[Tensor, Polynomial]:
    """The precision matrix and half its log determinant, of a constant covariance."""
    given = [
        (m, f)
        for m, f in (
            (scale_tril, _from_scale_tril),
            (precision, _from_precision),
            (covariance, _from_covariance),
        )
        if m is not None
    ]
    matrix, function = given[0]
    if not isinstance(matrix, Tensor):
        raise NotPolynomial("a covariance matrix that depends on a latent")
    result, half_log_det = constants.memo(function, (matrix,))
    return result, polynomial(half_log_det)


def _from_scale_tril(factor: Tensor) -> tuple[Tensor, Tensor]:
    factor = factor.double()
    return torch.cholesky_inverse(factor), -factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _from_covariance(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return _from_scale_tril(torch.linalg.cholesky(matrix.double()))


def _from_precision(matrix: Tensor) -> tuple[Tensor, Tensor]:
    factor = torch.linalg.cholesky(matrix.double())
    return matrix.double(), factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@register_density(dist.Gamma)
def gamma(value: Numeric, concentration: Numeric, rate: Numeric) -> Polynomial:
    """``(a - 1) log(value) - b value + a log(b) - log Gamma(a)``, the shape a a constant."""
    shape = polynomial(concentration)
    log_normalizer = polynomial(rate).log() * shape - of_constant(_lgamma, concentration)
    return polynomial(value).log() * (shape - 1) - polynomial(value) * rate + log_normalizer


@register_density(dist.Exponential)
def exponential(value: Numeric, rate: Numeric) -> Polynomial:
    """``log(rate) - rate value``."""
    return polynomial(rate).log() - polynomial(value) * rate


@register_density(dist.Beta)
def beta(value: Numeric, concentration1: Numeric, concentration0: Numeric) -> Polynomial:
    """``(a - 1) log(value) + (b - 1) log(1 - value) - log B(a, b)``, a and b constants."""
    a, b = polynomial(concentration1), polynomial(concentration0)
    if not a.is_constant or not b.is_constant:
        raise NotPolynomial("`lgamma` of a latent")
    log_normalizer = (
        _lgamma_of_sum(concentration1, concentration0)
        - of_constant(_lgamma, concentration1)
        - of_constant(_lgamma, concentration0)
    )
    value = polynomial(value)
    return value.log() * (a - 1) + (1 - value).log() * (b - 1) + log_normalizer


def _lgamma_of_sum(first: Numeric, second: Numeric) -> Polynomial:
    return polynomial(constants.memo(_lgamma_sum, (_as_tensor(first), _as_tensor(second))))


def _lgamma_sum(first: Tensor, second: Tensor) -> Tensor:
    return torch.lgamma(first.double() + second.double())


@register_density(dist.Dirichlet)
def dirichlet(value: Numeric, concentration: Numeric) -> Polynomial:
    """``sum_k (a_k - 1) log(value_k) - log B(a)``, a a constant."""
    powers = (polynomial(value).log() * (polynomial(concentration) - 1)).sum((-1,))
    return powers + of_constant(_log_dirichlet_normalizer, concentration)


def _log_dirichlet_normalizer(concentration: Tensor) -> Tensor:
    a = concentration.double()
    return torch.lgamma(a.sum(-1)) - torch.lgamma(a).sum(-1)


@register_density(dist.Uniform)
def uniform(value: Numeric, low: Numeric, high: Numeric) -> Polynomial:
    """``-log(high - low)``, the bounds constants; the support is checked elsewhere."""
    width = polynomial(high) - low
    if not width.is_constant:
        raise NotPolynomial("a bound that depends on a latent")
    level = polynomial(constants.memo(_log_uniform, (_as_tensor(low), _as_tensor(high))))
    return level.expanded(_broadcast_dims(polynomial(value), level))


def _log_uniform(low: Tensor, high: Tensor) -> Tensor:
    return -(high.double() - low.double()).log()


def _broadcast_dims(*values: Polynomial) -> tuple[Axis | None, ...]:
    shape = torch.broadcast_shapes(*(v.shape for v in values))
    return tuple(Axis(s) if s != 1 else None for s in shape)


@register_density(dist.Bernoulli)
def bernoulli(
    value: Numeric, probs: Numeric | None = None, logits: Numeric | None = None
) -> Polynomial:
    """``value log(p) + (1 - value) log(1 - p)``, by probabilities."""
    if probs is None:
        raise NotPolynomial("a Bernoulli's logits")
    probs, value = polynomial(probs), polynomial(value)
    return probs.log() * value + (1 - probs).log() * (1 - value)


@register_density(dist.Binomial)
def binomial(
    value: Numeric,
    total_count: Numeric = 1,
    probs: Numeric | None = None,
    logits: Numeric | None = None,
) -> Polynomial:
    """``k log(p) + (n - k) log(1 - p) + log C(n, k)``, by probabilities."""
    if probs is None:
        raise NotPolynomial("a Binomial's logits")
    if isinstance(total_count, Polynomial) or isinstance(value, Polynomial):
        raise NotPolynomial("`lgamma` of a latent")
    probs, count = polynomial(probs), polynomial(total_count)
    choose = polynomial(constants.memo(_log_choose, (_as_tensor(total_count), _as_tensor(value))))
    return probs.log() * value + (1 - probs).log() * (count - value) + choose


def _log_choose(total: Tensor, chosen: Tensor) -> Tensor:
    total, chosen = total.double(), chosen.double()
    return torch.lgamma(total + 1) - torch.lgamma(chosen + 1) - torch.lgamma(total - chosen + 1)


@register_density(dist.Poisson)
def poisson(value: Numeric, rate: Numeric, **_: Any) -> Polynomial:
    """``value log(rate) - rate - log(value!)``, the value a constant."""
    rate = polynomial(rate)
    return rate.log() * value - rate - of_constant(_log_factorial, value)


@register_density(dist.Categorical)
def categorical(
    value: Numeric, probs: Numeric | None = None, logits: Numeric | None = None
) -> Polynomial:
    """The logarithm of the chosen class's probability."""
    if isinstance(value, Polynomial):
        raise NotPolynomial("a discrete value that depends on a latent")
    index = _as_tensor(value)
    if probs is not None:
        classes = _classes(polynomial(probs))
        if classes is not None:
            return _pick_class(classes, index)
    return pick_last(_normalised_log_probs(probs, logits), index)


#: Class probabilities that are written one by one (``stack([1 - p, p])``) are taken apart up to
#: this many classes; each class costs a pass over the observed values.
MAX_CLASSES = 16


def _classes(probs: Polynomial) -> list[Polynomial] | None:
    """The probability of each class, if they sum to 1 whatever the latents are; else None."""
    last = probs.dims[-1]
    if last is None or last.size > MAX_CLASSES or probs.is_constant:
        return None
    classes = []
    for k in range(last.size):
        picked = Polynomial((), probs.terms).renamed({last: Gather(k, ())})
        classes.append(picked.with_dims(probs.dims[:-1]).simplified())
    total = classes[0]
    for one in classes[1:]:
        total = total.with_dims(total.dims) + one
    terms = total.simplified().terms
    is_one = len(terms) == 1 and terms[0].is_constant and not terms[0].constants
    return classes if is_one and terms[0].number == 1.0 else None


def _pick_class(classes: list[Polynomial], index: Tensor) -> Polynomial:
    total = classes[0].log() * polynomial(constants.memo(_is_class, (index,), 0))
    for k, one in enumerate(classes[1:], start=1):
        total = total + one.log() * polynomial(constants.memo(_is_class, (index,), k))
    return total


def _is_class(index: Tensor, k: int) -> Tensor:
    return (index == k).double()


def _normalised_log_probs(probs: Numeric | None, logits: Numeric | None) -> Polynomial:
    """log theta of a point of the simplex; anything else would have to be normalised first."""
    kind, given = ("power", probs) if probs is not None else ("log", logits)
    value = polynomial(given)  # type: ignore[arg-type]
    if len(value.terms) == 1:
        term = value.terms[0]
        whole = len(term.atoms) == 1 and term.number == 1.0 and not term.constants
        whole = whole and not term.exponentials
        if whole:
            atom = term.atoms[0]
            last = atom.where[-1] if atom.where else None
            plain = atom.kind == kind and atom.power == 1 and not atom.site.gaussian
            if plain and atom.site.event_dim == 1 and last is value.dims[-1]:
                return value.log() if kind == "power" else value
    raise NotPolynomial("class probabilities that are not one latent on the simplex")


def pick_last(value: Polynomial, index: Tensor) -> Polynomial:
    """``value[..., index]`` with the batch dims broadcast against the index."""
    value = value.fresh()
    count = max(value.ndim - 1, index.dim())
    own = (None,) * (count - value.ndim + 1) + value.dims[:-1]
    sizes = (1,) * (count - index.dim()) + tuple(index.shape)
    dims = tuple(a or (Axis(s) if s != 1 else None) for a, s in zip(own, sizes, strict=True))
    live = [(a, s) for a, s in zip(dims, sizes, strict=True) if a is not None and s != 1]
    table = constants.memo(_as_long, (index.reshape([s for _, s in live]),))
    last = value.dims[-1]
    renaming = {last: Gather(table, tuple(a for a, _ in live))} if last else {}
    terms: tuple[Term, ...] = Polynomial((), value.terms).renamed(renaming).terms
    return Polynomial(dims, terms)


def _as_long(index: Tensor) -> Tensor:
    return index.long()

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log probabilities of a class out of several, and of counts of classes."""

import pyro.distributions as dist
import torch
from torch import Tensor

from .. import constants
from ..axes import Axis, Gather
from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial, Term
from .registry import attributes, register_density
from .special import as_tensor, log_factorial, of_constant


@register_density(dist.Categorical)
def categorical(
    value: Numeric, probs: Numeric | None = None, logits: Numeric | None = None
) -> Polynomial:
    """The logarithm of the chosen class's probability."""
    if isinstance(value, Polynomial):
        raise NotPolynomial("a discrete value that depends on a latent")
    index = as_tensor(value)
    if probs is not None:
        classes = _classes(polynomial(probs))
        if classes is not None:
            return _pick_class(classes, index)
    return pick_last(normalised_log_probs(probs, logits), index)


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


@register_density(dist.OneHotCategorical, attributes("probs"))
def one_hot_categorical(
    value: Numeric, probs: Numeric | None = None, logits: Numeric | None = None
) -> Polynomial:
    """``sum_k value_k log(p_k)``, the value a constant."""
    return _weighted_log_probs(value, probs, logits)


@register_density(dist.Multinomial, attributes("total_count", "probs"))
def multinomial(
    value: Numeric,
    total_count: int = 1,
    probs: Numeric | None = None,
    logits: Numeric | None = None,
) -> Polynomial:
    """``log n! + sum_k (value_k log(p_k) - log value_k!)``, the value a constant of sum n."""
    return _weighted_log_probs(value, probs, logits) + of_constant(_log_arrangements, value)


def _log_arrangements(value: Tensor) -> Tensor:
    return log_factorial(value.sum(-1)) - log_factorial(value).sum(-1)


def _weighted_log_probs(
    value: Numeric, probs: Numeric | None, logits: Numeric | None
) -> Polynomial:
    """``sum_k value_k log(p_k)`` of counts (..., K)."""
    if isinstance(value, Polynomial):
        raise NotPolynomial("a discrete value that depends on a latent")
    counts = as_tensor(value)
    classes = _classes(polynomial(probs)) if probs is not None else None
    if classes is None:
        return (normalised_log_probs(probs, logits) * counts).sum((-1,))
    total = polynomial(0.0)
    for k, one in enumerate(classes):
        total = total + one.log() * polynomial(constants.memo(_of_class, (counts,), k))
    return total


def _of_class(counts: Tensor, k: int) -> Tensor:
    return counts[..., k].double()


def normalised_log_probs(probs: Numeric | None, logits: Numeric | None) -> Polynomial:
    """log theta of a point of the simplex.

    :raises NotPolynomial: for anything else, which would have to be normalised first.
    """
    kind, given = ("power", probs) if probs is not None else ("log", logits)
    value = polynomial(given)  # type: ignore[arg-type]
    if isinstance(given, Tensor):
        return of_constant(_log_normalised if probs is not None else _log_softmax, given)
    if len(value.terms) == 1:
        term = value.terms[0]
        plain_product = not term.constants and not term.exponentials
        whole = len(term.atoms) == 1 and term.number == 1.0 and plain_product
        whole = whole and not term.exponentials
        if whole:
            atom = term.atoms[0]
            last = atom.where[-1] if atom.where else None
            plain = atom.kind == kind and atom.power == 1 and not atom.site.gaussian
            of_one = value.dims[-1] is None and atom.site.shape[-1:] == (1,)
            if plain and atom.site.event_dim == 1 and (of_one or last is value.dims[-1]):
                return value.log() if kind == "power" else value
    raise NotPolynomial("class probabilities that are not one latent on the simplex")


def _log_normalised(probs: Tensor) -> Tensor:
    probs = probs.double()
    return probs.log() - probs.sum(-1, keepdim=True).log()


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.double(), -1)


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

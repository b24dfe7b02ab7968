# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""From a network's outputs to the distribution of its targets."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from numbers import Real
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..errors import ArgumentError, ShapeError

#: From the outputs to a distribution with one batch dim, that of the data.
Likelihood = Callable[[Any], Any]

NAMES = ("classification", "regression")


def likelihood_of(given: Any, noise_scale: Any) -> Likelihood:
    """The likelihood that was asked for.

    :param given: one of two names, or the user's own.
    :param noise_scale: of a regression; None where it is to be inferred.
    :raises ArgumentError: for anything else.
    """
    if given != "regression" and noise_scale is not None:
        raise ArgumentError(
            "noise_scale is of likelihood='regression'. Mend: leave it out, or have it in your "
            "own likelihood."
        )
    if given == "classification":
        return classification
    if given == "regression":
        return partial(regression, noise_scale=_scale(noise_scale))
    if callable(given):
        return given  # type: ignore[no-any-return]
    raise ArgumentError(
        f"likelihood = {given!r}. Mend: one of {', '.join(map(repr, NAMES))}, or a function from "
        "the outputs of the module to a Pyro distribution with one batch dim."
    )


def _scale(given: Any) -> Any:
    """A standard deviation of noise, a tensor where there is one an output."""
    if given is None or isinstance(given, Tensor | Real):
        return given
    try:
        return torch.as_tensor(given, dtype=torch.float64)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(
            f"noise_scale = {given!r}. Mend: a number, or a tensor of one an output; or leave it "
            "out, and it is inferred."
        ) from error


def classification(outputs: Any) -> Any:
    """Classes by their logits; one output, or two, of which the difference counts, is Bernoulli's.

    # shape: (N, K), (N, 1) or (N,) to a batch of (N,)
    """
    logits = _tensor(outputs)
    if logits.dim() == 2 and logits.shape[-1] > 2:
        return dist.Categorical(logits=logits)
    if logits.dim() == 2:
        columns = [logits[:, k] for k in range(logits.shape[-1])]
        logits = columns[0] if len(columns) == 1 else columns[1] - columns[0]
    if logits.dim() != 1:
        raise _shape("classification", logits)
    return dist.Bernoulli(logits=logits)


def regression(outputs: Any, noise_scale: Any) -> Any:
    """A Gaussian about the outputs, its precision known or Gamma(1, 1).

    # shape: (N, K) to an event of K; (N, 1) or (N,) to a batch of (N,)
    """
    mean = _tensor(outputs)
    if mean.dim() == 2 and mean.shape[-1] == 1:
        mean = mean[:, 0]
    if mean.dim() not in (1, 2):
        raise _shape("regression", mean)
    scale = noise_scale
    if scale is None:
        one = torch.ones(mean.shape[1:], dtype=mean.dtype, device=mean.device)
        prior = dist.Gamma(one, one).to_event(one.dim())
        scale = pyro.sample("noise_precision", prior).rsqrt()
    elif isinstance(scale, Tensor):
        scale = scale.to(mean.device, mean.dtype)
        if not _fits(scale.shape, mean.shape):
            raise ShapeError(
                f"noise_scale has the shape {tuple(scale.shape)}, the outputs {tuple(mean.shape)}. "
                "Mend: one number, or one an output."
            )
    return dist.Normal(mean, scale).to_event(mean.dim() - 1)


def _fits(own: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a shape broadcasts to another."""
    pairs = zip(reversed(own), reversed(shape), strict=False)
    return len(own) <= len(shape) and all(o in (1, s) for o, s in pairs)


def _tensor(outputs: Any) -> Any:
    """The outputs; of a ``transformers`` model its logits."""
    found = getattr(outputs, "logits", outputs)
    if not isinstance(found, Tensor):
        raise ArgumentError(
            f"the module returns {type(outputs).__name__}, and no tensor. Mend: a likelihood of "
            "your own, likelihood=lambda outputs: ..."
        )
    return found


def _shape(name: str, outputs: Tensor) -> ShapeError:
    return ShapeError(
        f"likelihood={name!r} of outputs of the shape {tuple(outputs.shape)}. Mend: a module whose "
        "outputs are (N, K), or a likelihood of your own."
    )


def check_targets(law: Any, y: Any) -> Tensor:
    """The targets in the form that a likelihood has them.

    :raises ShapeError: if the likelihood has no batch of data, or they have another shape.
    """
    shape = tuple(law.batch_shape + law.event_shape)
    if len(law.batch_shape) != 1:
        raise ShapeError(
            f"the likelihood has the batch shape {tuple(law.batch_shape)}, where one dim is that "
            "of the data. Mend: .to_event(n) for the dims that belong to one datum."
        )
    if not isinstance(y, Tensor):
        raise ArgumentError(f"y is a {type(y).__name__}. Mend: torch.as_tensor(y).")
    if tuple(y.shape) != shape:
        alike = y.numel() == prod(shape)
        mend = f"y.reshape({shape}), if these are the same data" if alike else "one row a datum"
        raise ShapeError(f"y has the shape {tuple(y.shape)}, the likelihood {shape}. Mend: {mend}.")
    return y

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Scores of predicted class probabilities: log loss, Brier score, calibration error, entropy.

All take probabilities # shape: (N, classes), those of a Bayesian network averaged over its draws,
and labels # shape: (N,). They are exact: a label of probability 0 has an infinite log loss.
"""

import torch
from torch import Tensor

from ..counts import is_count
from ..errors import ArgumentError, NonFiniteError
from ..lifting import host


def accuracy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The share of data whose most probable class is their label.

    :param probabilities: of each class. # shape: (N, K)
    :param labels: the classes that were. # shape: (N,)
    """
    probabilities, labels = _checked(probabilities, labels)
    return (probabilities.argmax(-1) == labels).to(probabilities).mean()


def nll(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The mean of ``-log p(label)``, in nats: a proper score.

    :param probabilities: of each class. # shape: (N, K)
    :param labels: the classes that were. # shape: (N,)
    """
    probabilities, labels = _checked(probabilities, labels)
    return -probabilities.gather(-1, labels.unsqueeze(-1)).log().mean()


def brier(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The mean squared distance from the label's indicator, from 0 to 2: a proper score.

    :param probabilities: of each class. # shape: (N, K)
    :param labels: the classes that were. # shape: (N,)
    """
    probabilities, labels = _checked(probabilities, labels)
    indicators = torch.nn.functional.one_hot(labels, probabilities.shape[-1])
    return (probabilities - indicators).square().sum(-1).mean()


def ece(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """The expected calibration error: how far confidence and accuracy are apart, bin by bin.

    Mathematically, ``sum_b N_b/N |accuracy_b - confidence_b|`` over ``bins`` intervals of equal
    width of the largest probability. It is no proper score, and by chance positive for perfect
    probabilities too, the more so the fewer data there are: compare it on the same data only.

    **References** Guo et al., *On Calibration of Modern Neural Networks*, arXiv 1706.04599.

    :param probabilities: of each class. # shape: (N, K)
    :param labels: the classes that were. # shape: (N,)
    :param bins: how many.
    """
    probabilities, labels = _checked(probabilities, labels)
    if not is_count(bins):
        raise ArgumentError(f"bins = {bins!r}. Mend: a positive integer.")
    confidence, classes = probabilities.max(-1)
    right = (classes == labels).to(confidence)
    # Intervals are open to the left: a confidence of 1 is in the last one.
    places = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = confidence.new_zeros(bins).index_add_(0, places, right - confidence)
    return gaps.abs().sum() / len(labels)


def predictive_entropy(probabilities: Tensor) -> Tensor:
    """The entropy of each prediction, in nats. # shape: (N,)

    :param probabilities: of each class. # shape: (N, K)
    """
    probabilities = _checked_probabilities(probabilities)
    entropy: Tensor = torch.special.entr(probabilities).sum(-1)
    return entropy


def _checked(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of float32 at least, and labels in the format of an index."""
    probabilities = _checked_probabilities(probabilities)
    if not isinstance(labels, Tensor):
        raise _no_tensor("labels", labels)
    if (
        labels.shape != probabilities.shape[:1]
        or labels.is_floating_point()
        or labels.is_complex()
        or labels.dtype == torch.bool
    ):
        raise ArgumentError(
            f"labels have the shape {tuple(labels.shape)} and {labels.dtype}, probabilities "
            f"{tuple(probabilities.shape)}. Mend: one integer a row, labels.long()."
        )
    if not host.truth(((labels >= 0) & (labels < probabilities.shape[-1])).all()):
        raise ArgumentError(
            f"a label is none of the {probabilities.shape[-1]} classes, which count from 0. Mend: "
            "labels from 0 to classes - 1."
        )
    return probabilities, labels.long()


def _no_tensor(what: str, given: object) -> ArgumentError:
    kind = type(given).__name__
    return ArgumentError(f"{what} are of {kind}. Mend: torch.as_tensor({what}).")


def _checked_probabilities(probabilities: Tensor) -> Tensor:
    if not isinstance(probabilities, Tensor):
        raise _no_tensor("probabilities", probabilities)
    if (
        probabilities.dim() != 2
        or 0 in probabilities.shape
        or not probabilities.is_floating_point()
    ):
        raise ArgumentError(
            f"probabilities have the shape {tuple(probabilities.shape)} and "
            f"{probabilities.dtype}. Mend: one row a datum; of draws # shape: (S, N, classes) the "
            "mean, probabilities.mean(0)."
        )
    if not host.truth(probabilities.isfinite().all()):
        raise NonFiniteError(
            "a probability is NaN or infinite. Mend: look for it in the network's outputs."
        )
    far = (probabilities.sum(-1) - 1).abs().max() > 0.01
    if host.truth(far | (probabilities < 0).any()):
        raise ArgumentError(
            "rows are no probabilities: they are negative, or do not sum to 1. Mend: "
            "logits.softmax(-1), and for draws the mean of that, not the softmax of a mean."
        )
    # Sums over data need more digits than the short formats have.
    return probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Data to learn from: their evidence, and their expected statistics, which are its gradient."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import errors
from .harmonium import Datum
from .setting import Setting

#: The share of the log evidence that rounding may take.
LOST = 1e-3


@dataclass(frozen=True)
class Batch:
    """Data to learn from, and what their evidence is multiplied by."""

    setting: Setting
    data: Mapping[str, Datum]
    scale: float

    def evidence(self) -> Tensor:
        """The log evidence at the parameters as they are, with its graph."""
        return self.scale * self.setting.harmonium().log_evidence(self.data)

    def loss(self) -> Tensor:
        """Minus the log evidence; of a trial, which needs no graph, only where its digits are left.

        :raises NonFiniteError: in a trial where they are lost: its rise would be none.
        """
        if torch.is_grad_enabled():
            return -self.evidence()
        return torch.tensor(-self.expected()[0], dtype=torch.float64)

    def expected(self) -> tuple[float, tuple[Tensor, ...]]:
        """The log evidence and the expected statistics, which are its gradient."""
        with torch.no_grad():
            found = self.setting.harmonium()
        leaves = tuple(t.detach().requires_grad_() for t in found.coefficients())
        with torch.enable_grad():
            evidence = self.scale * found.with_coefficients(leaves).log_evidence(self.data)
        grads = torch.autograd.grad(evidence, leaves, allow_unused=True)
        pairs = zip(grads, leaves, strict=True)
        expected = tuple(torch.zeros_like(x) if g is None else g for g, x in pairs)
        value = finite(float(evidence.detach()))
        with torch.no_grad():
            pairs = zip(expected, leaves, strict=True)
            terms = [(s * x).abs().sum() for s, x in pairs if bool(torch.isfinite(x).all())]
        check_digits(value, float(torch.stack(terms).sum()))
        return value, expected


def finite(value: float) -> float:
    """A log evidence, if it is a number."""
    if value != value or value in (float("inf"), float("-inf")):
        raise errors.NonFiniteError(
            f"the log evidence is {value}: a scale has gone to 0 or a parameter to infinity. Mend: "
            "start elsewhere, or give the parameter a prior and fit by BLR."
        )
    return value


def check_digits(value: float, size: float) -> None:
    """Refuse an evidence that is a difference of numbers so large that no digit is left."""
    if size * torch.finfo(torch.float64).eps > LOST * max(1.0, abs(value)):
        raise errors.NonFiniteError(
            f"the log evidence is a difference of numbers of size {size:.1e}, so that its digits "
            "are lost: a scale has gone to 0 (a state of a discrete latent with one datum), or the "
            "data are far from the origin. Mend: centre the data, start elsewhere, take fewer "
            "states, or give the parameter a prior and fit by BLR."
        )


def read(setting: Setting) -> tuple[Setting, dict[str, Datum]]:
    """A setting with its data, of which some must be there."""
    with torch.no_grad():
        data = setting.data()
    if not any(bool((d.weight > 0.0).any()) for d in data.values()) and data:
        raise errors.ArgumentError(
            "all data are missing, so that there is nothing to learn from. Mend: pass data with "
            "observed entries."
        )
    return setting, data


def minibatches(
    setting_of: Callable[..., Setting],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    batch_size: int,
) -> Iterator[Batch]:
    """Random rows of the tensor arguments, each pass in a new order."""
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.dim()]
    count = len(tensors[0]) if tensors else 0
    if not 0 < batch_size <= count:
        raise errors.ArgumentError(
            f"batch_size={batch_size} is not between 1 and the number of data, {count}: the rows "
            "of the first tensor argument."
        )

    def rows(value: Any, index: Tensor) -> Any:
        is_data = isinstance(value, Tensor) and value.dim() and len(value) == count
        return value[index] if is_data else value

    while True:
        for index in torch.randperm(count).split(batch_size):
            if len(index) < batch_size:
                continue
            own = {name: rows(value, index) for name, value in kwargs.items()}
            setting, data = read(setting_of(*(rows(a, index) for a in args), **own))
            yield Batch(setting, data, count / batch_size)

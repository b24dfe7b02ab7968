# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Random numbers under ``torch.vmap``, where torch's distributions fill tensors in place."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..families.registry import unwrap


def _normal(like: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
    return mean + std * torch.randn_like(like)


def _uniform(like: Tensor, low: float = 0.0, high: float = 1.0, **_: Any) -> Tensor:
    return low + (high - low) * torch.rand_like(like)


def _exponential(like: Tensor, rate: float = 1.0, **_: Any) -> Tensor:
    return -torch.log1p(-torch.rand_like(like)) / rate


def _cauchy(like: Tensor, median: float = 0.0, sigma: float = 1.0, **_: Any) -> Tensor:
    return median + sigma * torch.tan(math.pi * (torch.rand_like(like) - 0.5))


#: What ``vmap`` refuses, and what does the same without writing: a tensor of random numbers of
#: its own for each draw.
OUT_OF_PLACE: dict[Any, Any] = {
    Tensor.normal_: _normal,
    Tensor.uniform_: _uniform,
    Tensor.exponential_: _exponential,
    Tensor.cauchy_: _cauchy,
    # Pyro looks at shapes and sizes past their gradients.
    Tensor.data.__get__: Tensor.detach,  # type: ignore[attr-defined]
}


class WithoutWrites(TorchFunctionMode):
    """Has distributions make their random numbers out of place, and values read as they are.

    ``torch.empty(shape).normal_()`` fills one tensor for all draws; ``vmap`` refuses that.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return OUT_OF_PLACE.get(func, func)(*args, **(kwargs or {}))


class DirectDirichlets(Messenger):
    """Draws proportions without the gradient of a draw, whose function ``vmap`` does not know."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["value"] is not None or msg["is_observed"]:
            return
        law = unwrap(msg["fn"])
        if isinstance(law, torch.distributions.Dirichlet):
            value = torch._sample_dirichlet(law.concentration)
        elif isinstance(law, torch.distributions.Beta):
            pairs = torch.stack([law.concentration1, law.concentration0], -1)
            value = torch._sample_dirichlet(pairs)[..., 0]
        else:
            return
        if value.shape == msg["fn"].shape():
            msg["value"] = value

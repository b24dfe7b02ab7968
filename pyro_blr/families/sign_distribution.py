# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Bernoulli distribution of -1 and 1 for Pyro."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn.functional import logsigmoid


class _Signs(constraints.Constraint):
    """-1 and 1."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        """Tell which values are -1 or 1."""
        return value.abs() == 1


signs = _Signs()


class SignBernoulliDistribution(TorchDistribution):
    """-1 or 1, independently.

    :param logits: the log odds of 1 against -1.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = signs
    has_enumerate_support = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SignBernoulliDistribution":
        """The same law repeated."""
        new: Any = self._get_checked_instance(SignBernoulliDistribution, _instance)
        new.logits = self.logits.expand(batch_shape)
        super(SignBernoulliDistribution, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new  # type: ignore[no-any-return]

    @property
    def mean(self) -> Tensor:
        """2 p - 1."""
        return (0.5 * self.logits).tanh()

    @property
    def variance(self) -> Tensor:
        """4 p (1 - p)."""
        return torch.cosh(0.5 * self.logits).square().reciprocal()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of -1 and 1."""
        with torch.no_grad():
            probs = self.logits.sigmoid().expand(self._extended_shape(torch.Size(sample_shape)))
            return 2 * torch.bernoulli(probs) - 1

    def log_prob(self, value: Tensor) -> Tensor:
        """The log of the probability of a sign."""
        if self._validate_args:
            self._validate_sample(value)
        return logsigmoid(self.logits * value)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Both values, in front."""
        values = torch.tensor([-1.0, 1.0], dtype=self.logits.dtype, device=self.logits.device)
        values = values.reshape(-1, *(1,) * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values

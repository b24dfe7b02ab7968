# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The contract of an exponential family in its two coordinate systems."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from pyro_blr.errors import ArgumentError, DomainError

from ..shapes import broadcast_shapes
from .table import family_table

Natural = tuple[Tensor, ...]
"""Natural parameters: one tensor a block, event dimensions rightmost."""

MeanParams = tuple[Tensor, ...]
"""Mean (expectation) parameters, of the same shapes as the natural ones."""


def derivative_times(
    mean_params: Callable[[Natural], MeanParams], natural: Natural, vector: Natural
) -> tuple[Tensor, ...]:
    """The derivative of a map times a vector, where that derivative is symmetric.

    :param mean_params: the map.
    :param natural: where the derivative is taken.
    :param vector: one tensor a natural parameter, of its shape.
    """
    with torch.enable_grad():
        leaf = tuple(n.detach().requires_grad_() for n in natural)
        result = mean_params(leaf)
    return torch.autograd.grad(result, leaf, tuple(v.detach() for v in vector))


class ExponentialFamily(ABC):
    r"""A minimal exponential family: parameters are passed to every method.

    It has no state but, in some families, a fixed count in its attributes (the trials of a
    binomial): two families are equal if their classes and their counts are.

    Mathematically,

    .. math::
        q(z) = h(z) \exp(\langle n, T(z) \rangle - A(n)), \qquad
        \mu = \nabla A(n) = E_q[T(z)], \qquad F = \nabla^2 A(n) = \partial \mu / \partial n,

    with natural parameters :math:`n` and mean parameters :math:`\mu`. Every tensor has the shape
    ``(*batch, *event)``, where the event of the i-th one has ``natural_event_dims[i]`` dimensions;
    a matrix block is symmetric (but see ``symmetrize``) and is paired by the sum over all its
    entries.

    Methods are exact: nothing is clamped, and no method reads a value back to the host. Outside
    the domain their results mean nothing (most often NaN); ask ``in_domain``.

    A family of your own is a subclass and one call of
    :func:`~pyro_blr.families.register_family`. The simplest to copy is
    :class:`~pyro_blr.families.Bernoulli`.
    """

    # ----- Fields: set them all -------------------------------------------------------------

    name: ClassVar[str]
    """The name in tables and messages."""

    event_dim: ClassVar[int]
    """Number of event dimensions of a value."""

    natural_event_dims: ClassVar[tuple[int, ...]]
    """Number of rightmost event dimensions of each natural (and mean) parameter."""

    support: Any
    """The values it puts mass on, as a constraint of ``pyro.distributions.constraints``."""

    distribution_type: ClassVar[Any]
    """The Pyro distribution that ``distribution`` returns."""

    has_rsample: ClassVar[bool] = False
    """Whether ``rsample`` gives draws that are differentiable in the natural parameters."""

    is_curved: ClassVar[bool] = False
    """Whether it is no exponential family, but has coordinates of its own in the place of natural
    parameters: a curved subset of one, or mixtures of its members."""

    coordinate_names: ClassVar[tuple[str, ...]] = ()
    """What natural parameters are stored as; ``natural_0``, ... where it is empty."""

    lifted_statistics: ClassVar[tuple[tuple[str, float], ...]] = ()
    """T(z), block by block, as factors of a model are written in it: ``("log", 1)`` for log z,
    ``("log1m", 1)`` for log(1 - z), ``("power", p)`` for z to the p. A family of scalars that sets
    it, and has h = 1 and ``near``, may be the law of a latent."""

    # ----- Contract: must override ----------------------------------------------------------

    @abstractmethod
    def log_partition(self, natural: Natural) -> Tensor:
        """Return A(natural), in nats.

        :param natural: natural parameters.
        :return: a tensor  # shape: (*batch,)
        """

    @abstractmethod
    def mean_params(self, natural: Natural) -> MeanParams:
        """Return the mean parameters at the natural ones; twice differentiable.

        :param natural: natural parameters.
        :return: the gradient of A there, of the same shapes.
        """

    @abstractmethod
    def natural(self, mean_params: MeanParams) -> Natural:
        """Return the natural parameters at the mean ones, in closed form or by Newton's method.

        :param mean_params: mean parameters.
        :return: natural parameters; NaN where no member of the family has these means.
        """

    @abstractmethod
    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        """Return T(value).

        :param value: points of the support  # shape: (*batch, *event)
        :param natural: natural parameters; read only by families whose statistic has a size that
            the value does not show (the number of classes).
        """

    @abstractmethod
    def in_domain(self, natural: Natural) -> Tensor:
        """Tell which batch elements are in the domain, without an exception or a host read.

        :param natural: any tensors of the right shapes.
        :return: a boolean tensor, False where anything is NaN or infinite  # shape: (*batch,)
        """

    @abstractmethod
    def distribution(self, natural: Natural) -> Any:
        """Return the Pyro distribution, of ``batch_shape`` ``batch``.

        :param natural: natural parameters in the domain.
        :raises DomainError: by families of matrices, if they are outside it.
        """

    @abstractmethod
    def natural_of(self, distribution: Any) -> Natural:
        """Return the natural parameters of a Pyro distribution of this family.

        :param distribution: a distribution of this family, perhaps expanded, masked, or with
            batch dimensions declared as event dimensions (they are batch dimensions here).
        :raises ArgumentError: if it is of another family.
        """

    @abstractmethod
    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        """Return F^-1 covector in closed form: the natural gradient where the covector is a
        gradient with respect to the natural parameters.

        :param natural: where F is taken.
        :param covector: one tensor a natural parameter, of its shape.
        """

    # ----- May override ---------------------------------------------------------------------

    def near(self, value: Tensor) -> Natural:
        """Return natural parameters of a law near a value, with a relative spread of about a half.

        Where a latent starts whose prior is of another family; asked for only where the family has
        ``lifted_statistics``.

        :param value: points of the support  # shape: (*batch, *event)
        :raises NotImplementedError: if the family does not say.
        """
        raise NotImplementedError(f"{self.name} does not say where a latent starts; override near.")

    def near_inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        """Return F^-1 covector where F has digits: directions along which it is so small that a
        covector computed by differentiation is rounding may be left out, as a projection does.
        """
        return self.inverse_fisher(natural, covector)

    def for_distribution(self, distribution: Any) -> "ExponentialFamily":
        """Return the family of a distribution of this kind; a count is the distribution's.

        :param distribution: of a class that the family is registered for.
        """
        return self

    def fisher(self, natural: Natural, vector: Natural) -> tuple[Tensor, ...]:
        """Return F vector, without a graph: how the mean parameters change along the vector.

        By differentiation; override it where a closed form costs less.

        :param natural: where F is taken.
        :param vector: one tensor a natural parameter, of its shape; matrices are symmetric.
        """
        return derivative_times(self.mean_params, natural, vector)

    def log_base_measure(self, value: Tensor) -> Tensor:
        """Return log h(value); h = 1 unless overridden.

        :param value: points of the support.
        :return: a tensor  # shape: (*batch,)
        """
        return value.new_zeros(value.shape[: value.dim() - self.event_dim])

    def expected_log_base_measure(self, natural: Natural) -> Tensor:
        """Return E_q[log h(z)], in nats.

        :param natural: natural parameters.
        :raises NotImplementedError: if h is not 1 and this method is not overridden.
        """
        if type(self).log_base_measure is not ExponentialFamily.log_base_measure:
            raise NotImplementedError(
                f"{self.name} overrides log_base_measure; override expected_log_base_measure too."
            )
        return natural[0].new_zeros(self.batch_shape(natural))

    def entropy(self, natural: Natural) -> Tensor:
        """Return the entropy A - <natural, mean> - E[log h], in nats.

        Override it where the terms cancel (a concentrated q).

        :param natural: natural parameters.
        """
        paired = self.inner(natural, self.mean_params(natural))
        return self.log_partition(natural) - paired - self.expected_log_base_measure(natural)

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        """Return KL(q || p) = A(p) - A(q) + <mean_q, q - p>, in nats.

        Override it where the terms cancel (a concentrated q).

        :param natural_q: natural parameters of q.
        :param natural_p: natural parameters of p.
        """
        difference = tuple(q - p for q, p in zip(natural_q, natural_p, strict=True))
        bregman = self.log_partition(natural_p) - self.log_partition(natural_q)
        return bregman + self.inner(difference, self.mean_params(natural_q))

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        """Return log q(value), in nats.

        :param natural: natural parameters.
        :param value: points of the support  # shape: (*sample, *batch, *event)
        """
        statistics = self.sufficient_statistics(value, natural)
        density = self.inner(natural, statistics) - self.log_partition(natural)
        return density + self.log_base_measure(value)

    def sample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return draws from q, detached from the natural parameters.

        :param natural: natural parameters.
        :param sample_shape: shape of the independent draws.
        :return: draws  # shape: (*sample_shape, *batch, *event)
        """
        with torch.no_grad():
            drawn: Tensor = self.distribution(natural).sample(torch.Size(sample_shape))
        return drawn

    def rsample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return draws from q that are differentiable in the natural parameters.

        :param natural: natural parameters.
        :param sample_shape: shape of the independent draws.
        :raises NotImplementedError: if the family has none (``has_rsample`` is False).
        """
        if not self.has_rsample:
            raise NotImplementedError(f"{self.name} has no differentiable draws; use sample().")
        drawn: Tensor = self.distribution(natural).rsample(torch.Size(sample_shape))
        return drawn

    def noise_shape(self, natural: Natural) -> tuple[int, ...] | None:
        """Return the shape of the standard normal noise of one draw, batch dims first.

        None where the family has no ``at_noise``.

        :param natural: natural parameters.
        """
        return None

    def at_noise(self, natural: Natural, noise: Tensor) -> Tensor:
        """Return draws as a smooth function of the natural parameters, at fixed noise.

        Beside ``rsample``, whose rejection samplers jump as the parameters move. The first
        derivative is the implicit one; there may be no second.

        :param natural: natural parameters.
        :param noise: standard normal numbers  # shape: (*sample, *noise_shape)
        :return: draws  # shape: (*sample, *batch, *event)
        :raises NotImplementedError: if the family has none (``noise_shape`` is None).
        """
        raise NotImplementedError(f"{self.name} has no draws at given noise; use rsample().")

    def expected_power(self, natural: Natural, power: float) -> Tensor | None:
        """Return E[z ** power], element by element, or None where no closed form is known.

        :param natural: natural parameters; the result is differentiable in them.
        :param power: any real number; the result is infinite where the integral diverges.
        :return: a tensor of the shape of a value, or None.
        """
        return None

    # ----- Helpers --------------------------------------------------------------------------

    def inner(self, left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> Tensor:
        """Return <left, right>: the sum over blocks and their event entries.

        :return: a tensor  # shape: (*batch,)
        """
        total: Tensor | None = None
        for dims, a, b in zip(self.natural_event_dims, left, right, strict=True):
            term = a * b
            if dims:
                term = term.sum(tuple(range(-dims, 0)))
            total = term if total is None else total + term
        if total is None:
            raise ArgumentError(f"{self.name} declares no natural parameters.")
        return total

    def symmetrize(self, blocks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the blocks, with (M + M')/2 for each matrix M.

        A family with a matrix block that is not symmetric overrides it.

        :param blocks: one tensor a natural parameter.
        """
        return tuple(
            0.5 * (block + block.mT) if dims == 2 else block
            for dims, block in zip(self.natural_event_dims, blocks, strict=True)
        )

    def batch_shape(self, natural: Natural) -> torch.Size:
        """Return the batch shape; blocks broadcast against each other.

        :param natural: natural (or mean) parameters.
        """
        shapes = [
            tensor.shape[: tensor.dim() - dims]
            for dims, tensor in zip(self.natural_event_dims, natural, strict=True)
        ]
        if all(shape == shapes[0] for shape in shapes):
            return shapes[0]
        batch: torch.Size = broadcast_shapes(*shapes)
        return batch

    def expand(self, natural: Natural, batch_shape: tuple[int, ...]) -> Natural:
        """Return views of the parameters, broadcast to a batch shape.

        :param natural: natural (or mean) parameters.
        :param batch_shape: the new batch shape.
        """
        return tuple(
            tensor.expand(*batch_shape, *tensor.shape[tensor.dim() - dims :])
            for dims, tensor in zip(self.natural_event_dims, natural, strict=True)
        )

    def index(self, natural: Natural, key: Any) -> Natural:
        """Return a part of the batch.

        :param natural: natural (or mean) parameters whose blocks have the same batch shape.
        :param key: an index of the batch dimensions, without an ellipsis.
        """
        return tuple(tensor[key] for tensor in natural)

    def wrong_distribution(self, distribution: Any) -> ArgumentError:
        """Return the error to raise for a distribution of another family."""
        return ArgumentError(
            f"A {type(distribution).__name__} is not in the family {self.name}; pass a "
            f"{self.distribution_type.__name__} or a tuple of natural parameters."
        )

    @contextmanager
    def naming_domain(self) -> Iterator[None]:
        """Turn the errors of Pyro's constructors into a ``DomainError`` with the mend.

        They check their arguments anyway; a check of our own would wait for the device again.
        """
        try:
            yield
        except (ValueError, LinAlgError) as error:
            raise DomainError(
                f"These natural parameters are outside the domain of {self.name}. Mend: ask "
                f"{type(self).__name__}.in_domain(natural), and shorten the step that led here. "
                f"({str(error).splitlines()[0]})"
            ) from error

    def __repr__(self) -> str:
        fixed = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fixed})"

    def _repr_html_(self) -> str:
        return family_table(self)

    def __eq__(self, other: object) -> bool:
        # The counts of the instance are all of its state.
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), tuple(sorted(vars(self).items()))))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a step needs of an objective: the ELBO as a function of the blocks' natural parameters."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from torch import Tensor

from ..families import Natural


class Geometry(Protocol):
    """Where a block may be, and how long its steps are: of a family, a chart, or at a point."""

    def fisher(self, natural: Natural, vector: Natural, /) -> tuple[Tensor, ...]:
        """``F vector``, F the Fisher matrix there."""

    def in_domain(self, natural: Natural, /) -> Tensor:
        """Which elements are proper distributions."""


class InvertibleGeometry(Geometry, Protocol):
    """What a certificate asks besides: what is symmetric, and F^-1, which it preconditions by."""

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...], /) -> Natural:
        """``F^-1 covector``, by a linear map near to it where F is singular."""

    def symmetrize(self, blocks: tuple[Tensor, ...], /) -> tuple[Tensor, ...]:
        """The part that acts on steps."""


class Unit(Protocol):
    """What moves in a geometry of its own."""

    @property
    def family(self) -> Geometry: ...


U = TypeVar("U", bound=Unit)

#: A unit with a name. A Mapping is invariant in its keys, so that no Protocol stands for them.
Block = Any
Naturals = Mapping[Block, Natural]


class Elbo(Protocol):
    """The ELBO at one point: a number, and the bound on its rounding error."""

    @property
    def elbo(self) -> float: ...

    @property
    def magnitude(self) -> float: ...

    def noise_against(self, other: Any) -> float:
        """The standard error of the difference from another one on the same draws."""


class Evaluation(Elbo, Protocol):
    """The ELBO at one point, or the terms of it that touch one block."""

    @property
    def touching(self) -> Block | None:
        """The block whose terms these are; None if it is the whole ELBO."""


class Objective(Protocol):
    """The ELBO (or the terms of it that touch one block) and its messages."""

    @property
    def blocks(self) -> tuple[Block, ...]: ...

    @property
    def is_exact(self) -> bool:
        """Whether the ELBO is itself, and no estimate on draws."""

    def count_gradients(self, times: int) -> None:
        """Count so many gradients of the ELBO."""

    def value(self, naturals: Naturals, touching: Block | None = None) -> Evaluation:
        """The ELBO without gradients."""

    def messages(self, naturals: Naturals, only: Block | None = None) -> dict[Block, Natural]:
        """dL/dmean_params of every block, or of one."""

    def is_linear_in(self, block: Block) -> bool:
        """Whether L is linear in the block's mean parameters, given the others."""

    def is_conjugate_in(self, block: Block) -> bool:
        """Whether a message is the exact coordinate update of the block, given the others."""

    def negative_elbo(self, naturals: Naturals) -> Tensor:
        """-ELBO, twice differentiable in natural parameters that require a gradient."""


class SweptObjective(Objective, Protocol):
    """An objective whose blocks move in turn."""

    def given_discrete(self, naturals: Naturals) -> AbstractContextManager[None]:
        """Let discrete latents hold their posterior at these natural parameters."""

    def message_and_value(self, naturals: Naturals, block: Block) -> tuple[Natural, Evaluation]:
        """The message to a block, differentiated, and the terms of the ELBO that touch it."""

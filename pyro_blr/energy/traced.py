# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a run of the model on lifted latents leaves behind: its sites and their log densities."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from ..lifting.tensor import LiftedTensor
from .enumeration import NO_DIMS, Choice, Dims
from .hidden_gaussian import GaussianChain
from .hidden_markov import HiddenChain
from .latents import Latent
from .parameters import LiftedParameter, Parameter


@dataclass(frozen=True, eq=False)
class TracedSite:
    """A sample site of the model and its log density along its batch dims.

    :param log_prob: lifted where anything in it is a latent, a plain tensor elsewhere.
    :param scale: what it is multiplied by (subsampling, ``poutine.scale``, 1 / temperature).
    :param mask: None, a bool, or a tensor that broadcasts over the batch dims.
    :param dims: what the dims of the log density are.
    :param choice: how the site was enumerated, if it is a discrete latent.
    :param chain: the log factors of its hidden chain, if it is a hidden Markov model.
    :param no_chain: why one of Gaussian states has none.
    :param is_data: whether it is observed: a datum, or a term of ``pyro.factor``.
    :param plates: the names of all plates that it is in, loops over a plate among them.
    """

    name: str
    log_prob: Any
    scale: Any
    mask: Any
    dims: Dims = NO_DIMS
    choice: Choice | None = None
    chain: HiddenChain | GaussianChain | None = None
    no_chain: str = ""
    is_data: bool = False
    plates: frozenset[str] = frozenset()

    @property
    def log_factors(self) -> tuple[Any, ...]:
        """What its expectation is taken of: the log density, or those of a hidden chain."""
        return (self.log_prob,) if self.chain is None else self.chain.log_factors

    @property
    def lifted_factors(self) -> tuple[LiftedTensor, ...]:
        """Those of them that depend on latents."""
        return tuple(f for f in self.log_factors if isinstance(f, LiftedTensor))

    def size(self, dim: int) -> int:
        """The size of the log density along a dim, counted from the right; 1 beyond its dims."""
        shape = tuple(self.log_prob.shape)
        return shape[dim] if len(shape) >= -dim else 1

    @property
    def touches(self) -> frozenset[str]:
        """The latents that it depends on."""
        return frozenset(n for f in self.lifted_factors for n in f.site_names)

    @cached_property
    def choices(self) -> frozenset[int]:
        """The discrete latents that the log density depends on, itself if it is one."""
        own = self.choice
        mine = frozenset() if own is None else frozenset({self.dims.choices[own.dim]})
        return mine | self.dims.depends_on(tuple(getattr(self.log_prob, "shape", ())))


@dataclass(eq=False)
class Traced:
    """What one run of the model left behind.

    :param rows: for each latent in a subsampled plate, the indices along its dims.
    :param local_scale: the scale of those latents' plates.
    :param parameters: the ``pyro.param`` statements that the model made, by name.
    :param lifted: those of them whose value was lifted.
    :param nesting: the number of dims that plates and batches take.
    """

    sites: list[TracedSite] = field(default_factory=list)
    rows: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    local_scale: dict[str, float] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    #: The noise of each latent that q leaves at its prior given the others.
    noise: dict[str, Latent] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    lifted: dict[str, LiftedParameter] = field(default_factory=dict)
    is_subsampled: bool = False
    nesting: int = 0
    #: For each latent in a plate whose elements are spread over parts, the dims of these.
    sharded: dict[str, frozenset[int]] = field(default_factory=dict)

    @property
    def has_choices(self) -> bool:
        """Whether discrete latents are summed out."""
        return any(s.choice is not None or s.chain is not None for s in self.sites)

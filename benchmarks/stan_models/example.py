# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What an example model is: the Pyro model, its data from Stan's data block, and what is expected.

Stan's data block is a dictionary of numbers and lists, as posteriordb's JSON has it, with indices
from 1. ``Example.arguments`` makes the model's arguments of it, transformed data included, so that
the model itself is arithmetic on latents alone.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

#: Stan's data block.
Stan = Mapping[str, Any]
#: Draws by name. # shape of each: (draws, *site)
Draws = Mapping[str, Tensor]


def unchanged(draws: Draws) -> Draws:
    """The quantities of the posterior where the sites have Stan's names and values."""
    return draws


@dataclass(frozen=True)
class Example:
    """One posterior of posteriordb.

    :param str posterior: its name there, "data-model".
    :param callable model: the Pyro model.
    :param callable arguments: the model's arguments from Stan's data block.
    :param callable synthetic: a tiny data block of the same shapes, for tests; a tier must not
        depend on data.
    :param callable quantities: Stan's parameters from draws of the sites.
    :param str breaks: for a model that is not deterministic, the function that ``explain`` names;
        empty for one that is.
    :param bool closed_form_only: deterministic only through the closed form of a polynomial times
        an exponential: some factor has three or more Gaussian scalars an element, more than
        quadrature is built for.
    """

    posterior: str
    model: Callable[..., None]
    arguments: Callable[[Stan], tuple[Any, ...]]
    synthetic: Callable[[], Stan] | None = None
    quantities: Callable[[Draws], Draws] = unchanged
    breaks: str = ""
    closed_form_only: bool = False

    @property
    def name(self) -> str:
        """The model's name in posteriordb."""
        return self.posterior.split("-", 1)[1]

    @property
    def data(self) -> str:
        """The name of the data in posteriordb."""
        return self.posterior.split("-", 1)[0]


#: The posteriors, in the order in which they are defined.
EXAMPLES: list[Example] = []


def posterior(
    name: str, *, arguments: Callable[[Stan], tuple[Any, ...]] | None = None, **options: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a posterior of a Pyro model: one decorated function is all that another one takes.

    :param str name: its name in posteriordb, "data-model".
    :param callable arguments: as for ``Example``; by default Stan's data of the names of the
        model's parameters, as floating point tensors.
    :param options: the rest of ``Example``.
    """

    def register(model: Callable[..., None]) -> Callable[..., None]:
        def by_name(stan: Stan) -> tuple[Tensor, ...]:
            return vectors(stan, *inspect.signature(model).parameters)

        EXAMPLES.append(Example(name, model, arguments or by_name, **options))
        return model

    return register


def origin(site: Mapping[str, Any]) -> Tensor:
    """Where q starts: the origin of the unconstrained space, as Stan's ``init=0``.

    The prior's median, Pyro's default, is no start for a scale below a Gamma(1e-3, 1e-3) precision.
    """
    fn = site["fn"]
    transform = biject_to(fn.support)
    value: Tensor = transform(torch.zeros(transform.inverse_shape(fn.shape())))
    return value


def vectors(stan: Stan, *names: str) -> tuple[Tensor, ...]:
    """Data as floating point tensors."""
    return tuple(torch.tensor(stan[name], dtype=torch.get_default_dtype()) for name in names)


def indices(stan: Stan, *names: str) -> tuple[Tensor, ...]:
    """Indices from 0."""
    return tuple(torch.tensor(stan[name]) - 1 for name in names)


class Synthetic:
    """Small random columns for a data block, the same at every call."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> list[Any]:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self._generator, dtype=torch.float64).tolist()

    def positive(self, *shape: int) -> list[Any]:
        """Log-normal numbers."""
        return torch.tensor(self.normal(*shape), dtype=torch.float64).exp().tolist()

    def integers(self, low: int, high: int, *shape: int) -> list[Any]:
        """Integers from low to high, both included; every one occurs if there is room."""
        count = high - low + 1
        size = torch.Size(shape).numel()
        first = torch.arange(size) % count
        shuffled = first[torch.randperm(size, generator=self._generator)]
        return (low + shuffled).reshape(shape).tolist()

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""One run of a hand-written guide: its distributions, what they were made of, its parameters."""

from abc import ABCMeta
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pyro import poutine
from pyro.distributions.distribution import COERCIONS
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import transform_to

from ..._compat import constraint_of, site_is_subsample
from ...energy.parameters import Parameter
from ...families.registry import unwrap
from ..leaf import leaf_of
from ..natural_param import NaturalParam, listening


@dataclass(eq=False)
class GuideRun:
    """What one run of a guide left behind.

    :param sites: its sample sites, by name.
    :param arguments: what the distribution of each site was constructed with, by keyword; a site
        without an entry has a distribution that was expanded or made in another way.
    :param parameters: its parameters that may move, by the identity of their leaves.
    :param naturals: the natural parameters that it asked for.
    """

    sites: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    parameters: dict[int, Parameter] = field(default_factory=dict)
    naturals: list[NaturalParam] = field(default_factory=list)

    def parameter_of(self, value: Any) -> Parameter | None:
        """The parameter that a value is, whole and unchanged, or None."""
        if not isinstance(value, Tensor):
            return None
        parameter = self.parameters.get(id(leaf_of(value)))
        return parameter if parameter and parameter.value.shape == value.shape else None


class SubstituteMessenger(Messenger):
    """Gives parameters other values than those in the store, and sites values that were drawn once.

    :param leaves: the unconstrained values, by the parameter's name.
    :param draws: the values of sites, by name.
    """

    def __init__(
        self, leaves: Mapping[str, tuple[Tensor, Any]], draws: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.leaves = leaves
        self.draws = draws

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.draws:
            msg["value"] = self.draws[msg["name"]]
            msg["done"] = True

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.leaves:
            leaf, constraint = self.leaves[msg["name"]]
            msg["value"] = transform_to(constraint)(leaf)
            msg["done"] = True


def run_guide(
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    leaves: Mapping[str, tuple[Tensor, Any]] | None = None,
    draws: Mapping[str, Tensor] | None = None,
) -> GuideRun:
    """Run a guide once; nothing outside sees it.

    :param leaves: unconstrained values of parameters for this run, with their constraints.
    :param draws: the values of sites for this run, so that no random number is taken.
    """
    run = GuideRun()
    substitute = SubstituteMessenger(leaves or {}, draws or {})
    with poutine.block(), listening() as run.naturals, constructors() as made, substitute:
        trace = poutine.trace(guide).get_trace(*args, **kwargs)
    for name, site in trace.nodes.items():
        if site["type"] == "param" and leaf_of(site["value"]).requires_grad:
            leaf = leaf_of(site["value"])
            constraint = constraint_of(name, site["kwargs"].get("constraint"))
            value = transform_to(constraint)(leaf.detach())
            run.parameters[id(leaf)] = Parameter(name, leaf, value, constraint)
        elif site["type"] == "sample" and not site_is_subsample(site):
            run.sites[name] = site
            law = unwrap(site["fn"])
            for constructed, arguments in made:
                if _is_the_same(law, constructed, arguments):
                    run.arguments[name] = arguments
    return run


@contextmanager
def constructors() -> Iterator[list[tuple[Any, Mapping[str, Any]]]]:
    """Record each Pyro distribution that is constructed inside, and its arguments."""
    made: list[tuple[Any, Mapping[str, Any]]] = []

    def record(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        law = ABCMeta.__call__(cls, *args, **kwargs)
        try:
            bound = cls.__signature__.bind(*args, **kwargs).arguments
        except TypeError:
            return law
        made.append((law, {k: v for k, v in bound.items() if k != "validate_args"}))
        return law

    COERCIONS.append(record)
    try:
        yield made
    finally:
        COERCIONS.remove(record)


def _is_the_same(law: Any, constructed: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether a distribution is a constructed one, or that one expanded to its own shape.

    A plate expands each distribution inside it, which makes views of the same memory.
    """
    if law is constructed or type(law) is not type(constructed):
        return law is constructed
    pairs = [(getattr(law, a, None), getattr(constructed, a, None)) for a in arguments]
    return all(
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.shape == b.shape
        and a.data_ptr() == b.data_ptr()
        for a, b in pairs
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which family is the posterior family of which Pyro distribution."""

from typing import Any, TypeVar

import torch.distributions
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution

from pyro_blr.errors import ArgumentError
from pyro_blr.families.base import ExponentialFamily

F = TypeVar("F", ExponentialFamily, type[ExponentialFamily])

# Keys are classes of distributions, and the classes of families that are found by name only.
_FAMILIES: dict[type, ExponentialFamily] = {}


def register_family(family: F, *distribution_types: type, by_name: bool = False) -> F:
    """Make a family known for some classes of distributions; also a class decorator.

    A distribution belongs to the family of its most specific registered class, so a subclass may
    be given a family of its own; registering a class again replaces its family.

    :param family: a family, as an instance or as a class.
    :param distribution_types: classes of distributions; ``family.distribution_type`` if none.
    :param by_name: whether no distribution belongs to it, so that it is found by its name only:
        another family is the better guess for its distributions.
    :return: the argument ``family``.
    """
    given = family if isinstance(family, type) else type(family)
    if not issubclass(given, ExponentialFamily):
        raise ArgumentError(f"{family!r} is not a family; derive it from ExponentialFamily.")
    instance = family() if isinstance(family, type) else family
    default = type(instance) if by_name else instance.distribution_type
    for distribution_type in distribution_types or (default,):
        _FAMILIES[distribution_type] = instance
    return family


def registered_families() -> tuple[ExponentialFamily, ...]:
    """Return every registered family once, in the order of registration."""
    return tuple(dict.fromkeys(_FAMILIES.values()))


def unwrap(distribution: Any) -> Any:
    """Return the distribution of a family under ``to_event``, ``mask`` and generic ``expand``.

    Dimensions that were declared as event dimensions become batch dimensions again.

    :param distribution: a Pyro or torch distribution.
    """
    while True:
        if isinstance(distribution, torch.distributions.Independent | MaskedDistribution):
            distribution = distribution.base_dist
        elif isinstance(distribution, ExpandedDistribution):
            expanded = distribution.base_dist.expand(distribution.batch_shape)
            if isinstance(expanded, ExpandedDistribution):
                return distribution
            distribution = expanded
        else:
            return distribution


def _lookup(distribution_type: type) -> ExponentialFamily | None:
    for ancestor in distribution_type.__mro__:
        if ancestor in _FAMILIES:
            return _FAMILIES[ancestor]
    return None


def find_family(family: Any) -> ExponentialFamily | None:
    """Return the family, or None where none is registered.

    ``Normal(...).to_event(1)`` is a multivariate normal: one full covariance over the event.
    Other distributions under ``to_event`` are products, of the family of their elements. Where
    the family has a fixed count, such as ``Binomial(10)``, a distribution gives its own; a class
    of distributions or of families gives a count of 1.

    :param family: a family, its class, a distribution, or a class of distributions.
    """
    if isinstance(family, ExponentialFamily):
        return family
    if isinstance(family, type):
        return family() if issubclass(family, ExponentialFamily) else _lookup(family)
    inner = unwrap(family)
    if isinstance(inner, torch.distributions.Normal) and len(family.event_shape) == 1:
        return _lookup(torch.distributions.MultivariateNormal)
    found = _lookup(type(inner))
    return None if found is None else found.for_distribution(inner)


def get_family(family: Any) -> ExponentialFamily:
    """Return the family, as :func:`find_family`.

    :param family: a family, its class, a distribution, or a class of distributions.
    :raises ArgumentError: if no family is registered for it.
    """
    found = find_family(family)
    if found is None:
        kind = family if isinstance(family, type) else type(family)
        known = ", ".join(known.name for known in registered_families())
        raise ArgumentError(
            f"No exponential family is registered for {kind.__name__}; use one of {known}, or "
            f"register your own with pyro_blr.families.register_family(family, {kind.__name__})."
        )
    return found

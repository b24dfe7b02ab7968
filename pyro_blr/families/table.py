# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a family is, as a table for notebooks."""

from typing import Any

from ..html_table import html_table


def family_table(family: Any) -> str:
    """The table of an :class:`~pyro_blr.families.ExponentialFamily`."""
    dims = family.natural_event_dims
    names = family.coordinate_names or tuple(f"natural_{k}" for k in range(len(dims)))
    kinds = {0: "a number", 1: "a vector", 2: "a matrix"}
    each = (f"{n}: {kinds.get(d, f'{d} dims')}" for n, d in zip(names, dims, strict=True))
    rows = [
        ("values", f"{family.support}, {kinds.get(family.event_dim, f'{family.event_dim} dims')}"),
        ("coordinates" if family.is_curved else "natural parameters", "; ".join(each)),
        ("Pyro distribution", family.distribution_type.__name__),
        ("differentiable draws", "yes" if family.has_rsample else "no"),
        *((name, repr(value)) for name, value in vars(family).items()),
    ]
    kind = "Family" if family.is_curved else "Exponential family"
    return html_table(f"{kind} {family.name}", (), rows)

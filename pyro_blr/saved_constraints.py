# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Constraints of ``pyro.param`` as strings, numbers and tensors, and back."""

from typing import Any

from pyro.distributions import constraints

#: Constraints with arguments: what makes them, and the attributes that hold these.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "greater_than": ("lower_bound",),
    "greater_than_eq": ("lower_bound",),
    "less_than": ("upper_bound",),
    "interval": ("lower_bound", "upper_bound"),
    "half_open_interval": ("lower_bound", "upper_bound"),
    "independent": ("base_constraint", "reinterpreted_batch_ndims"),
}


def saved_constraint(constraint: Any) -> dict[str, Any] | None:
    """A constraint to be saved; None for one of the user's own."""
    for name in constraints.__all__:
        known = getattr(constraints, name)
        if known is constraint or _is_copy(known, constraint):
            return {"name": name}
    for name, attributes in _ARGUMENTS.items():
        if type(constraint) is getattr(constraints, name):
            found = [getattr(constraint, a) for a in attributes]
            if name == "independent":
                found[0] = saved_constraint(found[0])
            return None if found[0] is None else {"name": name, "arguments": found}
    return None


def constraint_from(saved: Any) -> Any:
    """The constraint that was saved."""
    made = getattr(constraints, saved["name"])
    if "arguments" not in saved:
        return made
    first, *rest = saved["arguments"]
    return made(constraint_from(first) if saved["name"] == "independent" else first, *rest)


def _is_copy(known: Any, constraint: Any) -> bool:
    """Whether a constraint came from a pickle of a known one."""
    return type(known) is type(constraint) and str(vars(known)) == str(vars(constraint))

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The name of each dim, from plates and from the user, and the labels along it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import errors
from ..draws.dims import Dims

#: Names that ArviZ gives to the dims of draws.
RESERVED_DIMS = ("chain", "draw", "sample")


class Names:
    """Names of variables and of their dims, and labels along them.

    A slash, as scopes put it into the names of sites, is a path to a tree: a dot stands for it. A
    name that is taken, by another site or by ArviZ, gets a ``_`` behind it, and is in ``renamed``.

    :param plates: the names of the plates.
    :param variables: the names of variables, which no dim may have.
    :param dims: what the user calls the dims of a variable: all of them, or its event dims alone.
    :param coords: the user's labels, by the name of the dim.
    :raises ArgumentError: for what is given and does not fit.
    """

    def __init__(
        self,
        plates: Collection[str],
        variables: Collection[str],
        dims: Mapping[str, Sequence[str]] | None,
        coords: Mapping[str, Any] | None,
    ) -> None:
        self._given = {name: _names("dims", name, own) for name, own in (dims or {}).items()}
        self._labels = {name: np.asarray(own) for name, own in (coords or {}).items()}
        unknown = sorted(set(self._given) - set(variables))
        if unknown:
            raise errors.ArgumentError(
                f"dims= names {unknown}, which are no variables of this fit; it has "
                f"{sorted(variables)}. Mend: use the names of its sites and arguments."
            )
        self._variables = _without_slashes(variables)
        self._taken = frozenset({*self._variables.values(), *RESERVED_DIMS})
        self._plates: dict[str, str] = {}
        for plate in plates:
            name = plate.replace("/", ".")
            while name in self._taken or name in self._plates.values():
                name += "_dim"
            self._plates[plate] = name
        # Labels along a plate by its own name too, where its dim has another.
        self._labels = {
            n if n in self._plates.values() else self._plates.get(n, n): own
            for n, own in self._labels.items()
        }
        self._sizes: dict[str, int] = {}

    @property
    def renamed(self) -> dict[str, str]:
        """The variables whose own name is taken, with what they are called."""
        return {n: own for n, own in self._variables.items() if own != n.replace("/", ".")}

    def variable(self, name: str) -> str:
        """What a site or an argument is called."""
        return self._variables.get(name, name)

    def of(self, variable: str, dims: Dims, whole: Dims | None = None) -> list[str]:
        """The name of each dim of a variable.

        :param whole: how the variable's value lies, where ``dims`` are those of its log density.
        """
        whole = whole or dims
        given = self._given.get(variable)
        own = [f"{self.variable(variable)}_dim_{i}" for i in range(len(dims.shape))]
        plates = [*dims.plates, *(None for _ in own[len(dims.plates) :])]
        names = [self._plates.get(p, p) if p else n for p, n in zip(plates, own, strict=True)]
        if given is not None:
            names = self._as_given(variable, given, names, dims, whole)
        for name, size in zip(names, dims.shape, strict=True):
            self._enter(variable, name, size)
        return names

    def _as_given(
        self, variable: str, given: Sequence[str], names: list[str], dims: Dims, whole: Dims
    ) -> list[str]:
        batch, events = len(whole.plates), len(whole.shape) - len(whole.plates)
        if len(given) not in (len(whole.shape), events):
            raise errors.ArgumentError(
                f"dims={{{variable!r}: {list(given)}}} has {len(given)} names, and {variable!r} "
                f"has {len(whole.shape)} dims, {events} of them inside an event: the shape "
                f"{whole.shape}. Mend: name all of them, or those inside the event."
            )
        full = list(given) if len(given) == len(whole.shape) else names[:batch] + list(given)
        return full[: len(dims.shape)]

    def _enter(self, variable: str, name: str, size: int) -> None:
        if name in self._taken:
            raise errors.ArgumentError(
                f"the dim {name!r} of {variable!r} has the name of a variable, or one that ArviZ "
                f"keeps for draws. Mend: dims={{{variable!r}: [...]}} with another name."
            )
        if self._sizes.setdefault(name, size) != size:
            raise errors.ArgumentError(
                f"the dim {name!r} has {self._sizes[name]} elements, and {size} in {variable!r}. "
                f"Mend: dims={{{variable!r}: [...]}} with another name."
            )
        if name in self._labels and len(self._labels[name]) != size:
            raise errors.ArgumentError(
                f"coords= has {len(self._labels[name])} labels along {name!r}, and {variable!r} "
                f"has {size} elements there. Mend: give one label an element."
            )

    def labels(self, name: str) -> Any:
        """The labels along a dim: the user's, or the numbers from 0."""
        found = self._labels.get(name)
        return np.arange(self._sizes[name]) if found is None else found

    def check_used(self) -> None:
        """Refuse labels of a dim that no variable has: the name is a slip."""
        unused = sorted(set(self._labels) - set(self._sizes))
        if unused:
            raise errors.ArgumentError(
                f"coords= has labels along {unused}, and no variable has such a dim; there are "
                f"{sorted(self._sizes)}. Mend: name the dims by dims=, or use one of these."
            )


def _names(argument: str, variable: str, names: Any) -> list[str]:
    if isinstance(names, str) or not all(isinstance(n, str) for n in names):
        raise errors.ArgumentError(
            f"{argument}= takes a list of names for each variable, and {variable!r} has {names!r}. "
            f"Mend: {argument}={{{variable!r}: ['name']}}."
        )
    if len(set(names)) < len(names):
        raise errors.ArgumentError(
            f"{argument}= names a dim of {variable!r} twice: {list(names)}. Mend: give each "
            "a name of its own."
        )
    return list(names)


def _without_slashes(names: Iterable[str]) -> dict[str, str]:
    """A name for each that a tree can hold; they stay different."""
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda n: ("/" in n or n in RESERVED_DIMS, n)):
        own = name.replace("/", ".")
        while own in found.values() or own in RESERVED_DIMS:
            own += "_"
        found[name] = own
    return found

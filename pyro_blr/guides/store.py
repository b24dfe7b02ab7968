# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Natural parameters as leaves of a guide, which Pyro's param store mirrors."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
from pyro.nn.module import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from .. import errors
from .._compat import params_are_handled, stored_leaf
from ..families import Natural
from ..lifting.blocks import Block

#: The leaves of guides of this process, by identity. What else stands in the
#: store under a guide's names was loaded from a file, and is where that guide is to go on.
_MADE_HERE: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()


class NaturalStore(PyroModule):
    """One module a block, one ``PyroParam`` (``constraints.real``) a natural parameter.

    The values are those of this module. Pyro's store has one entry a name, and would give guides of
    one name the same values; here it shows those of the guide that was read last.
    """

    def fill(
        self, prefix: str, naturals: Mapping[Block, Natural], loaded: dict[str, Tensor]
    ) -> None:
        """Store natural parameters, or those that were loaded under the same names.

        A new guide starts where it was told to, not where an older guide of the same name stopped.

        :param prefix: the full name of this module.
        :param loaded: what :func:`take_loaded` found; what is stored is taken out of it.
        """
        store = pyro.get_param_store()
        for name in [n for n in list(store) if n.startswith(f"{prefix}.")]:
            del store[name]
        for block, natural in naturals.items():
            holder = PyroModule()
            setattr(self, _module_name(block), holder)
            own = _parameter_names(block)
            names = [f"{prefix}.{_module_name(block)}.{name}" for name in own]
            shapes = [loaded[n].shape if n in loaded else None for n in names]
            if shapes == [tensor.shape for tensor in natural]:
                natural = tuple(loaded.pop(n).to(t) for n, t in zip(names, natural, strict=True))
            for name, tensor in zip(own, natural, strict=True):
                value = tensor.detach().clone().contiguous()
                setattr(holder, name, PyroParam(value, constraints.real))
        self.values(tuple(naturals))

    def values(self, blocks: Sequence[Block]) -> dict[Block, Natural]:
        """The natural parameters of every block, put into Pyro's store.

        :raises CheckpointError: for values of other shapes that were loaded into the store.
        """
        holders = {block: self._modules[_module_name(block)] for block in blocks}
        return {
            block: tuple(_read(holder, name) for name in _parameter_names(block))
            for block, holder in holders.items()
        }


def _read(holder: PyroModule, name: str) -> Any:
    """A parameter of a module, whatever other guides have put into Pyro's store under its name."""
    # Attributes of a Pyro module are slow, and a step reads some twenty.
    full, own = holder._pyro_get_fullname(name), _leaf_of(holder, name)
    held = stored_leaf(full)
    if held is own and _made_here(own) and not params_are_handled():
        return own  # what Pyro gives for a real parameter, if no handler looks on
    if held is not None and held is not own:
        if _made_here(held):
            del pyro.get_param_store()[full]  # where Pyro finds nothing it puts the module's own
        elif held.shape != own.shape:
            raise errors.CheckpointError(
                f"the param store has {full!r} with the shape {tuple(held.shape)}, and the guide's "
                f"has {tuple(own.shape)}. Mend: load what was saved with this model, or clear the "
                "store, pyro.clear_param_store(); the guide keeps its own values."
            )
    value = getattr(holder, name)
    leaf = _leaf(value)
    if not _made_here(leaf):
        _MADE_HERE[id(leaf)] = leaf
    return value


def _leaf_of(holder: PyroModule, name: str) -> Tensor:
    """The tensor behind a ``PyroParam``."""
    leaf: Tensor = holder._parameters[f"{name}_unconstrained"]
    return leaf


def take_loaded(prefix: str) -> dict[str, Tensor]:
    """The entries of Pyro's store under a name that were loaded from a file, by full name.

    They may be of blocks that the guide does not have before its latents are merged, so they are
    kept apart until then: Pyro drops a module's entries when another takes its place.
    """
    store = pyro.get_param_store()
    names = [n for n in store if n.startswith(f"{prefix}.")]
    return {n: store[n].detach().clone() for n in names if not is_natural(n)}


def is_natural(name: str) -> bool:
    """Whether an entry of Pyro's store mirrors a guide of this process."""
    leaf = stored_leaf(name)
    return leaf is not None and _made_here(leaf)


def _parameter_names(block: Block) -> tuple[str, ...]:
    """What a block's natural parameters, or the coordinates in their place, are stored as."""
    count = len(block.family.natural_event_dims)
    return block.family.coordinate_names or tuple(f"natural_{k}" for k in range(count))


def _module_name(block: Block) -> str:
    # A module's name may not contain a dot; two slashes, as "a/w" may stand beside "a.w".
    return block.name.replace(".", "//")


def _leaf(value: Any) -> Tensor:
    """The unconstrained leaf of a parameter, as Pyro attaches it."""
    leaf: Tensor = value.unconstrained()
    return leaf


def _made_here(leaf: Tensor) -> bool:
    return _MADE_HERE.get(id(leaf)) is leaf

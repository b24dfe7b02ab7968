# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The parameters of a guide that is a module: its own tensors, and those of Pyro's store."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn.module import PyroModule

from ._compat import stored_leaf
from .guides.store import is_natural


def share_with_store(guide: Any, read: bool = True) -> None:
    """Have a module and Pyro's store agree on every parameter, so that what moves is what is used.

    Where the module has another tensor than the store (it is a copy, or the store was loaded), Pyro
    takes the store's when a ``PyroParam`` is read, but goes on with the module's own for an
    ``nn.Parameter``, while optimisers see the store's.

    :param read: whether to read each ``PyroParam``; a call of the guide does so itself.
    """
    is_local = pyro.settings.get("module_local_params")
    if is_local or not isinstance(guide, PyroModule) or not guide._pyro_context.used:
        return
    with guide._pyro_context, poutine.block():
        for owner in list(guide.modules()):
            if isinstance(owner, PyroModule) and owner._pyro_context is guide._pyro_context:
                for name in owner._pyro_params if read else ():
                    if not is_natural(owner._pyro_get_fullname(name)):
                        getattr(owner, name)
                for module, name, full in list(_plain(owner)):
                    _adopt(module, name, full)


def _plain(owner: PyroModule) -> Iterator[tuple[torch.nn.Module, str, str]]:
    """The ``nn.Parameter`` of a module and of its plain submodules, with their full names."""
    for name in owner._parameters:
        if name.removesuffix("_unconstrained") not in owner._pyro_params:
            yield owner, name, owner._pyro_get_fullname(name)
    for name, child in owner._modules.items():
        if child is not None and not isinstance(child, PyroModule):
            for path, _ in child.named_parameters():
                parent, _, last = path.rpartition(".")
                full = f"{owner._pyro_get_fullname(name)}$$${path}"
                yield child.get_submodule(parent), last, full


def _adopt(owner: torch.nn.Module, name: str, full: str) -> None:
    held, own = stored_leaf(full), owner._parameters[name]
    if held is None or own is None or held is own:
        return
    store = pyro.get_param_store()
    if held.shape != own.shape:
        del store[full]  # of another guide: Pyro then puts the module's own in its place
        return
    if not isinstance(held, torch.nn.Parameter):
        held = torch.nn.Parameter(held.detach())
        store.set_state({"params": {full: held}, "constraints": {}})
    owner._parameters[name] = held


class Fresh:
    """A guide and Pyro's store as they are, to be put back after a call that came to nothing."""

    def __init__(self, guide: torch.nn.Module) -> None:
        self._modules = [(m, _shallow(m.__dict__)) for m in guide.modules()]
        self._names = set(pyro.get_param_store().keys())

    def restore(self) -> None:
        """Undo what the modules and the store were given since."""
        for module, attributes in self._modules:
            module.__dict__.clear()
            module.__dict__.update(_shallow(attributes))
        store = pyro.get_param_store()
        for name in set(store.keys()) - self._names:
            del store[name]


def _shallow(attributes: dict[str, Any]) -> dict[str, Any]:
    kinds = (dict, OrderedDict, list, set)
    return {n: v.copy() if type(v) in kinds else v for n, v in attributes.items()}

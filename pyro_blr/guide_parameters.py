# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The parameters of a guide that holds them itself: Pyro's own guides and hand-written ones."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.optim import PyroOptim
from torch import Tensor

from . import errors
from ._compat import constraint_of
from .energy.parameters import Parameter
from .guides.checkpoint import refuse_kind, require
from .guides.store import is_natural
from .module_parameters import Fresh, share_with_store
from .random_state import same_random_state
from .saved_constraints import constraint_from, saved_constraint
from .saved_parameters import SavedParameters, parameters_state


class GuideParameters:
    """What must be saved of such a guide: unconstrained parameters, their optimisers, buffers.

    A module has its own parameters and buffers, and takes them up at its first call, whoever calls
    it. Beside these there are ``pyro.param`` statements: a module's are those of its first call; of
    a function all those of the param store are taken, since which of them it will make is not
    known. Their values go into the store at once, where the statements find them.
    """

    def __init__(self, guide: Callable[..., Any], optim: PyroOptim) -> None:
        self.guide = guide
        self.optim = optim
        self._own = SavedParameters()
        self._buffers: dict[str, Tensor] = {}
        self._statements = SavedParameters()
        #: The names of a module's statements; None until it has been called.
        self._stated_by_module: set[str] | None = None

    @property
    def _module(self) -> torch.nn.Module | None:
        return self.guide if isinstance(self.guide, torch.nn.Module) else None

    @property
    def _kind(self) -> str:
        if self._module is not None:
            return type(self.guide).__name__
        return getattr(self.guide, "__name__", type(self.guide).__name__)

    def state(self) -> dict[str, Any]:
        """The parameters and their optimisers' states, to be saved."""
        share_with_store(self.guide)
        statements = self._stated()
        saved = parameters_state(statements, self.optim, self._statements)
        known = {n: _constraint(n, t) for n, t in statements.items()}
        saved["constraints"] = {n: c for n, c in known.items() if c is not None}
        if self._module is None:
            return {"kind": self._kind, **saved}
        own = parameters_state(dict(self._module.named_parameters()), self.optim, self._own)
        buffers = {n: b.detach().clone() for n, b in self._module.named_buffers()}
        found = {**own, "buffers": {**buffers, **self._buffers}, "statements": saved}
        return {"kind": self._kind, **found}

    def _stated(self) -> dict[str, Tensor]:
        """The leaves of ``pyro.param`` statements in the param store."""
        stored = dict(pyro.get_param_store().named_parameters())
        if self._module is not None:
            return {n: stored[n] for n in sorted(self._stated_by_module or ()) if n in stored}
        return {n: t for n, t in stored.items() if not is_natural(n)}

    def check_saved(self, state: Any) -> None:
        """Refuse what is no state of a guide that holds its parameters itself.

        :raises CheckpointError: naming the guide that was saved.
        """
        refuse_kind(state, "latents", self._kind)
        require(state, ("values", "optim"), "the guide")

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what was saved: at once, or where a module has no parameters yet, as soon as it
        has made them.

        :raises CheckpointError: if it is of another guide; nothing has changed then.
        """
        self.check_saved(state)
        statements = state
        if self._module is not None:
            self._load_module(self._module, state)
            statements = state.get("statements", {"values": {}, "optim": {}})
            self._stated_by_module = set(statements["values"])
        self._statements = SavedParameters.of(statements)
        self._place(statements.get("constraints", {}))

    def _load_module(self, module: torch.nn.Module, state: Mapping[str, Any]) -> None:
        share_with_store(module)
        own, buffers = SavedParameters.of(state), dict(state.get("buffers", {}))
        made = dict(module.named_parameters())
        is_used = made and getattr(module, "prototype_trace", None) is not None
        if is_used or set(made) == set(own.values):
            self._give(module, own, buffers)
            self._own, self._buffers = SavedParameters(), {}
            FirstCall.disarm(module)
        else:
            self._own, self._buffers = own, buffers
            FirstCall.arm(module, self)

    def _give(
        self, module: torch.nn.Module, own: SavedParameters, buffers: Mapping[str, Tensor]
    ) -> None:
        """Give a module its parameters and buffers.

        :raises CheckpointError: if they are not those that were saved; nothing has changed then.
        """
        made, held = dict(module.named_parameters()), dict(module.named_buffers())
        wrong = _differences(own.values, made)
        wrong += _differences(buffers, held) if buffers else []
        if wrong:
            raise errors.CheckpointError(
                f"the saved state is of another guide or model: {'; '.join(wrong)}. Mend: make the "
                "model and the guide as they were when the state was saved, and call a new guide "
                "first with the data it was fitted to, blr.evaluate_loss(X, y) or guide(X, y), "
                "and pyro.clear_param_store() before it, where another guide of its name was used."
            )
        real = constraints.real
        own.give({n: Parameter(n, t, t.detach(), real) for n, t in made.items()}, self.optim)
        with torch.no_grad():
            for name, value in buffers.items():
                held[name].copy_(value)

    def _place(self, known: Mapping[str, Any]) -> None:
        """Put the values of ``pyro.param`` statements where these find them.

        Those of modules, and those under a constraint of the user's own, wait for the next call of
        the engine: a module does not take up what it finds in the store.
        """
        store, saved = pyro.get_param_store(), self._statements
        for name in [n for n in saved.values if n in known and n not in store]:
            leaf = saved.values[name].detach().clone().requires_grad_(True)
            constraint = constraint_from(known[name])
            store.set_state({"params": {name: leaf}, "constraints": {name: constraint}})
        self._give_stated({n: t for n, t in self._stated().items() if n in known})

    def _give_stated(self, leaves: Mapping[str, Tensor]) -> None:
        made = {n: Parameter(n, t, t.detach(), constraints.real) for n, t in leaves.items()}
        self._statements.give(made, self.optim)

    def take_up(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Give the guide, before the engine uses it, what it has not taken up yet.

        :raises CheckpointError: for parameters of another guide.
        """
        share_with_store(self.guide, read=False)
        if self._module is not None and self._stated_by_module is None:
            own = {id(p) for p in self._module.parameters()}
            stored = dict(pyro.get_param_store().named_parameters())
            others = {n for n, t in stored.items() if id(t) not in own and not is_natural(n)}
            self._stated_by_module = others & self._params(args, kwargs) if others else set()
        if self._own.values or self._statements.values:
            with same_random_state(), torch.no_grad(), poutine.block():
                self.guide(*args, **kwargs)
            self._give_stated(self._stated())
            # What is left is of the model, which has its own state, or of no use any more.
            self._statements = SavedParameters()

    def _params(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> set[str]:
        """The names of the parameters that the guide asks for in a call."""
        with same_random_state(), torch.no_grad(), poutine.block():
            trace = poutine.trace(self.guide, param_only=True).get_trace(*args, **kwargs)
        return {name for name, site in trace.nodes.items() if site["type"] == "param"}

    def first_call(self, module: torch.nn.Module, call: Callable[[], Any]) -> None:
        """Have a module make its parameters, and give it those that were saved.

        :param call: runs the module as it would be run without a saved state.
        """
        fresh = Fresh(module)
        try:
            FirstCall.disarm(module)
            with same_random_state(), torch.no_grad(), poutine.block():
                call()
            self._give(module, self._own, self._buffers)
        except BaseException:
            fresh.restore()
            raise
        self._own, self._buffers = SavedParameters(), {}


class FirstCall:
    """Stands in the place of a guide's ``forward`` until it has what was saved."""

    def __init__(self, module: torch.nn.Module, parameters: GuideParameters) -> None:
        self.module = module
        self.parameters = parameters

    @classmethod
    def arm(cls, module: torch.nn.Module, parameters: GuideParameters) -> None:
        """Have the next call of a module give it its parameters first."""
        module.__dict__["forward"] = cls(module, parameters)

    @staticmethod
    def disarm(module: torch.nn.Module) -> None:
        """Leave a module as it was."""
        if isinstance(module.__dict__.get("forward"), FirstCall):
            del module.__dict__["forward"]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.parameters.first_call(self.module, lambda: self.module(*args, **kwargs))
        return self.module.forward(*args, **kwargs)


def _constraint(name: str, leaf: Tensor) -> dict[str, Any] | None:
    """The constraint of a ``pyro.param`` statement; None for the parameter of a module."""
    if isinstance(leaf, torch.nn.Parameter):
        return None
    return saved_constraint(constraint_of(name, None))


def _differences(saved: Mapping[str, Tensor], made: Mapping[str, Tensor]) -> list[str]:
    """How what was saved differs from what a guide has, in words."""
    found = []
    for name in sorted({*saved, *made}):
        shown = name.removesuffix("_unconstrained")
        if name not in made:
            found.append(f"{shown!r} was saved, and is not in the guide")
        elif name not in saved:
            found.append(f"{shown!r} is in the guide, and was not saved")
        elif saved[name].shape != made[name].shape:
            shapes = tuple(saved[name].shape), tuple(made[name].shape)
            found.append(f"{shown!r} was saved with the shape {shapes[0]}, and has {shapes[1]}")
    return found

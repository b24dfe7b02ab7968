# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The names of Pyro that are not in its public interface, in one place."""

import copy
from typing import Any

import pyro
from pyro.distributions import constraints
from pyro.infer.autoguide.guides import prototype_hide_fn
from pyro.infer.autoguide.initialization import InitMessenger, init_to_median
from pyro.infer.inspect import get_model_relations
from pyro.ops.tensor_utils import periodic_repeat
from pyro.optim import PyroOptim
from pyro.optim.optim import _get_state_dict, _load_state_dict
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor

__all__ = [
    "InitMessenger",
    "constraint_of",
    "get_model_relations",
    "init_to_median",
    "optimiser_of",
    "optimiser_state",
    "params_are_handled",
    "periodic_repeat",
    "prototype_hide_fn",
    "set_optimiser_state",
    "site_is_subsample",
    "stored_leaf",
    "without_state",
]


def constraint_of(name: str, stated: Any) -> Any:
    """The constraint of a parameter: the store's, which a later statement need not repeat.

    :param stated: that of the statement, for a parameter that is not in the store.
    """
    held = pyro.get_param_store()._constraints.get(name)
    return held or stated or constraints.real


def params_are_handled() -> bool:
    """Whether a handler that is open may do something with ``pyro.param``."""
    return any(
        type(m)._process_message is not Messenger._process_message
        or type(m)._postprocess_message is not Messenger._postprocess_message
        or hasattr(m, "_pyro_param")
        or hasattr(m, "_pyro_post_param")
        for m in _PYRO_STACK
    )


def stored_leaf(name: str) -> Tensor | None:
    """The unconstrained tensor of Pyro's store under a name; None if it has none."""
    leaf: Tensor | None = pyro.get_param_store()._params.get(name)
    return leaf


def optimiser_state(optim: PyroOptim, leaf: Tensor) -> dict[str, Any] | None:
    """The state of the optimiser of one parameter; None if it has none yet.

    ``PyroOptim.get_state`` names parameters by the store, where those of modules are not under
    ``module_local_params``.
    """
    if leaf not in optim.optim_objs:
        return None
    state: dict[str, Any] = copy.deepcopy(_get_state_dict(optim.optim_objs[leaf]))
    return state


def optimiser_of(optim: PyroOptim, leaf: Tensor) -> Any:
    """The torch optimiser (or scheduler) of one parameter, made if there is none yet."""
    if leaf not in optim.optim_objs:
        optim.optim_objs[leaf] = optim._get_optim(leaf)
        optim.grad_clip[leaf] = optim._get_grad_clip(leaf)
    return optim.optim_objs[leaf]


def set_optimiser_state(optim: PyroOptim, leaf: Tensor, state: dict[str, Any]) -> None:
    """Set the state of the optimiser of one parameter."""
    _load_state_dict(optimiser_of(optim, leaf), copy.deepcopy(state))


def without_state(optim: PyroOptim | None) -> PyroOptim | None:
    """An optimiser as it was made, before it saw a parameter."""
    if optim is None:
        return None
    fresh = copy.copy(optim)
    fresh.optim_objs, fresh.grad_clip, fresh._state_waiting_to_be_consumed = {}, {}, {}
    return fresh

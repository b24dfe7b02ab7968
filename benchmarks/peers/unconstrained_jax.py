# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The log joint of a NumPyro model over the unconstrained space, for libraries that take one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import init_to_uniform, init_to_value
from numpyro.infer.util import initialize_model

from .numpyro_twins import TWINS

Position = dict[str, jax.Array]


def log_joint(given: dict[str, Any]) -> tuple[Callable[[Position], jax.Array], Position]:
    """The function, and where to start: as the problem says, or within 2 of the origin."""
    start = given["start"]
    found = initialize_model(
        jax.random.PRNGKey(given["seed"]),
        TWINS[given["problem"]],
        model_args=given["args"],
        init_strategy=init_to_value(values=start) if start else init_to_uniform,
        validate_grad=False,
    )
    potential = found.potential_fn
    return lambda z: -potential(z), {name: jnp.asarray(z) for name, z in found.param_info.z.items()}


def flat(tree: Position) -> Any:
    """In the order of the names, as JAX has dictionaries."""
    return np.concatenate([np.ravel(tree[name]) for name in sorted(tree)])


def sites(tree: Position) -> list[tuple[str, int]]:
    """Names and sizes in that order."""
    return [(name, int(np.size(tree[name]))) for name in sorted(tree)]

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The twin of a model in NumPyro, where there is one, in one thread and double precision."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from ..stan_models import Example

#: Read by XLA when JAX first computes: one thread, as the other sides have.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def twin_of(example: Example) -> Callable[..., None] | None:
    """The model in NumPyro; None if it has none or if NumPyro is not installed."""
    if find_spec("numpyro") is None:
        return None
    os.environ.setdefault("XLA_FLAGS", ONE_THREAD)
    import numpyro

    from .. import numpyro_models

    numpyro.enable_x64()
    twin: Callable[..., None] | None = getattr(numpyro_models, example.name, None)
    return twin


def in_jax(args: Any) -> Any:
    """Tensors as JAX arrays, in whatever they lie."""
    import jax

    return jax.tree.map(lambda a: a.numpy() if torch.is_tensor(a) else a, args)

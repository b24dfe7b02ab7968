# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Gradients in parameters, looked at before an optimiser takes them."""

from collections.abc import Mapping

from torch import Tensor

from .. import errors
from ..lifting import host


def check_gradients(gradients: Mapping[str, Tensor | None]) -> None:
    """Refuse gradients that are NaN or infinite, before anything moves.

    :raises NonFiniteError: naming the parameter.
    """
    known = {name: g for name, g in gradients.items() if g is not None}
    are_finite = host.truths([g.isfinite().all() for g in known.values()]) if known else []
    for name, is_finite in zip(known, are_finite, strict=True):
        if not is_finite:
            raise errors.NonFiniteError(
                f"the gradient of the loss in parameter {name!r} is NaN or infinite; nothing was "
                "moved. Mend: look for an operation without a derivative there (a root or a "
                "logarithm of 0, torch.where over a NaN), or start elsewhere (init_loc_fn)."
            )

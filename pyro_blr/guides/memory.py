# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a dense precision matrix would take, asked before it is allocated."""

import os

import torch

from .. import errors

#: Matrices of the precision's size that a step holds at a time: the precision, its Cholesky factor,
#: the covariance, the message to it, and one more while the next precision is tried.
MATRICES = 5
BYTES = 8  # float64


def available_bytes(device: torch.device) -> int | None:
    """The memory that is free on a device, or None where it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def check_memory(guide: str, size: int, device: torch.device) -> None:
    """Refuse a full covariance over more elements than memory holds.

    :param guide: the guide's name, for the error.
    :param size: the length D of the latent vector.
    :raises MemoryLimitError: with what would fit.
    """
    needed, free = MATRICES * BYTES * size * size, available_bytes(device)
    if free is None or needed <= free:
        return
    rank = max(1, round(size**0.5))
    raise errors.MemoryLimitError(
        f"{guide} over {size} elements holds {size} x {size} matrices of "
        f"{BYTES * size * size / 1e9:.3g} GB each, {MATRICES} of them at a step, and "
        f"{free / 1e9:.3g} GB of memory are free. Mend: AutoNaturalLowRankMultivariateNormal("
        f"model, rank={rank}) takes {BYTES * size * (rank + 2) / 1e9:.3g} GB, "
        f"AutoNaturalNormal(model) {BYTES * 2 * size / 1e9:.3g} GB; or name the sites that belong "
        f"together, {guide}(model, sites=[...])."
    )

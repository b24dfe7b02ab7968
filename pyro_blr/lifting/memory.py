# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The memory that is free, asked before a dense covariance is allocated."""

import os

import torch

from .. import errors

BYTES = 8  # float64

#: Matrices of the covariance's size that an evaluation holds at a time: ``W W'``, the diagonal laid
#: out, their sum, the second moment, and the gradient in it.
MATRICES = 5


def available_bytes(device: torch.device) -> int | None:
    """The memory that is free on a device, or None where it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def check_dense(block: str, size: int, rank: int, device: torch.device) -> None:
    """Refuse the matrix of a low-rank covariance that memory does not hold.

    :param size: the number of elements D.
    :raises MemoryLimitError: with what to do instead.
    """
    needed, free = MATRICES * BYTES * size * size, available_bytes(device)
    if free is None or needed <= free:
        return
    raise errors.MemoryLimitError(
        f"a factor of {block!r} needs the {size} x {size} covariance matrix of its elements, of "
        f"{BYTES * size * size / 1e9:.3g} GB, {MATRICES} of them at a step, and "
        f"{free / 1e9:.3g} GB of memory are free; the guide itself holds "
        f"{BYTES * size * (rank + 2) / 1e9:.3g} GB. Mend: name only the sites whose correlations "
        "matter, sites=[...]; or AutoNaturalNormal(model), which has no correlations."
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which rows each plate of a run of the model holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..lifting import host


@dataclass(frozen=True, eq=False)
class Subsample:
    """The rows of one plate in one run.

    :param index: # shape: (size of the subsample,)
    :param size: the plate's full size.
    :param is_given: whether the model named the rows, ``subsample=index``, so that none were drawn.
    """

    index: Tensor
    size: int
    is_given: bool

    @cached_property
    def is_whole(self) -> bool:
        """Whether it is every row in order, so that a latent need not be indexed."""
        if len(self.index) != self.size:
            return False
        rows = torch.arange(self.size, device=self.index.device)
        return not self.is_given or host.truth((self.index == rows).all())

    @cached_property
    def is_a_part(self) -> bool:
        """Whether some row of the plate is not in it: a part, or rows drawn with replacement."""
        if len(self.index) != self.size:
            return True
        rows = torch.arange(self.size, device=self.index.device)
        return not self.is_whole and not host.truth((self.index.sort().values == rows).all())


def times_held(
    indices: Mapping[int, Tensor],
    dims: tuple[int, ...],
    shape: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """How often subsamples hold each element of a batch. # shape: that of the batch

    :param indices: the rows of each subsampled plate, by its dim.
    :param dims: those of the batch, which these are among.
    """
    held = torch.ones(shape, dtype=torch.float64, device=device)
    for dim, index in indices.items():
        place = dims.index(dim)
        own = torch.zeros(shape[place], dtype=held.dtype, device=device)
        index = index.to(device)
        own = own.index_add(0, index, torch.ones_like(index, dtype=held.dtype))
        held = held * own.reshape(-1, *(1,) * (len(shape) - 1 - place))
    return held


class Subsamples:
    """Records the rows of each plate of a run, from the messages of its plates."""

    def __init__(self) -> None:
        self.by_plate: dict[str, Subsample] = {}
        self._given: set[str] = set()

    def before(self, msg: dict[str, Any]) -> None:
        """Note whether the rows are given, before Pyro draws those that are not.

        :raises SubsampleError: for a minibatch that does not fit its plate.
        """
        name, size, value = msg["name"], msg["fn"].size, msg["value"]
        if value is not None and not msg["done"]:
            self._given.add(name)
        asked = msg["fn"].subsample_size if value is None else len(value)
        if int(size if asked is None else asked) == 0:
            raise _nothing(name, int(size))
        if asked is not None and int(asked) > int(size):
            raise errors.SubsampleError(
                f"plate {name!r} has size {int(size)}, but its subsample has {int(asked)} rows: a "
                "minibatch cannot be larger than its plate. Mend: the size is that of all data, "
                f"pyro.plate({name!r}, len(data), subsample=index)."
            )

    def after(self, msg: dict[str, Any]) -> None:
        """Record the rows.

        :raises SubsampleError: for rows that the plate does not have.
        """
        name, size = msg["name"], int(msg["fn"].size)
        value = msg["value"]  # a list stays on the host; a tensor where it is
        index = value if isinstance(value, Tensor) else torch.as_tensor(value)
        is_given = name in self._given
        if is_given and len(index) and not host.truth(((index >= 0) & (index < size)).all()):
            raise errors.SubsampleError(
                f"the subsample of plate {name!r} names rows outside 0 ... {size - 1}. Mend: give "
                "the positions of the minibatch in the whole data set."
            )
        self.by_plate[name] = Subsample(index, size, is_given)


def _nothing(plate: str, size: int) -> errors.SubsampleError:
    """The error for a plate of which a call has no rows."""
    if size:
        return errors.SubsampleError(
            f"plate {plate!r} of size {size} has a subsample without rows: an empty minibatch says "
            "nothing of the data. Mend: leave out the step for an empty batch, `if len(batch): "
            "blr.step(batch)`."
        )
    return errors.SubsampleError(
        f"plate {plate!r} has no elements: its size is 0 in this call, so that nothing is seen or "
        "inferred in it. Mend: see where the data went, or the groups, that it has its size from; "
        "leave the plate out of a model without any, and a call with no data out of a loop."
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which rows each plate of a run of the model holds."""

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
            whole = "no elements" if int(size) == 0 else "a subsample without rows"
            raise errors.SubsampleError(
                f"plate {name!r} has {whole}: an empty minibatch says nothing of the data. Mend: "
                "leave out the step for an empty batch, `if len(batch): blr.step(batch)`, and see "
                "where the data went."
            )
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


def check_seen(frame: Any, latent: str, full: int) -> None:
    """Refuse a subsampled plate whose own site is hidden, so that its rows are not known.

    :param frame: the plate as a latent's site has it.
    :raises PlateSizeError: for a plate of another size than the latent.
    :raises SubsampleError: naming the plate.
    """
    if frame.full_size not in (None, full):
        raise changed_size(frame.name, latent, frame.full_size, full)
    if frame.size != full:
        raise errors.SubsampleError(
            f"plate {frame.name!r} of latent {latent!r} holds {frame.size} of {full} rows, but "
            "which ones is hidden by poutine.block. Mend: expose the plate with its latents, "
            f"poutine.block(model, expose=[{latent!r}, {frame.name!r}])."
        )


def changed_size(plate: str, latent: str, size: int, full: int) -> errors.PlateSizeError:
    """The error for a plate of another size than the latent that is stored for it."""
    return errors.PlateSizeError(
        f"plate {plate!r} of latent {latent!r} has size {size}, but the guide holds {full} "
        "elements of it. Mend: make a new guide for data of another size, or give the plate its "
        f"full size and a subsample: pyro.plate({plate!r}, {full}, subsample=index)."
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The processes that train one posterior: each with a copy of the weights, or with a part of them.

*Copies*: each rank takes draws of its own, on data of its own; gradients, and what is summed over
draws, are averaged where a step is taken. R ranks with a draw each are one process with R draws.
*Shards* (FSDP): each rank has a part of one draw, and gradients are averaged in the backward pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, LoneRankWarning, ProcessError, warn
from ..lifting import host
from ..processes import Together
from .noise import Noise, SharedNoise, hashed
from .sharding import is_sharded

#: Numbers that are sent at a time.
BUCKET = 2**24


class OneRank:
    """One process, as which a group of ranks has the same methods."""

    size = 1
    #: Whether each rank has all weights, and draws of its own.
    has_copies = False

    def seed(self, seed: int) -> int:
        """A seed that all ranks have."""
        return seed

    def noise(self, seed: int) -> Noise:
        """The noise of this rank."""
        return Noise(seed)

    def noise_of(self, state: Mapping[str, Any]) -> Noise:
        """The noise that goes on where its state was taken."""
        noise = self.noise(int(state["seed"]))
        noise.resume(state)
        return noise

    def passing_noise(self, seed: int) -> Noise:
        """The noise of a draw that does not count."""
        return Noise(seed)

    def begin_with(self, parameters: Sequence[Tensor]) -> None:
        """Have all ranks begin with the same weights."""

    def all(self, condition: bool) -> bool:
        """Whether a condition holds on each rank."""
        return condition

    def fail(self, error: Exception) -> Exception:
        """What is to be raised for an error."""
        return error


class Copies(OneRank):
    """Ranks of which each has all weights.

    :param group: a ``torch.distributed.ProcessGroup``.
    """

    has_copies = True

    def __init__(self, group: Any) -> None:
        from torch import distributed

        if not isinstance(group, distributed.ProcessGroup):
            raise ArgumentError(
                f"process_group = {group!r} is none. Mend: torch.distributed.group.WORLD after "
                "init_process_group; on a rank outside of a group, make no optimiser."
            )
        self._distributed = distributed
        self._together = Together(group)
        self.size, self.rank = self._together.size, self._together.rank
        self._first = distributed.get_global_rank(group, 0)

    def seed(self, seed: int) -> int:
        """That of the first rank."""
        return self._together.seed(seed)

    def fail(self, error: Exception) -> Exception:
        """Let the other ranks raise as well, in their next step; what is to be raised here."""
        return self._together.fail(error)

    def noise(self, seed: int) -> Noise:
        """Noise of this rank's own."""
        return SharedNoise(seed, (self.rank,))

    def begin_with(self, parameters: Sequence[Tensor]) -> None:
        """Take the weights of the first rank.

        :raises ArgumentError: if they are sharded, or differ in number, shape or dtype.
        """
        if any(is_sharded(p) or hasattr(p, "_is_flat_param") for p in parameters):
            raise ArgumentError(
                "process_group is for ranks that have all weights each, and a parameter is "
                "sharded: each has a part. Mend: leave process_group out; the mesh of the "
                "parameters of fully_shard says which ranks there are."
            )
        kinds = repr([(tuple(p.shape), p.dtype) for p in parameters])
        own = [len(parameters), sum(p.numel() for p in parameters), hashed(kinds, 6)]
        sizes = self.gathered([float(n) for n in own], "parameters of an optimiser")
        if any(own != sizes[0] for own in sizes):
            said = "; ".join(f"{int(n)} of {int(m)} numbers" for n, m, _ in sizes)
            raise ArgumentError(
                f"the ranks have different parameters: {said}, in other shapes or dtypes. Mend: "
                "make the same net and the same groups of parameters on every rank."
            )
        with torch.no_grad(), _together():
            for parameter in parameters:
                values = parameter.detach().contiguous()
                self._distributed.broadcast(values, self._first, group=self._together.group)
                parameter.copy_(values)

    def gathered(self, values: Sequence[float], what: str) -> list[list[float]]:
        """Some numbers of each rank, by rank.

        :param what: they are.
        """
        return self._together.of_each(values, what)

    def averaged(self, tensors: Sequence[Tensor], scale: float) -> list[Tensor]:
        """The mean over ranks of tensors times a scale that each rank has for itself.

        In place, but for tensors in short formats, whose mean is in float32.
        """
        results = [t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]
        for bucket in _buckets(results):
            alone = bucket[0] if len(bucket) == 1 and bucket[0].is_contiguous() else None
            flat = torch.cat([t.reshape(-1) for t in bucket]) if alone is None else alone
            flat.mul_(scale / self.size)
            with _together():
                self._distributed.all_reduce(flat, group=self._together.group)
            if alone is None:
                means = flat.split([t.numel() for t in bucket])
                for tensor, mean in zip(bucket, means, strict=True):
                    tensor.copy_(mean.view(tensor.shape))
        return results


class Shards(OneRank):
    """Ranks of which each has a part of the weights.

    :param meshes: ``DeviceMesh``es that the parameters are spread over.
    """

    def __init__(self, meshes: Sequence[Any]) -> None:
        from torch import distributed

        self._distributed = distributed
        self._meshes = meshes
        self.size = max(mesh.size() for mesh in meshes)
        self._device = torch.device(meshes[0].device_type)

    @property
    def _groups(self) -> list[Any]:
        # Not kept, as in Together; meshes know them by name.
        return [mesh.get_group(dim) for mesh in self._meshes for dim in range(mesh.ndim)]

    def seed(self, seed: int) -> int:
        """That of the first rank of each mesh."""
        value = torch.tensor(seed, device=self._device)
        with _together():
            for group in self._groups:
                first = self._distributed.get_global_rank(group, 0)
                self._distributed.broadcast(value, first, group=group)
        return int(value)

    def noise(self, seed: int) -> Noise:
        """Noise that is of a rank's own by the places of its parts."""
        return SharedNoise(seed, ())

    def passing_noise(self, seed: int) -> Noise:
        """The same draw on all ranks, which need each other's parts of it."""
        return self.noise(self.seed(seed))

    def all(self, condition: bool) -> bool:
        """Whether a condition holds on each rank."""
        value = torch.tensor(float(condition), device=self._device)
        with _together():
            for group in self._groups:
                self._distributed.all_reduce(value, self._distributed.ReduceOp.MIN, group=group)
        return host.truth(value)


def warn_of_other_ranks() -> None:
    """Warn where there are other ranks, and neither a group nor a seed that they share."""
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return
    if distributed.get_world_size() > 1:
        warn(
            "there are other ranks, and this optimiser was given neither a process_group nor a "
            "seed: with noise and Hessians of its own on each rank, their weights drift apart. "
            "Mend: process_group=torch.distributed.group.WORLD; for runs that are to be "
            "independent a seed of its own on each rank.",
            LoneRankWarning,
        )


@contextmanager
def _together() -> Iterator[None]:
    """Say what a failed exchange between ranks means."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            f"an exchange with the other ranks failed ({str(error).splitlines()[0]}): one of them "
            "was killed or ended before. No step was taken here. Mend: see what others printed; "
            "start all of them again and load_state_dict what was saved last."
        ) from error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype and device, so many that they have BUCKET numbers, or a larger one."""
    held: list[Tensor] = []
    count = 0
    for tensor in tensors:
        kind, size = (tensor.dtype, tensor.device), tensor.numel()
        if held and ((held[0].dtype, held[0].device) != kind or count + size > BUCKET):
            yield held
            held, count = [], 0
        held.append(tensor)
        count += size
    if held:
        yield held

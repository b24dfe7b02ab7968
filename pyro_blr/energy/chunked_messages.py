# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The messages along a chain, of which chunks are taken side by side."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import ceil, prod

import torch
from torch import Tensor

#: Steps of a chunk. Chunks of n take 2 n operations each time that T shrinks by n, and about twenty
#: more: (n + 10) / log(n) is least near 8.
LENGTH = 8

#: Multiplications that take as long as starting an operation, about.
STARTING = 2**15


def messages_of(start: Tensor, moves: Tensor, seen: Tensor) -> Tensor:
    """The message after each step, up to a factor: moved, then multiplied by what is seen.

    :param start: # shape: (*batch, S, 1)
    :param moves: # shape: (*batch, T or 1, S, S)
    :param seen: # shape: (*batch, S, T)
    :return: # shape: (*batch, S, T)
    """
    if moves.shape[-3] == 1:
        return _through(start, _AlikeSteps(moves, seen))
    return _through(start, _Steps(moves * seen.mT.unsqueeze(-2)))


def moved(messages: Tensor, moves: Tensor) -> Tensor:
    """The message of each step moved by its transition.

    :param messages: # shape: (*batch, S, T)
    :param moves: # shape: (*batch, T or 1, S, S)
    """
    if moves.shape[-3] == 1:
        return moves.squeeze(-3).mT @ messages
    return (messages.mT.unsqueeze(-2) @ moves).squeeze(-2).mT


class _Chunks(ABC):
    """The steps of a chain, in chunks of one length; the last is filled up.

    :param steps: how many there are.
    :param work: the multiplications that a product takes at one step of one chunk.
    """

    def __init__(self, steps: int, work: int) -> None:
        self.steps = steps
        self.length = LENGTH if steps > LENGTH and work < STARTING else steps
        self.count = ceil(steps / self.length)
        self.missing = self.count * self.length - steps

    @abstractmethod
    def products(self) -> Tensor:
        """The product of each chunk's steps, up to a factor. # shape: (*batch, chunks, S, S)"""

    @abstractmethod
    def messages(self, starts: Tensor) -> Tensor:
        """The message after each step from that in front of each chunk.

        :param starts: # shape: (*batch, S, chunks)
        :return: # shape: (*batch, S, T)
        """


def _through(start: Tensor, chunks: _Chunks) -> Tensor:
    """All chunks have their steps multiplied; messages go from chunk to chunk, then through all.

    A product takes S times the work of a message: where that is more than what starting operations
    takes, all is one chunk.
    """
    if chunks.count > 1:
        ends = _through(start, _Steps(chunks.products()))
        start = torch.cat((start, ends[..., :-1]), -1)
    return chunks.messages(start)


class _Steps(_Chunks):
    """Steps that are matrices of their own.

    :param matrices: # shape: (*batch, T, S, S)
    """

    def __init__(self, matrices: Tensor) -> None:
        *batch, steps, S, _ = matrices.shape
        super().__init__(steps, prod(batch) * S**3)
        if self.missing:
            matrices = torch.cat((matrices, matrices[..., : self.missing, :, :]), -3)
        by_place = matrices.unflatten(-3, (self.count, self.length))
        self._matrices: Sequence[Tensor] = by_place.unbind(-3)

    def products(self) -> Tensor:
        product, *rest = self._matrices
        for matrices in rest:
            product = product @ matrices
        return _scaled(product, (-2, -1))

    def messages(self, starts: Tensor) -> Tensor:
        found, message = [], starts.mT.unsqueeze(-2)
        for matrices in self._matrices:
            message = message @ matrices
            if self.count == 1:
                message = _scaled(message, (-1,))
            found.append(message)
        along = torch.cat(found, -2).flatten(-3, -2)
        return along[..., : self.steps, :].mT


class _AlikeSteps(_Chunks):
    """Steps that move alike and differ in what is seen: one product of matrices for all chunks.

    :param moves: # shape: (*batch, 1, S, S)
    :param seen: # shape: (*batch, S, T)
    """

    def __init__(self, moves: Tensor, seen: Tensor) -> None:
        *batch, S, steps = seen.shape
        super().__init__(steps, prod(batch) * S**3)
        if self.missing:
            seen = torch.cat((seen, seen[..., : self.missing]), -1)
        self._moves = moves.squeeze(-3).mT
        by_place = seen.unflatten(-1, (self.count, self.length)).movedim(-1, 0)
        self._seen: Sequence[Tensor] = by_place.contiguous().unbind(0)

    def products(self) -> Tensor:
        *batch, S, count = self._seen[0].shape
        product = self._moves.unsqueeze(-1) * self._seen[0].unsqueeze(-2)
        for seen in self._seen[1:]:
            product = self._moves @ product.reshape(*batch, S, S * count)
            product = product.reshape(*batch, S, S, count) * seen.unsqueeze(-2)
        return _scaled(product, (-3, -2)).movedim(-1, -3).mT.contiguous()

    def messages(self, starts: Tensor) -> Tensor:
        found, message = [], starts
        for seen in self._seen:
            message = (self._moves @ message) * seen
            if self.count == 1:
                message = _scaled(message, (-2,))
            found.append(message)
        return torch.stack(found, -1).flatten(-2)[..., : self.steps]


def _scaled(factors: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Over their largest entry, a constant: messages are right up to a factor."""
    return factors / factors.detach().amax(dims, keepdim=True)

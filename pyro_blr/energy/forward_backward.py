# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The log of the sum over all paths of a hidden Markov chain, and its derivatives of any order."""

from collections.abc import Sequence
from math import ceil, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..lifting import host
from .log_einsum import largest, log_sum

#: Messages that meet in less than this have lost what float64 does not hold (2e-308): of sums of
#: fewer than 1e40 terms less than rounding.
LOST = 1e-250

#: Steps of a chunk. Chunks of n take 2 n operations each time that T shrinks by n, and about twenty
#: more: (n + 10) / log(n) is least near 8.
LENGTH = 8

#: Multiplications that take as long as starting an operation, about.
STARTING = 2**15


def log_evidence(initial: Tensor, transition: Tensor, observation: Tensor) -> Tensor:
    """The log of the sum over all paths; each step is a transition, then an observation.

    Nothing need be normalised, and -inf is what is impossible.

    :param initial: # shape: (*batch, S)
    :param transition: # shape: (*batch, T or 1, S, S)
    :param observation: # shape: (*batch, T, S)
    :return: # shape: (*batch)
    """
    total, meeting = _Smoothing.apply(initial, transition, observation)  # type: ignore[no-untyped-call]
    if host.truth(meeting > LOST):
        result: Tensor = total
        return result
    return _one_by_one(initial, transition + observation.unsqueeze(-2))


def _one_by_one(initial: Tensor, steps: Tensor) -> Tensor:
    """The same in logarithms, step by step: slower, for paths that differ by hundreds of nats."""
    message = initial
    for step in steps.unbind(-3):
        message = log_sum(message.unsqueeze(-1) + step, [-2])
    return log_sum(message, [-1])


class _Smoothed(NamedTuple):
    """The log of the sum, its gradient, and the least size at which messages meet."""

    total: Tensor
    gradient: tuple[Tensor, Tensor, Tensor]
    meeting: Tensor


class _Smoothing(torch.autograd.Function):
    """The log of the sum over paths, of which smoothing is the gradient.

    Differentiated once more, smoothing runs again, of operations that autograd knows.
    """

    @staticmethod
    def forward(ctx: Any, *logs: Tensor) -> tuple[Tensor, Tensor]:
        found = _smooth(*logs)
        ctx.save_for_backward(*logs, *found.gradient)
        ctx.mark_non_differentiable(found.meeting)
        return found.total, found.meeting

    @staticmethod
    def backward(ctx: Any, weight: Tensor, _: Tensor) -> tuple[Tensor, ...]:
        logs, gradient = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        if torch.is_grad_enabled():
            gradient = _smooth(*logs).gradient
        behind = zip((1, 3, 2), logs, gradient, strict=True)
        return tuple(
            (weight.reshape(*weight.shape, *(1,) * dims) * own).sum_to_size(log.shape)
            for dims, log, own in behind
        )


def _smooth(initial: Tensor, transition: Tensor, observation: Tensor) -> _Smoothed:
    """The forward-backward algorithm, scaled; the gradients have the whole batch shape."""
    start, top = _scaled_exp(initial, [-1])
    moves, moves_top = _scaled_exp(transition, [-2, -1])
    seen, seen_top = _scaled_exp(observation, [-1])
    batch = torch.broadcast_shapes(start.shape[:-1], moves.shape[:-3], seen.shape[:-2])
    start = start.expand(*batch, *start.shape[-1:])
    moves, seen = moves.expand(*batch, *moves.shape[-3:]), seen.expand(*batch, *seen.shape[-2:])

    # Backwards it is a chain too: from what the last step sees by transposed moves, and at the
    # start nothing is seen.
    last = seen[..., -1, :]
    seen_before = torch.cat((torch.ones_like(last).unsqueeze(-2), seen[..., :-1, :]), -2)
    forward, backward = _messages(
        torch.stack((start, last)).unsqueeze(-2),
        torch.stack((moves, moves.mT.flip(-3))),
        torch.stack((seen, seen_before.flip(-2))),
    )
    backward = backward.flip(-2)
    before = torch.cat((start.unsqueeze(-2), forward[..., :-1, :]), -2)
    after = torch.cat((backward[..., 1:, :], last.unsqueeze(-2)), -2)

    sizes = before.sum(-1, keepdim=True)
    filtered = before / sizes
    predicted = _step(filtered.unsqueeze(-3), moves, None).squeeze(-3)
    meeting = (predicted * after).sum(-1, keepdim=True)
    later = after / meeting
    if moves.shape[-3] == 1:
        pairs = moves * (filtered.mT @ later).unsqueeze(-3)
    else:
        pairs = moves * filtered.unsqueeze(-1) * later.unsqueeze(-2)
    first = start * backward[..., 0, :]
    gradient = (first / first.sum(-1, keepdim=True), pairs, predicted * later)

    logs = (predicted * seen).sum(-1).log() + seen_top.squeeze(-1) + moves_top[..., 0, 0]
    total = logs.sum(-1) + start.sum(-1).log() + top.squeeze(-1)
    return _Smoothed(total, gradient, (meeting * sizes).detach().min())


def _messages(start: Tensor, moves: Tensor, seen: Tensor | None) -> Tensor:
    """The message after each step, up to a factor: moved, and multiplied by what is seen, if any.

    All chunks have their steps multiplied side by side; messages go from chunk to chunk in the
    same way, then through all chunks side by side. A product takes S times the work of a message:
    where that is more than what starting operations takes, all is one chunk.

    :param start: # shape: (*batch, 1, S)
    :param moves: # shape: (*batch, T or 1, S, S)
    :param seen: # shape: (*batch, T, S)
    """
    *batch, _, S = start.shape
    T = moves.shape[-3] if seen is None else seen.shape[-2]
    length = LENGTH if T > LENGTH and prod(batch) * S**3 < STARTING else T
    chunks = ceil(T / length)
    sees: Sequence[Tensor | None] = [None] * length
    if seen is not None:  # laid along chunks, as the messages are
        sees = [see.mT.contiguous().mT for see in _places(seen, length, -2)]
    places = list(zip(_places(moves, length, -3), sees, strict=True))
    messages = start
    if chunks > 1:
        (move, see), *rest = places
        product = move.transpose(-3, -2)
        product = product if see is None else product * see.unsqueeze(-3)
        for move, see in rest:
            product = _step(product, move, see)
        ends = _messages(start, _scaled(product.transpose(-3, -2)), None)
        messages = torch.cat((start, ends[..., :-1, :]), -2)
    messages = messages.unsqueeze(-3)
    found = []
    for move, see in places:
        messages = _step(messages, move, see)
        messages = _scaled(messages) if chunks == 1 else messages
        found.append(messages)
    by_chunk = torch.cat(found, -3).transpose(-3, -2)
    return by_chunk.reshape(*batch, chunks * length, S)[..., :T, :]


def _places(steps: Tensor, length: int, dim: int) -> Sequence[Tensor]:
    """The first step of each chunk, the second of each, ...; the last chunk is filled up."""
    if steps.shape[dim] == 1:
        return [steps] * length
    missing = -steps.shape[dim] % length
    if missing:
        steps = torch.cat((steps, steps.narrow(dim, 0, missing)), dim)
    places: Sequence[Tensor] = steps.unflatten(dim, (-1, length)).unbind(dim)
    return places


def _step(messages: Tensor, moves: Tensor, seen: Tensor | None) -> Tensor:
    """Messages of each chunk moved, and multiplied.

    :param messages: # shape: (*batch, messages, chunks, S)
    :param moves: # shape: (*batch, chunks or 1, S, S)
    :param seen: # shape: (*batch, chunks, S)
    """
    if moves.shape[-3] > 1:
        moved = (messages.transpose(-3, -2) @ moves).transpose(-3, -2)
    else:  # one product of matrices for all chunks; its long rows make what follows fast
        moved = (moves.squeeze(-3).mT @ messages.flatten(-3, -2).mT).mT
        moved = moved.unflatten(-2, messages.shape[-3:-1])
    return moved if seen is None else moved * seen.unsqueeze(-3)


def _scaled(factors: Tensor) -> Tensor:
    """Over their largest entry, a constant: messages are right up to a factor."""
    return factors / factors.detach().amax((-2, -1), keepdim=True)


def _scaled_exp(logs: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """The exponential over its largest entry, and the log of that, a constant."""
    shift = largest(logs, dims)
    return (logs - shift).exp(), shift

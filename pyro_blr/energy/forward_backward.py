# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The log of the sum over all paths of a hidden Markov chain, and its derivatives of any order."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..lifting import host
from ..shapes import broadcast_shapes
from .chunked_messages import messages_of, moved
from .log_einsum import largest, log_sum

#: Messages that meet in less than this have lost what float64 does not hold (2e-308): of sums of
#: fewer than 1e40 terms less than rounding.
LOST = 1e-250


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
    """The forward-backward algorithm, scaled; the gradients have the whole batch shape.

    Time is the last dim of what has a value at each step: its long rows make all this fast.
    """
    start, top = _scaled_exp(initial, [-1])
    moves, moves_top = _scaled_exp(transition, [-2, -1])
    seen, seen_top = _scaled_exp(observation.mT.contiguous(), [-2])  # shape: (*batch, S, T)
    batch = broadcast_shapes(start.shape[:-1], moves.shape[:-3], seen.shape[:-2])
    start = start.expand(*batch, *start.shape[-1:]).unsqueeze(-1)
    moves, seen = moves.expand(*batch, *moves.shape[-3:]), seen.expand(*batch, *seen.shape[-2:])

    # Backwards it is a chain too: from what the last step sees by transposed moves, and at the
    # start nothing is seen.
    last = seen[..., -1:]
    seen_before = torch.cat((torch.ones_like(last), seen[..., :-1]), -1)
    forward, backward = messages_of(
        torch.stack((start, last)),
        torch.stack((moves, moves.mT.flip(-3))),
        torch.stack((seen, seen_before.flip(-1))),
    )
    backward = backward.flip(-1)
    before = torch.cat((start, forward[..., :-1]), -1)
    after = torch.cat((backward[..., 1:], last), -1)

    sizes = before.sum(-2, keepdim=True)
    filtered = before / sizes
    predicted = moved(filtered, moves)
    meeting = (predicted * after).sum(-2, keepdim=True)
    later = after / meeting
    if moves.shape[-3] == 1:
        pairs = moves * (filtered @ later.mT).unsqueeze(-3)
    else:
        pairs = moves * filtered.mT.unsqueeze(-1) * later.mT.unsqueeze(-2)
    first = start.squeeze(-1) * backward[..., 0]
    gradient = (first / first.sum(-1, keepdim=True), pairs, (predicted * later).mT)

    logs = (predicted * seen).sum(-2).log() + seen_top.squeeze(-2) + moves_top[..., 0, 0]
    total = logs.sum(-1) + start.sum((-2, -1)).log() + top.squeeze(-1)
    return _Smoothed(total, gradient, (meeting * sizes).detach().min())


def _scaled_exp(logs: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """The exponential over its largest entry, and the log of that, a constant."""
    shift = largest(logs, dims)
    return (logs - shift).exp(), shift

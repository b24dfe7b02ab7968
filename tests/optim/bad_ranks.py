# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Mistakes that each rank of a :class:`tests.optim.team.Team` makes, or one of them alone."""

import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_blr.optim import IVON, VOGN, sample_posterior
from tests.optim.nets import batch, net
from tests.optim.ranks import WORLD, arrays, mesh_of, sharded_net, take_step

OPTIONS: Any = {"lr": 0.2, "ess": 20.0}


def one_bad_rank(rank: int, how: str) -> Any:
    """A NaN on the second rank alone: skipped on both."""
    sharded = how == "sharded"
    module = sharded_net(mesh_of((2,))) if sharded else net()
    group = None if sharded else WORLD.WORLD
    optimizer = IVON(list(module.parameters()), lr=0.2, ess=20.0, process_group=group, seed=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4) if how == "scaler" else None
    skipped = []
    for step in range(4):
        bad = step == 2 and rank == 1
        x, y = batch(10, seed=100 * rank + step)
        x = x * float("nan") if bad else x
        optimizer.zero_grad()
        with optimizer.sampled_params(), warnings.catch_warnings():
            loss = F.cross_entropy(module(x), y)
            (loss if scaler is None else scaler.scale(loss)).backward()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        skipped.append(optimizer.skipped)
    own = [p.full_tensor() if sharded else p for p in module.parameters()]
    return skipped, arrays(own)


def said_of(function: Callable[[], Any]) -> str:
    """The name and the text of its error; nothing where it has none."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def of_groups(rank: int) -> dict[str, str]:
    """What is said of parameters that an optimiser of several ranks cannot have."""

    def of(parameters: Iterable[Tensor], group: Any = WORLD.WORLD) -> str:
        return said_of(lambda: IVON(parameters, process_group=group, **OPTIONS))

    dtype = torch.float64 if rank else torch.float32
    found = {
        "no group": of(net().parameters(), 0),
        "different nets": of(net(hidden=7 + rank).parameters()),
        "other dtypes": of(net(dtype=dtype).parameters()),
    }
    parts = sharded_net(mesh_of((2,)))
    found["a group of parts"] = of(parts.parameters())
    vogn = VOGN(parts.parameters(), **OPTIONS)

    def per_example() -> None:
        with vogn.sampled_params():
            vogn.backward(parts, F.cross_entropy, *batch(4))

    found["parts of VOGN"] = said_of(per_example)
    found["draws of parts"] = said_of(lambda: sample_posterior(vogn, parts, 2))
    return found


def of_steps(rank: int) -> dict[str, str]:
    """What is said of ranks that would not take the same step."""
    module, found = net(), {}

    def fresh() -> Any:
        return IVON(module.parameters(), process_group=WORLD.WORLD, **OPTIONS)

    optimizer = fresh()
    take_step(module, optimizer, rank, 0)
    if rank == 1:
        optimizer._noise.end_step()
    found["another step"] = said_of(lambda: take_step(module, optimizer, rank, 1))
    other = fresh()
    own = other.param_groups[0]
    own["betas"] = (list, tuple)[rank](own["betas"])
    take_step(module, other, rank, 0)  # an option that is written in another way is the same
    own["lr"] /= 1 + rank
    found["other rates"] = said_of(lambda: take_step(module, other, rank, 1))
    frozen = fresh()
    module[0].requires_grad_(rank == 0)
    found["other weights"] = said_of(lambda: take_step(module, frozen, rank, 0))
    return found


def of_draws(rank: int) -> dict[str, str]:
    """What is said of draws and of gradients that make no step."""
    module = net()
    optimizer = IVON(module.parameters(), process_group=WORLD.WORLD, **OPTIONS)
    found = {"a copy": said_of(lambda: optimizer.__getstate__())}

    def no_weight() -> None:
        with optimizer.sampled_params(weight=0):
            module(batch()[0]).sum().backward()
        optimizer.step()

    found["no weight"] = said_of(no_weight)

    def unscaled() -> None:
        scaler = torch.amp.GradScaler("cpu")
        scaled = IVON(module.parameters(), process_group=WORLD.WORLD, **OPTIONS)
        with scaled.sampled_params():
            scaler.scale(module(batch()[0]).sum()).backward()
        scaler.unscale_(scaled)
        scaler.step(scaled)

    found["unscaled"] = said_of(unscaled)
    return found


def alone(rank: int) -> list[str]:
    """The warnings of optimisers without a group: one without a seed, and one with it."""
    module = net()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        IVON(module.parameters(), **OPTIONS)
        IVON(module.parameters(), seed=1, **OPTIONS)
    return [str(w.message) for w in said]


def one_mistake(rank: int, what: str) -> Any:
    """The second rank forgets its draw, or has a rate of NaN; whether all go on afterwards."""
    module = net()
    optimizer = IVON(module.parameters(), lr=0.2, ess=20.0, process_group=WORLD.WORLD, seed=1)
    x, y = batch(10)
    said = ""
    has_none = rank == 1 and what == "draw"
    optimizer.param_groups[0]["lr"] = math.nan if rank == 1 and what == "rate" else 0.2
    try:
        with nullcontext() if has_none else optimizer.sampled_params():
            F.cross_entropy(module(x), y).backward()
        optimizer.step()
    except Exception as error:
        name, said = type(error).__name__, str(error)
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.zero_grad()
    take_step(module, optimizer, rank, 0)
    return name, said, optimizer.state[next(module.parameters())]["step"] == 1


def with_gradients_by_hand(rank: int) -> Any:
    """A step whose gradients did not come through autograd's accumulation."""
    w = nn.Parameter(torch.zeros(3))
    optimizer = IVON([w], lr=0.2, ess=20.0, process_group=WORLD.WORLD, seed=1)
    try:
        with optimizer.sampled_params():
            w.grad = torch.ones(3)
        optimizer.step()
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return ["no error"]

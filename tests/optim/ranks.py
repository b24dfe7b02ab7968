# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What each rank of a :class:`tests.optim.team.Team` runs."""

import math
import os
import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from pyro_blr.optim import IVON, VOGN, GaussianBLR, posterior, predict, sample_posterior
from pyro_blr.optim.noise import SharedNoise
from tests.optim.nets import batch, net
from tests.optim.test_reference import SIZE, Line, X, Y, half_square

KINDS = {"IVON": IVON, "VOGN": VOGN}
#: Rows of each rank, whose loss is a mean over these.
ROWS = [slice(0, 6), slice(6, 12)]
UNEVEN = [slice(0, 3), slice(3, 12)]
EMPTY = [slice(0, 12), slice(12, 12)]
#: Of these the sum is passed backward.
SUMMED = {"uneven": UNEVEN, "empty": EMPTY}
WORLD = distributed.group


def arrays(tensors: Any) -> list[Any]:
    """Copies as NumPy has them."""
    return [t.detach().clone().numpy() for t in tensors]


def state(optimizer: Any) -> list[Any]:
    """The means, Hessians and momenta."""
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    held = [optimizer.state[p] for p in parameters]
    return arrays([*parameters, *(s["hessian"] for s in held), *(s["momentum"] for s in held)])


def run_line(rank: int, kind: str, options: Any, steps: int, how: str, draws: int) -> list[Any]:
    """Steps on a regression whose rows are divided among the ranks."""
    line = Line()
    with torch.no_grad():
        line.w.add_(rank)  # the first rank's start is taken by all
    optimizer = KINDS[kind](line.parameters(), seed=7 + rank, process_group=WORLD.WORLD, **options)
    wraps = how in ("ddp", "micro-batches")
    module: Any = DistributedDataParallel(line) if wraps else line
    rows = SUMMED.get(how, ROWS)[rank]
    x, y = X[rows], Y[rows]
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(draws):
            weight = float(len(x)) if how in SUMMED else 1.0
            with optimizer.sampled_params(weight=weight):
                if not len(x):
                    continue
                if isinstance(optimizer, VOGN):
                    optimizer.backward(module, half_square, x, y, weight=weight)
                elif how == "micro-batches":
                    with module.no_sync():
                        (half_square(module(x[:2]), y[:2]) / 3).backward()
                    (2 * half_square(module(x[2:]), y[2:]) / 3).backward()
                else:
                    (weight * half_square(module(x), y)).backward()
        optimizer.step()
    return state(optimizer)


def run_masked(rank: int, steps: int, draws: int, wraps: bool) -> Any:
    """The same on masked weights; the masks that were taken, and the weights after each step."""
    line = Line()
    with torch.no_grad():
        line.w.add_(0.3)  # of a weight of 0 no mask is seen
    start = arrays([line.w])
    optimizer = GaussianBLR(
        [line.w], 0.05, at="masked", hessian="fixed", hessian_init=1.0, betas=(0.0, 0.0),
        seed=7, process_group=WORLD.WORLD,
    )  # fmt: skip
    module: Any = DistributedDataParallel(line) if wraps else line
    x, y = X[ROWS[rank]], Y[ROWS[rank]]
    masks, weights = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(draws):
            with optimizer.sampled_params():
                masks += arrays([(line.w != 0).double()])
                half_square(module(x), y).backward()
        optimizer.step()
        weights += arrays([line.w])
    return start, masks, weights


def noise(rank: int, step: int, draw: int) -> Any:
    """The noise of one draw of :func:`run_line`."""
    stream = SharedNoise(7, (rank,))
    stream.steps = step
    stream.begin(draw)
    return stream.like([torch.empty(SIZE)], ())[0].numpy()


# ------------------------------------------------------------------------------------ sharded


def sharded_net(mesh: Any, seed: int = 0, dtype: Any = None) -> nn.Module:
    """Two layers whose weights are spread over a mesh."""
    module = net(seed, dtype=dtype)
    fully_shard(module[0], mesh=mesh)  # type: ignore[index]
    fully_shard(module, mesh=mesh)
    return module


def mesh_of(shape: tuple[int, ...]) -> Any:
    """One dim of shards, or one of copies and one of shards."""
    return init_device_mesh("cpu", shape, mesh_dim_names=("copies", "parts")[-len(shape) :])


def run_sharded(rank: int, shape: tuple[int, ...], steps: int, draws: int, kind: Any) -> Any:
    """Steps of a sharded net; whole tensors at the end, and the draws that were taken."""
    module = sharded_net(mesh_of(shape))
    own = list(module.parameters())
    options = {"lr": 0.3, "ess": 20.0, "betas": (0.9, 0.9), "hessian_init": 0.3, **kind}
    optimizer = IVON(own, seed=7 + rank, **options)
    x, y = (t[10 * rank :][:10] for t in batch(20))
    drawn = []
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(draws):
            with optimizer.sampled_params():
                drawn.append(arrays(p.full_tensor() for p in own))
                F.cross_entropy(module(x), y).backward()
        optimizer.step()
    held = [p.full_tensor() for p in own]
    held += [optimizer.state[p]["hessian"].full_tensor() for p in own]
    return drawn, arrays(held)


def sharded_predictions(rank: int) -> Any:
    """Outputs at the mean, at draws, and at the mean again; between them no backward pass."""
    torch.manual_seed(rank)
    module = sharded_net(mesh_of((2,)))
    own = list(module.parameters())
    x, _ = batch(5)
    with torch.no_grad():
        before = module(x)
        optimizer = IVON(own, lr=0.1, ess=20.0)
        values = predict(optimizer, lambda: module(x), 3)
        after = module(x)
    q = posterior(optimizer, own[0])
    return arrays([before, values, after, q.mean, own[0].full_tensor()])


def run_rounded_sharded(rank: int) -> Any:
    """Weights in bfloat16 with a state in float32."""
    module = sharded_net(mesh_of((2,)), dtype=torch.bfloat16)
    own = list(module.parameters())
    optimizer = IVON(own, lr=0.1, ess=200.0, seed=1)
    x, y = batch(20)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        with optimizer.sampled_params():
            loss = F.cross_entropy(module(x.bfloat16()).float(), y)
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, str(optimizer.state[own[0]]["mean"].dtype)


# ------------------------------------------------------------------------------ nets and resuming


def trained_net(
    rank: int, path: str, first: int, steps: int, saves: bool, loads: bool, kind: str = "IVON"
) -> Any:
    """Steps on a rank's part of a batch; the first rank saves for all."""
    module = net(seed=rank)
    options = {"lr": 0.2, "ess": 20.0, "betas": (0.9, 0.95), "process_group": WORLD.WORLD}
    optimizer = KINDS[kind](module.parameters(), seed=3 if rank == 0 else None, **options)
    said = []
    if loads:
        saved = torch.load(path, weights_only=True)
        module.load_state_dict(saved["net"])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            optimizer.load_state_dict(saved["optimizer"])
    for step in range(first, first + steps):
        take_step(module, optimizer, rank, step)
    if saves and rank == 0:
        torch.save({"net": module.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return state(optimizer), [str(w.message) for w in said]


def take_step(module: nn.Module, optimizer: Any, rank: int, step: int, factor: float = 1.0) -> None:
    """One step on a batch of the rank's own."""
    x, y = batch(10, seed=100 * rank + step)
    optimizer.zero_grad()
    with optimizer.sampled_params():
        if isinstance(optimizer, VOGN):
            optimizer.backward(module, F.cross_entropy, x * factor, y)
        else:
            F.cross_entropy(module(x * factor), y).backward()
    optimizer.step()


def trained_sharded(rank: int, path: str, first: int, steps: int, loads: bool) -> Any:
    """The same with FSDP, where each rank saves its own part."""
    module = sharded_net(mesh_of((2,)))
    optimizer = IVON(module.parameters(), lr=0.2, ess=20.0, betas=(0.9, 0.95), seed=3)
    path = f"{path}{rank}"
    if loads:
        saved = torch.load(path, weights_only=False)
        module.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
    for step in range(first, first + steps):
        take_step(module, optimizer, rank, step)
    torch.save({"net": module.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return [t.to_local().detach().numpy().copy() for t in module.parameters()]


def through_a_distributed_checkpoint(
    rank: int, path: str, shape: tuple[int, ...], loads: bool
) -> Any:
    """Three steps and the state saved, or that state loaded on another mesh."""
    from torch.distributed import checkpoint

    module = sharded_net(mesh_of(shape))
    own = list(module.parameters())
    optimizer = IVON(own, lr=0.2, ess=20.0, betas=(0.9, 0.95), seed=3)
    if loads:
        with optimizer.sampled_params(train=False):
            pass  # a first draw makes the state that is read into
        saved = {"net": module.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoint.load(saved, checkpoint_id=path)
        module.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
    else:
        for step in range(3):
            take_step(module, optimizer, rank, step)
        saved = {"net": module.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoint.save(saved, checkpoint_id=path)
    held = [optimizer.state[p] for p in own]
    tensors = [*own, *(s["hessian"] for s in held), *(s["momentum"] for s in held)]
    return arrays(t.full_tensor() for t in tensors), [s["step"] for s in held]  # type: ignore[union-attr]


def saved_on_another_mesh(rank: int) -> Any:
    """What is said of a state whose parts are others."""
    optimizers = []
    for shape in ((2,), (2, 1)):
        module = sharded_net(mesh_of(shape))
        optimizers.append(IVON(module.parameters(), lr=0.2, ess=20.0, seed=3))
        take_step(module, optimizers[-1], rank, 0)
    try:
        optimizers[0].load_state_dict(optimizers[1].state_dict())
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return ["no error"]


def killed(rank: int) -> Any:
    """The second rank stops after two steps; what the first one says, and its state by then."""
    module = net()
    optimizer = IVON(module.parameters(), lr=0.2, ess=20.0, process_group=WORLD.WORLD, seed=1)
    for step in range(2):
        take_step(module, optimizer, rank, step)
    before = state(optimizer)
    if rank == 1:
        os._exit(9)
    try:
        take_step(module, optimizer, rank, 2)
    except Exception as error:
        same = all(map(np.array_equal, before, state(optimizer)))
        return type(error).__name__, str(error), same
    return "no error", "", False


# -------------------------------------------------------------------------------------- bad input


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


def unused(rank: int) -> Any:
    """A layer that only the second rank's loss reads, and one that none does."""
    module = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    optimizer = IVON(
        module.parameters(), lr=0.2, ess=20.0, betas=(0.9, 0.9), process_group=WORLD.WORLD, seed=1
    )
    x = torch.ones(3, 2)
    for _ in range(3):
        optimizer.zero_grad()
        with optimizer.sampled_params():
            value = module[0](x).square().mean()
            if rank == 1:
                value = value + module[1](x).square().mean()
            value.backward()
        optimizer.step()
    steps = [optimizer.state[p]["step"] for p in module.parameters()]
    return steps, state(optimizer)


def errors(rank: int) -> Any:
    """What is said of each mistake, on each rank."""
    found = {}

    def expect(name: str, function: Any) -> None:
        try:
            function()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"

    group = WORLD.WORLD
    options: Any = {"lr": 0.2, "ess": 20.0}
    expect("no group", lambda: IVON(net().parameters(), process_group=0, **options))
    hidden = 7 + rank
    expect(
        "different nets",
        lambda: IVON(net(hidden=hidden).parameters(), process_group=group, **options),
    )
    dtype = torch.float64 if rank else torch.float32
    expect(
        "other dtypes", lambda: IVON(net(dtype=dtype).parameters(), process_group=group, **options)
    )
    parts = sharded_net(mesh_of((2,)))
    expect("a group of parts", lambda: IVON(parts.parameters(), process_group=group, **options))
    vogn = VOGN(parts.parameters(), **options)

    def per_example() -> None:
        with vogn.sampled_params():
            vogn.backward(parts, F.cross_entropy, *batch(4))

    expect("parts of VOGN", per_example)
    expect("draws of parts", lambda: sample_posterior(vogn, parts, 2))
    module = net()
    optimizer = IVON(module.parameters(), process_group=group, **options)
    take_step(module, optimizer, rank, 0)
    if rank == 1:
        optimizer._noise.end_step()
    expect("another step", lambda: take_step(module, optimizer, rank, 1))
    optimizer = IVON(module.parameters(), process_group=group, **options)
    own = optimizer.param_groups[0]
    own["betas"] = (list, tuple)[rank](own["betas"])
    take_step(module, optimizer, rank, 0)  # an option that is written in another way is the same
    own["lr"] /= 1 + rank
    expect("other rates", lambda: take_step(module, optimizer, rank, 1))
    optimizer = IVON(module.parameters(), process_group=group, **options)
    module[0].requires_grad_(rank == 0)
    expect("other weights", lambda: take_step(module, optimizer, rank, 0))
    module.requires_grad_()
    optimizer = IVON(module.parameters(), process_group=group, **options)
    expect("a copy", lambda: optimizer.__getstate__())

    def no_weight() -> None:
        with optimizer.sampled_params(weight=0):
            module(batch()[0]).sum().backward()
        optimizer.step()

    expect("no weight", no_weight)

    def unscaled() -> None:
        scaler = torch.amp.GradScaler("cpu")
        scaled = IVON(module.parameters(), process_group=group, **options)
        with scaled.sampled_params():
            scaler.scale(module(batch()[0]).sum()).backward()
        scaler.unscale_(scaled)
        scaler.step(scaled)

    expect("unscaled", unscaled)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        IVON(module.parameters(), **options)
        IVON(module.parameters(), seed=1, **options)
    found["alone"] = [str(w.message) for w in said]
    return found


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

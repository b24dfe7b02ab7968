# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Discrete latents in a run of the model: every value at once, along a dim of its own.

Pyro's own messenger gives out the dims, left of all plates, and takes them up again behind
``pyro.markov``; what is here says which latents get one, and what a site's dims are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..lifting.memory import BYTES, available_bytes

#: The depth of plates that a first run leaves room for, as long as the model's own is not known.
DEEPEST = 16

#: Tensors of a log density's size that an evaluation holds: itself, its exponential, its gradient.
COPIES = 3


@dataclass(frozen=True)
class Choice:
    """A discrete latent that is summed out: the dim of its values and its distribution.

    :param dim: the dim of the log density along which its values run.
    :param fn: its distribution, lifted where its arguments are.
    :param support: its values. # shape: (K, 1, ..., *event)
    """

    dim: int
    fn: Any
    support: Tensor


@dataclass(frozen=True)
class Dims:
    """What the dims of a site's log density are.

    :param plates: the plate along each, by dim.
    :param choices: which discrete latent's values run along each, by dim: a number that is given
        out once, since dims are used again.
    """

    plates: Mapping[int, str]
    choices: Mapping[int, int]

    @property
    def depth(self) -> int:
        """The dims that the plates take."""
        return max((-dim for dim in self.plates), default=0)

    def depends_on(self, shape: tuple[int, ...]) -> frozenset[int]:
        """The discrete latents that a log density of some shape depends on."""
        return frozenset(
            which
            for dim, which in self.choices.items()
            if len(shape) >= -dim and shape[len(shape) + dim] > 1
        )


NO_DIMS = Dims({}, {})


def is_discrete(fn: Any) -> bool:
    """Whether a latent of this law has no natural gradient of its own."""
    support = getattr(fn, "support", None)
    return bool(
        getattr(fn, "has_enumerate_support", False) or getattr(support, "is_discrete", False)
    )


def summed_out(name: str, fn: Any, infer: Mapping[str, Any]) -> dict[str, Any]:
    """What has Pyro enumerate a latent, whatever was said of it before.

    :raises DiscreteLatentError: if its support is not finite.
    """
    check_listed(name, fn)
    kept = {k: v for k, v in infer.items() if k not in ("num_samples", "tmc")}
    return {**kept, "enumerate": "parallel", "expand": False}


def check_listed(name: str, fn: Any) -> None:
    """Refuse a discrete latent whose values cannot be listed.

    :raises DiscreteLatentError: naming it.
    """
    if not getattr(fn, "has_enumerate_support", False):
        raise errors.DiscreteLatentError(
            f"latent {name!r} is discrete and its support has no end (or no listing in Pyro), so "
            "it cannot be summed out. Mend: bound it, dist.Categorical(probs) over 0 ... K - 1, "
            "sum it out in the model by torch.logsumexp in pyro.factor, or observe it."
        )
    if getattr(fn, "reinterpreted", 0) or getattr(fn, "reinterpreted_batch_ndims", 0):
        raise errors.DiscreteLatentError(
            f"latent {name!r} is a vector of discrete values in one event, whose joint values "
            "are not listed. Mend: put its elements into a pyro.plate in the place of "
            ".to_event."
        )


def listed_values(name: str, fn: Any) -> tuple[float, ...]:
    """The values of a discrete latent in Pyro's order; of one-hot vectors the places of the 1.

    :raises DiscreteLatentError: if they cannot be listed, or are other vectors.
    """
    check_listed(name, fn)
    values = fn.enumerate_support(expand=False)
    if not fn.event_dim:
        return tuple(float(v) for v in values.reshape(len(values), -1)[:, 0].tolist())
    flat = values.reshape(len(values), -1)
    if fn.event_dim > 1 or not torch.equal(flat, torch.eye(len(flat)).to(flat)):
        raise errors.DiscreteLatentError(
            f"latent {name!r} is a discrete vector that is not one-hot, whose values no factorised "
            "q lists. Mend: put its elements into a pyro.plate."
        )
    return tuple(map(float, range(len(flat))))


def check_declared(msg: Mapping[str, Any], nesting: int) -> None:
    """Refuse a batch of discrete latents that no plate declares: are they summed out apart?

    :param nesting: the dims that are left to plates.
    :raises ShapeError: naming the site.
    """
    plates = {f.dim for f in msg["cond_indep_stack"] if f.vectorized}
    shape = tuple(msg["fn"].batch_shape)[-nesting:] if nesting else ()
    undeclared = [d for d in range(-len(shape), 0) if shape[d] > 1 and d not in plates]
    if undeclared:
        raise errors.ShapeError(
            f"the discrete latent {msg['name']!r} has the batch shape {shape}, and no plate is at "
            f"dim {undeclared[0]}. Mend: put it into `with pyro.plate(name, "
            f"{shape[undeclared[0]]}, dim={undeclared[0]})`, so that each element is summed out "
            "alone."
        )


def check_rows(name: str, shape: tuple[int, ...], dims: Dims) -> None:
    """Refuse rows below a discrete latent that no plate declares: is each of its own class?

    :param shape: the log density's, without the dims of discrete latents.
    :raises ShapeError: naming the site.
    """
    undeclared = [d for d in range(-len(shape), 0) if shape[d] > 1 and d not in dims.plates]
    if undeclared:
        raise errors.ShapeError(
            f"the log density of site {name!r} depends on a discrete latent, has the shape {shape} "
            f"along plates, and no plate is at dim {undeclared[0]}. Mend: declare the dim by "
            f"pyro.plate, or the elements that belong together by .to_event."
        )


def discrete_site(name: str) -> errors.DiscreteLatentError:
    """The error for a discrete latent where it cannot be summed out."""
    return errors.DiscreteLatentError(
        f"latent {name!r} is discrete: it has no natural gradient in this guide. Mend: leave it "
        "out of the guide, so that BLR sums it out (AutoNatural(model) does), or observe it."
    )


def dims_of(msg: Mapping[str, Any]) -> Dims:
    """The dims of a site's log density, after Pyro has given out its own."""
    plates = {f.dim: f.name for f in msg["cond_indep_stack"] if f.vectorized}
    return Dims(plates, dict(msg["infer"].get("_dim_to_id", {})))


def choice_of(msg: Mapping[str, Any]) -> Choice | None:
    """How a site was enumerated, if it was."""
    dim = msg["infer"].get("_enumerate_dim")
    return None if dim is None else Choice(int(dim), msg["fn"], msg["value"])


def check_memory(name: str, shape: tuple[int, ...], dims: Dims, device: Any) -> None:
    """Refuse a log density over so many joint values of discrete latents that memory ends.

    :raises MemoryLimitError: naming the site, the bytes, and what to write instead.
    """
    depends = dims.depends_on(shape)
    needed, free = COPIES * BYTES * prod(shape), available_bytes(device)
    if len(depends) < 2 or free is None or needed <= free:
        return
    raise errors.MemoryLimitError(
        f"the log density of site {name!r} has a value for each joint value of {len(depends)} "
        f"discrete latents: the shape {tuple(shape)}, {needed / 1e9:.3g} GB, and {free / 1e9:.3g} "
        "GB are free. Mend: if these latents come from a Python loop over a plate, vectorise it, "
        "`with pyro.plate(...)`, so that each element is summed out alone; if each depends on the "
        "one before, loop over pyro.markov(...); if all depend on all, give each its own "
        'probabilities, BLR(..., discrete="factorised").'
    )


def cause_of(error: Exception) -> errors.BLRError | None:
    """What is behind an error of a model whose discrete latents are summed out, if that is."""
    if "Boolean value of Tensor" in str(error):
        return _branch()
    return _position(error) if isinstance(error, IndexError) else None


def _branch() -> errors.ControlFlowError:
    """The error for a Python branch on a discrete latent."""
    return errors.ControlFlowError(
        "the model branches in Python (`if`, `while`, `and`, `bool()`) on a tensor of several "
        "elements. A discrete latent has all of its values at once while it is summed out. Mend: "
        "write the branch with torch.where, or index by the latent."
    )


def _position(error: IndexError) -> errors.DiscreteLatentError:
    """The error for an index that fails: perhaps it is one into the elements of a latent."""
    return errors.DiscreteLatentError(
        f"an index is out of bounds ({error}) in a model with discrete latents. While they are "
        "summed out a latent `z` has one element that stands for all of its plate, so that "
        "`z[src]` picks nothing. Mend: if elements of it meet each other (the pairs of a block "
        'model), BLR(..., discrete="factorised"); else put what depends on it into its own plate; '
        "else correct the index."
    )

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The whole state of a run as tensors, numbers and strings: resumed, it goes on bit for bit.

Each part gives and takes its own piece, under its own name; what a step computes anew from these
(rules of quadrature, folded constants, the choice of points) is not saved. A copy or a pickle of an
engine is its options, its guide and this state, so that making one touches nothing of the original.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from . import errors
from ._compat import without_state
from .energy.builder import EnergyBuilder
from .guide_copies import Whole
from .guide_parameters import GuideParameters
from .guides.checkpoint import require
from .guides.natural_guide import NaturalGuide
from .model_parameters import ModelParameters
from .random_state import random_state, same_random_state, set_random_state
from .sampling import Sampling
from .skips import Skips
from .steps.averaging import Average
from .steps.mean_hessian import MeanHessian
from .steps.mixture_memory import MixtureMemory
from .steps.momentum import Momentum
from .steps.noise import NoiseControl
from .steps.sweep import SweepMemory

#: The form of a saved state; it grows by one when a piece changes its meaning.
VERSION = 2


class Part(Protocol):
    """Something that a run must remember."""

    def state(self) -> Any:
        """A copy of what it remembers: dicts and lists of tensors, numbers and strings."""

    def load_state(self, state: Any, /) -> None:
        """Take up what :meth:`state` returned."""


def collect(parts: Mapping[str, Part], engine: Mapping[str, Any]) -> dict[str, Any]:
    """The pieces of all parts, and of the random number generators.

    :param engine: what the engine itself remembers.
    """
    pieces = {name: part.state() for name, part in parts.items()}
    return {"version": VERSION, "engine": dict(engine), **pieces, "random": random_state()}


def distribute(parts: Mapping[str, Part], state: Mapping[str, Any], with_random: bool) -> None:
    """Give each part its piece.

    :param with_random: whether the generators go on as well.
    :raises CheckpointError: if the state is not one of this engine; nothing has changed then.
    """
    require(state, ("version", "engine", "guide"), "the engine")
    guide: Any = parts["guide"]
    guide.check_saved(state["guide"])  # that of another guide lacks what this one's engine has
    require(state, (*parts, "random"), "the engine")
    require(state["engine"], ("num_steps", "is_laid_out", "notes"), "the engine's own numbers")
    if state["version"] != VERSION:
        raise errors.CheckpointError(
            f"the saved state has the form {state['version']}, and this version of pyro_blr reads "
            f"the form {VERSION}. Mend: load it with the version that saved it."
        )
    for name, part in parts.items():
        part.load_state(state[name])
    if with_random:
        set_random_state(state["random"])


#: Options of an engine, which a copy has too.
OPTIONS = (
    *("step_size", "blocks", "on_sampled", "params", "temperature", "momentum", "quad_tol"),
    *("check_every", "num_draws", "estimator", "discrete", "sharded"),
)


class Resumable:
    """An engine whose state can be saved and taken up."""

    model: Any
    guide: Any
    view: Any
    rule: Any
    optim: Any
    loss: Any
    num_steps: int
    temperature: float
    parameters: ModelParameters
    _energy: Any
    _builder: EnergyBuilder
    sampling: Sampling
    #: The guide, or the parameters of one that holds them itself.
    _guide_part: NaturalGuide | GuideParameters
    _memory: SweepMemory
    _momentum: Momentum
    _noise: NoiseControl
    _average: Average
    _hessian: MeanHessian
    _mixture: MixtureMemory
    _skips: Skips
    _notes: tuple[str, ...]
    _is_laid_out: bool
    #: Whether what is not saved must be found anew; and the state that a copy begins with.
    _is_resuming = False
    _copied: Mapping[str, Any] | None = None
    #: The number of steps and the temperature of the state that was loaded.
    _loaded: tuple[int, float] | None = None

    @property
    def _parts(self) -> dict[str, Part]:
        """What remembers something from one step to the next; the guide refuses a state first."""
        is_mixture = isinstance(self.guide, NaturalGuide) and self.guide.has_own_rule
        mixture: dict[str, Part] = {"mixture": self._mixture} if is_mixture else {}
        return {
            "guide": self._guide_part,
            **mixture,
            "parameters": self.parameters,
            "averages": self.parameters.averages,
            "step_sizes": self._memory,
            "momentum": self._momentum,
            "noise": self._noise,
            "average": self._average,
            "hessian": self._hessian,
            "skips": self._skips,
            "sampling": self.sampling,
        }

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, as tensors, numbers and strings.

        Saved by ``torch.save`` and loaded by ``torch.load(weights_only=True)``, it lets a new
        process go on bit for bit as if it had not stopped.

        :raises GuideError: before the first call.
        """
        if self._copied is not None:
            return dict(self._copied)
        engine = {
            "num_steps": self.num_steps,
            "is_laid_out": self._is_laid_out,
            "notes": list(self._notes),
            "temperature": float(self.temperature),
        }
        return collect(self._parts, engine)

    def load_state_dict(self, state: Mapping[str, Any], *, with_random: bool = True) -> None:
        """Take up what :meth:`state_dict` returned.

        A guide that has not seen the model yet, and parameters, take up their pieces at the next
        call, and then refuse those of another model.

        :param with_random: whether torch's random number generators go on as well; they are those
            of the whole process.
        :raises CheckpointError: if the state is of another model, or parts of it are missing.
        """
        distribute(self._parts, state, with_random)
        self._take_numbers(state["engine"])
        self._loaded = self.num_steps, state["engine"].get("temperature", self.temperature)
        self._copied, self._is_resuming = None, True

    def _take_numbers(self, engine: Mapping[str, Any]) -> None:
        self.num_steps = engine["num_steps"]
        self._is_laid_out = bool(engine["is_laid_out"])
        self._notes = tuple(engine["notes"])

    def _take_copied(self) -> None:
        """Take up the state that a copy begins with."""
        if self._copied is not None:
            self.load_state_dict(self._copied, with_random=False)

    def _resume(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Find anew what is not saved, without the random numbers that this takes."""
        self._take_copied()
        if self._is_resuming:
            with same_random_state():
                self.view.set_up(args, kwargs, self._builder)
                self._energy(args, kwargs)
            self._is_resuming = False

    @property
    def _has_seen_model(self) -> bool:
        return self.rule is not None or (self.view is not None and self.view.is_set_up)

    def __reduce__(self) -> tuple[Any, ...]:
        options = {name: getattr(self, name) for name in OPTIONS}
        state = self.state_dict() if self._has_seen_model or self._is_resuming else None
        optim = without_state(self.optim)
        guide = Whole(self.guide)
        return _copy, (type(self), self.model, guide, optim, self.loss, options, state)


def _copy(
    kind: Any,
    model: Any,
    guide: Whole,
    optim: Any,
    loss: Any,
    options: dict[str, Any],
    state: Mapping[str, Any] | None,
) -> Any:
    """An engine from the parts of its pickle; its state is taken up at the first call."""
    blr = kind(model, guide.guide, optim, loss, **options)
    if state is not None:
        blr._take_numbers(state["engine"])
        blr._copied = state
    return blr

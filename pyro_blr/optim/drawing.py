# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A torch optimiser whose weights can be put at a draw: groups, state, and the draws."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar
from warnings import catch_warnings, filterwarnings

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from ..counts import is_count
from ..errors import ArgumentError, BLRError, StepOrderError
from ..lifting import host
from .batch_norm import BatchNormWatch
from .draws import Draws, State
from .noise import Noise
from .options import check_group, check_no_module, check_options, listed, weight_of
from .ranks import Copies, OneRank, Shards, warn_of_other_ranks
from .rows import sorted_by
from .saved import load, saved
from .sharding import Gathered, meshes_of
from .skipped import Skipped

#: Why there is no draw.
FAILED = "the last one ended in an exception"

#: Seeds are below it in size: generators have 64 bits, and further devices the next seeds.
SEEDS = 2**62

#: Options of a group, and parameters of it that are alike.
Kind = tuple[State, list[Tensor]]


class DrawingOptimizer(Optimizer):
    """Holds an independent law of each weight, and puts the weights at draws of it."""

    #: What the state of a parameter holds beside the number of steps.
    _state_keys: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _needs_factor(self, group: State) -> bool:
        """Whether what multiplies the gradient at a draw is asked for: the draw minus the mean."""

    @abstractmethod
    def _prepare(self, parameter: Tensor, group: State) -> None:
        """Make a parameter's state if there is none, and check it if there is."""

    @abstractmethod
    def _put(
        self, group: State, parameters: Sequence[Tensor], draws: Draws, noise: Noise, counts: bool
    ) -> None:
        """Put parameters that are alike, whose means are kept, where gradients are taken.

        :param counts: whether the draw counts for a step.
        """

    def __init__(
        self, params: Any, defaults: State, draws: int, seed: int | None, process_group: Any
    ) -> None:
        name = type(self).__name__
        if not is_count(draws):
            raise ArgumentError(f"{name}: draws = {draws!r}. Mend: a positive integer.")
        is_seed = (
            isinstance(seed, int | np.integer) and not isinstance(seed, bool) and abs(seed) < SEEDS
        )
        if not (seed is None or is_seed):
            raise ArgumentError(
                f"{name}: seed = {seed!r}. Mend: a whole number of up to 62 bits, or None."
            )
        self.draws_per_closure = int(draws)
        self._skipped = Skipped()
        self._draws = Draws()
        self._is_active = self._is_closure = False
        self._watch, self._gathered = BatchNormWatch(), Gathered()
        self._ranks = OneRank() if process_group is None else Copies(process_group)
        super().__init__(listed(params, name), defaults)
        meshes = meshes_of(self._everything())
        if meshes:
            self._ranks = Shards(meshes)
        elif seed is None and process_group is None:
            warn_of_other_ranks()
        own = host.seed() if seed is None else int(seed)
        self._noise = self._ranks.noise(self._ranks.seed(own))

    def _everything(self) -> list[Tensor]:
        return [p for g in self.param_groups for p in g["params"]]

    def _before_draw(self, group: State, parameters: Sequence[Tensor]) -> None:
        """Called before a further draw, with the differences of the last one in the buffers."""

    def _at_draw(self, group: State, parameters: Sequence[Tensor]) -> None:
        """Called at a further draw."""

    def _after_draw(self, group: State, parameters: Sequence[Tensor]) -> None:
        """Called after a further draw."""

    def _listen(self, kinds: Sequence[Kind]) -> list[Any]:
        """Hooks for the time of a draw of one of several ranks, with ``remove``."""
        return []

    @contextmanager
    def sampled_params(self, train: bool = True, weight: float = 1.0) -> Iterator[None]:
        """Put the weights at a draw of q for the time of a ``with`` block.

        The means come back to the last bit, also when an exception passes. Backward passes belong
        inside. Several blocks before a step are several draws, over which gradients are averaged.

        :param train: whether the draw counts for the next step. One that does not takes its noise
            from torch's own generator, so that a prediction does not change the training.
        :param weight: the share of the loss that is passed backward in this block. Gradients are
            divided by the sum of weights: leave it at 1 where each block has the whole mean loss;
            of k blocks with ``loss / k`` each give ``weight=1/k``. Where ranks have batches of
            different sizes, give the sum of the loss over data, and ``weight=len(x)``.
        :raises StepOrderError: within another draw.
        """
        # A draw that does not count leaves those that do as they are.
        draws = self._draws if train else Draws()
        try:
            weight = weight_of(weight, self._ranks.has_copies)
            with torch.no_grad():
                kinds = self._begin(draws)
        except Exception as error:
            if not train:
                raise
            raise self._ranks.fail(error)  # noqa: B904
        self._is_active, ended, hooks = True, False, []
        try:
            with torch.no_grad():
                noise = self._noise if train else self._ranks.passing_noise(host.seed())
                self._perturb(kinds, draws, noise, train)
            if train and self._ranks.has_copies:
                hooks = self._listen(kinds)
            yield
            ended = True
        finally:
            self._is_active = False
            for hook in hooks:
                hook.remove()
            with torch.no_grad():
                self._end(kinds, draws, ended and train, weight)
                self._gathered.free(self._everything())
            if train and not ended:
                draws.forget(FAILED)

    def _begin(self, draws: Draws) -> list[Kind]:
        """Keep the means of what is to be drawn."""
        if self._is_active:
            mend = "end the first `with` block before the second"
            if self._is_closure:
                mend = "step(closure) draws itself: leave sampled_params out of the closure"
            raise StepOrderError(f"sampled_params within sampled_params. Mend: {mend}.")
        for group in self.param_groups:
            check_options(group, type(self).__name__)
        kinds = list(self._kinds(lambda p: p.requires_grad))
        if not kinds:
            raise StepOrderError(
                "no parameter requires a gradient, so there is nothing to draw. Mend: "
                "net.requires_grad_(), or leave sampled_params out."
            )
        self._watch.look(p for _, alike in kinds for p in alike)
        self._gathered.free(self._everything())
        if draws.count and all(p.grad is None for _, alike in kinds for p in alike):
            draws.forget()  # an earlier draw that no gradient was taken at
        try:
            for group, parameters in self._kinds(lambda p: p in draws.drawn):
                self._before_draw(group, parameters)  # also what has been frozen since
            for _, parameters in kinds:
                draws.keep_means(parameters, self.state)
        except BaseException:
            draws.forget(FAILED)
            raise
        return kinds

    def _perturb(self, kinds: list[Kind], draws: Draws, noise: Noise, counts: bool) -> None:
        noise.begin(draws.count)
        for group, parameters in kinds:
            self._put(group, parameters, draws, noise, counts)
            if draws.count:
                self._at_draw(group, parameters)

    def _end(self, kinds: list[Kind], draws: Draws, counts: bool, weight: float) -> None:
        waiting = list(kinds)
        has_use = counts and not self._ranks.has_copies
        try:
            while waiting:
                group, parameters = waiting.pop()
                is_used = has_use and self._needs_factor(group)
                draws.restore(parameters, self.state, is_used)
                if counts and draws.count:
                    self._after_draw(group, parameters)
                draws.drawn.update(parameters)
        except BaseException:
            for _, parameters in waiting:
                draws.restore(parameters, self.state, False)
            draws.forget(FAILED)
            raise
        if counts:
            draws.count += 1
            draws.weight += weight

    def _kinds(self, is_wanted: Callable[[Tensor], bool]) -> Iterator[Kind]:
        """Parameters of one group, device, dtype and number of steps, with their state."""
        for group in self.param_groups:
            wanted = [p for p in group["params"] if is_wanted(p)]
            for parameter in wanted:
                self._prepare(parameter, group)
            yield from ((group, alike) for alike in sorted_by(wanted, self.state))

    # The familiar interface

    @property
    def skipped(self) -> int:
        """How many steps were not taken because a gradient was NaN or infinite."""
        return self._skipped.total

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and the draws that they belong to."""
        super().zero_grad(set_to_none)
        if not self._is_closure:
            self._draws.forget("zero_grad came after the draw")

    def add_param_group(self, param_group: State) -> None:
        """Add parameters with options of their own."""
        if self._is_active:
            raise StepOrderError(
                "add_param_group within sampled_params. Mend: after the `with` block."
            )
        name = type(self).__name__
        if isinstance(param_group, dict):  # else torch says so
            check_no_module(param_group.get("params"), name)
        with catch_warnings():  # of a parameter that is there twice, which is an error here
            filterwarnings("ignore", "optimizer contains a parameter group with duplicate")
            super().add_param_group(param_group)
        try:
            check_group(self.param_groups[-1], name)
            self._ranks.begin_with(self.param_groups[-1]["params"])
        except BLRError:
            del self.param_groups[-1]
            raise
        self._watch, self._gathered = BatchNormWatch(), Gathered()

    def state_dict(self) -> State:
        """Everything to go on exactly: also step counts, the noise's generators, skipped steps."""
        self.check_at_means("state_dict")
        return super().state_dict() | self._saved()

    def check_at_means(self, what: str) -> None:
        """Refuse to read means while the weights are at a draw.

        :param what: reads them.
        :raises StepOrderError: within ``sampled_params``.
        """
        if self._is_active:
            raise StepOrderError(
                f"{what} within sampled_params: the weights are at a draw. Mend: save, copy and "
                "read them after the `with` block."
            )

    def _saved(self) -> State:
        return saved(self._noise, self._skipped) | {"ranks": self._ranks.size}

    def load_state_dict(self, state_dict: State) -> None:
        """Go on where ``state_dict`` was taken; load the module's own state as well.

        On another number of ranks training goes on from the same posterior with other noise, and
        says so in a :class:`~pyro_blr.errors.ChangedRanksWarning`.

        :raises CheckpointError: if it is the state of other parameters or another optimiser.
        """
        read: list[tuple[Noise, Skipped, dict[Tensor, State]]] = []
        name, keys = type(self).__name__, self._state_keys

        def before(_: Optimizer, held: State) -> None:
            read.append(load(held, self.param_groups, name, self._ranks, keys))

        def after(_: Optimizer) -> None:
            self._noise, self._skipped, states = read[0]
            # torch rounds the state to the parameters' dtype, and shares tensors with what it read.
            self.state.update(states)
            self._draws = Draws()

        # Behind the user's hooks that may change what is loaded, before those that see what was.
        hooks = [
            self.register_load_state_dict_pre_hook(before),
            self.register_load_state_dict_post_hook(after, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def __getstate__(self) -> State:
        self.check_at_means("a copy")
        if type(self._ranks) is not OneRank:
            raise ArgumentError(
                f"an {type(self).__name__} of several ranks cannot be copied or pickled, as the "
                "connections of a process group cannot. Mend: state_dict() and load_state_dict."
            )
        held: State = super().__getstate__()
        return held | {"draws_per_closure": self.draws_per_closure} | {"_saved": self._saved()}

    def __setstate__(self, state: State) -> None:
        state = dict(state)
        own = state.pop("_saved", None)
        super().__setstate__(state)
        if own is not None:
            self._noise, self._skipped = OneRank().noise_of(own["noise"]), Skipped(**own["skipped"])
            self._draws, self._ranks = Draws(), OneRank()
            self._watch, self._gathered = BatchNormWatch(), Gathered()
            self._is_active = self._is_closure = False

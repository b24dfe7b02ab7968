# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How a guide is saved, loaded, copied and pickled, its original left whole."""

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyro import poutine
from torch import Tensor

from .. import errors
from ..energy.latents import Latent
from ..families import Natural
from ..lifting.blocks import Block
from .checkpoint import KEYS, guide_state, refuse_class, refuse_kind, require, saved_blocks


class Persistent:
    """What a guide remembers, and how others get it."""

    latents: dict[str, Latent]
    blocks: Any
    model: Any
    is_set_up: Any
    holds_posterior: bool
    naturals: Callable[[], dict[Block, Natural]]
    _not_seen: Callable[[str], errors.GuideError]
    _store: Callable[..., None]
    _pyro_context: Any
    _pyro_get_fullname: Callable[[str], str]
    _model: Any
    #: Where the guide starts, until it is first read.
    _held: dict[Block, Natural]
    #: Natural parameters from a file, by full name, that no block has taken yet.
    _loaded: dict[str, Tensor]
    #: The state that a new guide takes up when it knows its latents.
    _saved: Mapping[str, Any] | None

    def state(self) -> dict[str, Any]:
        """Latents, blocks and natural parameters as tensors, numbers and strings.

        :raises GuideError: if the guide has not seen the model yet.
        """
        if self._saved is not None:
            return dict(self._saved)
        if not self.is_set_up:
            raise self._not_seen("nothing can be saved")
        about = {"kind": type(self).__name__, "holds_posterior": self.holds_posterior}
        return {**about, **guide_state(self.latents, self.naturals())}

    def check_saved(self, state: Any) -> None:
        """Refuse what is no state of a guide of this kind, as far as that is known.

        :raises CheckpointError: naming the guide that was saved.
        """
        refuse_kind(state, "values", type(self).__name__)
        require(state, KEYS, "the guide")
        self._check_class(state)

    def _check_class(self, state: Mapping[str, Any]) -> None:
        refuse_class(state, type(self))

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned: now, or at the first call of a new guide.

        :raises CheckpointError: if it is of another model.
        """
        self.check_saved(state)
        # Older states do not say; who saves a guide has most likely fitted it.
        self.holds_posterior = bool(state.get("holds_posterior", True))
        if self.is_set_up:
            self._restore(state)
        else:
            self._saved = state

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take saved blocks as they are, whatever stands in the store."""
        naturals = saved_blocks(state, self.latents, self._held or self.naturals())
        self._saved = None
        self._store(naturals, from_store=False)

    @contextmanager
    def apart_from_saved(self) -> Iterator[Mapping[str, Any]]:
        """A guide that is set up as a new one beside its saved state, which is taken up within; it
        is still to be taken up if an error passes.
        """
        assert self._saved is not None
        saved, self._saved = self._saved, None
        try:
            yield saved
        except BaseException:
            self.latents, self._saved = {}, saved
            raise

    @contextmanager
    def saved_kept(self) -> Iterator[None]:
        """A saved state that is still to be taken up is so again, if an error passes."""
        saved = self._saved
        try:
            yield
        except BaseException:
            if saved is not None:
                self.latents, self._saved = {}, saved
            raise

    def _as_saved(self, sites: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The sites of a call that are the guide's, and a model in which the others are observed.

        A guide may first be called without the data, and what is observed is a latent of the model
        then. The saved state says which sites are the guide's.
        """
        saved = sites if self._saved is None else self._saved["latents"]
        own = {name: site for name, site in sites.items() if name in saved}
        if not own or len(own) == len(sites):
            return sites, self.model
        others = {name: site["value"] for name, site in sites.items() if name not in own}
        return own, poutine.condition(self.model, others)

    def check_taken_up(self) -> None:
        """Refuse natural parameters from a file that are of none of the blocks.

        :raises CheckpointError: naming them; the guide then stands where it starts.
        """
        left, self._loaded = sorted(self._loaded), {}
        if left:
            raise errors.CheckpointError(
                f"natural parameters {left} were loaded, and are of none of the guide's blocks, "
                f"{[b.name for b in self.blocks]}, or of other shapes. Mend: load what was saved "
                "with this model, or clear the store, pyro.clear_param_store(); "
                "blr.load_state_dict() also takes up blocks that another call has chosen."
            )

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Take up parameters by name, as every module does; a new guide at its first call."""
        if self.is_set_up:
            self.naturals()
            self.holds_posterior = True
            return super().load_state_dict(state_dict, *args, **kwargs)  # type: ignore[misc]
        for name, value in state_dict.items():
            with self._pyro_context:
                full = self._pyro_get_fullname(name.removesuffix("_unconstrained"))
            self._loaded[full] = value.detach().clone()
        return None

    def give_model(self, model: Callable[..., Any]) -> None:
        """The model of a guide that came from a pickle without one."""
        if self.model is None:
            self._model = (model,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied: Any = type(self).__new__(type(self))
        memo[id(self)] = copied
        state = copy.deepcopy(self.__getstate__(), memo)
        copied.__setstate__({**state, "_model": (copy.deepcopy(self.model, memo),)})
        return copied

    def __getstate__(self) -> dict[str, Any]:
        # Pyro's own empties the live object; a copy loses its weak references instead. It keeps a
        # model that is pickled as a name, and so weighs nothing.
        state: dict[str, Any] = dict(self.__dict__)
        state["_model"] = (self.model if _has_a_name(self.model) else None,)
        state["master"] = None
        state["prototype_trace"] = None
        return state


def _has_a_name(model: Any) -> bool:
    """Whether a model is a function of a module, which another process finds by its name."""
    module = sys.modules.get(getattr(model, "__module__", ""))
    return inspect.isfunction(model) and getattr(module, model.__name__, None) is model

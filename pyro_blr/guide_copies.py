# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Copies and pickles of a guide that leave the original whole, and have its model."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from .guides.natural_guide import NaturalGuide


class Whole:
    """A guide on its way into a copy or a pickle.

    To copy one of Pyro's own guides empties the original: it loses its model.
    """

    def __init__(self, guide: Any) -> None:
        self.guide = guide

    def __deepcopy__(self, memo: dict[int, Any]) -> "Whole":
        for tensor in _computed(self.guide):  # torch copies no tensor that has a graph
            memo[id(tensor)] = tensor.detach().clone()
        with _kept(self.guide) as models:
            copied = copy.deepcopy(self.guide, memo)
        _give(copied, copy.deepcopy(models, memo))
        return Whole(copied)

    def __reduce__(self) -> tuple[Any, ...]:
        if not _parts(self.guide):
            return Whole, (self.guide,)
        with _kept(self.guide) as models:
            pickled = pickle.dumps(self.guide)
        try:
            pickle.dumps(models)
        except Exception:  # a part's own function of the model may have no name to be found by
            models = [None] * len(models)
        return _unpickled, (pickled, models)


def _unpickled(pickled: bytes, models: list[Any]) -> Whole:
    guide = pickle.loads(pickled)
    _give(guide, models)
    return Whole(guide)


def _parts(guide: Any) -> list[AutoGuide]:
    """The guides of Pyro in a guide, itself included."""
    modules = guide.modules() if isinstance(guide, torch.nn.Module) else ()
    return [m for m in modules if isinstance(m, AutoGuide) and not isinstance(m, NaturalGuide)]


@contextmanager
def _kept(guide: Any) -> Iterator[list[Any]]:
    """Give Pyro's guides back, at the end, the model that a copy takes from them."""
    parts = _parts(guide)
    held = [(part._model, part.master) for part in parts]
    try:
        yield [model for model, _ in held]
    finally:
        for part, (model, master) in zip(parts, held, strict=True):
            part._model, part.master = model, master


def _give(guide: Any, models: list[Any]) -> None:
    for part, model in zip(_parts(guide), models, strict=True):
        if model is not None:
            part._model = model


def _computed(guide: Any) -> Iterator[Tensor]:
    """What a module keeps of its last call: tensors that are results."""
    modules = guide.modules() if isinstance(guide, torch.nn.Module) else ()
    for module in modules:
        for attribute in module.__dict__.values():
            for value in attribute if isinstance(attribute, tuple) else (attribute,):
                if isinstance(value, Tensor) and not value.is_leaf:
                    yield value

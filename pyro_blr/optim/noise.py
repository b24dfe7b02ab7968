# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The random numbers of the draws: a generator for each device, saved with the state."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: Where a rank, or its part of a parameter, is among those with noise of their own.
Place = tuple[int, ...]


class Noise:
    """Generators of random numbers that nothing else draws from.

    :param int seed: of the first device; each further one has the next seed, since equal ones
        would give equal noise.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.steps = seed, 0
        self._generators: dict[str, torch.Generator | None] = {}
        self._saved: dict[str, Tensor] = {}

    def begin(self, draw: int) -> None:
        """Called before a draw.

        :param draw: how many there were before it since the last step.
        """

    def end_step(self) -> None:
        """Called after a step."""
        self.steps += 1

    def like(self, tensors: Sequence[Tensor], place: Place) -> list[Tensor]:
        """Standard normal tensors of the same shapes, dtype and device, drawn by one call."""
        flat = _flat(tensors).normal_(generator=self._generator(tensors[0].device, place))
        return _split(flat, tensors)

    def uniform_like(self, tensors: Sequence[Tensor], place: Place) -> list[Tensor]:
        """The same with numbers that are uniform on [0, 1)."""
        flat = _flat(tensors).uniform_(generator=self._generator(tensors[0].device, place))
        return _split(flat, tensors)

    def _generator(self, device: torch.device, place: Place) -> torch.Generator | None:
        name = str(device)
        if name not in self._generators:
            self._generators[name] = self._new(device)
        return self._generators[name]

    def _new(self, device: torch.device) -> torch.Generator | None:
        if device.type == "meta":  # tensors without values
            return None
        generator = torch.Generator(device)
        generator.manual_seed(self.seed + len(self._saved.keys() | self._generators.keys()))
        if str(device) in self._saved:
            generator.set_state(self._saved[str(device)])
        return generator

    def state(self) -> dict[str, Any]:
        """The seed and the place in each stream, as tensors of the CPU."""
        places = {n: g.get_state().cpu() for n, g in self._generators.items() if g is not None}
        return {"seed": self.seed, "steps": self.steps, "generators": self._saved | places}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken, device by device as it is asked."""
        self.steps = int(state.get("steps", 0))
        self._saved = {name: place.cpu().clone() for name, place in state["generators"].items()}


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    first, size = tensors[0], sum(t.numel() for t in tensors)
    return torch.empty(size, dtype=first.dtype, device=first.device)


def _split(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    parts = flat.split([t.numel() for t in tensors])
    return [n.view(t.shape) for n, t in zip(parts, tensors, strict=True)]


class SharedNoise(Noise):
    """Noise of several ranks: that of any of them follows from the seed and the number of the step.

    So the ranks have one state, and what one of them saves resumes all.

    :param int seed: the same on all ranks.
    :param place: of this rank, before the places of its parameters.
    """

    def __init__(self, seed: int, place: Place) -> None:
        super().__init__(seed)
        self._place, self._draw = place, 0
        self._devices: list[torch.device] = []

    def begin(self, draw: int) -> None:
        """Forget the streams of the last draw."""
        self._draw = draw
        self._generators.clear()

    def _generator(self, device: torch.device, place: Place) -> torch.Generator | None:
        name = f"{device} {place}"
        if name not in self._generators:
            if device not in self._devices:
                self._devices.append(device)
            number = self._devices.index(device)  # names of devices differ between ranks
            key = (self.seed, self.steps, self._draw, self._place, place, number)
            self._generators[name] = None if device.type == "meta" else _seeded(device, key)
        return self._generators[name]

    def state(self) -> dict[str, Any]:
        """The seed and the number of steps."""
        return {"seed": self.seed, "steps": self.steps, "generators": {}}


def _seeded(device: torch.device, key: tuple[Any, ...]) -> torch.Generator:
    return torch.Generator(device).manual_seed(hashed(repr(key), 8) >> 1)


def hashed(words: str, size: int) -> int:
    """Words as a number of some bytes, of which a float64 holds six."""
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=size).digest(), "little")

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The standard normal numbers of the draws: a generator for each device, saved with the state."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Noise:
    """Generators of normal numbers that nothing else draws from.

    :param int seed: of the first device; each further one has the next seed, since equal ones
        would give equal noise.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[str, torch.Generator | None] = {}
        self._saved: dict[str, Tensor] = {}

    def like(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Standard normal tensors of the same shapes, dtype and device, drawn by one call."""
        first = tensors[0]
        sizes = [t.numel() for t in tensors]
        flat = torch.empty(sum(sizes), dtype=first.dtype, device=first.device)
        flat.normal_(generator=self._generator(first.device))
        return [n.view(t.shape) for n, t in zip(flat.split(sizes), tensors, strict=True)]

    def _generator(self, device: torch.device) -> torch.Generator | None:
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
        return {"seed": self.seed, "generators": self._saved | places}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Noise":
        """The noise that goes on where :meth:`state` was taken, device by device as it is asked."""
        noise = cls(int(state["seed"]))
        noise._saved = {name: place.cpu().clone() for name, place in state["generators"].items()}
        return noise

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What simulation-based calibration found: ranks, their tests, and a verdict in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..on_host import on_host
from ..text_table import text_table
from .uniformity import corrected, symmetric_p_value, uniform_p_value

#: The p-value, corrected for the number of quantities, below which q is called not calibrated.
LEVEL = 0.01


@dataclass(eq=False, repr=False)
class Calibration:
    """The result of :func:`~pyro_blr.diagnostics.sbc`. Prints as a table with the verdict.

    :param dict ranks: how many draws of q are less than the true value. # shape: (num, *site)
    :param dict numbers: the ranks as numbers in (0, 1), ties broken at random: uniform under a
        calibrated guide. # shape: (num, *site)
    :param int num_samples: the draws that each was ranked among.
    """

    ranks: dict[str, Tensor]
    numbers: dict[str, Tensor]
    num_samples: int

    @classmethod
    @on_host
    def of(
        cls, truths: Sequence[dict[str, Tensor]], draws: Sequence[dict[str, Tensor]]
    ) -> "Calibration":
        """Rank true latents among draws of q, simulation by simulation.

        :param truths: by site. # shape: (*site)
        :param draws: by site. # shape: (S, *site)
        """
        names = [name for name in truths[0] if all(name in t for t in truths)]
        if not names:
            raise errors.GuideError(
                "the fits have no draws of any continuous latent of the model. Mend: return from "
                "fit= what BLR.fit returned, or draws by the names of the sample sites."
            )
        for k, (truth, drawn) in enumerate(zip(truths, draws, strict=True)):
            for name in names:
                _check_draws(name, truth[name], drawn[name], k)
        ranks, numbers = {}, {}
        for name in names:
            ranked = torch.stack(
                [_rank(t[name], d[name]) for t, d in zip(truths, draws, strict=True)]
            )
            ties = torch.stack(
                [_ties(t[name], d[name]) for t, d in zip(truths, draws, strict=True)]
            )
            size = len(draws[0][name])
            ranks[name] = ranked
            numbers[name] = (ranked + torch.rand(ranked.shape).double() * (ties + 1)) / (size + 1)
        return cls(ranks, numbers, len(draws[0][names[0]]))

    @property
    def num(self) -> int:
        """The number of simulations."""
        return len(next(iter(self.ranks.values())))

    @cached_property
    def each_p_value(self) -> dict[str, Tensor]:
        """Anderson and Darling's p-value of uniformity of each element. # shape: (*site)"""
        return {name: uniform_p_value(n) for name, n in self.numbers.items()}

    @cached_property
    def each_symmetry(self) -> dict[str, Tensor]:
        """Wilcoxon's p-value of symmetry about 1/2 of each element. # shape: (*site)"""
        return {name: symmetric_p_value(n) for name, n in self.numbers.items()}

    @property
    def p_values(self) -> dict[str, float]:
        """The p-value of uniformity of each site, corrected for its elements."""
        return {name: corrected(p) for name, p in self.each_p_value.items()}

    @property
    def symmetry(self) -> dict[str, float]:
        """The p-value of symmetry of each site, corrected for its elements."""
        return {name: corrected(p) for name, p in self.each_symmetry.items()}

    @property
    def p_value(self) -> float:
        """The p-value of uniformity of all quantities together, corrected for their number."""
        return corrected(torch.cat([p.reshape(-1) for p in self.each_p_value.values()]))

    @property
    def symmetry_p_value(self) -> float:
        """The p-value of symmetry of all quantities together, corrected for their number."""
        return corrected(torch.cat([p.reshape(-1) for p in self.each_symmetry.values()]))

    @property
    def is_calibrated(self) -> bool:
        """Whether nothing was found against it, at the level of 1 %."""
        return self.p_value > LEVEL

    @property
    def verdict(self) -> str:
        """In words."""
        if self.is_calibrated:
            return (
                f"calibrated as far as {self.num} simulations tell (p = {self.p_value:.2g}): ranks "
                "of true latents are uniform"
            )
        bad = [name for name, p in self.p_values.items() if p <= LEVEL * p_share(self, name)]
        words = "; ".join(f"{shape_of(self.worst(name)[1])} in site {name}" for name in bad)
        return f"not calibrated (p = {self.p_value:.2g}): {words}"

    @on_host
    def worst(self, name: str) -> tuple[tuple[int, ...], Tensor]:
        """The element of a site with the least p-value: its index, and its numbers in (0, 1)."""
        p_values = self.each_p_value[name]
        flat = int(p_values.reshape(-1).argmin())
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), p_values.shape))
        return index, self.numbers[name].reshape(self.num, -1)[:, flat]

    def plot(self) -> Any:
        """A histogram of each site's worst element, as a matplotlib figure.

        :raises ArgumentError: if matplotlib is missing.
        """
        from .pictures import plot_calibration

        return plot_calibration(self)

    def __str__(self) -> str:
        head = ("site", "elements", "p uniform", "p symmetric", "worst element")
        rows = []
        for name, p in self.p_values.items():
            index, numbers = self.worst(name)
            where = f"[{', '.join(map(str, index))}] " if index else ""
            shape = shape_of(numbers) if p <= LEVEL else "uniform"
            size = str(self.each_p_value[name].numel())
            rows.append((name, size, f"{p:.2g}", f"{self.symmetry[name]:.2g}", where + shape))
        notes = (
            f"{self.num} simulations, ranks among {self.num_samples} draws; p-values are corrected "
            "for a site's elements (Bonferroni)",
            f"verdict: {self.verdict}",
        )
        return "\n".join((text_table(head, rows), *notes))

    __repr__ = __str__


def p_share(calibration: Calibration, name: str) -> float:
    """The share of all tested quantities that a site has: its part of the level."""
    total = sum(p.numel() for p in calibration.each_p_value.values())
    return calibration.each_p_value[name].numel() / total


def shape_of(numbers: Tensor) -> str:
    """What ranks that are not uniform say of q."""
    spread = float((numbers - 0.5).square().mean()) * 12
    shift = float(numbers.mean()) - 0.5
    # Of uniform numbers both are normal with these errors.
    spread_score = (spread - 1) / (0.894 / len(numbers) ** 0.5)
    shift_score = shift / (0.2887 / len(numbers) ** 0.5)
    if abs(shift_score) > abs(spread_score):
        return "too low" if shift > 0 else "too high"
    return "too narrow" if spread > 1 else "too wide"


def _check_draws(name: str, truth: Tensor, draws: Tensor, simulation: int) -> None:
    """Refuse draws of another shape, which broadcasting would rank, and draws that are NaN."""
    where = f"draws of site {name!r} in simulation {simulation}"
    if draws.dim() == 0 or draws.shape[1:] != truth.shape:
        raise errors.GuideError(
            f"{where} have the shape {tuple(draws.shape)}, and the site has {tuple(truth.shape)}. "
            "Mend: return draws along one dim in front of the site's."
        )
    if not bool(torch.isfinite(draws).all()):
        raise errors.NonFiniteError(
            f"{where} are not finite. Mend: let fit= return a fit that has not diverged."
        )


def _rank(truth: Tensor, draws: Tensor) -> Tensor:
    return (draws < truth).sum(0)


def _ties(truth: Tensor, draws: Tensor) -> Tensor:
    return (draws == truth).sum(0)

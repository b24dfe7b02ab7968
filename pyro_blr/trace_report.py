# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What ``trace_report`` says: where the time of some steps went, and which factor costs most."""

from dataclasses import dataclass

from . import errors
from .fit import counted
from .html_table import html_table, tier
from .text_table import text_table


@dataclass(frozen=True)
class PartTime:
    """A part of some steps.

    :param float first: seconds in the first step, when nothing is known of the data yet.
    :param float later: seconds in all later steps together.
    """

    name: str
    first: float
    later: float

    @property
    def seconds(self) -> float:
        """In all steps."""
        return self.first + self.later


@dataclass(frozen=True)
class FactorTime:
    """One factor, evaluated alone at the state after these steps.

    :param str site: the Pyro site, as in ``explain``.
    :param str tier: ``"exact"``, ``"quadrature"`` or ``"sampled"``.
    :param float elbo: seconds of one evaluation of its part of the ELBO.
    :param float messages: seconds of one message to each block that it touches; None where they
        are not taken apart, for a guide that is known by its draws, or a point mass.
    """

    site: str
    tier: str
    elbo: float
    messages: float | None

    @property
    def seconds(self) -> float:
        """Of both."""
        return self.elbo + (self.messages or 0.0)


@dataclass(frozen=True)
class TraceReport:
    """Where the time of some steps went. Prints as two tables.

    :param int steps: the steps that were timed.
    :param float total: seconds, measured beside the parts.
    :param tuple parts: the parts of the steps, which sum to the total.
    :param tuple factors: the factors, the most costly one first. Each is timed alone, without what
        factors have in common (the moments of q; draws, and the program of sampled factors), so
        they do not sum to a part; which costs most, and how many times as much, is what they say.
    """

    steps: int
    total: float
    parts: tuple[PartTime, ...]
    factors: tuple[FactorTime, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> PartTime:
        found = [p for p in self.parts if p.name == name]
        if not found:
            raise errors.UnknownNameError(
                f"no part is called {name!r}; there are {[p.name for p in self.parts]}, and of "
                f"factors, in .factors, {[f.site for f in self.factors]}. Mend: use one of these."
            )
        return found[0]

    @property
    def costliest(self) -> str:
        """The site of the factor that costs most; empty where factors were not timed."""
        return self.factors[0].site if self.factors else ""

    @property
    def _title(self) -> str:
        return f"{counted(self.steps, 'step')} in {_seconds(self.total)}"

    def _part_rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for part in self.parts:
            each = _seconds(part.later / (self.steps - 1)) if self.steps > 1 else "-"
            share = part.seconds / self.total if self.total else 0.0
            rows.append((part.name, _seconds(part.first), each, f"{share:.0%}"))
        return rows

    def _factor_rows(self) -> list[tuple[str, ...]]:
        whole = sum(f.seconds for f in self.factors) or 1.0
        return [
            (f.site, f.tier, _seconds(f.elbo), _seconds(f.messages), f"{f.seconds / whole:.0%}")
            for f in self.factors
        ]

    def __str__(self) -> str:
        lines = [self._title, "", text_table(PARTS, self._part_rows())]
        if self.factors:
            lines += ["", text_table(FACTORS, self._factor_rows())]
        return "\n".join((*lines, *self.notes))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = html_table(self._title, PARTS, self._part_rows())
        if not self.factors:
            return parts + html_table("", (), (), self.notes)
        rows = [(r[0], tier(r[1]), *r[2:]) for r in self._factor_rows()]
        return parts + html_table("Each factor alone", FACTORS, rows, self.notes)


PARTS = ("part", "first step", "each later step", "share")
FACTORS = ("factor", "tier", "ELBO, alone", "messages, alone", "share")


def _seconds(value: float | None) -> str:
    """A time with three digits and a unit."""
    if value is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"

# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Tables for notebooks: escaped text, in the colours of the page, dark or light."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

#: Colours that are told apart also by the colour-blind (Okabe and Ito), and on black and on white.
TIER_COLOURS = {
    "exact": "#009E73",
    "quadrature": "#0086D1",
    "sampled": "#D55E00",
    "delta": "#CC79A7",
}

#: Lines in the colour of the text, so that they are seen on any page; no background.
_LINE = "1px solid color-mix(in srgb, currentColor 30%, transparent)"
_CELL = "padding: 0.2em 0.8em; text-align: left; vertical-align: top; color: inherit;"
_CELL += " background: none;"
_TABLE = "border-collapse: collapse; color: inherit; font-size: 0.95em; border: none; margin: 0;"


#: Characters of a cell up to which its line is not broken: 3e-09 would be, at its hyphen.
SHORT = 24


@dataclass(frozen=True)
class Swatch:
    """Text with a dot of a colour in front; the text alone says all that the colour says."""

    text: str
    colour: str

    def __str__(self) -> str:
        return self.text


def tier(name: str) -> Swatch | str:
    """The name of a tier, with its colour."""
    return Swatch(name, TIER_COLOURS[name]) if name in TIER_COLOURS else name


Cell = str | Swatch


def html_table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], notes: Sequence[str] = ()
) -> str:
    """A table as HTML.

    :param title: a line above it.
    :param head: the names of the columns; without them each row's first cell is a heading.
    :param notes: paragraphs below it.
    """
    parts = [f'<div style="{_CELL} padding-left: 0;"><strong>{escape(title)}</strong></div>']
    if rows:
        parts.append(f'<table style="{_TABLE}">')
        if head:
            cells = "".join(_cell("th", name, f" border-bottom: {_LINE};") for name in head)
            parts.append(f"<thead><tr>{cells}</tr></thead>")
        parts.append("<tbody>")
        parts += [_row(row, not head) for row in rows]
        parts.append("</tbody></table>")
    parts += [f'<div style="margin: 0.2em 0;">{escape(note)}</div>' for note in notes]
    return f'<div style="overflow-x: auto;">{"".join(parts)}</div>'


def _row(row: Sequence[Cell], has_heading: bool) -> str:
    tags = ["th" if has_heading and i == 0 else "td" for i in range(len(row))]
    cells = (_cell(tag, cell) for tag, cell in zip(tags, row, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(tag: str, cell: Cell, style: str = "") -> str:
    text = escape(str(cell))
    if len(str(cell)) <= SHORT:
        style += " white-space: nowrap;"
    if isinstance(cell, Swatch):
        text = f'<span style="color: {escape(cell.colour)};">&#9679;</span> {text}'
    return f'<{tag} style="{_CELL}{style}">{text}</{tag}>'

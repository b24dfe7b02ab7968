# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Graphs with plates, by graphviz: nodes in nested frames, arrows, a legend."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import count
from pathlib import Path
from typing import Any

from . import errors

#: Files that are the graph's own text: no program is needed to write them.
SOURCES = (".dot", ".gv")


@dataclass(frozen=True)
class Node:
    """A node of a graph.

    :param key: what arrows call it.
    :param lines: its label, a line each.
    :param plates: the frames that it is in, outermost first.
    :param attributes: of Graphviz.
    """

    key: str
    lines: tuple[str, ...]
    plates: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Arrow:
    """An arrow between two nodes, by their keys."""

    start: str
    end: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sign:
    """A row of the legend: a word, and the attributes of what it explains."""

    word: str
    border: str = "#000000"
    fill: str = "#FFFFFF"
    width: int = 1
    style: str = ""


@dataclass
class _Frame:
    """A plate with what lies in it directly."""

    nodes: list[Node] = field(default_factory=list)
    frames: "dict[str, _Frame]" = field(default_factory=dict)


def draw(
    nodes: Sequence[Node],
    arrows: Sequence[Arrow],
    frames: Mapping[str, str],
    legend: Sequence[Sign] = (),
) -> Any:
    """The ``graphviz.Digraph`` of a graph, which a notebook shows.

    :param frames: the label of each plate.
    :raises ArgumentError: if graphviz is not installed.
    """
    drawing = _Drawing(_graphviz(), {node.key: f"node{i}" for i, node in enumerate(nodes)}, frames)
    root = _Frame()
    for node in nodes:
        frame = root
        for plate in node.plates:
            frame = frame.frames.setdefault(plate, _Frame())
        frame.nodes.append(node)
    graph = drawing.graph(root)
    for arrow in arrows:
        graph.edge(drawing.names[arrow.start], drawing.names[arrow.end], **arrow.attributes)
    if legend:
        graph.node("legend", label=_legend(legend), shape="plaintext")
    return graph


class _Drawing:
    """Nodes and frames as Graphviz has them.

    :param names: of the nodes: those of sites may have a meaning to Graphviz (a colon is a port).
    :param labels: of the plates.
    """

    def __init__(self, graphviz: Any, names: Mapping[str, str], labels: Mapping[str, str]) -> None:
        self.graphviz, self.names, self.labels = graphviz, names, labels
        self._numbers = count()

    def graph(self, root: _Frame) -> Any:
        """The whole, on white whatever page it is shown on."""
        graph = self.graphviz.Digraph(
            graph_attr={"bgcolor": "white", "fontname": "Helvetica"},
            node_attr={"fontname": "Helvetica", "fontsize": "11"},
        )
        self._fill(graph, root)
        return graph

    def _fill(self, graph: Any, frame: _Frame) -> None:
        for node in frame.nodes:
            attributes = {
                name: self._text(value) if name == "tooltip" else value
                for name, value in node.attributes.items()
            }
            label = r"\n".join(map(self._text, node.lines))
            graph.node(self.names[node.key], label=label, **attributes)
        for plate, inner in frame.frames.items():
            own = self.graphviz.Digraph(name=f"cluster{next(self._numbers)}")
            label = self._text(self.labels[plate])
            own.attr(label=label, labeljust="r", labelloc="b", color="#555555", style="rounded")
            self._fill(own, inner)
            graph.subgraph(own)

    def _text(self, text: str) -> str:
        """Text as it is, without a meaning to Graphviz; of several lines the line ends too."""
        plain: str = self.graphviz.escape(" ".join(text.split("\n")))
        return plain


def _legend(signs: Sequence[Sign]) -> str:
    """A table in Graphviz' own HTML."""
    rows = []
    for s in signs:
        style = f' STYLE="{s.style}"' if s.style else ""
        box = f'BORDER="{s.width}" COLOR="{s.border}" BGCOLOR="{s.fill}"{style}'
        sample = f'<TD WIDTH="22" HEIGHT="12" FIXEDSIZE="TRUE" {box}></TD>'
        rows.append(f'<TR>{sample}<TD ALIGN="LEFT">{escape(s.word)}</TD></TR>')
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="4">{"".join(rows)}</TABLE>>'


def write(graph: Any, filename: Any) -> None:
    """Write a graph as a picture whose kind the ending of the file's name says, or as its source.

    :raises ArgumentError: for an ending that is none, or where the program ``dot`` is missing.
    """
    path = Path(filename)
    if path.suffix in SOURCES:
        path.write_text(graph.source)
        return
    graphviz = _graphviz()
    kind = path.suffix[1:].lower()
    if kind not in graphviz.FORMATS:
        raise errors.ArgumentError(
            f"a picture cannot be written to {str(filename)!r}: the ending of its name must say "
            "what it is. Mend: use .png, .svg or .pdf, or .dot for the source."
        )
    try:
        path.write_bytes(graph.pipe(format=kind))
    except graphviz.ExecutableNotFound as error:
        raise errors.ArgumentError(
            "pictures are made by the program `dot` of Graphviz, which is not on the PATH. Mend: "
            "install it (apt-get install graphviz, brew install graphviz, or graphviz.org), or "
            "write the source, which needs no program: a name that ends with .dot."
        ) from error


def _graphviz() -> Any:
    try:
        import graphviz
    except ModuleNotFoundError as error:
        if error.name != "graphviz":
            raise
        raise errors.ArgumentError(
            "a model is drawn by the package graphviz, which is not installed. Mend: "
            "pip install pyro-blr[render]"
        ) from error
    return graphviz

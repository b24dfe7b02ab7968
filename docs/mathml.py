# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Formulas as MathML: browsers show it without a script, so the pages need no network.

A sphinx extension. What the converter does not understand it leaves as it stands, silently; here
that is a warning, and so an error of the build.
"""

import html
import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)

#: Environments that the converter knows by another name.
SAME = {"aligned": "align*", "align": "align*", "gather": "gather*", "gathered": "gather*"}
#: The name of a function, and its argument without a bracket: between them belongs a thin space.
APPLIED = re.compile(r"(<mi>[a-z]{2,}</mi>)(?=<m(?:i|n|sub|sup|row|frac)\b)")
#: What it leaves where it is at a loss: a command, or the mark between two columns.
LEFT_OVER = re.compile(r"<m[iot][^>]*>(\\[a-zA-Z]+|&)<")


def mathml(latex: str, display: str) -> tuple[str, list[str]]:
    """A formula as MathML, and the commands that were not understood."""
    for name, known in SAME.items():
        latex = re.sub(rf"\\(begin|end)\{{{name}\}}", rf"\\\1{{{known}}}", latex)
    shown = convert(latex.strip(), display=display)
    left = LEFT_OVER.findall(shown)
    return APPLIED.sub(r'\1<mspace width="0.167em"/>', shown), left


def formula(node: Any, latex: str, display: str) -> str:
    """A formula's MathML; a warning names what was not understood."""
    shown, left = mathml(latex, display)
    if left:
        logger.warning("in %r: %s is not understood", latex, ", ".join(left), location=node)
    return shown


def inline(translator: Any, node: Any) -> None:
    """Write a formula in a line."""
    shown = formula(node, node.astext(), "inline")
    translator.body.append(f'<span class="math">{shown}</span>')
    raise nodes.SkipNode


def block(translator: Any, node: Any) -> None:
    """Write formulas on lines of their own, one a paragraph."""
    anchor = "".join(f' id="{html.escape(name)}"' for name in node["ids"][:1])
    parts = (part for part in node.astext().split("\n\n") if part.strip())
    shown = "\n".join(formula(node, part, "block") for part in parts)
    translator.body.append(f'<div class="math"{anchor}>{shown}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Called by sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

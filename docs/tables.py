# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The sections of docs/exactness.md that are made from the package's own registries.

A section stands between the lines ``<!-- made by docs/tables.py: NAME -->`` and ``<!-- end -->``; a
new one is a row of :data:`SECTIONS` and the two lines in the page. Run ``python -m docs.tables``
after a change of a registry; tests/test_exactness.py fails while the page is not up to date.
"""

import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from pyro_blr.energy import energy  # enters the operations into their table
from pyro_blr.lifting.densities import density_of, registered
from pyro_blr.lifting.dispatch import OPERATIONS, WholeCall
from pyro_blr.lifting.elementwise import ELEMENTWISE

PAGE = Path(__file__).resolve().parent / "exactness.md"
_MARKED = re.compile(r"(<!-- made by docs/tables\.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def is_public(name: str) -> bool:
    """Whether users write a name: no operator, no internal, no in-place operation."""
    homes = (torch, torch.Tensor, torch.nn.functional, torch.special, torch.linalg)
    if spelled(name) != name:
        return True
    return (
        not name.startswith("_") and not name.endswith("_") and any(hasattr(h, name) for h in homes)
    )


def spelled(name: str) -> str:
    """A function's name as users write it: `linalg.solve` for `linalg_solve`."""
    return re.sub(r"^(linalg|special|fft)_", r"\1.", name)


def first_sentence(documented: object) -> str:
    """The first sentence of a docstring, in Markdown."""
    paragraph = " ".join((documented.__doc__ or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=\.)\s", paragraph, maxsplit=1)[0].rstrip(".")
    sentence = re.sub(r":\w+:(`[^`]+`)", r"\1", sentence)
    return sentence.replace("``", "`").replace("|", r"\|")


def what_it_keeps(handler: object) -> str:
    """What an operation keeps, in words."""
    return handler.keeps if isinstance(handler, WholeCall) else first_sentence(handler)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def names(which: Iterable[str]) -> str:
    """A paragraph of names in code, wrapped as the page is."""
    return textwrap.fill(", ".join(f"`{n}`" for n in which), width=100, break_on_hyphens=False)


def operations_of(module: str) -> Callable[[], str]:
    """The table of the operations that one file of ``lifting/operations`` enters."""

    def write() -> str:
        handlers: dict[object, list[str]] = {}
        for name, handler in OPERATIONS.items():
            home = getattr(handler, "handle", handler).__module__
            if home == f"{energy.operations.__name__}.{module}" and is_public(name):
                handlers.setdefault(handler, []).append(spelled(name))
        rows = sorted(
            (", ".join(f"`{n}`" for n in sorted(own)), what_it_keeps(handler))
            for handler, own in handlers.items()
        )
        return table(("operation", "what it keeps"), rows)

    return write


def elementwise() -> str:
    """The elementwise functions that keep no polynomial."""
    return names(sorted(n for n in ELEMENTWISE - set(OPERATIONS) if not n.startswith("_")))


def densities() -> str:
    """The distributions with a formula, and the formula, which its docstring's first line gives."""
    rows = [(f"`{d.__name__}`", first_sentence(density_of(d).formula)) for d in registered()]
    return table(("distribution", "log density"), sorted(rows))


#: What a section holds, by its name in the page.
SECTIONS: dict[str, Callable[[], str]] = {
    "arithmetic": operations_of("arithmetic"),
    "shape": operations_of("shape"),
    "indexing": operations_of("indexing"),
    "contraction": operations_of("contraction"),
    "reductions": operations_of("reductions"),
    "moving": operations_of("moving"),
    "scattering": operations_of("scattering"),
    "linear": operations_of("linear"),
    "elementwise": elementwise,
    "densities": densities,
}


def up_to_date(page: str) -> str:
    """The page with every section made anew."""
    return _MARKED.sub(lambda m: f"{m[1]}{SECTIONS[m[2]]()}\n{m[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(up_to_date(PAGE.read_text()))

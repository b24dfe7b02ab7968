# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The tables of the documentation that are made by running the package.

A section stands between the lines ``<!-- made by docs/tables.py: NAME -->`` and ``<!-- end -->`` of
docs/exactness.md or docs/spellings.md; a new one is a row of :data:`SECTIONS` and the two lines in
a page. Run ``python -m docs.tables`` after a change; tests/test_exactness.py fails while a page is
not up to date. Every tier in them is what ``BLR.explain`` said of a model that was run.
"""

import re
import textwrap
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import torch

from docs import running, spelled
from docs.catalogue import LATENTS, LIKELIHOODS, MODELS, PARAMETERS, PRIORS
from docs.running import TIERS, Row, kind_of
from pyro_blr.energy import energy  # enters the operations into their table
from pyro_blr.families import registered_families
from pyro_blr.lifting.densities import density_of, registered
from pyro_blr.lifting.dispatch import OPERATIONS, WholeCall
from pyro_blr.lifting.elementwise import ELEMENTWISE, JUMPING

PAGES = tuple(Path(__file__).resolve().parent / f"{p}.md" for p in ("exactness", "spellings"))
_MARKED = re.compile(r"(<!-- made by docs/tables\.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


#: Operations that keep a polynomial of a discrete latent alone: the tables are of continuous ones.
OF_DISCRETE = {"long", "int", "short", "one_hot"}


def is_public(name: str) -> bool:
    """Whether users write a name: no operator, no internal, no in-place operation."""
    if name in OF_DISCRETE:
        return False
    homes = (torch, torch.Tensor, torch.nn.functional, torch.special, torch.linalg)
    if user_name(name) != name:
        return True
    return (
        not name.startswith("_") and not name.endswith("_") and any(hasattr(h, name) for h in homes)
    )


def user_name(name: str) -> str:
    """A function's name as users write it: `linalg.solve` for `linalg_solve`."""
    return re.sub(r"^(linalg|special|fft)_", r"\1.", name)


def first_sentence(documented: object) -> str:
    """The first sentence of a docstring, in Markdown."""
    paragraph = " ".join((documented.__doc__ or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=\.)\s", paragraph, maxsplit=1)[0].rstrip(".")
    sentence = re.sub(r":\w+:(`[^`]+`)", r"\1", sentence)
    return sentence.replace("``", "`")


def what_it_keeps(handler: object) -> str:
    """What an operation keeps, in words."""
    return handler.keeps if isinstance(handler, WholeCall) else first_sentence(handler)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head)]
    lines += [tuple(cell.replace("|", r"\|") for cell in row) for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def names(which: Iterable[str]) -> str:
    """A paragraph of names in code, wrapped as the page is."""
    return textwrap.fill(", ".join(f"`{n}`" for n in which), width=100, break_on_hyphens=False)


def yes(truth: bool) -> str:
    """A cell of a table."""
    return "yes" if truth else "no"


def either(tiers: Iterable[str]) -> str:
    """Tiers in words, the best first."""
    return " or ".join(sorted(set(tiers), key=TIERS.index))


# --------------------------------------------------------------------- distributions


def likelihoods() -> str:
    """Distributions of a datum."""
    found = [(law, running.likelihood(law)["y"]) for law in LIKELIHOODS]
    rows = [(f"`{law}`", factor.tier, yes(factor.conjugate)) for law, factor in found]
    return table(("distribution of a datum", "tier", "conjugate"), rows)


def priors() -> str:
    """Priors of one latent."""
    rows = []
    for law, likelihood in PRIORS:
        found = running.prior(law, likelihood)
        tier, conjugate = found["z"].tier, yes(found["z"].conjugate)
        rows.append((f"`{law}`", f"`{likelihood}`", found.q["z"], tier, conjugate))
    return table(("prior of `z`", "likelihood", "q", "tier", "conjugate"), rows)


def models() -> str:
    """Latents that are coupled."""
    rows = []
    for statements, likelihood in MODELS:
        found = running.coupled(statements, likelihood)
        latents = (f"`{s}`".replace(" in a plate`", "` in a plate") for s in statements.split("; "))
        blocks = found.explanation.blocks
        q = "<br>".join(f"{found.q[block[0]]} ({', '.join(block)})" for block in blocks)
        cells = ("<br>".join(latents), f"`{likelihood}`", q, found.tier, yes(found.conjugate))
        rows.append(cells)
    return table(("latents", "distribution of a datum", "q", "tier", "conjugate"), rows)


def parameters() -> str:
    """Parameters, and how `params="em"` moves them."""
    rows = [
        (f'`pyro.param("{name}", {made})`', f"`{law}`", running.parameter(name, made, law))
        for name, made, law in PARAMETERS
    ]
    return table(("parameter", "distribution of a datum", '`params="em"`'), rows)


@cache
def examples() -> dict[str, list[tuple[str, bool, str]]]:
    """For each distribution the tiers of its rows, whether they are conjugate, and the rows."""
    found: dict[str, list[tuple[str, bool, str]]] = {}
    for law in LIKELIHOODS:
        factor = running.likelihood(law)["y"]
        row = (factor.tier, factor.conjugate, f"`{law}`")
        found.setdefault(kind_of(law), []).append(row)
    for law, likelihood in PRIORS:
        factor = running.prior(law, likelihood)["z"]
        row = (factor.tier, factor.conjugate, f"`{law}` as a prior")
        found.setdefault(kind_of(law), []).append(row)
    return found


def tiers_of(distribution: str) -> str:
    """The tiers that rows of a distribution are on, with the first row of each."""
    rows = sorted(examples()[distribution], key=lambda row: (TIERS.index(row[0]), not row[1]))
    first = {tier: row for tier, _, row in reversed(rows)}
    return "<br>".join(f"{tier}: {first[tier]}" for tier in TIERS if tier in first)


def densities() -> str:
    """The distributions with a formula, which its docstring's first line gives, and their tiers."""
    rows = [
        (f"`{d.__name__}`", first_sentence(density_of(d).formula), tiers_of(d.__name__))
        for d in registered()
    ]
    return table(("distribution", "log density", "tier"), sorted(rows))


def others() -> str:
    """The distributions without a formula."""
    formulas = {d.__name__ for d in registered()}
    kinds = sorted(k for k in examples() if k not in formulas)
    return table(("distribution", "tier"), [(f"`{kind}`", tiers_of(kind)) for kind in kinds])


def of_card(family: object, heading: str) -> str:
    """A line of the card in a family's docstring."""
    found = re.search(rf"^ *- {heading}: (.*)$", type(family).__doc__ or "", re.MULTILINE)
    assert found is not None
    return found[1]


def families() -> str:
    """The registered families, from the cards in their docstrings, and which are found as q."""
    rows: list[Row] = [running.likelihood(law) for law in LIKELIHOODS]
    rows += [running.prior(*row) for row in PRIORS] + [running.coupled(*row) for row in MODELS]
    laws = {name for row in rows for name in row.q.values()}
    lines = []
    for family in registered_families():
        law = "the registry only"
        if family.name in laws:
            law = "law of a latent"
        elif any(running.is_accepted(family, latent) for latent in LATENTS):
            law = "law of a latent, by name"
        elif family.name in running.joint_laws():
            law = "law of a joint guide"
        elif family.name in running.chain_laws():
            law = "law of states along time"
        statistics = f"`{of_card(family, 'sufficient statistic')}`"
        lines.append((f"`{family.name}`", of_card(family, "support"), statistics, law))
    return table(("family", "support", "sufficient statistics", "use"), lines)


# --------------------------------------------------------------------- operations


def operations_of(module: str) -> Callable[[], str]:
    """The table of the operations that one file of ``lifting/operations`` enters."""

    def write() -> str:
        handlers: dict[object, list[str]] = {}
        for name, handler in OPERATIONS.items():
            home = getattr(handler, "handle", handler).__module__
            if home == f"{energy.operations.__name__}.{module}" and is_public(name):
                handlers.setdefault(handler, []).append(name)
        rows = sorted(
            (
                ", ".join(sorted(f"`{user_name(n)}`" for n in own)),
                what_it_keeps(handler),
                tier_of_calls(own),
            )
            for handler, own in handlers.items()
        )
        return table(("operation", "what it keeps", "tier"), rows)

    return write


def tier_of_calls(operations: list[str]) -> str:
    """The tiers of all calls of some operations in tests/operation_calls.py."""
    tiers = set[str]().union(*(spelled.called().get(name, set()) for name in operations))
    return either(tiers or {spelled.call(f"v.{name}()")[1] for name in operations})


def elementwise() -> str:
    """The elementwise functions that keep no polynomial, by what they are integrated of."""
    left = sorted(n for n in ELEMENTWISE - set(OPERATIONS) if is_public(n))
    paragraphs = []
    for title, laws in spelled.SCALARS.items():
        smooth = [
            n
            for n in left
            if n not in JUMPING and all(spelled.is_by_quadrature(n, law) for law in laws)
        ]
        left = [n for n in left if n not in smooth]
        paragraphs.append(f"By quadrature {title}:\n\n{names(map(user_name, smooth))}")
    rest = f"Elsewhere only far from their kinks, jumps and poles:\n\n{names(map(user_name, left))}"
    return "\n\n".join((*paragraphs, rest))


def spellings_of(kind: str) -> Callable[[], str]:
    """A table of docs/spellings.md."""

    def write() -> str:
        rows = [(text, row.tier, yes(row.conjugate)) for text, row in spelled.SPELLINGS[kind]()]
        return table(("spelling", "tier", "conjugate"), rows)

    return write


OPERATION_FILES = [
    "arithmetic",
    "shape",
    "indexing",
    "contraction",
    "reductions",
    "moving",
    "scattering",
    "linear",
]
#: What a section holds, by its name in the page.
SECTIONS: dict[str, Callable[[], str]] = {
    "likelihoods": likelihoods,
    "priors": priors,
    "models": models,
    "parameters": parameters,
    "densities": densities,
    "others": others,
    "families": families,
    **{file: operations_of(file) for file in OPERATION_FILES},
    "elementwise": elementwise,
    **{kind: spellings_of(kind) for kind in spelled.SPELLINGS},
}


@cache
def section(name: str) -> str:
    """The text of a section, made once."""
    return SECTIONS[name]()


def up_to_date(page: str) -> str:
    """The page with every section made anew."""
    return _MARKED.sub(lambda m: f"{m[1]}{section(m[2])}\n{m[3]}", page)


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(up_to_date(each.read_text()))

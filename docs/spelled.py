# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The spellings and the calls that the tests try, as code and with the tier of their factor.

The catalogues are those of the tests, ``tests/spelling_*.py`` and ``tests/operation_calls.py``: a
spelling is entered there once, tested against the value written by hand, and shown here.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterable
from functools import cache
from types import ModuleType
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from pyro.ops.indexing import Vindex
from torch.utils import _pytree as pytree

from docs.running import SCOPE, Row, double, run
from pyro_blr.lifting.elementwise import name_of
from pyro_blr.lifting.tensor import LiftedTensor, program

with double():  # their constants have the default dtype
    from tests import (
        operation_calls,
        spelling_catalogue,
        spelling_groups,
        spelling_maps,
        spelling_operations,
        spelling_structures,
        spelling_wrappers,
    )
    from tests.spelling_regression import regression


def code_of(module: ModuleType, table: str) -> dict[str, str]:
    """The source of each entry of a catalogue, in one line."""
    source = inspect.getsource(module)
    tree = ast.parse(source)
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    entered = next(
        n.value
        for n in tree.body
        if isinstance(n, ast.AnnAssign) and getattr(n.target, "id", "") == table
    )
    assert isinstance(entered, ast.Dict)

    def text(node: ast.AST) -> str:
        if isinstance(node, ast.Lambda):
            return flat(ast.get_source_segment(source, node.body))
        if isinstance(node, ast.Name):
            body = [n for n in functions[node.id].body if not _is_docstring(n)]
            shown = (n.value if isinstance(n, ast.Return) else n for n in body)
            return "; ".join(flat(ast.get_source_segment(source, n)) for n in shown)
        return f"{ast.unparse(node)}(tau)"  # torch's own function of the precision

    keys = (k.value for k in entered.keys if isinstance(k, ast.Constant))
    return {str(k): text(v) for k, v in zip(keys, entered.values, strict=True)}


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def flat(source: str | None) -> str:
    """Source in one line, without its comments."""
    lines = (re.sub(r"\s*# .*", "", line) for line in (source or "").splitlines())
    return re.sub(r"(?<=[(\[]) | (?=[)\]])", "", " ".join(" ".join(lines).split()))


Rows = Iterable[tuple[str, Row]]


def spelled(
    tables: Iterable[tuple[ModuleType, str]], model: Callable[[Any], Callable[[], None]]
) -> Callable[[], Rows]:
    """The rows of some catalogues: the code of each entry, and what explain says of its model."""

    def rows() -> Rows:
        for module, table in tables:
            code = code_of(module, table)
            for name, entry in getattr(module, table).items():
                yield f"`{code[name]}`", run(model(entry))

    return rows


def models() -> Rows:
    """The rows of whole models, by the names of their functions."""
    for model in (*spelling_structures.STRUCTURES, *spelling_maps.MAPS):
        yield model.__name__.replace("_", " "), run(model)


def wrapped() -> Rows:
    """The rows of what wraps the regression's observed site."""
    for name, (model, _) in spelling_wrappers.WRAPPERS.items():
        yield name, run(model)


CATALOGUE, MORE = spelling_catalogue, spelling_operations
#: The tables of docs/spellings.md, by name.
SPELLINGS: dict[str, Callable[[], Rows]] = {
    "predictors": spelled([(CATALOGUE, "PREDICTORS"), (MORE, "OPERATION_PREDICTORS")], regression),
    "scales": spelled(
        [(CATALOGUE, "SCALES"), (MORE, "OPERATION_SCALES")], lambda entry: regression(scale=entry)
    ),
    "groups": spelled(
        [
            (spelling_groups, "GATHERS"),
            (MORE, "OPERATION_GATHERS"),
            (spelling_groups, "DIFFERENCES"),
        ],
        spelling_groups.group_model,
    ),
    "wrappers": wrapped,
    "structures": models,
}

_VECTOR = "Normal(torch.zeros({0}), 1.0).to_event({1})"
#: The latents of tests/operation_calls.py.
OPERANDS = {
    **dict.fromkeys("vw", _VECTOR.format("3", 1)),
    **{"m": _VECTOR.format("3, 3", 2), "a": _VECTOR.format("2, 3", 2)},
    **{"t": _VECTOR.format("2, 3, 4", 3), "s": "Normal(0.0, 1.0)"},
    **{"r": "Gamma(3.0, torch.ones(3)).to_event(1)", "q": "Gamma(3.0, 1.0)"},
    "u": "Beta(2.0, 2.0 * torch.ones(3)).to_event(1)",
}


def call(expression: str) -> tuple[set[str], str]:
    """The operations that a call on latents goes through, and the tier of the sum of its result."""
    names: set[str] = set()
    scope = vars(operation_calls) | {"F": F, "Vindex": Vindex}
    tree = ast.walk(ast.parse(expression, mode="eval"))
    used = {n.id for n in tree if isinstance(n, ast.Name)} & set(OPERANDS)

    def model() -> None:
        values = {name: pyro.sample(name, eval(OPERANDS[name], SCOPE)) for name in sorted(used)}
        results = pytree.tree_leaves(eval(expression, scope | values))
        lifted = [r for r in results if isinstance(r, LiftedTensor)]
        names.update(name_of(n) for n in program(lifted) if n.call is not None)
        pyro.factor("y", sum(r.sum() for r in results))

    return names, run(model)["y"].tier


@cache
def called() -> dict[str, set[str]]:
    """The tiers of the calls of tests/operation_calls.py, by the operations they go through."""
    tiers: dict[str, set[str]] = {}
    for expressions in operation_calls.CALLS.values():
        for expression in expressions:
            names, tier = call(expression)
            for name in names:
                tiers.setdefault(name, set()).add(tier)
    return tiers


#: The laws of the scalar that elementwise functions are tried on, by what they are laws of.
SCALARS = {
    "of a Gaussian scalar": ("Normal(0.3, 1.0)", "Normal(-0.7, 1.0)", "Normal(2.6, 0.5)"),
    "of a positive scalar": ("LogNormal(0.3, 0.5)", "LogNormal(-0.4, 0.5)"),
    "of a scalar between 0 and 1": ("Beta(2.0, 2.0)", "Uniform(0.0, 1.0)"),
}
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("clamp", "clip"), (-1.0, 1.0)),
    **{"mvlgamma": (1,), "multigammaln": (1,), "threshold": (0.5, 0.0)},
}


def apply(name: str, value: Any) -> Any:
    """An elementwise function by its name, of one latent and constants."""
    homes = (torch.special,) if name.startswith("special_") else (torch, F, torch.special)
    name = name.removeprefix("special_")
    function = next(getattr(h, name) for h in homes if hasattr(h, name))
    if name == "polygamma":
        return function(1, value)
    if name in _ARGUMENTS:
        return function(value, *_ARGUMENTS[name])
    if name in ("max", "min"):
        return function(value, torch.tensor(0.5))
    try:
        result = function(value)
    except TypeError:
        try:
            result = function(value, torch.tensor(0.5))
        except TypeError:
            result = function(value, 0.5)
    return result if result.dtype.is_floating_point else result.double()


def is_by_quadrature(name: str, law: str) -> bool:
    """Whether an elementwise function of a latent with that prior is integrated."""

    def model() -> None:
        pyro.factor("y", apply(name, pyro.sample("z", eval(law, SCOPE))))

    return run(model, init_scale=1.0)["y"].tier == "quadrature"

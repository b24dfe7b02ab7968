# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Run the Python blocks of the documents and the docstring examples as a user would: in float32.

The fixtures of the test-suite proper are in tests/conftest.py.
"""

import sys
from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from typing import Any

import pyro
import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from pyro_blr.families import registry
from pyro_blr.lifting import densities, dispatch, elementwise

# Configuration that only sphinx can run, the link to tutorials/, and what sphinx made.
collect_ignore = ["docs/conf.py", "docs/tutorials", "docs/_build"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of a device (it must stand here: in tests/ it would come too late)."""
    parser.addoption(
        "--device",
        default="cpu",
        metavar="NAME",
        help="run tests/ with torch's default device there: cuda, cuda:1, or simulated (a second "
        "device without hardware, built by a C++ compiler)",
    )


_dtype_before: list[torch.dtype] = []


#: The tables that are open to users: an example's entries go when it ends.
TABLES: tuple[dict[Any, Any] | set[str], ...] = (
    *(registry._FAMILIES, densities.registry._DENSITIES, dispatch.OPERATIONS),
    *(elementwise.ELEMENTWISE, elementwise.KINKED, elementwise.JUMPING),
)
_tables_before: list[list[dict[Any, Any] | set[str]]] = []


def begin_example(namespace: dict[str, Any]) -> None:
    """Give an example what a fresh interpreter has, and a seed."""
    _dtype_before.append(torch.get_default_dtype())
    _tables_before.append([table.copy() for table in TABLES])
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def end_example(namespace: dict[str, Any]) -> None:
    """Leave nothing behind."""
    pyro.clear_param_store()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    torch.set_default_dtype(_dtype_before.pop())
    for table, before in zip(TABLES, _tables_before.pop(), strict=True):
        table.clear()
        table.update(before)


@pytest.fixture(autouse=True)
def fresh_docstring_example(request: pytest.FixtureRequest) -> Iterator[None]:
    """Surround each docstring example; a document's blocks go together, so Sybil surrounds them."""
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    begin_example({})
    yield
    end_example({})


pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NORMALIZE_WHITESPACE),
        SkipParser(),
    ],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md"],
    setup=begin_example,
    teardown=end_example,
).pytest()
